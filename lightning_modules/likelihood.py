"""What every way of training a flow shares: dequantised images and their likelihood."""

import math

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from core.seeds import seed_from, uniform
from lightning_modules.clock import ClockedModule
from priors.prior import FlowPrior, flow_prior, standard_normal_log_prob

PROBED = 8  # images of each held-out set and process by which the inverse is watched
# Largest root mean square error of an image, of values from 0 to 1, that encoding and decoding may
# make: a PSNR of 60 dB, far above any recovery's
INVERSION_ERROR = 1e-3


class Likelihood(ClockedModule):
    """Trains an invertible network and hands out its `FlowPrior`; validates by bits per dimension.

    Args:
        network: a flow with the contract of `networks.glow.Glow`, on images in [-0.5, 0.5].
        bits: images have 2^bits levels before dequantisation.
        total_images, ema_half_life, sample_temperature, seed: see `ClockedModule`.

    Raises:
        ValueError: bits is not in 1..8.
    """

    def __init__(
        self,
        network: nn.Module,
        total_images: int,
        bits: int,
        ema_half_life: int | None,
        sample_temperature: float,
        seed: int,
    ) -> None:
        super().__init__(network, total_images, ema_half_life, sample_temperature, seed)
        if not 1 <= bits <= 8:
            raise ValueError(f"model.bits must be in 1..8, got {bits}")
        self.network = network
        self.bits = bits

    @property
    def trained(self) -> nn.Module:
        return self.network

    def prior(self) -> FlowPrior:
        """Take a frozen float32 snapshot of the prior, on the module's device."""
        return flow_prior(self.averaged, self.images_seen)

    def levels(self, images: Tensor) -> Tensor:
        """Map uint8 images to their levels, 0 to 2^bits - 1, as floats."""
        return torch.div(images, 2 ** (8 - self.bits), rounding_mode="floor").float()

    def noise(self, seeds: list[int]) -> Tensor:
        """Draw noise for `dequantise`, (B, C, H, W) in [0, 1), row i from the i-th seed alone."""
        noise = uniform(seeds, self.image_shape)
        return noise.pin_memory() if self.device.type == "cuda" else noise

    def dequantise(self, images: Tensor, noise: Tensor) -> Tensor:
        """Map uint8 (B, C, H, W) to [-0.5, 0.5): 2^bits levels, uniform noise within a level."""
        noise = noise.to(images.device, non_blocking=True)
        return (self.levels(images) + noise) / 2**self.bits - 0.5

    def bits_per_dimension(self, network: nn.Module, x: Tensor) -> Tensor:
        """Compute bits per dimension (B,) of x, dequantised from 2^bits levels.

        -(log N(z; 0, I) + log|det dz/dx|) / (n ln 2) + bits: the density of x in [-0.5, 0.5)
        against cells of width 2^-bits.
        """
        return self.in_bits(*network(x))

    def in_bits(self, z: Tensor, log_det: Tensor) -> Tensor:
        """Compute bits per dimension (B,) from latents (B, n) and log|det dz/dx| (B,) in nats."""
        nats = standard_normal_log_prob(z) + log_det
        return -nats / (z.shape[1] * math.log(2)) + self.bits

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        name = self.trainer.datamodule.validation_names[dataloader_idx]  # type: ignore[attr-defined]
        seeds = [seed_from("validate", index) for index in batch["index"].tolist()]
        with torch.autocast(self.device.type, enabled=False):
            x = self.dequantise(batch["image"], self.noise(seeds))
            bits = self.bits_per_dimension(self.averaged, x)
            if batch_idx == 0:
                self.probe_inverse(name, batch["image"][:PROBED])
        self.log(
            f"bits_per_dim/{name}",
            bits.mean(),
            batch_size=len(bits),
            on_epoch=True,
            sync_dist=True,
            add_dataloader_idx=False,
        )

    def probe_inverse(self, name: str, images: Tensor) -> None:
        """Log how far the worst of uint8 images (B, C, H, W) is from itself, encoded and decoded.

        As `inversion/<set>`, a root mean square over the image's values from 0 to 1; infinite where
        it does not come back finite. Encoding and decoding drift apart before recoveries fail.
        """
        x = images.float() / 255 - 0.5
        z, _ = self.averaged(x)
        back: Tensor = self.averaged.inverse(z)  # type: ignore[operator]
        errors = (back - x).square().mean(dim=(1, 2, 3)).sqrt().nan_to_num(nan=torch.inf)
        self.log(
            f"inversion/{name}",
            errors.max(),
            on_step=False,
            on_epoch=True,
            reduce_fx="max",
            sync_dist=True,
            add_dataloader_idx=False,
        )

    def on_validation_epoch_end(self) -> None:
        self.log_clock(sync_dist=True)

    def on_validation_end(self) -> None:
        """Tell of what is not finite, and of an inverse that drifts; training goes on."""
        if not self.trainer.is_global_zero or self.trainer.sanity_checking:
            return
        for name, value in self.trainer.callback_metrics.items():
            kind, _, where = name.partition("/")
            after = f"on {where} after {self.images_seen:,} images"
            if kind == "bits_per_dim" and not value.isfinite():
                rank_zero_warn(f"bits per dimension are {value.item()} {after}: not a best")
            if kind == "inversion" and not value <= INVERSION_ERROR:
                rank_zero_warn(
                    f"decoding does not undo encoding {after}: off by {value.item():.1e} (root "
                    f"mean square), at most {INVERSION_ERROR:g} expected. Recovery will suffer: "
                    "lower model.learning_rate, or bound the network (model.network.stability)"
                )
