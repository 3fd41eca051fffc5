"""Face data modules: training images as a stream, held-out images in memory."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from datamodules import procedural
from datamodules.held_out import DRAWN_FACES, drawn_faces, prepared_set
from datamodules.image_set import Channels, Distribution, ImageSet, in_channels
from datamodules.shards import (
    DataError,
    ShardIndex,
    decode,
    load_images,
    pixel_hashes,
    read_shard,
)
from datamodules.stream import ImageShards, StreamLoader, TrainingStream


class FaceDataModule(pl.LightningDataModule):
    """What training and recovery need of face images, wherever they are.

    Subclasses set `train_images` and `held_out` in `load`, and `identities` of prepared sets.

    Args:
        image_size: H = W.
        batch_size: training images per device and micro-batch.
        seed: of the order of training images and their flips.
        flip: mirror training images at random.
        window: shards shuffled together (see `datamodules.stream`).
        num_workers: loader processes per rank.
        validation_batch_size: held-out images evaluated at once.
        channels: 3 for RGB, 1 for grey.
        passes: over the training images in an epoch. Take several where one takes less time than
            what follows an epoch: validation, samples, a checkpoint, recovery.
    """

    train_images: ImageShards
    held_out: dict[str, ImageSet]
    identities: Mapping[str, dict[str, str]] = {}  # train and held_out: which set, by its name

    def __init__(
        self,
        image_size: int,
        batch_size: int,
        seed: int,
        flip: bool,
        window: int,
        num_workers: int,
        validation_batch_size: int,
        channels: Channels,
        passes: int,
    ) -> None:
        super().__init__()
        for name, value in (
            ("batch_size", batch_size),
            ("window", window),
            ("validation_batch_size", validation_batch_size),
            ("passes", passes),
        ):
            if value < 1:
                raise ValueError(f"data.{name} must be at least 1, got {value}")
        self.image_size = image_size
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self.window = window
        self.num_workers = num_workers
        self.validation_batch_size = validation_batch_size
        self.channels = channels
        self.passes = passes

    def load(self) -> None:
        """Set `train_images` and `held_out`. Raises an error that says what is wrong with them."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Load once: train.py calls this before the run leaves a trace, and Lightning again."""
        if not hasattr(self, "held_out"):
            self.load()

    @property
    def validation_names(self) -> list[str]:
        return list(self.held_out)

    def first_images(self, count: int) -> Tensor:
        """Read the first images in stored order, uint8 (at most count, C, H, W), on every rank."""
        images: list[Tensor] = []
        first = 0
        for shard, size in enumerate(self.train_images.shard_sizes):
            wanted = range(first, min(first + size, count))
            images += [
                self.train_images.decode(encoded)
                for _, encoded in self.train_images.read(shard, wanted)
            ]
            first += size
            if len(images) >= count:
                break
        return torch.stack(images)

    def position(self, images_seen: int) -> tuple[int, int]:
        """Count (epochs completed, steps into the next) at a time of the clock."""
        return self.stream().position(images_seen)

    def stream(self) -> TrainingStream:
        assert self.trainer is not None
        return TrainingStream(
            self.train_images,
            self.batch_size,
            self.seed,
            self.flip,
            self.window,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.passes,
        )

    def train_dataloader(self) -> StreamLoader:
        trainer = self.trainer
        assert trainer is not None
        module: Any = trainer.lightning_module
        on_gpu = trainer.strategy.root_device.type == "cuda"
        return StreamLoader(self.stream(), lambda: module.images_seen, self.num_workers, on_gpu)

    def val_dataloader(self) -> list[DataLoader[dict[str, Tensor]]]:
        """Make a loader per held-out set, over this rank's share: every image on one rank."""
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        loaders = []
        for name, held_out in self.held_out.items():
            if len(held_out) < world_size:
                raise ValueError(
                    f"held-out set {name!r} has {len(held_out)} images for {world_size} "
                    "processes: use a larger set or fewer devices"
                )
            share = Subset(_Indexed(held_out.images), range(rank, len(held_out), world_size))
            loaders.append(DataLoader(share, batch_size=self.validation_batch_size))
        return loaders


class ShardedFaces(FaceDataModule):
    """Faces prepared by `python -m datamodules.prepare`, at <root>/<image_size>px/<set name>.

    Args:
        train: name of the training set.
        in_distribution: names of held-out sets of the training set's kind.
        out_of_distribution: names of held-out sets of another kind.
        root: folder of prepared sets; by default the environment variable
            INVERTIBLE_PRIORS_DATA.
        overlap: the largest share of a held-out set that may be among the training images.
        damaged: whether a training shard that is missing, cut short or another than prepared stops
            training, or is left out, after every shard has been read once.

    Raises:
        DataError, ValueError: a set cannot be used; names it and what to do, before training.
    """

    def __init__(
        self,
        image_size: int = 64,
        batch_size: int = 16,
        train: str = "celebahq-train",
        in_distribution: Sequence[str] = ("celeba-val",),
        out_of_distribution: Sequence[str] = ("ffhq-val",),
        root: str | None = None,
        overlap: float = 0.01,
        damaged: Literal["stop", "skip"] = "stop",
        seed: int = 0,
        flip: bool = False,
        window: int = 8,
        num_workers: int = 2,
        validation_batch_size: int = 32,
        channels: Channels = 3,
        passes: int = 1,
    ) -> None:
        super().__init__(
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            flip=flip,
            window=window,
            num_workers=num_workers,
            validation_batch_size=validation_batch_size,
            channels=channels,
            passes=passes,
        )
        names = [train, *in_distribution, *out_of_distribution]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(
                f"data: the set {repeated[0]!r} is named twice: training, in-distribution and "
                "out-of-distribution sets must all be different"
            )
        if not 0 <= overlap <= 1:
            raise ValueError(f"data.overlap must be from 0 to 1, got {overlap}")
        self.root = root
        self.overlap = overlap
        self.damaged = damaged
        self.train = train
        self.in_distribution = in_distribution
        self.out_of_distribution = out_of_distribution

    def index(self, name: str, skip: bool = False) -> ShardIndex:
        """Load a prepared set's index, checked against the files on disk."""
        return prepared_set("data.root", self.root, name, self.image_size, skip)

    def load(self) -> None:
        index = self.index(self.train, skip=self.damaged == "skip")
        if index.skipped:
            rank_zero_warn(
                f"{index.root}: left out {len(index.skipped)} damaged shards "
                f"({', '.join(index.skipped)}): training sees {len(index)} images"
            )
        self.train_images = PreparedShards(index, self.channels)
        sides: dict[str, Distribution] = dict.fromkeys(self.in_distribution, "in")
        sides |= dict.fromkeys(self.out_of_distribution, "out")
        held_out = {}
        for name, side in sides.items():
            found = self.index(name)
            images = ImageSet(name, side, *load_images(found), found.identity)
            self.require_held_out(images, index)
            held_out[name] = images.in_channels(self.channels)
        self.held_out = held_out
        self.identities = {
            "train": {self.train: index.identity},
            "held_out": {name: held.identity for name, held in held_out.items()},
        }

    def require_held_out(self, held_out: ImageSet, train: ShardIndex) -> None:
        """Tell how many held-out images are trained on. Raises DataError above `overlap`."""
        held = Counter(pixel_hashes(held_out.images))
        trained = {one for shard in train.shards for one in shard.pixels.split() if one in held}
        shared = sum(held[one] for one in trained)
        if shared == 0:
            return
        said = f"{shared} of the {len(held_out)} images of {held_out.name} are in {self.train} too"
        if shared > self.overlap * len(held_out):
            raise DataError(
                f"{said}: they are not held out. Prepare sets that share none (docs/data.md), or "
                "set data.overlap to the share that may be"
            )
        rank_zero_warn(said)


class ProceduralFaces(FaceDataModule):
    """Drawn faces, for when a config names no data: see `datamodules.procedural`.

    The training split is biased (light skin, no glasses, beard or hat); `faces-val` holds other
    faces of the same distribution, `faces-ood` exactly what is missing.

    Args:
        training_images: faces in the training set.
        held_out_images: faces in each held-out set.
    """

    def __init__(
        self,
        image_size: int = 32,
        batch_size: int = 16,
        training_images: int = 3000,
        held_out_images: int = 64,
        seed: int = 0,
        flip: bool = False,
        validation_batch_size: int = 32,
        channels: Channels = 3,
        passes: int = 1,
    ) -> None:
        super().__init__(
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            flip=flip,
            window=1,
            num_workers=0,
            validation_batch_size=validation_batch_size,
            channels=channels,
            passes=passes,
        )
        self.training_images = training_images
        self.held_out_images = held_out_images

    def load(self) -> None:
        faces = procedural.faces(
            range(self.training_images),
            distribution="in",
            seed=self.seed,
            image_size=self.image_size,
        )
        self.train_images = ImagesInMemory(in_channels(faces, self.channels))
        self.held_out = {
            name: drawn_faces(name, self.image_size, self.held_out_images).in_channels(
                self.channels
            )
            for name in DRAWN_FACES
        }


class NamedPNG(NamedTuple):
    shard: Path
    name: str
    png: bytes


class PreparedShards:
    """`ImageShards` over prepared tar files: PNG bytes, decoded when used."""

    def __init__(self, index: ShardIndex, channels: Channels = 3) -> None:
        self.index = index
        self.channels = channels
        self.shard_sizes = [shard.samples for shard in index.shards]

    def read(self, shard: int, wanted: Collection[int]) -> Iterable[tuple[int, NamedPNG]]:
        path = self.index.shards[shard].path
        for index, name, png in read_shard(self.index.shards[shard]):
            if index in wanted:
                yield index, NamedPNG(path, name, png)

    def decode(self, encoded: NamedPNG) -> Tensor:
        try:
            return in_channels(decode(encoded.png, self.index.image_size), self.channels)
        except DataError as error:
            raise DataError(f"{encoded.shard}, image {encoded.name}: {error}") from error


class ImagesInMemory:
    """`ImageShards` over one tensor, uint8 (N, C, H, W)."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.shard_sizes = [len(images)]

    def read(self, shard: int, wanted: Collection[int]) -> Iterable[tuple[int, Tensor]]:
        return ((index, self.images[index]) for index in wanted)

    def decode(self, encoded: Tensor) -> Tensor:
        return encoded


class _Indexed(Dataset[dict[str, Any]]):
    """Images with their position in the set."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "index": index}
