"""A callback that records what each rank did."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor


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
