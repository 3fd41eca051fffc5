"""A grid of samples from the prior after every epoch, always from the same latents."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger
from torchvision.utils import make_grid, save_image

from callbacks.clocked import clocked
from core.files import whole_file


class Samples(Callback):
    """Writes `samples/<images_seen>.png` in the run directory and logs it.

    Args:
        count: images in the grid.
    """

    def __init__(self, count: int = 16) -> None:
        if count < 1:
            raise ValueError(f"samples.count must be at least 1, got {count}")
        self.count = count

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        module = clocked(pl_module)
        samples = module.samples(self.count).cpu()
        grid = make_grid(samples, nrow=max(1, round(self.count**0.5)), padding=1, pad_value=1.0)
        path = Path(trainer.default_root_dir) / "samples" / f"{module.images_seen:09d}.png"
        with whole_file(path) as file:
            save_image(grid, file, format="png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_metrics({"images_seen": float(module.images_seen)})
                logger.log_image("samples", [grid])
