"""Compressive sensing through a prior as one objective, which records every minimiser's way."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.networks import load_truth
from priors.prior import FlowPrior
from recovery.methods import residual_energy
from recovery.metrics import psnr
from recovery.operators import GaussianSensing


@dataclass
class Sensing:
    """Images measured by Gaussian sensing, to be recovered from latent 0."""

    prior: FlowPrior
    truth: Tensor  # (B, C, H, W) in [0, 1]
    operator: GaussianSensing
    y: Tensor  # (B, m)

    @classmethod
    def of(cls, prior: FlowPrior, shards: str | None, images: int, fraction: float) -> "Sensing":
        truth = load_truth(shards, images, prior.image_shape[-1])
        operator = GaussianSensing(prior.image_shape, fraction)
        return cls(prior, truth, operator, operator(truth))

    def start(self) -> Tensor:
        return torch.zeros(len(self.truth), self.prior.latent_dim)


class Recorder:
    """||A(G(z)) - y||^2 per image with its gradient, as `recovery.lbfgs.minimise` calls it.

    `psnr[i][k]` is, after image i's k-th evaluation, that of its lowest value so far.
    """

    def __init__(self, sensing: Sensing) -> None:
        self.sensing = sensing
        count = len(sensing.truth)
        self.lowest = [float("inf")] * count
        self.psnr: list[list[float]] = [[] for _ in range(count)]

    def __call__(self, latents: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        z = latents.detach().requires_grad_()
        image = self.sensing.prior.decode(z)
        values = residual_energy(self.sensing.y[indices], self.sensing.operator.A(image))
        (gradients,) = torch.autograd.grad(values.sum(), z)
        self.record(values.tolist(), psnr(image.detach(), self.sensing.truth[indices]), indices)
        return values.detach(), gradients

    def record(self, values: list[float], quality: Tensor, indices: Tensor) -> None:
        for i, value, decibel in zip(indices.tolist(), values, quality.tolist(), strict=True):
            lower = value < self.lowest[i] or not self.psnr[i]
            self.lowest[i] = min(value, self.lowest[i])
            self.psnr[i].append(decibel if lower else self.psnr[i][-1])

    def curve(self) -> np.ndarray:
        """Return PSNR (B, evaluations); an image that stopped early keeps its last value."""
        length = max(map(len, self.psnr))
        return np.array([p + p[-1:] * (length - len(p)) for p in self.psnr])
