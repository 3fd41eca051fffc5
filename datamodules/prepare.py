"""Turns a folder, zip or tar of images into WebDataset shards and an index.

    python -m datamodules.prepare photos data/64px/my-faces --image-size 64

The same source and options give the same bytes whatever the number of workers. An interrupted run
goes on where it stopped when the same command is given again. See docs/data.md.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tarfile
import threading
import time
import warnings
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

INDEX = "index.json"
UNFINISHED = ".unfinished"  # folder in OUT: the plan, one record per finished shard, scratch files
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
MAX_FILE_BYTES = 1 << 29
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


class DataError(Exception):
    """Data that cannot be used; the message names the file or value and says what to do."""


class Rejected(Exception):
    """An image that is left out; the message is the reason kept in the index."""


@dataclass(frozen=True)
class Entry:
    """A file in the source. `mark`: its CRC in a zip, the offset of its bytes in a tar."""

    name: str  # path inside the source
    size: int  # bytes; -1 for what is not a plain file
    mark: int = 0


@dataclass(frozen=True)
class Framing:
    """How an image becomes a square of `image_size`."""

    image_size: int
    crop: tuple[float, float, float, float] | None = None  # left, top, right, bottom
    upscale: bool = False


def list_folder(root: Path) -> Iterator[Entry]:
    def fail(error: OSError) -> None:  # os.walk would pass over an unreadable folder in silence
        raise error

    for folder, folders, files in os.walk(root, onerror=fail):
        for path in (Path(folder, name) for name in folders + files):
            if path.is_file() or path.is_symlink() or not path.is_dir():
                size = path.stat().st_size if path.is_file() else -1
                yield Entry(path.relative_to(root).as_posix(), size)


def list_source(path: Path) -> list[Entry]:
    """Every file in the source, by name. Raises DataError for a missing or damaged source."""
    if not path.exists():
        raise DataError(f"{path}: no such folder or archive; check SOURCE")
    try:
        if path.is_dir():
            entries = list(list_folder(path))
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entries = [
                    Entry(i.filename, i.file_size, i.CRC)
                    for i in archive.infolist()
                    if not i.is_dir()
                ]
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:  # compressed or not: offsets are in the plain tar
                entries = [
                    Entry(
                        normpath(m.name),
                        m.size if m.isreg() and not m.issparse() else -1,
                        m.offset_data,
                    )
                    for m in tar
                    if not m.isdir()
                ]
        else:
            raise DataError(f"{path}: neither a folder nor a zip or tar archive (or it is damaged)")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged archive ({error}); fetch it again") from error
    # By name: where an archive holds a name twice the last counts, as when it is unpacked.
    return sorted({entry.name: entry for entry in entries}.values(), key=lambda entry: entry.name)


def split_images(entries: Iterable[Entry]) -> tuple[dict[str, Entry], dict[str, int]]:
    """The images by name, and how many other files of each kind were ignored."""
    images, ignored = {}, Counter[str]()
    for entry in entries:
        suffix = PurePosixPath(entry.name).suffix.lower()
        if entry.size < 0:
            ignored["link or special file"] += 1
        elif any(part.startswith((".", "__MACOSX")) for part in entry.name.split("/")):
            ignored["hidden"] += 1
        elif suffix not in SUFFIXES:
            ignored[suffix or "no extension"] += 1
        else:
            images[entry.name] = entry
    return images, dict(sorted(ignored.items()))


def unique_keys(names: Iterable[str]) -> dict[str, str]:
    """Image name -> WebDataset key: no dots (they end a key), unique, readable, deterministic."""
    names = sorted(names)
    stems = {name: re.sub(r"[^\w-]+", "_", PurePosixPath(name).stem) for name in names}
    shared = Counter(stems.values())
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        key = stems[name] if shared[stems[name]] == 1 else re.sub(r"[^\w-]+", "_", name)
        while key in taken:
            key += "_"
        taken.add(key)
        keys[name] = key
    return keys


def read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error})") from error


def csv_names(path: Path, where: Sequence[str], name_column: str) -> list[str]:
    """The names in the rows of a CSV file that match every COLUMN=VALUE."""
    reader = csv.DictReader(read_lines(path))
    columns = list(reader.fieldnames or [])
    rows = list(reader)
    wanted = [condition.partition("=")[::2] for condition in where]
    for column in [name_column, *(column for column, _ in wanted)]:
        if column not in columns:
            raise DataError(f"{path}: no column {column!r}; it has {', '.join(columns)}")
    names = [row[name_column] for row in rows if all(row[c] == value for c, value in wanted)]
    if not names:
        seen = {c: sorted({str(row[c]) for row in rows})[:5] for c, _ in wanted}
        raise DataError(f"{path}: no row has {' and '.join(where)}; values found: {seen}")
    return names


def match(
    images: dict[str, Entry], wanted: Iterable[str], listed: Path, partial: bool
) -> tuple[set[str], int]:
    """The images that `wanted` names, and how many names fit none (an error unless `partial`).

    A name is an image's path in the source, its file name, or that without the extension.
    """
    forms: dict[str, list[str]] = defaultdict(list)
    for name in images:
        for form in {PurePosixPath(name).name, PurePosixPath(name).stem}:
            forms[form].append(name)
    found, missing = set(), []
    for name in filter(None, map(str.strip, wanted)):
        fits = [name] if name in images else forms.get(name, [])
        if len(fits) > 1:
            raise DataError(f"{listed}: {name!r} fits {', '.join(fits[:3])}; write the path")
        found.update(fits)
        missing += [] if fits else [name]
    if not found and not missing:
        raise DataError(f"{listed}: holds no image names; write one per line")
    if (missing and not partial) or not found:
        raise DataError(
            f"{listed}: {len(missing)} of its names are not in the source, first: "
            f"{', '.join(missing[:3])}; correct the file or SOURCE"
        )
    return found, len(missing)


def select(images: dict[str, Entry], args: argparse.Namespace) -> tuple[list[Entry], dict]:
    """The images to store, in stored order, and the selection as the index states it."""
    selection: dict[str, Any] = {"skip": args.skip, "limit": args.limit}
    names: Iterable[str] = images
    if args.names:
        names, _ = match(images, read_lines(args.names), args.names, partial=False)
        selection |= {"names": args.names.name}
    elif args.csv:
        rows = csv_names(args.csv, args.where, args.name_column)
        names, missing = match(images, rows, args.csv, partial=True)
        selection |= {
            "csv": args.csv.name,
            "where": args.where,
            "name_column": args.name_column,
            "rows_without_image": missing,
        }

    def place(name: str) -> bytes:  # a shuffle that depends on nothing but the seed and the name
        return hashlib.sha256(f"{args.seed}/{name}".encode(errors="surrogateescape")).digest()

    end = None if args.limit is None else args.skip + args.limit
    return [images[name] for name in sorted(names, key=place)][args.skip : end], selection


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB of the first frame."""
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


def square_box(width: int, height: int, framing: Framing) -> tuple[float, float, float, float]:
    """The part of an image that is kept: the centre square of the crop, as a PIL box."""
    left, top, right, bottom = framing.crop or (0, 0, width, height)
    if left < 0 or top < 0 or right > width or bottom > height:
        raise Rejected(f"crop box outside the image: {width} x {height}")
    side = min(right - left, bottom - top)
    if side < framing.image_size and not framing.upscale:
        raise Rejected(f"too small: {right - left:g} x {bottom - top:g} after the crop")
    # Whole pixels, so that a picture already of the right size is not blurred by half a pixel.
    left += (right - left - side) // 2
    top += (bottom - top - side) // 2
    return left, top, min(left + side, right), min(top + side, bottom)


def convert(data: bytes, framing: Framing) -> bytes:
    """Bytes of any image file -> bytes of an RGB PNG, image_size x image_size. Raises Rejected."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = to_rgb(Image.open(io.BytesIO(data)))
    except Rejected:
        raise
    except UnidentifiedImageError as error:  # its message holds a memory address
        raise Rejected("unreadable: not an image") from error
    except Exception as error:  # decoders given arbitrary bytes raise almost anything
        raise Rejected(f"unreadable: {error}") from error
    size, box = (framing.image_size, framing.image_size), square_box(*image.size, framing)
    image = image.resize(size, Image.Resampling.LANCZOS, box=box)
    image.info.clear()  # Pillow would store the source's colour profile
    png = io.BytesIO()
    image.save(png, "PNG")
    return png.getvalue()


class Converter:
    """Reads an entry of the source and converts it; each process opens the source for itself."""

    def __init__(self, source: Path, framing: Framing) -> None:
        self.folder, self.framing = source, framing
        self.zip = zipfile.ZipFile(source) if zipfile.is_zipfile(source) else None
        self.tar = None if self.zip or source.is_dir() else source.open("rb")

    def read(self, entry: Entry) -> bytes:
        if self.zip:
            try:
                return self.zip.read(entry.name)
            except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
                raise Rejected(f"unreadable: {error}") from error
        if self.tar:
            self.tar.seek(entry.mark)
            return self.tar.read(entry.size)
        return (self.folder / entry.name).read_bytes()

    def __call__(self, entry: Entry) -> bytes | str:
        """PNG bytes, or the reason why the image is rejected."""
        try:
            if entry.size > MAX_FILE_BYTES:
                raise Rejected(f"too many bytes: {entry.size}")
            return convert(self.read(entry), self.framing)
        except Rejected as reason:
            return str(reason)


_converter: Converter  # of a worker process


def start_worker(source: Path, framing: Framing) -> None:
    def end_with_parent() -> None:  # a killed parent would leave its workers waiting for ever
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    global _converter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=end_with_parent, daemon=True).start()
    _converter = Converter(source, framing)


def work(entry: Entry) -> bytes | str:
    return _converter(entry)


def convert_all(
    entries: list[Entry], source: Path, framing: Framing, workers: int
) -> Generator[bytes | str, None, None]:
    """PNG bytes or a reason for each entry, in order."""
    if workers == 1:
        yield from map(Converter(source, framing), entries)
        return
    # spawn: the same on every platform, and no lock or archive is inherited half-used.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), start_worker, (source, framing)
    )
    try:
        yield from pool.map(work, entries, chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)


def write_json(value: Any, path: Path, scratch: Path) -> None:
    """Under its final name only when whole."""
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(scratch, path)


def check_shard(root: Path, record: dict, digest: bool = False) -> None:
    """Raises DataError unless the shard is there with the size (and sha256) of its record."""
    path = root / record["file"]
    if not path.exists():
        raise DataError(f"{path}: missing; delete {root} and prepare it again")
    same = path.stat().st_size == record["bytes"]
    if same and digest:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == record["sha256"]
    if not same:
        raise DataError(
            f"{path}: not the file that {INDEX} describes (truncated or changed); "
            f"delete {root} and prepare it again"
        )


def compare(there: dict, plan: dict, out: Path) -> None:
    """Raises DataError naming every option in which what is in OUT differs from what is asked."""
    differs = [
        f"{key} is {there.get(key)} there, {value} here"
        for key, value in plan.items()
        if key != "rules" and there.get(key) != json.loads(json.dumps(value))
    ]
    if differs:
        raise DataError(
            f"{out}: holds a set made otherwise ({'; '.join(differs)}); "
            "choose another OUT, delete this one, or repeat its options"
        )


def finished_shards(out: Path, plan: dict) -> list[dict]:
    """Starts OUT, or finds what an interrupted run with the same plan left: its shard records."""
    state = out / UNFINISHED
    if not (state / "plan.json").exists():
        if out.exists() and any(path.name != UNFINISHED for path in out.iterdir()):
            raise DataError(f"{out}: not empty, and not made by prepare; choose another OUT")
        state.mkdir(parents=True, exist_ok=True)
        write_json(plan, state / "plan.json", state / "scratch")
        return []
    compare(json.loads((state / "plan.json").read_text()), plan, out)
    records = [json.loads(path.read_text()) for path in sorted(state.glob("shard-*.json"))]
    for record in records:
        if record["samples"]:
            check_shard(out, record, digest=True)
    return records


def write_shard(
    path: Path, results: Iterator[tuple[Entry, bytes | str]], keys: dict[str, str], size: int
) -> dict:
    """Moves results into one tar until it holds `size` images or there are no more."""
    # Imported here because it brings in torch, which no worker process needs.
    from webdataset import TarWriter

    record: dict[str, Any] = {"samples": 0, "taken": 0, "rejected": []}
    # Fixed owner and time, and headers that hold any name: nothing varies but the images.
    fixed = {"user": "", "group": "", "mtime": 0, "format": "PAX_FORMAT"}
    with path.open("w+b") as file:
        with TarWriter(file, encoder=False, compress=False, **fixed) as tar:
            for entry, result in results:
                record["taken"] += 1
                if isinstance(result, str):
                    record["rejected"].append({"name": entry.name, "reason": result})
                else:
                    tar.write({"__key__": keys[entry.name], "png": result})
                    record["samples"] += 1
                if record["samples"] == size:
                    break
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return record | {"bytes": path.stat().st_size, "sha256": sha256}


def watched(results: Iterable, total: int, first: int) -> Iterator:
    """Shows progress: a bar on a terminal, in a log one line every fifteen seconds."""
    if sys.stderr.isatty():
        yield from tqdm(results, total=total, initial=first, unit="image")
        return
    start = said = time.monotonic()
    for count, result in enumerate(results, 1):
        yield result
        if (now := time.monotonic()) - said > 15:
            said = now
            meter = tqdm.format_meter(
                first + count, total, now - start, ncols=0, initial=first, unit="image"
            )
            print(meter, file=sys.stderr, flush=True)


def plain_tar(source: Path, scratch: Path) -> Path:
    """The source, or where it is a compressed tar, an unpacked copy that can be read anywhere."""
    if source.is_dir() or zipfile.is_zipfile(source):
        return source
    with tarfile.open(source) as tar:
        stream: Any = tar.fileobj  # the file itself, or what decompresses it
        if isinstance(stream, io.BufferedReader):
            return source
        stream.seek(0)
        with scratch.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    return scratch


def write_shards(
    out: Path,
    plan: dict,
    entries: list[Entry],
    keys: dict[str, str],
    args: argparse.Namespace,
    framing: Framing,
) -> list[dict]:
    """Writes the shards that are not there yet; the records of all."""
    state = out / UNFINISHED
    records = finished_shards(out, plan)
    taken = sum(record["taken"] for record in records)
    if taken == len(entries):
        return records
    source = plain_tar(args.source, state / "source.tar")
    converted = convert_all(entries[taken:], source, framing, args.workers)
    results = zip(entries[taken:], watched(converted, len(entries), taken), strict=True)
    try:
        while taken < len(entries):
            name = f"shard-{len(records):05d}"
            record = write_shard(state / "shard.tar", results, keys, args.shard_size)
            record = {"file": f"{name}.tar"} | record
            taken += record["taken"]
            if record["samples"]:
                os.replace(state / "shard.tar", out / record["file"])
            write_json(record, state / f"{name}.json", state / "scratch")
            records.append(record)
    finally:
        converted.close()
    return records


def make_index(plan: dict, records: list[dict]) -> dict:
    fields = ("file", "samples", "bytes", "sha256")
    shards = [{field: record[field] for field in fields} for record in records if record["samples"]]
    rejected = [reject for record in records for reject in record["rejected"]]
    return plan | {
        "samples": sum(shard["samples"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": shards,
        "rejected": sorted(rejected, key=lambda reject: reject["name"]),
    }


def prepare(args: argparse.Namespace) -> tuple[dict, bool]:
    """Makes the set that the arguments describe; its index, and whether it was there already.

    Raises DataError for a source, selection or OUT that cannot be used, OSError for a failing disk.
    """
    out, crop = args.out.absolute(), tuple(args.crop) if args.crop else None
    if args.source.is_dir() and out.is_relative_to(args.source.absolute()):
        raise DataError(f"{args.out}: inside SOURCE; choose an OUT elsewhere")
    images, ignored = split_images(list_source(args.source))
    if not images:
        raise DataError(
            f"{args.source}: no images, only {ignored or 'emptiness'}; images are "
            f"files ending in {' '.join(sorted(SUFFIXES))}"
        )
    entries, selection = select(images, args)
    if not entries:
        raise DataError(f"--skip {args.skip} --limit {args.limit} leaves none of {len(images)}")
    listing = "\n".join(f"{e.name}\t{e.size}\t{e.mark}" for e in entries)
    plan = {
        "version": 1,
        "image_size": args.image_size,
        "channels": 3,
        "source": args.source.absolute().name,
        "selection": selection,
        "crop": crop,
        "upscale": args.upscale,
        "resampling": "Pillow LANCZOS (antialiased)",
        "rules": RULES,
        "seed": args.seed,
        "shard_size": args.shard_size,
        "ignored": ignored,
        "listing": hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest(),
    }
    if (out / INDEX).exists():
        index = json.loads((out / INDEX).read_text())
        compare(index, plan, args.out)
        for shard in index["shards"]:
            check_shard(out, shard, digest=True)
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # if that is where it was interrupted
        return index, True
    framing = Framing(args.image_size, crop, args.upscale)
    index = make_index(plan, write_shards(out, plan, entries, unique_keys(images), args, framing))
    if not index["samples"]:
        shutil.rmtree(out / UNFINISHED)
        raise DataError(
            f"{args.source}: all {len(entries)} images are rejected, the first with: "
            f"{index['rejected'][0]['reason']}"
        )
    write_json(index, out / INDEX, out / UNFINISHED / "scratch")
    shutil.rmtree(out / UNFINISHED)
    return index, False


def summary(index: dict, out: Path) -> str:
    reasons = Counter(reject["reason"].partition(":")[0] for reject in index["rejected"])
    ignored = sum(index["ignored"].values())
    lines = [
        f"{out}: {index['samples']} images of {index['image_size']}px in "
        f"{len(index['shards'])} shards, {index['bytes'] / 1e6:.1f} MB"
    ]
    if reasons:
        lines += [f"rejected {len(index['rejected'])}, each with its reason in {INDEX}:"]
        lines += [f"  {count} {reason}" for reason, count in reasons.most_common()]
    if ignored:
        lines += [f"ignored {ignored} other files: {index['ignored']}"]
    if missing := index["selection"].get("rows_without_image"):
        lines += [f"{missing} rows of {index['selection']['csv']} name images not in the source"]
    return "\n".join(lines)


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="folder (with subfolders), zip or tar(.gz)")
    add("out", type=Path, metavar="OUT", help="folder to make: shards and index.json")
    add("--image-size", type=positive, required=True, help="side of the stored square, in pixels")
    add(
        "--crop",
        type=float,
        nargs=4,
        metavar=("L", "T", "R", "B"),
        help="box in pixels, fractions allowed, applied before the centre square",
    )
    add("--upscale", action="store_true", help="accept images smaller than --image-size")
    add(
        "--names",
        type=Path,
        metavar="FILE",
        help="keep the images named in it, one per line; a "
        "name is a path in SOURCE or a file name, with or without extension",
    )
    add("--csv", type=Path, metavar="FILE", help="keep the images whose row fits every --where")
    add("--where", action="append", default=[], metavar="COLUMN=VALUE", help="repeatable")
    add("--name-column", default="name", help="CSV column of the image name (default: name)")
    add("--skip", type=int, default=0, metavar="N", help="leave out the first N after the shuffle")
    add("--limit", type=positive, metavar="N", help="keep at most N after the shuffle")
    add("--shard-size", type=positive, default=1000, help="images per shard (default: 1000)")
    add("--seed", type=int, default=0, help="of the shuffle (default: 0)")
    add("--workers", type=positive, default=os.cpu_count(), help="processes (default: all cores)")
    args = parser.parse_args(argv)
    if args.names and args.csv:
        parser.error("--names and --csv exclude each other")
    if (args.where and not args.csv) or any("=" not in where for where in args.where):
        parser.error("--where takes COLUMN=VALUE and needs --csv")
    if args.crop and not (args.crop[0] < args.crop[2] and args.crop[1] < args.crop[3]):
        parser.error("--crop takes left top right bottom, with left < right and top < bottom")
    if args.skip < 0:
        parser.error("--skip takes 0 or more")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 an error that the message explains, 130 interrupted."""
    args = parse(argv)
    again = "give the same command again to go on from the last finished shard"
    try:
        index, was_complete = prepare(args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        where = error.filename or args.out
        print(
            f"error: {where}: {error.strerror or error}; mend this, then {again}", file=sys.stderr
        )
    except BrokenProcessPool:
        print(
            f"error: a worker process died (out of memory?); with fewer --workers, {again}",
            file=sys.stderr,
        )
    except KeyboardInterrupt:
        print(f"interrupted: {again}", file=sys.stderr)
        return 130
    else:
        print("complete already, every sha256 verified; nothing to do" if was_complete else "done")
        print(summary(index, args.out))
        return 0
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a Ctrl-C
    sys.exit(main())
