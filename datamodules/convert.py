"""One image of a source, whatever its format, as a square RGB PNG; by the rules of docs/data.md."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from datamodules import sources
from datamodules.shards import pixel_hash
from datamodules.sources import DAMAGED, Entry, Reader

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")  # others may start programs
BLACK = 16  # what 12 bits reach in a file of 16, as 8 bits
RULES = {
    "orientation": "the EXIF orientation is applied first; --crop is in the upright image",
    "crop": "a box that leaves the image rejects it",
    "square": "the centre square of the crop, cut at whole pixels from its corner",
    "small": "a square smaller than image_size rejects the image, unless upscale is true",
    "colour": "grey, palette, 1-bit and CMYK become RGB; 16-bit grey is scaled to 255 at "
    "white_level, by default 65535; float pixels reject the image unless white_level is given; "
    "colour profiles and all other metadata are dropped",
    "alpha": "composited on white",
    "frames": "the first frame of an animation",
    "unreadable": "corrupt, truncated or encrypted files are rejected",
    "size": f"more than {Image.MAX_IMAGE_PIXELS} pixels or {sources.MAX_FILE_BYTES} bytes is "
    "rejected",
    "ignored": "names with other extensions, hidden names, links out of an archive or to folders: "
    "counted, not read",
    "keys": "the file name without extension; the whole path where two images would share it",
}

Box = tuple[float, float, float, float]  # left, top, right, bottom; in pixels


class Rejected(Exception):
    """An image to leave out; the message is the reason in the index."""


@dataclass(frozen=True)
class Converted:
    """An image as a set stores it: its PNG, the hash of its pixels, and whether it looks empty."""

    png: bytes
    pixels: str
    constant: bool  # one colour
    black: bool  # no value above BLACK, of 255


def to_rgb(image: Image.Image, white_level: float | None) -> Image.Image:
    """Convert the first frame to upright 8-bit RGB; Pillow's own conversion clips deep grey."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        if image.mode == "F" and white_level is None:
            raise Rejected("float pixels: their range is unknown; tell it by --white-level")
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise Rejected("float pixels: some are no numbers")
        grey = np.floor(values * 255 / (white_level or 65535) + 0.5).clip(0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
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


def decode(data: bytes, white_level: float | None) -> Image.Image:
    """Decode a file to upright RGB. Raises Rejected, or whatever Pillow does."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if not is_whole(data, image.format):  # Pillow fills what is missing with grey
        raise Rejected("unreadable: the file ends early")
    if white_level and any(";16" in str(tile[3]) for tile in image.tile) and image.mode == "RGB":
        raise Rejected("16-bit colour: read as 8 bits, so that --white-level cannot apply")
    return to_rgb(image, white_level)


def is_whole(data: bytes, kind: str | None) -> bool:
    """Whether a PNG or JPEG has its end; what cameras append to one may follow."""
    if kind == "PNG":
        return data.find(b"IEND", data.find(b"IDAT")) >= 0
    if kind != "JPEG":
        return True
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != 0xDA:  # segments, a thumbnail in one
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return data.find(b"\xff\xd9", at) >= 0  # compressed pixels hold no such bytes


def read_rgb(entry: Entry, read: Reader, white_level: float | None) -> Image.Image:
    """Read an image. Raises Rejected if something is wrong with it, OSError for a failing disk."""
    if entry.size > sources.MAX_FILE_BYTES:
        raise Rejected(f"too many bytes: {entry.size}")
    try:
        data = read(entry)
    except DAMAGED as error:
        raise Rejected(f"unreadable: {error}") from error
    try:
        return decode(data, white_level)
    except Rejected:
        raise
    except UnidentifiedImageError as error:  # its message holds a memory address
        unsupported = entry.name.lower().endswith(".avif") and not features.check("avif")
        reason = "this Pillow was built without AVIF" if unsupported else "not an image"
        raise Rejected(f"unreadable: {reason}") from error
    except Exception as error:  # decoders given arbitrary bytes raise almost anything
        raise Rejected(f"unreadable: {error}") from error


def convert(
    entry: Entry,
    read: Reader,
    size: int,
    crop: Box | None,
    upscale: bool,
    white_level: float | None = None,
) -> Converted | str:
    """Convert an image to an RGB PNG of size x size, or return the reason for its rejection."""
    try:
        image = read_rgb(entry, read, white_level)
        box = square_box(*image.size, size, crop, upscale)
    except Rejected as reason:
        return str(reason)
    image = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    image.info.clear()  # Pillow would store the source's colour profile
    png = io.BytesIO()
    image.save(png, "PNG")
    ranges: Any = image.getextrema()  # of each channel
    return Converted(
        png.getvalue(),
        pixel_hash(image.tobytes()),
        constant=all(low == high for low, high in ranges),
        black=all(high <= BLACK for _, high in ranges),
    )
