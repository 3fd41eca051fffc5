"""Checkpoints that a crash cannot spoil."""

import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_warn

from callbacks.clocked import clocked, data_of
from core.files import whole_file
from core.stopping import Stopped, note_signals, received
from priors.checkpoint import read_checkpoint


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt` (every epoch's end and every few minutes) and `best.ckpt`.

    A signal that asks the process to stop is obeyed once the checkpoint of a whole step is on disk:
    all ranks raise `core.stopping.Stopped` together, whichever of them the signal reached.

    Must come before recovery in the list of callbacks.

    Args:
        every_minutes: also save `last.ckpt` inside an epoch, this often.
        monitor: the validation metric whose minimum is the best; by default the bits per
            dimension of the first held-out set.
    """

    def __init__(self, every_minutes: float = 10.0, monitor: str | None = None) -> None:
        self.every_minutes = every_minutes
        self.monitor = monitor
        self.best = math.inf
        self._of: str | None = None  # what it is the least of
        self._is_best = False
        self._saved_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        launcher = trainer.strategy.launcher
        note_signals(getattr(launcher, "kill", None))  # in place of Lightning's own handlers
        self._saved_at = time.monotonic()
        has_best = (checkpoint_folder(trainer.default_root_dir) / "best.ckpt").exists()
        if not trainer.strategy.broadcast(has_best):  # rank 0's view of the disk, for all
            self.best = math.inf  # the run began from another run's checkpoint
        # a run killed between its two files resumes from the best, and may have nothing left to do
        behind = has_best and clocked(pl_module).images_seen > images_in_last(trainer)
        if trainer.strategy.broadcast(behind):
            self.save(trainer, "last")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return  # gradients are gathering that no checkpoint holds, or the epoch's own comes
        due = trainer.is_global_zero and self.minutes_since_save() >= self.every_minutes
        due, signal = self.agreed(trainer, due)
        if due or signal:
            self.save(trainer, "last")
        if signal:
            raise Stopped(signal)

    def minutes_since_save(self) -> float:
        return (time.monotonic() - self._saved_at) / 60

    def agreed(self, trainer: pl.Trainer, due: bool = False) -> tuple[bool, int]:
        """Whether any rank wants a checkpoint, and a signal that any of them has noted, or 0."""
        if trainer.world_size == 1:  # a tensor would make a GPU wait at every step
            return due, received()
        wishes = torch.tensor([int(due), received()], device=trainer.strategy.root_device)
        wish, signal = trainer.strategy.reduce(wishes, reduce_op="max").tolist()
        # a signal that came while the ranks agreed waits for the next time: they stop together
        return bool(wish), signal and (received() or signal)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:  # of a few batches, before training
            return
        data = data_of(trainer)
        monitor = self.monitor or f"bits_per_dim/{data.validation_names[0]}"
        held_out = data.identities.get("held_out", {})  # of that name there may be another set now
        measure = json.dumps([monitor, held_out.get(monitor.rpartition("/")[2])])
        if self._of not in (None, measure):
            self.best = math.inf
        self._of = measure
        value = trainer.callback_metrics.get(monitor)
        if value is None and self.monitor is not None:
            known = ", ".join(sorted(trainer.callback_metrics))
            rank_zero_warn(
                f"checkpoints.monitor: no metric is named {monitor}, so there is no best.ckpt; "
                f"there are {known}"
            )
        if value is not None and value.isfinite() and value < self.best:
            self.best = float(value)
            self._is_best = True
            if not trainer.is_last_batch:
                self._save_best(trainer)  # inside an epoch: these weights, not those of its end

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # last of all that an epoch leaves, so that a run resumed from here repeats none of it
        if self._is_best:
            self._save_best(trainer)
        self.save(trainer, "last")
        _, signal = self.agreed(trainer)
        if signal:
            raise Stopped(signal)

    def _save_best(self, trainer: pl.Trainer) -> None:
        self.save(trainer, "best")
        self._is_best = False

    def save(self, trainer: pl.Trainer, name: str) -> None:
        path = checkpoint_folder(trainer.default_root_dir) / f"{name}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        if name == "last":
            self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "of": self._of}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        self._of = state_dict.get("of")


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint next to its place and moves it there once it is on disk.

    A run or a machine that dies while saving keeps the one before. Lightning's own writer makes a
    copy in memory and another in the system's temporary folder, which may be too small.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        with whole_file(Path(path)) as file:
            torch.save(checkpoint, file)


def checkpoint_folder(run_directory: str | Path) -> Path:
    return Path(run_directory) / "checkpoints"


def images_in_last(trainer: pl.Trainer) -> int:
    """Read how many images the run's `last.ckpt` has seen; 0 if none can be read."""
    path = checkpoint_folder(trainer.default_root_dir) / "last.ckpt"
    try:
        return int(read_checkpoint(path, check=False)["images_seen"])
    except (OSError, ValueError):
        return 0


def newest_checkpoint(run_directory: str | Path) -> Path | None:
    """Find the checkpoint of a run that has seen most images, or None if it has none.

    Warns about a damaged one. Raises ValueError if no other is left, as the run would begin anew.
    """
    newest, most, damaged = None, -1, []
    for name in ("last", "best"):
        path = checkpoint_folder(run_directory) / f"{name}.ckpt"
        if not path.exists():
            continue
        try:
            images_seen = read_checkpoint(path)["images_seen"]
        except ValueError as error:
            damaged.append(str(error))
            continue
        if images_seen > most:
            newest, most = path, images_seen
    if damaged and newest is None:
        raise ValueError(
            f"{'; '.join(damaged)}. The run has no other: move the file away to begin anew"
        )
    for message in damaged:
        warnings.warn(f"{message}; ignoring it", stacklevel=2)
    return newest
