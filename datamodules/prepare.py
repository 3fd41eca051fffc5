"""Turns images of a folder, zip, tar or Parquet file into WebDataset shards and an index.

    python -m datamodules.prepare photos data/64px/my-faces --image-size 64

The same source and options give the same bytes whatever the number of workers. After an
interruption the same command goes on where it stopped. See docs/data.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from PIL import AvifImagePlugin, Image
from tqdm import tqdm
from webdataset import TarWriter

from core.files import write_whole
from datamodules.convert import BLACK, RULES, Converted, convert
from datamodules.names import unique_keys
from datamodules.selection import select
from datamodules.shards import INDEX, UNFINISHED, VERSION, DataError, check_shard
from datamodules.sources import Entry, find_images, open_source

AGAIN = "give the same command again to go on from the last finished shard"

Index = dict[str, Any]  # what index.json holds: see docs/data.md
Result = Converted | str  # an image, or the reason why there is none


def make_plan(
    args: argparse.Namespace, entries: list[Entry], choice: dict[str, Any], ignored: dict[str, int]
) -> Index:
    """Write what the set in OUT is made of, and how: its index before any image is read."""
    listing = "\n".join(f"{entry.name}\t{entry.size}\t{entry.mark}" for entry in entries)
    return {
        "version": VERSION,
        "image_size": args.image_size,
        "channels": 3,
        "source": args.source.absolute().name,
        "selection": choice,
        "crop": args.crop,
        "upscale": args.upscale,
        "white_level": args.white_level,
        "resampling": "Pillow LANCZOS (antialiased)",
        "rules": RULES,
        "seed": args.seed,
        "shard_size": args.shard_size,
        "ignored": ignored,
        "listing": hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest(),
    }


def write_index(index: Index, path: Path) -> None:
    write_whole(path, json.dumps(index, indent=1) + "\n")


def index_so_far(out: Path, plan: Index) -> Index:
    """Read and check the index of the set in OUT, finished or not; start one if OUT is empty."""
    for path in (out / INDEX, out / UNFINISHED / INDEX):
        if path.exists():
            index: Index = json.loads(path.read_text())
            differs = [
                f"{key} is {index.get(key)} there, {value} here"
                for key, value in plan.items()
                if key != "rules" and index.get(key) != value
            ]
            if differs:
                made = f"made otherwise ({'; '.join(differs)})"
                raise DataError(f"{out}: holds a set {made}; choose another OUT or delete this one")
            for shard in index["shards"]:
                check_shard(out, shard, digest=True)
            return index
    if out.exists() and any(path.name != UNFINISHED for path in out.iterdir()):
        raise DataError(f"{out}: not empty, and not made by prepare; choose another OUT")
    empty = {"samples": 0, "bytes": 0, "constant": 0, "black": 0, "shards": [], "rejected": []}
    return plan | empty


def convert_all(
    entries: list[Entry], work: Callable[[Entry], Result], workers: int
) -> Generator[Result, None, None]:
    """Yield an image or a reason for each entry, in order; Pillow works outside Python's lock."""
    Image.preinit()  # threads must not load decoders: load the usual ones first, then all others
    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a thread of ours each, not all cores for every image
    with ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(entries), 1000):  # no more than that waits to be written
            yield from pool.map(work, entries[start : start + 1000])


def write_shard(
    path: Path, results: Iterator[tuple[Entry, Result]], keys: dict[str, str], size: int
) -> tuple[dict[str, Any], list[Converted], list[dict[str, str]]]:
    """Move results into one tar until it holds `size` images or none is left.

    Returns the shard's entry in the index, its images, and the rejected ones.
    """
    images, rejected = list[Converted](), list[dict[str, str]]()
    with path.open("w+b") as file:
        # Fixed owner and time: nothing varies but the images.
        with TarWriter(file, encoder=False, user="", group="", mtime=0) as tar:
            for entry, result in results:
                if isinstance(result, str):
                    rejected.append({"name": entry.name, "reason": result})
                    continue
                tar.write({"__key__": keys[entry.name], "png": result.png})
                images.append(replace(result, png=b""))
                if len(images) == size:
                    break
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    shard = {"samples": len(images), "bytes": path.stat().st_size, "sha256": sha256}
    shard["pixels"] = " ".join(image.pixels for image in images)
    return shard, images, rejected


def write_shards(
    args: argparse.Namespace, index: Index, entries: list[Entry], keys: dict[str, str]
) -> None:
    """Write the shards that are missing and record them in `index`, here and in OUT."""
    state, done = args.out / UNFINISHED, index["samples"] + len(index["rejected"])
    state.mkdir(parents=True, exist_ok=True)
    write_index(index, state / INDEX)
    left = entries[done:]
    read = open_source(args.source, left or entries, state / "source")
    work = partial(
        convert,
        read=read,
        size=args.image_size,
        crop=args.crop,
        upscale=args.upscale,
        white_level=args.white_level,
    )
    pause = 0.1 if sys.stderr.isatty() else 10  # a log needs fewer lines
    with (
        closing(convert_all(left, work, args.workers)) as converted,
        tqdm(converted, "images", len(entries), initial=done, delay=1, mininterval=pause) as bar,
    ):
        results = zip(left, bar, strict=True)
        while done < len(entries):
            shard, images, rejected = write_shard(
                state / "shard.tar", results, keys, args.shard_size
            )
            done += shard["samples"] + len(rejected)
            if shard["samples"]:
                shard = {"file": f"shard-{len(index['shards']):05d}.tar"} | shard
                os.replace(state / "shard.tar", args.out / shard["file"])
                index["shards"].append(shard)
                index["samples"] += shard["samples"]
                index["bytes"] += shard["bytes"]
                for what in ("constant", "black"):
                    found = sum(getattr(image, what) for image in images)
                    index[what] = index.get(what, 0) + found
            index["rejected"] = sorted(index["rejected"] + rejected, key=itemgetter("name"))
            write_index(index, state / INDEX)


def prepare(args: argparse.Namespace) -> tuple[Index, bool]:
    """Make the set that the arguments describe; return its index, and whether it was there.

    Raises DataError for a source, selection or OUT that cannot be used, OSError for a failing disk.
    """
    out, state = args.out, args.out / UNFINISHED
    if args.source.is_dir() and out.absolute().is_relative_to(args.source.absolute()):
        raise DataError(f"{out}: inside SOURCE; choose an OUT elsewhere")
    images, ignored = find_images(args.source)
    names, choice = select(images, args)
    entries = [images[name] for name in names]
    index = index_so_far(out, make_plan(args, entries, choice, ignored))
    complete = (out / INDEX).exists()
    if not complete:
        write_shards(args, index, entries, unique_keys(images))
        if not index["samples"]:
            shutil.rmtree(state)
            reason = index["rejected"][0]["reason"]
            raise DataError(f"{args.source}: every image is rejected, the first with: {reason}")
        os.replace(state / INDEX, out / INDEX)
    shutil.rmtree(state, ignore_errors=True)  # a run that had just finished may have left it, too
    return index, complete


def summary(index: Index, out: Path) -> str:
    reasons = Counter(reject["reason"].partition(":")[0] for reject in index["rejected"])
    lines = [
        f"{out}: {index['samples']} images of {index['image_size']}px in "
        f"{len(index['shards'])} shards, {index['bytes'] / 1e6:.1f} MB"
    ]
    if reasons:
        lines += [f"rejected {len(index['rejected'])}, each with its reason in {INDEX}:"]
        lines += [f"  {count} {reason}" for reason, count in reasons.most_common()]
    if ignored := index["ignored"]:
        lines += [f"ignored {sum(ignored.values())} other files: {ignored}"]
    selection = index["selection"]
    if missing := selection.get("rows_without_image"):
        lines += [f"{missing} rows of {selection['csv']} name images not in the source"]
    if nameless := selection.get("rows_without_name"):
        lines += [f"{nameless} rows of {selection['csv']} name nothing"]
    if constant := index.get("constant"):
        lines += [f"warning: {constant} images are of one colour"]
    if black := index.get("black"):
        lines += [
            f"warning: {black} images are nearly black, with no value above {BLACK} of 255; if "
            "files of 16 bits hold 8 or 12, --white-level 255 or 4095 says so"
        ]
    return "\n".join(lines)


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def level(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    about = "Turns images into WebDataset shards: see docs/data.md."
    parser = argparse.ArgumentParser("python -m datamodules.prepare", description=about)
    add, listed = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    add(
        "source",
        type=Path,
        metavar="SOURCE",
        help="a folder, zip, tar(.gz), Parquet file or image; a folder of tars or Parquet files",
    )
    add("out", type=Path, metavar="OUT", help="folder to make: shards and index.json")
    add("--image-size", type=positive, required=True, help="side of the stored square, in pixels")
    box = "box in pixels, fractions allowed, applied before the centre square"
    add("--crop", type=float, nargs=4, metavar=("L", "T", "R", "B"), help=box)
    add("--upscale", action="store_true", help="accept images smaller than --image-size")
    white = "value of 16-bit grey and float pixels that means white (default: 65535, no float)"
    add("--white-level", type=level, metavar="N", help=white)
    names = "keep the images named in it, one a line: paths in SOURCE, or file names (.jpg or not)"
    listed("--names", type=Path, metavar="FILE", help=names)
    listed(
        "--csv",
        type=Path,
        metavar="FILE",
        help="keep images whose row fits every --where; list_attr_celeba.txt too",
    )
    add("--where", action="append", default=[], metavar="COLUMN=VALUE", help="repeatable")
    add("--name-column", help="CSV column of the image name (default: name, or else image_id)")
    add("--skip", type=int, default=0, metavar="N", help="leave out the first N after the shuffle")
    add("--limit", type=positive, metavar="N", help="keep at most N after the shuffle")
    add("--shard-size", type=positive, default=1000, help="images per shard (default: 1000)")
    add("--seed", type=int, default=0, help="of the shuffle (default: 0)")
    cores = min(os.cpu_count() or 1, 16)  # more would wait for each other to read files
    add("--workers", type=positive, default=cores, help=f"threads (default: {cores})")
    args = parser.parse_args(argv)
    if (args.where and not args.csv) or any("=" not in where for where in args.where):
        parser.error("--where takes COLUMN=VALUE and needs --csv")
    if args.crop and not (args.crop[0] < args.crop[2] and args.crop[1] < args.crop[3]):
        parser.error("--crop takes left top right bottom, with left < right and top < bottom")
    if args.skip < 0:
        parser.error("--skip takes 0 or more")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare; return 0, 2 after an error that the message explains, or 130 if interrupted."""
    args = parse(argv)
    try:
        index, complete = prepare(args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; mend this, then {AGAIN}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: {AGAIN}", file=sys.stderr)
        return 130
    print("complete already, every sha256 verified; nothing to do" if complete else "done")
    print(summary(index, args.out))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a Ctrl-C
    sys.exit(main())
