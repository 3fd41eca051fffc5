"""How fast a run trains: what a GPU hour buys, and whether loaders keep up."""

import time
from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.clocked import clocked


class Throughput(pl.Callback):
    """Logs `train/images_per_second`, of all ranks together, over the last logging interval.

    Waiting for data counts; validation, recovery and the start of an epoch's loaders do not.
    """

    def __init__(self) -> None:
        self._ends: deque[tuple[float, int]] = deque()  # of batches: seconds, images seen

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._ends.append((time.monotonic(), clocked(pl_module).images_seen))
        interval = trainer.log_every_n_steps * trainer.accumulate_grad_batches  # type: ignore[attr-defined]
        if len(self._ends) > interval + 1:
            self._ends.popleft()
        (began, before), (now, seen) = self._ends[0], self._ends[-1]
        if now > began:
            rate = torch.tensor((seen - before) / (now - began))  # on the CPU: no GPU waits for it
            pl_module.log("train/images_per_second", rate)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ends.clear()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ends.clear()
