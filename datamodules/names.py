"""Names of images: in a source, in a prepared set, in tables and lists of others."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from unicodedata import normalize

SUFFIXES = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
}


def is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def plain(name: str) -> str:
    """Write a path as sources do: `/` between folders, no `./` before them, accents composed."""
    return str(PurePosixPath(normalize("NFC", name.replace("\\", "/"))))


def without_suffix(name: str) -> str:
    """Drop an image's extension, and nothing else that follows a dot."""
    return str(PurePosixPath(name).with_suffix("")) if is_image(name) else name


def unique_keys(names: Iterable[str]) -> dict[str, str]:
    """Map image names to the keys that sets and rows know them by.

    A key has no dots (they end a WebDataset key), is unique and readable: the file name without its
    extension, or the whole path where two names would share that.
    """
    paths = {name: plain(name) for name in sorted(names)}
    stems = {name: _key(without_suffix(PurePosixPath(p).name)) for name, p in paths.items()}
    shared = Counter(stems.values())
    names_by_key: dict[str, str] = {}
    for name, key in stems.items():
        if shared[key] > 1:
            key = _key(paths[name])
        while key in names_by_key:
            key += "_"
        names_by_key[key] = name
    return {name: key for key, name in names_by_key.items()}


def _key(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text)
