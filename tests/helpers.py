"""Runs of `train.py`: made, cut short, refused, and what they leave."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

import train
from callbacks.checkpoints import newest_checkpoint
from lightning_modules.clock import ClockedModule
from training.cli import Train

# --- runs


def run(arguments: list[str], *more: str) -> Path:
    """Train as from the command line; returns the run directory."""
    return Train([*arguments, *more]).run.directory


class Killed(Exception):
    """Stands for a node that went away."""


def run_killed_at(images_seen: int, arguments: list[str], *more: str) -> None:
    """Train, but the batch after `images_seen` images fails, like a killed process."""
    advance = ClockedModule.advance_clock

    def dying(self: ClockedModule, batch_size: int) -> None:
        if self.images_seen >= images_seen:
            raise Killed
        advance(self, batch_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClockedModule, "advance_clock", dying)
        with pytest.raises(Killed):
            run(arguments, *more)


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """What the command prints when it refuses; it must end with status 2."""
    os.environ.pop("INVERTIBLE_PRIORS_TRACEBACK", None)
    with pytest.raises(SystemExit) as ended:
        train.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def without_recovery(options: list[str]) -> list[str]:
    """The options but those of the recovery, which would win over a config file's."""
    return [option for option in options if not option.startswith("--recovery.")]


# --- what runs leave


def logged(directory: Path, name: str) -> dict[int, float]:
    """A metric by images_seen; a later line (a resumed run's) replaces an earlier one."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return {int(line["images_seen"]): line[name] for line in lines if name in line}


def losses(directory: Path) -> dict[int, float]:
    return logged(directory, "train/bits_per_dim")


def newest(directory: Path) -> Path:
    path = newest_checkpoint(directory)
    assert path is not None
    return path


def saved(directory: Path) -> dict[str, Any]:
    """The content of the newest checkpoint."""
    return dict(torch.load(newest(directory), weights_only=True))


def assert_equal(one: Any, other: Any) -> None:
    """Equal in every bit, however nested."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Two runs end at the same weights, averages and moments."""
    a, b = saved(one), saved(other)
    for part in ("images_seen", "state_dict", "optimizer_states"):
        assert_equal(a[part], b[part])


# --- several processes


class SaveRank(pl.Callback):
    """Writes rank<k>.pt: weights when training starts and ends, steps, image indices of epoch 1."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.record: dict[str, Any] = {"steps": 0, "indices": set()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record["initial"] = weights(pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.record["steps"] += 1
        if trainer.current_epoch == 0:
            self.record["indices"] |= set(batch["index"].tolist())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record["final"] = weights(pl_module)
        torch.save(self.record, self.folder / f"rank{trainer.global_rank}.pt")


def weights(module: pl.LightningModule) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
