"""Held-out sets by name: prepared ones on disk, and drawn faces."""

import os
from pathlib import Path

from datamodules import procedural
from datamodules.image_set import Distribution, ImageSet
from datamodules.shards import ShardIndex

DATA_ROOT_VARIABLE = "INVERTIBLE_PRIORS_DATA"
DRAWN_FACES: dict[str, Distribution] = {"faces-val": "in", "faces-ood": "out"}


def prepared_set(
    key: str, root: str | None, name: str, image_size: int, skip: bool = False
) -> ShardIndex:
    """Load the index of a prepared set, checked against the files on disk.

    Args:
        key: the config's key for the root, for messages.
        root: folder of prepared sets; by default the environment variable INVERTIBLE_PRIORS_DATA.
        name: the set is at <root>/<image_size>px/<name>.
        image_size: in pixels.
        skip: leave out damaged shards (see `ShardIndex.load`).

    Raises:
        ValueError: neither names a root.
        DataError: the set is missing, unfinished, changed or of another size.
    """
    root = root or os.environ.get(DATA_ROOT_VARIABLE)
    if not root:
        raise ValueError(
            f"where are the prepared images? Set {key} or the environment variable "
            f"{DATA_ROOT_VARIABLE} to the folder that holds {image_size}px/{name} "
            "(docs/data.md says how to prepare it)"
        )
    folder = Path(root).expanduser() / f"{image_size}px" / name
    return ShardIndex.load(folder, image_size, skip)


def drawn_faces(name: str, image_size: int, count: int) -> ImageSet:
    """Draw a set of `DRAWN_FACES`, the same in every run."""
    distribution = DRAWN_FACES[name]
    first = 1_000_000  # training never draws as many
    indices = range(first, first + count)
    images = procedural.faces(indices, distribution=distribution, seed=0, image_size=image_size)
    return ImageSet(name, distribution, images, [f"face-{i:04d}" for i in range(count)])
