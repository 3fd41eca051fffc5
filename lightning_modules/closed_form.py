"""Fitting a linear flow: maximum likelihood in closed form, from one pass over the images."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from lightning_modules.likelihood import Likelihood
from networks.linear_flow import LinearFlow


class ClosedForm(Likelihood):
    """Fits a `LinearFlow` to the mean and covariance of the dequantised training images.

    Sums run over the images seen so far, in float64. Every rank adds the images of all ranks, so
    that any rank's checkpoint holds everything. A fit costs O(n^3): it is made when an epoch or
    training ends, and where validation needs it.

    Args:
        network: its size and rank.
        total_images: images to sum over; those of one pass are all there is to learn.
        bits: images have 2^bits levels before dequantisation. The covariance includes that of
            uniform noise within a level, 4^-bits / 12 I, in closed form.
        mirror: count every image's mirror image too.
        sample_temperature: standard deviation of the latents of the sample grid.
        seed: of validation's dequantisation noise and of samples.
    """

    network: LinearFlow

    def __init__(
        self,
        network: LinearFlow,
        total_images: int,
        bits: int = 8,
        mirror: bool = True,
        sample_temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(network, total_images, bits, None, sample_temperature, seed)
        self.automatic_optimization = False  # there is no gradient
        self.mirror = mirror
        self.sums: dict[str, Tensor] = {}
        self._fitted_at = 0  # images_seen
        self._unsaved = False  # a fit made when training started

    def configure_optimizers(self) -> None:
        """None."""

    # --- sums ------------------------------------------------------------------------------

    @torch.no_grad()
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]
        levels = cast(Tensor, self.all_gather(self.levels(images)))  # of all ranks
        levels = levels.reshape(-1, self.network.latent_dim)
        x = ((levels + 0.5) / 2**self.bits - 0.5).double()  # the mean over noise in [0, 1)
        self.sums["x"] += x.sum(dim=0)
        self.sums["xx"].addmm_(x.T, x)
        self.advance_clock(len(images))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Compute the mean (n,) and covariance (n, n) of dequantised images, in float64."""
        mean = self.sums["x"] / self.images_seen
        second = self.sums["xx"] / self.images_seen  # E[x x']
        if self.mirror:
            shape = self.network.image_shape
            mirrored = torch.arange(len(mean), device=mean.device).view(shape).flip(2).flatten()
            mean = (mean + mean[mirrored]) / 2
            second = (second + second[mirrored][:, mirrored]) / 2
        covariance = second - mean.outer(mean)
        covariance.diagonal().add_(4.0**-self.bits / 12)  # of uniform noise within a level
        return mean, covariance

    def fit_network(self) -> None:
        """Fit the network to the images seen, unless it is, the same on every rank."""
        if self._fitted_at < self.images_seen:
            self.network.fit(*self.moments())
            self.broadcast(self.network)  # GPUs of one kind may still round differently
            self._fitted_at = self.images_seen

    # --- when ------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        super().on_fit_start()
        n = self.network.latent_dim
        if not self.sums:
            self.sums = {"x": torch.zeros(n).double(), "xx": torch.zeros(n, n).double()}
        self.sums = {name: total.to(self.device) for name, total in self.sums.items()}
        if self.images_seen >= self.total_images and self._fitted_at < self.images_seen:
            self.fit_network()  # it was stopped before its fit, and nothing is to come
            self._unsaved = True

    def on_train_start(self) -> None:
        super().on_train_start()
        ckpt_path = Path(str(self.trainer.ckpt_path))
        if self._unsaved and ckpt_path.is_relative_to(self.trainer.default_root_dir):
            self.trainer.save_checkpoint(ckpt_path)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.trainer.is_last_batch or self.trainer.should_stop:
            self.fit_network()

    def on_validation_start(self) -> None:
        self.fit_network()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["sums"], checkpoint["fitted_at"] = self.sums, self._fitted_at

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.sums, self._fitted_at = checkpoint["sums"], checkpoint["fitted_at"]
