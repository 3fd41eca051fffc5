"""Progress in images: one bar for the whole of training, across epochs and resumes."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm


def image_bar(title: str, total: int, **options: Any) -> "tqdm[None]":
    """A bar that counts images: twice a second on a terminal, twice a minute in a log."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total,
        desc=title,
        unit="image",
        mininterval=interval,
        miniters=0,
        smoothing=0.05,
        **options,
    )


class ImageProgress(ProgressBar):
    """images seen / total images, images per second, time left, and the latest bits per dim."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[None] | None = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar = image_bar(
            "Training",
            pl_module.total_images,
            initial=min(pl_module.images_seen, pl_module.total_images),
            disable=not self._enabled,
        )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert self._bar is not None
        self._bar.update(min(pl_module.images_seen, pl_module.total_images) - self._bar.n)
        if batch_idx % 20 == 0:  # reading a metric waits for the device
            self._bar.set_postfix(
                {
                    name.split("/", 1)[-1]: f"{value:.3f}"
                    for name, value in trainer.progress_bar_metrics.items()
                },
                refresh=False,
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
