"""Progress in images: one bar for the whole of training, across epochs and resumes."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from callbacks.clocked import clocked
from core.progress import image_bar


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
        module = clocked(pl_module)
        self._bar = image_bar(
            "Training",
            module.total_images,
            initial=min(module.images_seen, module.total_images),
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
        module = clocked(pl_module)
        self._bar.update(min(module.images_seen, module.total_images) - self._bar.n)
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
