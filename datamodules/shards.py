"""Reads what datamodules.prepare has written: the index, the shards' PNG bytes, tensors."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from datamodules.prepare import INDEX, UNFINISHED, DataError, check_shard

__all__ = ["DataError", "Shard", "ShardIndex", "decode", "load_images", "read_shard"]


@dataclass(frozen=True)
class Shard:
    """One tar of images."""

    path: Path
    samples: int
    first: int  # global index of its first image


@dataclass(frozen=True)
class ShardIndex:
    """A prepared set of images: what its index.json says, checked against the files."""

    root: Path
    image_size: int
    channels: int
    shards: tuple[Shard, ...]

    @classmethod
    def load(cls, root: str | Path, image_size: int | None = None) -> ShardIndex:
        """Raises DataError where the set is missing, unfinished, changed or of another image size.

        Looks at the shards' sizes only; repeating the `prepare` command verifies their sha256.
        """
        root = Path(root)
        path = root / INDEX
        if not path.exists():
            raise DataError(missing_index(root, image_size))
        try:
            index = json.loads(path.read_text())
            version, size, channels = index["version"], index["image_size"], index["channels"]
            records = index["shards"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not made by datamodules.prepare ({error!r})") from error
        if version != 1:
            raise DataError(f"{path}: format version {version}, this program reads version 1")
        if image_size not in (None, size):
            raise DataError(
                f"{path}: images of {size}px, {image_size}px wanted; "
                f"prepare a set with --image-size {image_size}"
            )
        shards, first = [], 0
        for record in records:
            check_shard(root, record)
            shards.append(Shard(root / record["file"], record["samples"], first))
            first += record["samples"]
        return cls(root, size, channels, tuple(shards))

    def __len__(self) -> int:
        """The number of images."""
        return sum(shard.samples for shard in self.shards)


def missing_index(root: Path, image_size: int | None) -> str:
    command = f"python -m datamodules.prepare SOURCE {root} --image-size {image_size or 64}"
    if (root / UNFINISHED).exists():
        return f"{root}: its preparation was interrupted; repeat its command: {command} [...]"
    return f"{root}: no {INDEX}; make the set with: {command}"


def read_shard(shard: Shard) -> Iterator[tuple[int, str, bytes]]:
    """Yields (global index, name, PNG bytes) of every image of the shard, in stored order.

    Reads the tar from front to end. Raises DataError, naming the file, if it is not what the index
    promised; what came before the damage has then been yielded.
    """
    count = 0
    try:
        # webdataset's stages below the point where it deals shards out to nodes and workers: who
        # reads which shard is the caller's decision, and a shard is always read whole.
        with shard.path.open("rb") as stream:
            files = tar_file_expander([{"url": str(shard.path), "stream": stream}])
            for sample in group_by_keys(files):
                yield shard.first + count, sample["__key__"], sample["png"]
                count += 1
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        raise DataError(
            f"{shard.path}: damaged after {count} images ({error}); "
            "delete the set and prepare it again"
        ) from error
    if count != shard.samples:
        raise DataError(
            f"{shard.path}: holds {count} images, {INDEX} says {shard.samples}; "
            "delete the set and prepare it again"
        )


def decode(png: bytes) -> Tensor:
    """PNG bytes -> uint8 (3, H, W) in [0, 255]. Raises DataError for damaged bytes."""
    # Pillow, since torchvision 0.29's decode_png, on damaged bytes, ends the process (SIGSEGV).
    try:
        pixels = np.array(Image.open(io.BytesIO(png)).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"damaged PNG ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def load_images(index: ShardIndex, limit: int | None = None) -> tuple[Tensor, list[str]]:
    """The first `limit` images (all, without one) in stored order, which `prepare` has shuffled.

    Returns uint8 (N, 3, H, W) and the N names. Raises DataError, naming the file, for a damaged
    shard.
    """
    total = len(index) if limit is None else min(limit, len(index))
    images = torch.empty(
        total, index.channels, index.image_size, index.image_size, dtype=torch.uint8
    )
    names: list[str] = []
    for shard in index.shards:
        if shard.first >= total:
            break
        for position, name, png in read_shard(shard):
            if position >= total:
                break
            try:
                images[position] = decode(png)
            except DataError as error:
                raise DataError(f"{shard.path}: {name}: {error}") from error
            names.append(name)
    return images, names
