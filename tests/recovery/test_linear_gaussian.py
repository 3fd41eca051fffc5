"""The Wiener filter: its closed form, and the latent search that must find the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from networks.linear_flow import LinearFlow
from priors.prior import flow_prior
from recovery import linear_gaussian
from recovery.latent_search import LatentSearch
from recovery.linear_gaussian import Wiener
from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator
from tests.made import drawn_from, gaussian_prior
from tests.made import flow_prior as glow_prior

SHAPE = (3, 4, 4)


OPERATORS = [
    GaussianSensing(SHAPE, m=20),
    GaussianSensing(SHAPE, m=48),
    Denoising(SHAPE, sigma=0.1),
    Inpainting(SHAPE, fraction=0.5, sigma=0.02),
]


@pytest.mark.parametrize("operator", OPERATORS)
def test_it_is_the_conditional_mean(operator: Operator) -> None:
    """x and y are jointly Gaussian: E[x | y] by the blocks of their covariance."""
    prior = gaussian_prior()
    y = operator(drawn_from(prior))
    recovery = Wiener(prior).recover(y, operator)
    matrix = operator.A(torch.eye(48).unflatten(1, SHAPE)).flatten(1).T.double()
    g = prior.double().network
    covariance, mean = g.covariance(torch.eye(48).double()), g.mean + 0.5  # type: ignore[attr-defined]
    joint = matrix @ covariance @ matrix.T + operator.sigma**2 * torch.eye(len(matrix)).double()
    gain = covariance @ matrix.T @ torch.linalg.pinv(joint, hermitian=True)
    expected = mean + (y.flatten(1).double() - mean @ matrix.T) @ gain.T
    assert torch.allclose(recovery.image.flatten(1).double(), expected, atol=1e-4)
    assert recovery.status == ("converged",) * 4


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_latent_search_finds_its_own_closed_form(operator: Operator) -> None:
    """With gamma = sigma^2 the likeliest latent is the posterior mean, and nothing is lower."""
    prior = gaussian_prior()
    y = operator(drawn_from(prior))
    closed = Wiener(prior).recover(y, operator)
    search = LatentSearch(prior, operator.sigma**2, evaluations=500, gradient_tolerance=1e-7)
    found = search.recover(y, operator)
    assert torch.allclose(closed.image, found.image, atol=2e-3)
    assert (closed.objective <= found.objective * (1 + 1e-4)).all()
    assert closed.latent is not None and found.latent is not None
    assert torch.allclose(prior.decode(closed.latent), closed.image, atol=1e-5)


def test_exact_measurements_are_fitted_exactly_as_an_unpenalised_search_from_0_does() -> None:
    """Without noise and penalty, both end at the solution of least latent norm."""
    prior = gaussian_prior()
    operator = GaussianSensing(SHAPE, m=20, noise_norm=0.0)
    y = operator(drawn_from(prior))
    closed = Wiener(prior).recover(y, operator)
    found = LatentSearch(prior, evaluations=500, gradient_tolerance=1e-7).recover(y, operator)
    assert (closed.residual < 1e-3).all()
    assert torch.allclose(closed.image, found.image, atol=2e-3)


def test_conjugate_gradients_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, operator = gaussian_prior(), Denoising(SHAPE, sigma=0.1)
    y = operator(drawn_from(prior))
    direct = Wiener(prior).recover(y, operator)
    monkeypatch.setattr(linear_gaussian, "LARGEST_MATRIX", 0)
    iterated = Wiener(prior).recover(y, operator)
    assert torch.allclose(direct.image, iterated.image, atol=1e-4)
    assert (iterated.steps > 1).all() and iterated.status == ("converged",) * 4
    assert Wiener(prior, iterations=1).recover(y, operator).status == ("budget",) * 4


def test_conjugate_gradients_hold_where_variances_differ_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those of faces do: by 10^7, at full rank."""
    vectors, _ = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(1)))
    variances = torch.logspace(1, -6, 48).double()
    network = LinearFlow(4)
    network.fit(torch.zeros(48), vectors.double() * variances @ vectors.double().T)
    prior, operator = flow_prior(network, images_seen=1), Denoising(SHAPE, sigma=0.01)
    y = operator(drawn_from(prior))
    direct = Wiener(prior).recover(y, operator)
    monkeypatch.setattr(linear_gaussian, "LARGEST_MATRIX", 0)
    iterated = Wiener(prior).recover(y, operator)
    assert iterated.status == ("converged",) * 4
    assert torch.allclose(direct.image, iterated.image, atol=1e-3)


def test_it_has_the_least_error_of_all_on_its_own_images() -> None:
    prior, operator = gaussian_prior(), Denoising(SHAPE, sigma=0.1)
    x = drawn_from(prior, 200)
    y = operator(x)
    best = (Wiener(prior).recover(y, operator).image - x).square().mean()
    for wrong in (0.05, 0.2):  # a noise of another size is a worse filter
        assert (Wiener(prior, sigma=wrong).recover(y, operator).image - x).square().mean() > best


def test_what_it_cannot_serve_is_named() -> None:
    with pytest.raises(ValueError, match="needs the prior of a linear flow"):
        Wiener(glow_prior())
    with pytest.raises(ValueError, match="sigma must be at least 0"):
        Wiener(gaussian_prior(), sigma=-1.0)
    operator = GaussianSensing(SHAPE, m=20)
    operator.tells_noise = False
    with pytest.raises(ValueError, match="set the method's sigma"):
        Wiener(gaussian_prior()).check(operator)
    Wiener(gaussian_prior(), sigma=0.1).check(operator)
    operator.linear = False
    with pytest.raises(ValueError, match="needs a linear operator"):
        Wiener(gaussian_prior()).check(operator)


def test_a_deepinv_blur_is_served(tmp_path: Path) -> None:
    physics = pytest.importorskip("deepinv.physics")
    filters = torch.ones(1, 1, 3, 3) / 9
    prior = gaussian_prior()
    blur = physics.Blur(filter=filters, padding="circular")
    blur.noise_model = physics.GaussianNoise(0.05)
    y = blur(drawn_from(prior))
    recovered = Wiener(prior)(y, blur)
    assert (recovered - drawn_from(prior)).square().mean() < (y - drawn_from(prior)).square().mean()


def test_an_operator_is_factored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images come a few at a time, each time to a new method; at 64px factoring takes minutes."""
    made = []
    factored = linear_gaussian.factored

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        return factored(*arguments)

    monkeypatch.setattr(linear_gaussian, "factored", counted)
    prior, operator = gaussian_prior(), GaussianSensing(SHAPE, m=20)
    y = operator(drawn_from(prior))
    together = Wiener(prior).recover(y, operator).image
    parts = [Wiener(prior).recover(part, operator).image for part in y.split(2)]
    assert len(made) == 1 and torch.allclose(torch.cat(parts), together, atol=1e-6)
    noisier = Wiener(prior, sigma=0.3).recover(y, operator).image
    other = Wiener(gaussian_prior()).recover(y, operator).image
    assert len(made) == 3 and not torch.allclose(noisier, together, atol=1e-3)
    assert torch.allclose(other, together, atol=1e-6)
