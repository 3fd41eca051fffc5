"""Flows whose Jacobian is known, and what studies are given."""

import io
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from core.seeds import generator
from datamodules.image_set import ImageSet
from datamodules.procedural import faces
from networks.resize_gan import Generator
from priors.prior import FlowPrior, GanPrior
from studies.study import Given, Tables
from tests.made import images_to_initialize, perturbed, small


class LinearFlow:
    """z = W x, an invertible network with a known Jacobian."""

    def __init__(self, weight: Tensor, shape: tuple[int, int, int]) -> None:
        self.weight = weight
        self.latent_dim = len(weight)
        self.image_shape = shape

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.linalg.slogdet(self.weight).logabsdet
        return x.flatten(1) @ self.weight.T, log_det.expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return torch.linalg.solve(self.weight, z.T).T.unflatten(1, self.image_shape)

    def to(self, dtype: torch.dtype) -> "LinearFlow":
        return LinearFlow(self.weight.to(dtype), self.image_shape)


def flow() -> FlowPrior:
    network = small(image_size=8)
    network.initialize(images_to_initialize(8, 8))
    return FlowPrior(perturbed(network, 0.02).frozen(), "glow")


def linear_flow(n: int = 12, scale: float = 1.0) -> FlowPrior:
    weight = torch.randn(n, n, generator=generator("linear")) + 4 * torch.eye(n)
    return FlowPrior(LinearFlow(scale * weight, (3, 2, n // 6)), "linear")


def image_set(name: str, count: int, size: int = 8) -> ImageSet:
    names = [f"{name}-{i}" for i in range(count)]
    return ImageSet(name, "in", faces(range(count), image_size=size), names)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    torch.manual_seed(0)
    gan = GanPrior(Generator(8, latent_dim=4, width=4).eval().requires_grad_(False), "resize-gan")
    sets = {name: image_set(name, 6) for name in ("celeba-val", "ffhq-test", "natural-ood")}
    priors = {"glow": flow(), "dcgan": gan}
    return Given(priors, sets, pd.DataFrame(), torch.device("cpu"), tmp_path)


def reread(tables: Tables) -> Tables:
    """As a report sees them: written as CSV and read again."""
    return {
        name: pd.read_csv(io.StringIO(table.to_csv(index=False))) for name, table in tables.items()
    }
