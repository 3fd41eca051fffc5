"""Priors: what a recovery method needs of a trained network."""

import hashlib
import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from recovery.seeds import normal


class Prior(Protocol):
    """A generator of images in [0, 1] from flat latents (B, n).

    `name` and `fingerprint` tell in the results which network it was.
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


class FlowPrior:
    """An invertible prior: every image has a latent, so nothing is out of its range.

    Args:
        network: a frozen flow on images in [-0.5, 0.5] (`Glow.frozen()`).
        name: of the kind of network.
        fingerprint: of its weights.
    """

    def __init__(self, network: InvertibleNetwork, name: str, fingerprint: str = "") -> None:
        self.network = network
        self.name = name
        self.fingerprint = fingerprint
        self.latent_dim = network.latent_dim
        self.image_shape = network.image_shape

    def decode(self, latent: Tensor) -> Tensor:
        """latent (B, n) -> image (B, C, H, W), nominally in [0, 1], not clamped."""
        return self.network.inverse(latent) + 0.5

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, C, H, W) in [0, 1] -> latent (B, n), log-likelihood (B,) in nats."""
        latent, log_det = self.network.forward(image - 0.5)
        return latent, standard_normal_log_prob(latent) + log_det

    def initial_latent(self, seeds: list[int], std: float) -> Tensor:
        """(B, n) on the CPU, N(0, std^2), row i from the i-th seed. std 0 is the paper's start."""
        if std == 0:
            return torch.zeros(len(seeds), self.latent_dim)
        return std * normal(seeds, (self.latent_dim,))


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) per row of z (B, n), in nats."""
    return -0.5 * (z.square().sum(dim=1) + z.shape[1] * math.log(2 * math.pi))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A short hash of named tensors' values, e.g. of a state dict."""
    digest = hashlib.blake2b(digest_size=6)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
