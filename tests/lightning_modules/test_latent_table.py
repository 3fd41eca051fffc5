"""The table of latents: rows of a checkpoint stay, and a wrong file is named."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.latent_table import LatentTable


def table(folder: Path, **changed: object) -> LatentTable:
    options = {"images": 5, "latent_dim": 3, "precision": "float32", "data": {"faces": "abc"}}
    return LatentTable(folder / "latents.bin", **(options | changed))  # type: ignore[arg-type]


@pytest.fixture
def made(tmp_path: Path) -> LatentTable:
    one = table(tmp_path)
    one.create()
    one.open()
    return one


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None].expand(-1, 3).contiguous()


SOME = torch.tensor([3, 1])


def test_what_is_written_is_read_from_then_on(made: LatentTable, tmp_path: Path) -> None:
    assert made.read(SOME, 0).eq(0).all()
    made.write(SOME, rows(30.0, 10.0), 0, 2)
    assert torch.equal(made.read(SOME, 2), rows(30.0, 10.0))
    made.write(SOME, rows(31.0, 11.0), 6, 8)
    made.write(SOME, rows(32.0, 12.0), 12, 14)
    made.flush()
    again = table(tmp_path)
    again.open()
    assert torch.equal(again.read(torch.tensor([1, 3, 0]), 14), rows(12.0, 32.0, 0.0))


def test_a_run_cut_short_reads_what_its_checkpoint_knew(made: LatentTable) -> None:
    made.write(SOME, rows(30.0, 10.0), 0, 2)
    made.write(SOME, rows(31.0, 11.0), 6, 8)  # and no checkpoint since 6
    assert torch.equal(made.read(SOME, 6), rows(30.0, 10.0))
    made.write(SOME, rows(31.5, 11.5), 6, 8)  # again
    assert torch.equal(made.read(SOME, 6), rows(30.0, 10.0))
    assert torch.equal(made.read(SOME, 8), rows(31.5, 11.5))


def test_an_image_that_an_epoch_leaves_out_keeps_its_latent(made: LatentTable) -> None:
    made.write(torch.tensor([0, 1]), rows(1.0, 2.0), 0, 2)
    for now in (4, 8, 12):  # without image 0
        made.write(torch.tensor([1]), rows(float(now)), now, now + 2)
    assert torch.equal(made.read(torch.tensor([0, 1]), 14), rows(1.0, 12.0))


def test_half_precision_halves_the_rows(made: LatentTable, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    half = table(tmp_path / "half", precision="float16")
    half.create()
    half.open()
    half.write(torch.tensor([0]), rows(0.1), 0, 1)
    found = half.read(torch.tensor([0]), 1)
    assert found.dtype == torch.float32 and torch.equal(found, rows(0.1).half().float())
    times = 2 * 5 * 8
    assert made.path.stat().st_size - times == 2 * (half.path.stat().st_size - times) == 2 * 5 * 12


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images": 6}, "its images is 5, and this run's 6"),
        ({"latent_dim": 4}, "its latent_dim is 3, and this run's 4"),
        ({"precision": "float16"}, "its precision is float32"),
        ({"data": {"faces": "other"}}, "its data is {'faces': 'abc'}"),
    ],
)
def test_a_table_of_another_run_is_named(
    made: LatentTable, tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=f"latents.bin is the table of another run: {said}"):
        table(tmp_path, **changed).open()


def test_a_table_of_a_later_time_is_named(made: LatentTable) -> None:
    made.write(SOME, rows(1.0, 1.0), 2, 4)
    made.write(SOME, rows(2.0, 2.0), 8, 10)
    with pytest.raises(ValueError, match="latents of 4 images seen and later, and the checkpoint"):
        made.read(SOME, 3)


def test_a_missing_or_damaged_file_is_named(made: LatentTable) -> None:
    whole = made.path.read_bytes()
    made.path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"latents\.bin is damaged: it has 199 bytes, not 200"):
        made.open()
    made.path.unlink()
    with pytest.raises(FileNotFoundError, match=r"latents\.bin is missing: without the latents"):
        made.open()
    made.path.write_bytes(whole)
    for text in ("{", "[1]", "3"):
        made.told.write_text(text)
        with pytest.raises(ValueError, match=r"latents\.json is damaged"):
            made.open()


def test_an_image_it_does_not_know_is_named(made: LatentTable) -> None:
    with pytest.raises(ValueError, match=r"image 5 is not in .*latents\.bin, which has 5"):
        made.read(torch.tensor([0, 5]), 0)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device: the latents of 5 images need"),
        (errno.EACCES, "Permission denied: .*latents.bin"),
    ],
)
def test_a_file_that_cannot_be_made_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refused)
    with pytest.raises(OSError, match=said):
        table(tmp_path).create()
    assert not list(tmp_path.iterdir())


def test_all_room_is_taken_when_it_is_made(made: LatentTable) -> None:
    told = os.stat(made.path)
    assert told.st_blocks * 512 >= told.st_size == made.size
    assert np.fromfile(made.path, dtype=np.uint8).sum() == 0
