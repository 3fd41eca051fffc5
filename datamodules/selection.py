"""Which images of a source a set holds: those that a list or a table names, in shuffled order."""

import argparse
import hashlib
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.names import is_image, plain, without_suffix
from datamodules.shards import DataError
from datamodules.tables import read_table


def read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error})") from error


class Finder:
    """Finds images by the names that others give them.

    A name may be an image's path in the source, the end of it, or the path on the machine that
    made the list; in each case with its extension, another one or none.
    """

    def __init__(self, images: Iterable[str], source: Path) -> None:
        name = source.absolute().name
        self.source = name if source.is_dir() else Path(name).stem.removesuffix(".tar")
        self.paths = {plain(path): path for path in sorted(images)}
        self.by_stem = defaultdict[str, list[str]](list)
        for path in self.paths:
            self.by_stem[without_suffix(PurePosixPath(path).name)].append(path)

    def find(self, name: str) -> list[str]:
        """Return the images that a name fits best: one, none, or several that it fits alike."""
        name = plain(name)
        _, _, inside = f"/{name}".rpartition(f"/{plain(self.source)}/")  # photos/1.png, of photos
        for asked in (name, inside):
            for fits in (self._ending(asked), self._ending(without_suffix(asked))):
                if fits:
                    return [self.paths[path] for path in fits]
        return []

    def _ending(self, name: str) -> list[str]:
        """Paths that are `name` or else end with it, as whole folders; without extension or not."""
        same = self.by_stem.get(without_suffix(PurePosixPath(name).name), [])
        bare = (lambda path: path) if is_image(name) else without_suffix
        whole = [path for path in same if bare(path) == name]
        return whole or [path for path in same if f"/{bare(path)}".endswith(f"/{name}")]

    def nearest(self, name: str) -> str:
        """Return the image whose name looks most like this one, of those that begin like it."""
        name, stems = without_suffix(PurePosixPath(plain(name)).name), sorted(self.by_stem)
        place = bisect(stems, name)
        near = stems[max(0, place - 100) : place + 100]
        return self.by_stem[get_close_matches(name, near, 1, 0)[0]][0]


def match(finder: Finder, wanted: Iterable[str], listed: Path) -> tuple[set[str], list[str]]:
    """Find the images that `wanted` names, and the names that fit none.

    Raises DataError for a name that fits several.
    """
    found, missing = set[str](), list[str]()
    for name in filter(None, map(str.strip, wanted)):
        fits = finder.find(name)
        if len(fits) > 1:
            raise DataError(f"{listed}: {name!r} fits {', '.join(fits[:3])}; write the path")
        found.update(fits)
        missing += [] if fits else [name]
    return found, missing


def listed_images(finder: Finder, path: Path) -> tuple[set[str], dict[str, Any]]:
    """Find the images that a text file names, one a line. Raises DataError for one it lacks."""
    found, missing = match(finder, read_lines(path), path)
    if missing:
        examples = ", ".join(missing[:3])
        raise DataError(
            f"{path}: {len(missing)} names fit no image, such as {examples} "
            f"(the nearest to {missing[0]} is {finder.nearest(missing[0])})"
        )
    return found, {"names": path.name}


def tabled_images(finder: Finder, args: argparse.Namespace) -> tuple[set[str], dict[str, Any]]:
    """Find the images whose rows of a table fit every COLUMN=VALUE; count the other rows."""
    conditions = [condition.partition("=")[::2] for condition in args.where]
    table = read_table(args.csv, args.name_column, [column for column, _ in conditions])
    for column, value in conditions:
        table = table[table[column] == value]
    names = table.iloc[:, 0].str.strip()
    found, missing = match(finder, names, args.csv)
    if missing and not found:
        raise DataError(
            f"{args.csv}: its {len(missing)} rows fit no image: the nearest to {missing[0]} is "
            f"{finder.nearest(missing[0])}"
        )
    choice = {"csv": args.csv.name, "where": args.where, "name_column": table.columns[0]}
    choice |= {"rows_without_image": len(missing)}
    if nameless := int((names == "").sum()):
        choice |= {"rows_without_name": nameless}
    return found, choice


def select(images: Iterable[str], args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Select names by the options, in stored order; return the choice as the index has it, too.

    Raises DataError, naming the list or table, if it cannot be used or leaves no image.
    """
    names, choice = set(images), {"skip": args.skip, "limit": args.limit}
    if args.names or args.csv:
        finder = Finder(names, args.source)
        named = listed_images(finder, args.names) if args.names else tabled_images(finder, args)
        names, choice = named[0], choice | named[1]

    def place(name: str) -> bytes:  # a shuffle that depends on nothing but the seed and the name
        return hashlib.sha256(f"{args.seed}/{name}".encode(errors="surrogateescape")).digest()

    order = sorted(names, key=place)[args.skip :][: args.limit]
    if not order:
        raise DataError(f"{args.source}: no image is left by {choice}")
    return order, choice
