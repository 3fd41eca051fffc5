"""Files that appear whole or not at all, whatever stops the process that writes them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file next to `path` for writing, and move it there once it is on disk.

    A process that dies in between leaves the old file as it was. Raises OSError, naming `path`, if
    the file cannot be written, and removes what was written of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with naming(path), unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an OSError name the file that could not be written.

    Writing to a full disk names none, and torch.save makes a RuntimeError of it.
    """
    earlier = sys.exception()  # that the caller is handling: not of this file
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and cause is not earlier and not isinstance(cause, OSError):
            cause = cause.__context__
        if not isinstance(cause, OSError) or cause is earlier:
            raise
        if cause.errno is None or cause.filename is not None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def whole_lines(path: Path) -> bytes:
    """Read the file up to its last newline: a process is writing the rest, or a crash cut it."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def drop_cut_line(path: Path) -> None:
    """Truncate the file after its last newline, so that the next line starts on its own."""
    os.truncate(path, len(whole_lines(path)))
