"""FID and KID of samples while training, where Inception's weights are at hand."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torchmetrics.image import FrechetInceptionDistance, KernelInceptionDistance

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"


class SampleQuality(Callback):
    """Every N epochs, logs `quality/fid` and `quality/kid` of the module's samples against the
    first held-out set (Heusel et al. 2017; Bińkowski et al. 2018).

    Nothing is downloaded: without a weights file nothing is done. Both distances depend on the
    number of images: compare like with like.

    Args:
        inception_weights: torch-fidelity's `pt_inception-2015-12-05-6726825d.pth`, a local file.
        images: samples drawn, and held-out images used at most.
        every_n_epochs: how often.
        batch_size: images put through Inception at once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: torch-fidelity is not installed, or a count is not positive.
    """

    def __init__(
        self,
        inception_weights: str | None = None,
        images: int = 1000,
        every_n_epochs: int = 1,
        batch_size: int = 50,
    ) -> None:
        for name, count in (("every_n_epochs", every_n_epochs), ("batch_size", batch_size)):
            if count < 1:
                raise ValueError(f"quality.{name} must be at least 1, got {count}")
        if images < 2:
            raise ValueError(f"quality.images must be at least 2, got {images}")
        self.images = images
        self.every_n_epochs = every_n_epochs
        self.batch_size = batch_size
        self.inception = None if inception_weights is None else load_inception(inception_weights)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch, step = trainer.datamodule.position(pl_module.images_seen)
        finished = pl_module.images_seen >= pl_module.total_images
        due = finished or (step == 0 and epoch % self.every_n_epochs == 0)
        if self.inception is None or not trainer.is_global_zero or not due:
            return
        real = next(iter(trainer.datamodule.held_out.values())).images[: self.images]
        fake = (255 * pl_module.samples(self.images)).round().to(torch.uint8)
        metrics = self.distances(real, fake.cpu(), pl_module.device)
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, "images_seen": float(pl_module.images_seen)})

    @torch.no_grad()
    def distances(self, real: Tensor, fake: Tensor, device: torch.device) -> dict[str, float]:
        """FID and KID between two sets of images uint8 (N, C, H, W)."""
        assert self.inception is not None
        subset = min(1000, len(real), len(fake))  # KID averages over random subsets
        metrics = {
            "quality/fid": FrechetInceptionDistance(self.inception, sync_on_compute=False),
            "quality/kid": KernelInceptionDistance(
                self.inception, subset_size=subset, sync_on_compute=False
            ),
        }
        values = {}
        with torch.random.fork_rng(), torch.autocast(device.type, enabled=False):
            torch.manual_seed(0)
            for name, metric in metrics.items():
                metric.to(device)
                for images, is_real in ((real, True), (fake, False)):
                    for part in images.split(self.batch_size):
                        metric.update(part.to(device), real=is_real)
                value = metric.compute()
                values[name] = float(value[0] if isinstance(value, tuple) else value)
        return values


def load_inception(weights: str) -> nn.Module:
    """The feature extractor (2048 features) of both distances, from a local file."""
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f"quality.inception_weights: there is no file {weights}. It is {WEIGHTS} of the "
            "releases of github.com/toshas/torch-fidelity"
        )
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        return NoTrainInceptionV3("inception-v3-compat", ["2048"], weights)
    except ModuleNotFoundError as error:
        raise ValueError(
            "quality.inception_weights needs torch-fidelity: pip install torch-fidelity"
        ) from error
