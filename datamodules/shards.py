"""Prepared images on disk: WebDataset shards (tars of PNGs) and the index that describes them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

VERSION = 1  # of the format described in docs/data.md
INDEX = "index.json"
RECORD: dict[str, type] = {"file": str, "samples": int, "bytes": int, "sha256": str}  # of a shard
UNFINISHED = ".unfinished"  # folder in a set that `prepare` still makes: its index so far, scratch


class DataError(ValueError):
    """Data that cannot be used; the message names the file or value and says what to do."""


@dataclass(frozen=True)
class Shard:
    """One tar of images.

    Attributes:
        first: global index of its first image.
        pixels: `pixel_hash` of each image, a space between; earlier versions wrote none.
    """

    path: Path
    samples: int
    first: int
    sha256: str
    pixels: str = ""


@dataclass(frozen=True)
class ShardIndex:
    """A prepared set of images: what its index.json says, checked against the files.

    Attributes:
        identity: short hash of all shards' sha256; another one where any image is another.
        skipped: file names of shards left out, because they are not what index.json says.
    """

    root: Path
    image_size: int
    channels: int
    shards: tuple[Shard, ...]
    identity: str
    skipped: tuple[str, ...] = ()

    @classmethod
    def load(
        cls, root: str | Path, image_size: int | None = None, skip: bool = False
    ) -> ShardIndex:
        """Load a set's index, and look whether every shard has the size it should have.

        With `skip`, verify their sha256 too, which reads the set once, and leave out the shards
        that are not what the index says.

        Raises:
            DataError: the set is missing, unfinished, changed or of another size, a file cannot be
                read, or no shard is left.
        """
        root = Path(root)
        path = root / INDEX
        if not path.exists():
            state = "its preparation was interrupted" if (root / UNFINISHED).exists() else "no set"
            command = f"prepare SOURCE {root} --image-size {image_size or 64} [...]"
            raise DataError(f"{root}: {state}; python -m datamodules.{command} makes it")
        try:
            index = json.loads(path.read_text())
            fields = ("version", "image_size", "channels", "shards")
            version, size, channels, records = (index[field] for field in fields)
            for number, record in enumerate(records):
                require_record(number, record)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not made by datamodules.prepare ({error!r})") from error
        if version != VERSION:
            raise DataError(f"{path}: format version {version}, this program reads {VERSION}")
        if image_size not in (None, size):
            raise DataError(f"{path}: images of {size}px, {image_size}px wanted; prepare another")
        shards, skipped, first = list[Shard](), list[str](), 0
        for record in records:
            try:
                check_shard(root, record, digest=skip)
            except DataError:
                if not skip:
                    raise
                skipped.append(record["file"])
                continue
            except OSError as error:  # on this machine alone, perhaps: ranks would disagree
                raise DataError(f"{root / record['file']} cannot be read: {error}") from error
            count, sha256, pixels = record["samples"], record["sha256"], record.get("pixels", "")
            shards.append(Shard(root / record["file"], count, first, sha256, pixels))
            first += count
        if skipped and not shards:
            raise DataError(f"{root}: no shard is what {INDEX} says; prepare it again")
        require_no_other_shards(root, [record["file"] for record in records])
        every = " ".join(record["sha256"] for record in records)
        identity = hashlib.blake2b(every.encode(), digest_size=5).hexdigest()
        return cls(root, size, channels, tuple(shards), identity, tuple(skipped))

    def __len__(self) -> int:
        """Count the images."""
        return sum(shard.samples for shard in self.shards)


def require_record(number: int, record: Any) -> None:
    """Raise ValueError, naming the field, unless an index says of a shard what reading needs."""
    for name, kind in RECORD.items():
        if not isinstance(record, dict) or not isinstance(record.get(name), kind):
            raise ValueError(f"shards[{number}].{name} is missing or no {kind.__name__}")
    if record["samples"] < 1 or record["file"] != Path(record["file"]).name:
        raise ValueError(f"shards[{number}] is no shard of this folder")


def require_no_other_shards(root: Path, known: Collection[str]) -> None:
    """Raise DataError, naming it, for a shard that the index does not know."""
    others = [path for path in root.glob("shard-*.tar") if path.name not in known]
    if others:
        raise DataError(
            f"{min(others)}: a shard that {INDEX} does not know, perhaps of another set: move it "
            "away, or prepare the set again elsewhere"
        )


def check_shard(root: Path, record: dict[str, Any], digest: bool = False) -> None:
    """Raise DataError unless the shard is there with the size (and sha256) of its record."""
    path = root / record["file"]
    same = path.exists() and path.stat().st_size == record["bytes"]
    if same and digest:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == record["sha256"]
    if not same:
        raise changed(path)


def changed(path: Path) -> DataError:
    wrong = f"missing, or not the file that {INDEX} describes"
    return DataError(f"{path}: {wrong}; delete {path.parent} and prepare it again")


def read_shard(shard: Shard) -> Iterator[tuple[int, str, bytes]]:
    """Yield (global index, name, PNG bytes) of every image of the shard, in stored order.

    Raises DataError, naming the file, before the first image if it is not the index's (by its
    sha256), or cannot be read.
    """
    try:
        content = shard.path.read_bytes()
    except OSError as error:  # not ours to read, a failing disk: that is no damage to delete
        raise DataError(f"{shard.path} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise changed(shard.path)
    count = 0
    try:
        # Not webdataset's pipeline, which deals shards out to nodes and workers: here the caller
        # decides who reads which shard, and reads it whole.
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                stored = tar.extractfile(member)
                if stored is None:
                    raise ValueError(f"{member.name} is no file")
                yield shard.first + count, member.name.removesuffix(".png"), stored.read()
                count += 1
        if count != shard.samples:
            raise ValueError(f"{INDEX} says {shard.samples}")
    except (tarfile.TarError, ValueError) as error:
        damage = f"damaged after {count} images ({error})"
        raise DataError(f"{shard.path}: {damage}; delete the set and prepare it again") from error


def pixel_hash(pixels: bytes) -> str:
    """Hash an image's RGB bytes, row by row: the same pixels in any encoding have the same hash."""
    return hashlib.blake2b(pixels, digest_size=6).hexdigest()  # a million images: no two by chance


def pixel_hashes(images: Tensor) -> list[str]:
    """Hash each of uint8 (N, 3, H, W) as `prepare` has done."""
    return [pixel_hash(image.permute(1, 2, 0).numpy().tobytes()) for image in images]


def decode(png: bytes, size: int) -> Tensor:
    """Decode PNG bytes to uint8 (3, size, size) in [0, 255].

    Raises DataError for damaged bytes, or an image of other sides.
    """
    # By Pillow, because torchvision 0.29's decode_png ends the process (SIGSEGV) on damaged bytes.
    try:
        pixels = np.array(Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"damaged PNG ({error})") from error
    if pixels.shape != (size, size, 3):
        sides = " x ".join(map(str, pixels.shape[1::-1]))
        raise DataError(f"an image of {sides} pixels, and the set's are {size} x {size}")
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def load_images(index: ShardIndex, limit: int | None = None) -> tuple[Tensor, list[str]]:
    """Load the first `limit` images (or all) in stored order, which `prepare` has shuffled.

    Returns uint8 (N, 3, H, W) and the N names. Raises DataError, naming a damaged file.
    """
    total = len(index) if limit is None else min(limit, len(index))
    shape = (total, index.channels, index.image_size, index.image_size)
    images = torch.empty(shape, dtype=torch.uint8)
    names: list[str] = []
    for shard in index.shards:
        for position, name, png in islice(read_shard(shard), max(0, total - shard.first)):
            try:
                images[position] = decode(png, index.image_size)
            except DataError as error:
                raise DataError(f"{shard.path}: {name}: {error}") from error
            names.append(name)
    return images, names
