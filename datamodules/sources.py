"""Images as they come: in a folder, zip or tar, in any format that Pillow reads.

`find_images` lists a source, `select` chooses from it, `open_source` reads from it, `convert` turns
what it holds into square RGB PNGs by the rules of docs/data.md.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import os
import shutil
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datamodules.shards import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # others may start programs
MAX_FILE_BYTES = 1 << 29
# What reading an archive raises, RuntimeError where it is encrypted or packed in an unknown way.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)
RULES = {
    "orientation": "the EXIF orientation is applied first; --crop is in the upright image",
    "crop": "a box that leaves the image rejects it",
    "square": "the centre square of the crop, cut at whole pixels from its corner",
    "small": "a square smaller than image_size rejects the image, unless upscale is true",
    "colour": "grey, palette, 1-bit and CMYK become RGB; 16-bit is divided by 257; "
    "float pixels reject the image; colour profiles and all other metadata are dropped",
    "alpha": "composited on white",
    "frames": "the first frame of an animation",
    "unreadable": "corrupt, truncated or encrypted files are rejected",
    "size": f"more than {Image.MAX_IMAGE_PIXELS} pixels or {MAX_FILE_BYTES} bytes is rejected",
    "ignored": "names with other extensions, hidden names and links to folders: counted, not read",
    "keys": "the file name without extension; the whole path where two images would share it",
}


Box = tuple[float, float, float, float]  # left, top, right, bottom; in pixels


class Rejected(Exception):
    """An image to leave out; the message is the reason in the index."""


@dataclass(frozen=True)
class Entry:
    """A file in the source. `mark`: its CRC in a zip, the offset of its bytes in a tar."""

    name: str  # path inside the source
    size: int  # bytes; -1 for what is not a plain file
    mark: int = 0


Reader = Callable[[Entry], bytes]  # returns the file's bytes


def list_folder(root: Path) -> Iterator[Entry]:
    def fail(error: OSError) -> None:  # os.walk would pass over an unreadable folder in silence
        raise error

    for folder, folders, files in os.walk(root, onerror=fail):
        for path in (Path(folder, name) for name in folders + files):
            if path.is_symlink() or not path.is_dir():
                size = path.stat().st_size if path.is_file() else -1
                yield Entry(path.relative_to(root).as_posix(), size)


def list_source(path: Path) -> Iterator[Entry]:
    """Yield every file there; raises what zipfile and tarfile raise for damage."""
    if path.is_dir():
        yield from list_folder(path)
    elif is_image(path.name):
        yield Entry(path.name, path.stat().st_size)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield Entry(info.filename, info.file_size, info.CRC)
    else:
        with tarfile.open(path) as tar:  # compressed or not: offsets are in the plain tar
            for member in tar:
                if not member.isdir():
                    size = member.size if member.isreg() and not member.issparse() else -1
                    yield Entry(normpath(member.name), size, member.offset_data)


def is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def find_images(path: Path) -> tuple[dict[str, Entry], dict[str, int]]:
    """Find the images in a source by name, and count its other files by kind."""
    try:  # where an archive holds a name twice the dictionary keeps the last, as unpacking does
        entries = {entry.name: entry for entry in list_source(path)}
    except DAMAGED as error:
        raise DataError(f"{path}: no image, folder, zip or tar, or a damaged one") from error
    images, ignored = {}, Counter[str]()
    for entry in entries.values():
        if entry.size < 0:
            ignored["link or special file"] += 1
        elif any(part.startswith((".", "__MACOSX")) for part in entry.name.split("/")):
            ignored["hidden"] += 1
        elif not is_image(entry.name):
            ignored[PurePosixPath(entry.name).suffix.lower() or "no extension"] += 1
        else:
            images[entry.name] = entry
    if not images:
        raise DataError(f"{path}: no images ({' '.join(sorted(SUFFIXES))}), only {dict(ignored)}")
    return images, dict(sorted(ignored.items()))


def read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error})") from error


def csv_names(path: Path, where: Sequence[str], name_column: str) -> list[str]:
    """Read the names in the rows of a CSV file that match every COLUMN=VALUE."""
    reader = csv.DictReader(read_lines(path))
    conditions = [condition.partition("=")[::2] for condition in where]
    for column in [name_column, *(column for column, _ in conditions)]:
        if column not in (reader.fieldnames or []):
            raise DataError(f"{path}: no column {column!r}; it has {reader.fieldnames}")
    return [row[name_column] for row in reader if all(row[c] == v for c, v in conditions)]


def match(images: Iterable[str], wanted: Iterable[str], listed: Path) -> tuple[set[str], list[str]]:
    """Find the images that `wanted` names, and the names that fit none.

    A name is an image's path in the source, its file name, or that without the extension.
    """
    paths, forms = set(images), defaultdict[str, list[str]](list)
    for path in sorted(paths):
        for form in {PurePosixPath(path).name, PurePosixPath(path).stem}:
            forms[form].append(path)
    found, missing = set[str](), list[str]()
    for name in filter(None, map(str.strip, wanted)):
        fits = [name] if name in paths else forms.get(name, [])
        if len(fits) > 1:
            raise DataError(f"{listed}: {name!r} fits {', '.join(fits[:3])}; write the path")
        found.update(fits)
        missing += [] if fits else [name]
    return found, missing


def select(images: Iterable[str], args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Select names by the options, in stored order; return the choice as the index has it, too."""
    names, choice = set(images), {"skip": args.skip, "limit": args.limit}
    if args.names:
        names, missing = match(names, read_lines(args.names), args.names)
        choice |= {"names": args.names.name}
        if missing:
            examples = ", ".join(missing[:3])
            raise DataError(f"{args.names}: {len(missing)} names fit no image, such as {examples}")
    elif args.csv:
        rows = csv_names(args.csv, args.where, args.name_column)
        names, missing = match(names, rows, args.csv)
        choice |= {"csv": args.csv.name, "where": args.where, "name_column": args.name_column}
        choice |= {"rows_without_image": len(missing)}

    def place(name: str) -> bytes:  # a shuffle that depends on nothing but the seed and the name
        return hashlib.sha256(f"{args.seed}/{name}".encode(errors="surrogateescape")).digest()

    order = sorted(names, key=place)[args.skip :][: args.limit]
    if not order:
        raise DataError(f"{args.source}: no image is left by {choice}")
    return order, choice


def open_source(path: Path, scratch: Path) -> Reader:
    """Make what reads the source, from any thread. Unpacks a compressed tar to `scratch` first."""
    if path.is_dir():
        return lambda entry: (path / entry.name).read_bytes()
    if is_image(path.name):
        return lambda entry: path.read_bytes()
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        return lambda entry: archive.read(entry.name)
    with tarfile.open(path) as tar:
        stream: Any = tar.fileobj  # the file itself, or what decompresses it
        if not isinstance(stream, io.BufferedReader):
            stream.seek(0)
            with scratch.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
            path = scratch

    def read(entry: Entry) -> bytes:
        with path.open("rb") as file:
            file.seek(entry.mark)
            return file.read(entry.size)

    return read


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert the first frame to upright 8-bit RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips or truncates
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Rejected("float pixels: their range is unknown")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def square_box(width: int, height: int, size: int, crop: Box | None, upscale: bool) -> Box:
    """Choose the part of an image to keep: the centre square of the crop, as a PIL box."""
    left, top, right, bottom = crop or (0, 0, width, height)
    if left < 0 or top < 0 or right > width or bottom > height:
        raise Rejected(f"crop box outside the image: {width} x {height}")
    side = min(right - left, bottom - top)
    if side < size and not upscale:
        raise Rejected(f"too small: {right - left:g} x {bottom - top:g} after the crop")
    # Whole pixels, so that a picture already of the right size is not blurred by half a pixel.
    left += (right - left - side) // 2
    top += (bottom - top - side) // 2
    return left, top, min(left + side, right), min(top + side, bottom)


def read_rgb(entry: Entry, read: Reader) -> Image.Image:
    """Read an image. Raises Rejected if something is wrong with it, OSError for a failing disk."""
    if entry.size > MAX_FILE_BYTES:
        raise Rejected(f"too many bytes: {entry.size}")
    try:
        data = read(entry)
    except DAMAGED as error:
        raise Rejected(f"unreadable: {error}") from error
    try:
        return to_rgb(Image.open(io.BytesIO(data), formats=FORMATS))
    except Rejected:
        raise
    except UnidentifiedImageError as error:  # its message holds a memory address
        raise Rejected("unreadable: not an image") from error
    except Exception as error:  # decoders given arbitrary bytes raise almost anything
        raise Rejected(f"unreadable: {error}") from error


def convert(entry: Entry, read: Reader, size: int, crop: Box | None, upscale: bool) -> bytes | str:
    """Convert an image to an RGB PNG of size x size, or return the reason for its rejection."""
    try:
        image = read_rgb(entry, read)
        box = square_box(*image.size, size, crop, upscale)
    except Rejected as reason:
        return str(reason)
    image = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    image.info.clear()  # Pillow would store the source's colour profile
    png = io.BytesIO()
    image.save(png, "PNG")
    return png.getvalue()
