"""The likeliest image, shrunk towards the posterior mean of a Gaussian."""

import math

import pytest
import torch
from torch import Tensor

from recovery.gaussian_posterior import gaussian_of, posterior_of
from recovery.image_search import ImageSearch
from recovery.linear_gaussian import Wiener
from recovery.methods import residual_norm
from recovery.operators import GaussianSensing
from recovery.shrunk_search import ShrunkSearch
from tests.made import drawn_from, flow_prior, gaussian_prior, held_out

FACE = (3, 8, 8)
N = math.prod(FACE)


@pytest.mark.parametrize(
    ("m", "shrinkage"), [(N, 0), (N // 4, 0), (N // 8, 0.0848), (N // 16, 0.2098), (1, 0.6578)]
)
def test_less_is_measured_more_is_shrunk(m: int, shrinkage: float) -> None:
    found = ShrunkSearch(flow_prior()).shrinkage_of(GaussianSensing(FACE, m=m))
    assert found == pytest.approx(shrinkage, abs=1e-4)


def test_by_default_a_gaussian_of_fewer_samples_than_values_has_no_say() -> None:
    operator = GaussianSensing(FACE, m=6)
    assert ShrunkSearch(flow_prior(), samples=N).shrinkage_of(operator) > 0
    assert ShrunkSearch(flow_prior(), samples=N - 1).shrinkage_of(operator) == 0
    given = ShrunkSearch(flow_prior(), samples=N - 1, shrinkage=0.1)
    assert given.shrinkage_of(operator) == 0.1


def test_it_is_between_the_likeliest_image_and_the_gaussians_mean() -> None:
    prior, operator = flow_prior(), GaussianSensing(FACE, m=12)
    y = operator(held_out())
    found = ShrunkSearch(prior, shrinkage=0.25).recover(y, operator)
    likeliest = ImageSearch(prior).recover(y, operator)
    gaussian = gaussian_of(prior, 4000, y)
    mean = posterior_of(gaussian, operator, y, operator.sigma).mean(y, operator)
    assert torch.allclose(found.image, 0.75 * likeliest.image + 0.25 * mean, atol=1e-5)
    assert torch.allclose(found.residual, residual_norm(found.image, y, operator))
    assert found.latent is not None
    assert torch.allclose(prior.decode(found.latent), found.image, atol=1e-3)
    assert torch.equal(found.evaluations, likeliest.evaluations)
    assert torch.equal(found.alternatives["likeliest"].image, likeliest.image)


def test_through_a_linear_flow_both_are_the_posterior_mean() -> None:
    prior, operator = gaussian_prior(0.02), GaussianSensing((3, 4, 4), m=5)
    y = operator(drawn_from(prior))
    closed = Wiener(prior).recover(y, operator)
    found = ShrunkSearch(prior, shrinkage=0.5, weight=1.0, temperature=1e-3, samples=20_000)
    assert (found.recover(y, operator).image - closed.image).abs().max() < 0.02


def test_of_images_of_the_prior_it_errs_less_than_the_likeliest() -> None:
    prior, operator = flow_prior(), GaussianSensing(FACE, m=6)
    torch.manual_seed(0)
    truth = prior.decode(torch.randn(16, N)).clamp(0, 1)
    y = operator(truth)
    found = ShrunkSearch(prior).recover(y, operator)

    def error(image: Tensor) -> float:
        return float((image - truth).square().mean())

    assert error(found.image) < error(found.alternatives["likeliest"].image)


def test_where_images_cannot_be_searched_nothing_is_shrunk() -> None:
    operator = GaussianSensing(FACE, m=12)
    operator.linear = False
    y = operator(held_out())
    found = ShrunkSearch(flow_prior()).recover(y, operator)
    assert torch.equal(found.image, found.alternatives["likeliest"].image)


@pytest.mark.parametrize("shrinkage", [-0.1, 1.1, float("nan")])
def test_an_impossible_shrinkage_is_refused(shrinkage: float) -> None:
    with pytest.raises(ValueError, match=r"shrinkage must be in \[0, 1\]"):
        ShrunkSearch(flow_prior(), shrinkage=shrinkage)
