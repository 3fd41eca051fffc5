"""A GAN prior, images that it makes, and images that it does not."""

import pytest
import torch
from torch import Tensor

from priors.prior import GanPrior
from tests.made import gan_prior


@pytest.fixture
def prior() -> GanPrior:
    return gan_prior()


@pytest.fixture
def in_range(prior: GanPrior) -> Tensor:
    return prior.decode(prior.initial_latent([10, 11, 12, 13], 1.0)).detach()


@pytest.fixture
def out_of_range(in_range: Tensor) -> Tensor:
    noise = torch.rand(in_range.shape, generator=torch.Generator().manual_seed(5))
    return 0.5 * in_range + 0.5 * noise
