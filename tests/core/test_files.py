"""Files appear whole or not at all."""

import errno
import resource
from pathlib import Path

import pytest
import torch

from core.files import drop_cut_line, whole_file, whole_lines, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "notes.txt"
    for text in ("one é\n", "other\n"):
        write_whole(path, text)
        assert path.read_text() == text
    assert names(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("stop", [OSError("No space left"), KeyboardInterrupt()])
def test_what_stops_half_way_leaves_the_file_before(tmp_path: Path, stop: BaseException) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"before")
    with pytest.raises(type(stop)), whole_file(path) as file:  # noqa: PT012
        file.write(b"half")
        raise stop
    assert path.read_bytes() == b"before" and names(tmp_path) == ["weights"]


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    """Whatever writes to it: torch's writer ends with a RuntimeError about its position."""
    path, limits = tmp_path / "last.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)
    said = []
    try:
        for size in (1, 1000, 150_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises(OSError, match="large") as caught, whole_file(path) as file:
                torch.save({"a": torch.zeros(50_000), "b": torch.zeros(5)}, file)
            said.append(str(caught.value))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert said == [f"[Errno {errno.EFBIG}] File too large: '{path}'"] * 3
    assert names(tmp_path) == []


def test_until_it_is_whole_others_read_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"before")
    with whole_file(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"


@pytest.mark.parametrize(
    ("content", "kept"),
    [(b"", b""), (b"cut", b""), (b"one\n", b"one\n"), (b"one\ntwo\ncut", b"one\ntwo\n")],
)
def test_a_cut_line_is_no_line(tmp_path: Path, content: bytes, kept: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content)
    assert whole_lines(path) == kept
    assert path.read_bytes() == content
    drop_cut_line(path)
    assert path.read_bytes() == kept


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"other\.txt"), whole_file(tmp_path / "mine.png"):
        (tmp_path / "other.txt").read_text()
    try:
        (tmp_path / "other.txt").read_text()
    except FileNotFoundError:  # being handled, it is not why the next file fails
        with pytest.raises(ValueError, match="wrong"), whole_file(tmp_path / "mine.png"):
            raise ValueError("wrong") from None
