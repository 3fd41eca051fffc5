"""What the machine or a library refuses is one line and status 2, and leaves nothing behind."""

import errno
import os
from pathlib import Path

import pytest
import torch
import wandb

from callbacks.checkpoints import newest_checkpoint
from lightning_modules import MaximumLikelihood
from priors.checkpoint import read_checkpoint
from tests.helpers import refused

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        pytest.param("trainer.accelerator=gpu", "trainer: No supported gpu backend", marks=NO_GPU),
        ("trainer.devices=0", "trainer: `Trainer(devices='0')` value is not a valid input"),
        ("trainer.num_nodes=0", "trainer: `num_nodes` must be a positive integer"),
        ("data.batch_size=100", "fewer than one global batch of 100"),
        ("run.root=README.md", "Not a directory: 'README.md/demo"),
        (f"run.name={300 * 'n'}", "File name too long"),
    ],
)
def test_a_run_that_cannot_begin_leaves_nothing(
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    said: str,
) -> None:
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("W&B has begun"))
    error, *hint = refused(capsys, [*tiny, "--run.wandb=offline", f"--{option}"]).splitlines()
    assert error.startswith("error: ") and said in error and len(hint) <= 1
    assert not (tmp_path / "runs" / "demo").exists()


@pytest.mark.parametrize("where", ["training", "recovery"])
def test_out_of_memory_names_what_to_lower(
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    if where == "training":
        monkeypatch.setattr(MaximumLikelihood, "training_step", full)
    else:
        monkeypatch.setattr("callbacks.recovery.run_trials", full)
    said = refused(capsys, [*tiny, "--model.total_images=64"])
    key = {"training": "data.batch_size", "recovery": "recovery.batch_size"}[where]
    (error,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert f"Lower {key}" in error and "Tried to allocate 2 GiB" in error


def test_a_full_disk_is_named_and_costs_no_checkpoint(
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch.save makes a RuntimeError of it."""
    save = torch.save

    def fills(content: dict[str, object], file: object) -> None:
        if content["images_seen"] == 128:
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 704")
        save(content, file)

    monkeypatch.setattr(torch, "save", fills)
    said = refused(capsys, [*tiny, "--recovery.during.problems=[]"])
    run = tmp_path / "runs" / "demo"
    assert f"error: [Errno 28] No space left on device: '{run}/checkpoints/" in said
    newest = newest_checkpoint(run)
    assert newest is not None and read_checkpoint(newest)["images_seen"] == 64
    assert not list(run.rglob("*.unfinished"))
