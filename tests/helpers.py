"""Runs of `train.py` that end early, and a callback that records what each rank did."""

import os
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

import train
from lightning_modules.clock import ClockedModule


class Killed(Exception):
    """Stands for a node that went away."""


def kill_at(monkeypatch: pytest.MonkeyPatch, images_seen: int) -> None:
    """Make the batch after `images_seen` images fail, like a killed process."""
    advance = ClockedModule.advance_clock

    def dying(self: ClockedModule, batch_size: int) -> None:
        if self.images_seen >= images_seen:
            raise Killed
        advance(self, batch_size)

    monkeypatch.setattr(ClockedModule, "advance_clock", dying)


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
