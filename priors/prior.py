"""Priors: what a recovery method needs of a trained network."""

import copy
import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from core.seeds import normal, seed_from
from priors.weights import fingerprint

CALIBRATION_LATENTS = 512  # they set BatchNorm's statistics in a GAN's prior


class Prior(Protocol):
    """A generator of images in [0, 1] from flat latents (B, n).

    `name` and `fingerprint` identify the network in the results.
    """

    name: str
    fingerprint: str
    latent_dim: int
    image_shape: tuple[int, int, int]

    def decode(self, latent: Tensor) -> Tensor: ...

    def initial_latent(self, seeds: list[int], std: float) -> Tensor: ...


class InvertibleNetwork(Protocol):
    """A flow on images in [-0.5, 0.5]; see `networks.glow.Glow` for the contract."""

    latent_dim: int
    image_shape: tuple[int, int, int]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def inverse(self, z: Tensor) -> Tensor: ...

    def to(self, dtype: torch.dtype) -> "InvertibleNetwork": ...


class FlowPrior:
    """An invertible prior: every image has a latent, so nothing is out of its range.

    Args:
        network: a frozen flow on images in [-0.5, 0.5] (`Glow.frozen()`).
        name: of the kind of network.
        fingerprint: of its weights.
        images_seen: in training, by all ranks together.
    """

    def __init__(
        self, network: InvertibleNetwork, name: str, fingerprint: str = "", images_seen: int = 0
    ) -> None:
        self.network = network
        self.name = name
        self.fingerprint = fingerprint
        self.images_seen = images_seen
        self.latent_dim = network.latent_dim
        self.image_shape = network.image_shape

    def decode(self, latent: Tensor) -> Tensor:
        """Map latents (B, n) to images (B, C, H, W), nominally in [0, 1], not clamped."""
        return self.network.inverse(latent) + 0.5

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) in [0, 1] to latents (B, n) and log-likelihoods (B,) in nats."""
        latent, log_det = self.network.forward(image - 0.5)
        return latent, standard_normal_log_prob(latent) + log_det

    def double(self) -> "FlowPrior":
        """Return the same prior in float64."""
        return FlowPrior(self.network.to(torch.float64), self.name, self.fingerprint)

    def initial_latent(self, seeds: list[int], std: float) -> Tensor:
        """Draw (B, n) from N(0, std^2) on the CPU, row i by the i-th seed; the paper's std is 0."""
        return _gaussian(seeds, self.latent_dim, std)


class GanPrior:
    """A generator's prior: only images in its range can be recovered, and it has no encoder.

    Args:
        network: z (B, latent_dim) -> images (B, C, H, W), nominally in [-1, 1], with `latent_dim`
            and `image_shape`; frozen, in evaluation mode.
        name: of the kind of network.
        fingerprint: of its weights.
        images_seen: in training, by all ranks together.
    """

    def __init__(
        self, network: nn.Module, name: str, fingerprint: str = "", images_seen: int = 0
    ) -> None:
        self.network = network
        self.name = name
        self.fingerprint = fingerprint
        self.images_seen = images_seen
        self.latent_dim: int = network.latent_dim  # type: ignore[assignment]
        self.image_shape: tuple[int, int, int] = network.image_shape  # type: ignore[assignment]

    def decode(self, latent: Tensor) -> Tensor:
        """Map latents (B, n) to images (B, C, H, W), nominally in [0, 1], not clamped."""
        return self.network(latent) / 2 + 0.5

    def initial_latent(self, seeds: list[int], std: float) -> Tensor:
        """Draw (B, n) from N(0, std^2) on the CPU, row i by the i-th seed."""
        return _gaussian(seeds, self.latent_dim, std)

    def weights(self) -> dict[str, Tensor]:
        """Return the trained weights by name; image-adaptive recovery starts from them."""
        return dict(self.network.named_parameters())

    def decode_with(self, weights: Mapping[str, Tensor], latent: Tensor) -> Tensor:
        """Map latents (B, n) to images (B, C, H, W), each through its own weights (B, ...)."""
        buffers = dict(self.network.named_buffers())

        def one(weights: Mapping[str, Tensor], latent: Tensor) -> Tensor:
            image = functional_call(self.network, (dict(weights), buffers), (latent[None],))
            return image[0] / 2 + 0.5

        return vmap(one)(weights, latent)


def decode_in_parts(prior: Prior, latents: Tensor, size: int = 64) -> Tensor:
    """Decode latents (B, n), clamped to [0, 1], `size` at a time to bound memory."""
    return torch.cat([prior.decode(part).clamp(0, 1) for part in latents.split(size)])


def _gaussian(seeds: list[int], length: int, std: float) -> Tensor:
    if std == 0:
        return torch.zeros(len(seeds), length)
    return std * normal(seeds, (length,))


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Compute log N(z; 0, I) per row of z (B, n), in nats."""
    return -0.5 * (z.square().sum(dim=1) + z.shape[1] * math.log(2 * math.pi))


# --- from trained networks -------------------------------------------------------------------


def flow_prior(network: nn.Module, images_seen: int) -> FlowPrior:
    """Take a frozen snapshot of a flow that has seen `images_seen` images in training."""
    frozen = network.frozen()  # type: ignore[operator]
    return FlowPrior(frozen, name_of(network), fingerprint(network.state_dict()), images_seen)


def gan_prior(network: nn.Module, images_seen: int, weights: str | None = None) -> GanPrior:
    """Freeze a generator that has seen `images_seen` images in training, and wrap it as a prior.

    `weights` is its fingerprint, by default that of its parameters alone: BatchNorm's statistics,
    computed from them, round differently on every machine.
    """
    if weights is None:
        weights = fingerprint(dict(network.named_parameters()))
    frozen = network.requires_grad_(False).eval()
    return GanPrior(frozen, name_of(network), weights, images_seen)


def name_of(network: nn.Module) -> str:
    """Name a kind of network by its file in networks/."""
    return type(network).__module__.rsplit(".", 1)[-1].replace("_", "-")


def generator_of_prior(generator: nn.Module, stage: tuple[int, float] | tuple[()]) -> nn.Module:
    """Copy a trained generator for recovery.

    BatchNorm's statistics come from fixed latents: running ones lag behind the weights and differ
    between ranks. While the generator grows, the copy enlarges the images of `stage` (see
    `networks.pggan`).
    """
    network = copy.deepcopy(generator)
    device = next(network.parameters()).device
    seeds = [seed_from("calibrate", index) for index in range(CALIBRATION_LATENTS)]
    calibrate(network, normal(seeds, (network.latent_dim,)).to(device))  # type: ignore[arg-type]
    return network.at(*stage) if stage else network  # type: ignore[operator]


@torch.no_grad()
def calibrate(generator: nn.Module, latents: Tensor) -> None:
    """Set BatchNorm's statistics to those of images generated from latents (N, latent_dim)."""
    norms = [module for module in generator.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches to come
    if norms:
        generator.train()
        for part in latents.split(64):
            generator(part)
