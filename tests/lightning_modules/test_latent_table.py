"""The table of latents: what an epoch reads stays until the next, and a wrong file is named."""

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
    one.open(0)
    return one


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None].expand(-1, 3).contiguous()


def test_an_epoch_reads_what_the_one_before_it_left(made: LatentTable, tmp_path: Path) -> None:
    some = torch.tensor([3, 1])
    assert made.read(some).eq(0).all()
    made.write(some, rows(30.0, 10.0))
    assert made.read(some).eq(0).all()  # cut short here, the epoch starts again from these
    made.open(1)
    assert torch.equal(made.read(some), rows(30.0, 10.0))
    made.write(some, rows(31.0, 11.0))
    made.flush()
    again = table(tmp_path)
    again.open(1)
    assert torch.equal(again.read(torch.tensor([1, 3, 0])), rows(10.0, 30.0, 0.0))
    again.open(2)
    assert torch.equal(again.read(some), rows(31.0, 11.0))


def test_half_precision_halves_the_file(made: LatentTable, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    half = table(tmp_path / "half", precision="float16")
    half.create()
    half.open(0)
    half.write(torch.tensor([0]), rows(0.1))
    half.open(1)
    found = half.read(torch.tensor([0]))
    assert found.dtype == torch.float32 and torch.equal(found, rows(0.1).half().float())
    assert 2 * (half.path.stat().st_size - 16) == made.path.stat().st_size - 16 == 2 * 5 * 3 * 4


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
        table(tmp_path, **changed).open(0)


def test_a_table_of_a_later_time_is_named(made: LatentTable) -> None:
    for epoch in range(3):
        made.open(epoch)
        made.write(torch.tensor([0]), rows(1.0))
    made.open(2)  # cut short, and started again
    with pytest.raises(ValueError, match="the checkpoint is in epoch 2: resume from the run's new"):
        made.open(1)


def test_a_missing_or_damaged_file_is_named(made: LatentTable) -> None:
    whole = made.path.read_bytes()
    made.path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"latents\.bin is damaged: it has 135 bytes, not 136"):
        made.open(0)
    made.path.unlink()
    with pytest.raises(FileNotFoundError, match=r"latents\.bin is missing: without the latents"):
        made.open(0)
    made.path.write_bytes(whole)
    made.path.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match=r"latents\.json is damaged"):
        made.open(0)


def test_an_image_it_does_not_know_is_named(made: LatentTable) -> None:
    with pytest.raises(ValueError, match=r"image 5 is not in .*latents\.bin, which has 5 rows"):
        made.read(torch.tensor([0, 5]))


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device: the latents of 5 images need"):
        table(tmp_path).create()
    assert not list(tmp_path.iterdir())


def test_all_room_is_taken_when_it_is_made(made: LatentTable) -> None:
    told = os.stat(made.path)
    assert told.st_blocks * 512 >= told.st_size == made.size
    assert np.fromfile(made.path, dtype=np.uint8).sum() == 0
