"""FID and KID of samples during training, if Inception's weights are in a local file."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance

from callbacks.clocked import clocked, data_of

WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)

KID_SUBSET = 1000  # images compared at once, at most: KID's kernel matrices grow with its square


class SampleQuality(Callback):
    """Every N epochs and at the end, logs `quality/fid` and `quality/kid` of the module's samples
    against the first in-distribution held-out set (Heusel et al. 2017; Bińkowski et al. 2018).

    Downloads nothing, and does nothing without a weights file. Both distances depend on the number
    of images: compare like with like. Rank 0 works alone, and training is the same without it.

    Args:
        inception_weights: torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`, a local
            file.
        images: samples to draw, and the most held-out images to use; at least 2.
        every_n_epochs: how often.
        batch_size: images put through Inception at once; bounds memory, changes no result.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds other weights, torch-fidelity is not installed, or a count is
            too small. When training starts: there is no in-distribution held-out set of 2 images
            or more.
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
        self._real: Tensor | None = None  # features of the held-out images, once computed

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._real = None
        if self.inception is not None and len(self.held_out_images(trainer)) < 2:
            raise ValueError(
                "quality.inception_weights: FID and KID need an in-distribution held-out set of "
                "at least 2 images"
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.inception is None or not trainer.is_global_zero:
            return
        module = clocked(pl_module)
        epoch, step = data_of(trainer).position(module.images_seen)
        finished = module.images_seen >= module.total_images
        if not (finished or (step == 0 and epoch % self.every_n_epochs == 0)):
            return
        if self._real is None:
            self._real = self.features(self.held_out_images(trainer), module.device)
        samples = (255 * module.samples(self.images)).round().to(torch.uint8)
        metrics = distances(self._real, self.features(samples, module.device))
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, "images_seen": float(module.images_seen)})

    def held_out_images(self, trainer: pl.Trainer) -> Tensor:
        """Take the images to compare with, uint8 (at most `images`, C, H, W)."""
        for held_out in data_of(trainer).held_out.values():
            if held_out.distribution == "in":
                return held_out.images[: self.images]
        return torch.empty(0, dtype=torch.uint8)

    @torch.no_grad()
    def features(self, images: Tensor, device: torch.device) -> Tensor:
        """Compute Inception's features, float32 (N, 2048), of images uint8 (N, C, H, W)."""
        assert self.inception is not None
        self.inception.to(device)
        with torch.autocast(device.type, enabled=False):
            parts = images.split(self.batch_size)
            rgb = (part.to(device).expand(-1, 3, -1, -1) for part in parts)  # grey ones, too
            return torch.cat([self.inception(part) for part in rgb])


@torch.no_grad()
def distances(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Compute FID and KID between features (N, D) and (M, D), N and M at least 2.

    The same every time: KID averages over 100 random subsets from a fixed seed, unless one subset
    holds all images.
    """
    subset = min(KID_SUBSET, len(real), len(fake))
    subsets = 1 if subset == len(real) == len(fake) else 100
    as_they_are: Any = nn.Identity()
    as_they_are.num_features = real.shape[1]
    fid = FrechetInceptionDistance(as_they_are, sync_on_compute=False).to(real.device)
    kid = KernelInceptionDistance(
        as_they_are, subsets=subsets, subset_size=subset, sync_on_compute=False
    ).to(real.device)
    for metric in (fid, kid):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    with torch.random.fork_rng(devices=[]), torch.autocast(real.device.type, enabled=False):
        torch.default_generator.manual_seed(0)  # KID draws on the CPU; leave the GPUs' state alone
        return {"quality/fid": float(fid.compute()), "quality/kid": float(kid.compute()[0])}


def load_inception(weights: str) -> nn.Module:
    """Load the feature extractor (2048 features) of both distances from a local file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds other weights, or torch-fidelity is not installed.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f"quality.inception_weights: there is no file {weights}. Download "
            f"torch-fidelity's from {WEIGHTS_URL}"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # it draws its layers before it loads them
            return NoTrainInceptionV3("inception-v3-compat", ["2048"], weights)
    except ModuleNotFoundError as error:
        raise ValueError(
            "quality.inception_weights needs torch-fidelity: pip install torch-fidelity, or this "
            "project's extra, pip install -e '.[fid]'"
        ) from error
    except (EOFError, RuntimeError, TypeError, UnpicklingError) as error:
        raise ValueError(
            f"quality.inception_weights: {weights} is damaged or not the file of {WEIGHTS_URL}"
        ) from error
