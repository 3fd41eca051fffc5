"""Where images come from: a folder, zip, tar or Parquet file, or a folder of tars or Parquet files.

`find_images` lists a source, `open_source` reads from it.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from posixpath import dirname, join, normpath
from typing import Any

from datamodules.names import SUFFIXES, is_image
from datamodules.shards import DataError

# What reading an archive raises, RuntimeError where it is encrypted or packed in an unknown way.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)
MAX_FILE_BYTES = 1 << 29  # a larger file is no image
PIECE = 1 << 20  # bytes copied at once


@dataclass(frozen=True)
class Entry:
    """A file in the source.

    Attributes:
        name: its path inside the source.
        size: in bytes, the mean of its row group in Parquet; -1 for what is not a plain file.
        mark: its CRC in a zip, the offset of its bytes in a tar, its row in Parquet.
        archive: in a folder of archives, the path of its own.
    """

    name: str
    size: int
    mark: int = 0
    archive: str = ""


Reader = Callable[[Entry], bytes]  # returns the file's bytes


def list_folder(root: Path) -> Iterator[Entry]:
    def fail(error: OSError) -> None:  # os.walk would pass over an unreadable folder in silence
        raise error

    for folder, folders, files in os.walk(root, onerror=fail):
        for path in (Path(folder, name) for name in folders + files):
            if path.is_symlink() or not path.is_dir():
                size = path.stat().st_size if path.is_file() else -1
                yield Entry(path.relative_to(root).as_posix(), size)


def list_zip(path: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not zip_name(info).endswith("/"):
                yield Entry(zip_name(info), info.file_size, info.CRC)


def zip_name(info: zipfile.ZipInfo) -> str:
    """Name a member as it was meant: Windows writes backslashes, others UTF-8 without saying so."""
    name = info.filename
    if not info.flag_bits & 0x800:  # zipfile has read it in code page 437
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")


def list_tar(path: Path, mode: Any = "r:*") -> Iterator[Entry]:
    """List a tar's members; a link to another member as what it links to."""
    with tarfile.open(path, mode) as tar:  # compressed or not: offsets are in the plain tar
        members = {normpath(member.name): member for member in tar if not member.isdir()}
    for name in members:
        member = follow(name, members)
        plain = member is not None and member.isreg() and not member.issparse()
        size, mark = (member.size, member.offset_data) if member and plain else (-1, 0)
        yield Entry(name, size, mark)


def follow(name: str, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """Follow links inside a tar to a member; None where they leave it or go round in circles."""
    for _ in range(10):
        member = members.get(name)
        if member is None or not (member.issym() or member.islnk()):
            return member
        folder = dirname(name) if member.issym() else ""  # a hard link names a path in the tar
        name = normpath(join(folder, member.linkname))
    return None


def list_parquet(path: Path) -> Iterator[Entry]:
    """List a Parquet file's encoded images, by their own paths where these differ, else by row."""
    file, column = open_parquet(path)
    sizes: list[int] = []
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        parts = [group.column(i) for i in range(group.num_columns)]
        stored = [p for p in parts if p.path_in_schema.partition(".")[0] == column]
        total = sum(part.total_uncompressed_size for part in stored)
        sizes += [total // max(1, group.num_rows)] * group.num_rows
    values = parquet_values(path, file, f"{column}.path") if has_paths(file, column) else ()
    paths = [(value.as_py() or {}).get("path") for value in values]
    names = [name for name in paths if name]
    if len(set(names)) < len(sizes):
        names = [f"{row:08d}" for row in range(len(sizes))]
    for row, (name, size) in enumerate(zip(names, sizes, strict=True)):
        # an image, whatever it is called: its decoder looks at its bytes
        yield Entry(name if is_image(name) else f"{name}.png", size, row)


def open_parquet(path: Path) -> tuple[Any, str]:
    """Open a Parquet file; return it and the name of its column of encoded images.

    That is `image`, or else the only one that holds {bytes, ...}. Raises DataError if there is
    none, if the file is damaged, or without pyarrow.
    """
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from error
    try:
        file = parquet.ParquetFile(path)
    except ArrowException as error:
        raise DataError(f"{path}: damaged, or no Parquet file ({error})") from error
    structs = [
        field.name
        for field in file.schema_arrow
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    columns = structs + [
        field.name
        for field in file.schema_arrow
        if types.is_binary(field.type) or types.is_large_binary(field.type)
    ]
    if "image" in columns or len(structs) == 1:
        return file, "image" if "image" in columns else structs[0]
    raise DataError(
        f"{path}: no column of encoded images: it needs `image`, bytes or {{bytes, path}}, and "
        f"has {', '.join(file.schema_arrow.names)}"
    )


def has_paths(file: Any, column: str) -> bool:
    kind = file.schema_arrow.field(column).type
    return kind.num_fields > 0 and kind.get_field_index("path") >= 0


def list_source(path: Path) -> Iterator[Entry]:
    """Yield every file there; raises what zipfile and tarfile raise for damage, and DataError."""
    if path.is_dir():
        yield from list_folder(path)
    elif is_image(path.name):
        yield Entry(path.name, path.stat().st_size)
    elif path.suffix == ".parquet":
        yield from list_parquet(path)
    elif zipfile.is_zipfile(path):
        yield from list_zip(path)
    else:
        yield from list_tar(path)


def list_archives(folder: Path, archives: Sequence[str]) -> Iterator[Entry]:
    """Yield the files in a folder's archives, by name below the path of their archive."""
    for archive in sorted(archives):
        path = folder / archive
        try:  # a compressed tar would have to be unpacked: it is refused
            for entry in list_parquet(path) if path.suffix == ".parquet" else list_tar(path, "r:"):
                yield replace(entry, name=f"{archive}/{entry.name}", archive=archive)
        except DAMAGED as error:
            raise DataError(f"{path}: no plain tar, or a damaged one ({error})") from error


def sort_out(entries: Iterable[Entry]) -> tuple[dict[str, Entry], Counter[str]]:
    """Separate images, by name, from the other files, counted by kind."""
    images, ignored = {}, Counter[str]()
    # where an archive holds a name twice the dictionary keeps the last, as unpacking does
    for entry in {entry.name: entry for entry in entries}.values():
        if (what := kind(entry)) in SUFFIXES:
            images[entry.name] = entry
        else:
            ignored[what] += 1
    return images, ignored


def kind(entry: Entry) -> str:
    """Tell what a file is: its extension, or why it is not looked at."""
    if entry.size < 0:
        return "link or special file"
    if any(part.startswith((".", "__MACOSX")) for part in entry.name.split("/")):
        return "hidden"
    return PurePosixPath(entry.name).suffix.lower() or "no extension"


def find_images(path: Path) -> tuple[dict[str, Entry], dict[str, int]]:
    """Find the images in a source by name, and count its other files by kind.

    A folder without images of its own stands for those in its tars, or else in its Parquet files.
    Raises DataError if there are none, or the source is damaged.
    """
    try:
        entries = list(list_source(path))
    except DAMAGED as error:
        raise DataError(
            f"{path}: no image, folder, zip, tar or Parquet file, or a damaged one"
        ) from error
    images, ignored = sort_out(entries)
    for suffix in (".tar", ".parquet"):
        if not images and path.is_dir() and ignored[suffix]:
            del ignored[suffix]
            archives = [entry.name for entry in entries if kind(entry) == suffix]
            images, inside = sort_out(list_archives(path, archives))
            ignored += inside
    if not images:
        raise DataError(f"{path}: no images ({' '.join(sorted(SUFFIXES))}), only {dict(ignored)}")
    return images, dict(sorted(ignored.items()))


def open_source(path: Path, entries: Sequence[Entry], scratch: Path) -> Reader:
    """Make what reads these entries of the source, from any thread.

    First unpacks to `scratch` what cannot be read in any order: a compressed tar, Parquet. Raises
    DataError if a compressed tar's would not fit there.
    """
    first = path / entries[0].archive
    if path.is_dir() and not entries[0].archive:
        return lambda entry: (path / entry.name).read_bytes()
    if is_image(path.name):
        return lambda entry: path.read_bytes()
    if first.suffix == ".parquet":
        places = unpack_parquet(path, entries, scratch)
        return lambda entry: read_at(scratch, *places[entry])
    if zipfile.is_zipfile(first):
        archive = zipfile.ZipFile(first)
        members = {zip_name(info): info for info in archive.infolist()}
        return lambda entry: archive.read(members[entry.name])
    with tarfile.open(first) as tar:
        stream: Any = tar.fileobj  # the file itself, or what decompresses it
        if not isinstance(stream, io.BufferedReader):
            places = unpack_tar(path, stream, entries, scratch)
            return lambda entry: read_at(scratch, *places[entry])
    return lambda entry: read_at(path / entry.archive, entry.mark, entry.size)


def read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def parquet_values(path: Path, file: Any, column: str) -> Iterator[Any]:
    try:
        for batch in file.iter_batches(64, columns=[column]):
            yield from batch.column(0)
    except (OSError, ValueError) as error:  # pyarrow's own are of these
        raise DataError(f"{path}: damaged, or cannot be read ({error})") from error


def unpack_tar(
    path: Path, stream: Any, entries: Sequence[Entry], scratch: Path
) -> dict[Entry, tuple[int, int]]:
    """Write the entries' bytes to one file, from the stream of a decompressed tar, as Parquet's.

    Raises DataError where the disk has no room for them: a small file may hold a very large tar.
    """
    wanted = {entry.mark: entry.size for entry in entries if entry.size <= MAX_FILE_BYTES}
    needed, free = sum(wanted.values()), shutil.disk_usage(scratch.parent).free
    if needed > free:
        raise DataError(
            f"{path}: its images take {needed / 1e9:.1f} GB unpacked, and {scratch.parent} has "
            f"{free / 1e9:.1f} GB free"
        )
    places = {}
    with scratch.open("wb") as out:
        for mark, size in sorted(wanted.items()):
            stream.seek(mark)
            places[mark] = (out.tell(), size)
            for left in range(size, 0, -PIECE):
                out.write(stream.read(min(left, PIECE)))
    return {entry: places[entry.mark] for entry in entries if entry.mark in places}


def unpack_parquet(
    path: Path, entries: Sequence[Entry], scratch: Path
) -> dict[Entry, tuple[int, int]]:
    """Write the entries' bytes to one file; return where each begins in it, and how long it is.

    Raises DataError, naming the file, for one that is damaged.
    """
    wanted = {(entry.archive, entry.mark): entry for entry in entries}
    places = {}
    with scratch.open("wb") as out:
        for archive in sorted({entry.archive for entry in entries}):
            file, column = open_parquet(path / archive)
            for row, value in enumerate(parquet_values(path / archive, file, column)):
                if entry := wanted.get((archive, row)):
                    content = value.as_py() or b""
                    content = content["bytes"] if isinstance(content, dict) else content
                    places[entry] = (out.tell(), out.write(content or b""))
    return places
