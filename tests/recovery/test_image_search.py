"""The search among images: closed forms of a linear prior, and a small Glow as it is used."""

import copy
import gc
import math

import pytest
import torch
from torch import Tensor

from core.precision import require_full_precision
from priors.prior import FlowPrior
from recovery import gaussian_posterior, image_search
from recovery.gaussian_posterior import factored, gaussian_of, posterior_of, typical_of
from recovery.image_search import ImageSearch
from recovery.latent_search import LatentSearch
from recovery.linear_gaussian import Wiener, matrix_of
from recovery.methods import concatenate, residual_energy
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator
from tests.made import drawn_from, gan_prior, gaussian_prior, glow, held_out
from tests.made import flow_prior as glow_prior

SHAPE = (3, 4, 4)
FACE = (3, 8, 8)
N = math.prod(FACE)
LIKE = torch.zeros(())  # of the priors here


def unlikely(image: Tensor) -> Tensor:
    return -2 * glow_prior().encode(image)[1]


OPERATORS = [
    GaussianSensing(SHAPE, m=5),
    GaussianSensing(SHAPE, m=48),
    Denoising(SHAPE, sigma=0.1),
    Inpainting(SHAPE, fraction=0.5, sigma=0.02),
]


@pytest.mark.parametrize("operator", OPERATORS[:3])
def test_through_a_linear_flow_it_finds_the_posterior_mean(operator: Operator) -> None:
    """Where no image is likelier than typical, and the prior has its weight of Bayes' rule."""
    prior = gaussian_prior(0.02)
    y = operator(drawn_from(prior))
    closed = Wiener(prior).recover(y, operator)
    found = ImageSearch(prior, weight=1.0, temperature=1e-3).recover(y, operator)
    assert torch.allclose(closed.image, found.image, atol=2e-3)
    assert (found.evaluations < 160).all()


def test_the_gaussian_is_that_of_the_samples() -> None:
    prior = gaussian_prior(0.02)
    fitted = gaussian_of(prior, 20_000, LIKE)
    covariance = prior.network.covariance(torch.eye(48))  # type: ignore[attr-defined]
    error = (fitted.root @ fitted.root.T - covariance.double()).norm() / covariance.norm()
    assert error < 0.05
    assert gaussian_of(prior, 20_000, LIKE) is fitted
    assert gaussian_of(prior, 100, LIKE) is not fitted  # fewer than values, and not singular


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_posterior_is_the_wiener_filters(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaussian_posterior, "BLOCK", 10)  # as of a larger image: several, one short
    prior = gaussian_prior(0.02)
    y = operator(drawn_from(prior))
    fitted = gaussian_of(prior, 500, LIKE)
    posterior = factored(fitted, operator, y, operator.sigma)
    covariance = fitted.root @ fitted.root.T
    matrix = matrix_of(operator, y).double()
    seen = matrix @ covariance @ matrix.T + operator.sigma**2 * torch.eye(len(matrix)).double()
    gain = torch.linalg.solve(seen, matrix @ covariance).T
    assert torch.allclose(
        posterior.root @ posterior.root.T, covariance - gain @ matrix @ covariance
    )
    expected = fitted.mean + (y.flatten(1).double() - fitted.mean @ matrix.T) @ gain.T
    assert torch.allclose(posterior.mean(y, operator).flatten(1).double(), expected, atol=1e-4)


@pytest.mark.parametrize("noise_norm", [1e-3, 0.0])
def test_measurements_that_are_nearly_exact_leave_the_mean_right(noise_norm: float) -> None:
    """Rounding that the operator does not see must not be amplified by 1 / sigma^2."""
    prior, operator = glow_prior(), GaussianSensing(FACE, m=20, noise_norm=noise_norm)
    y = operator(held_out())
    posterior = ImageSearch(prior).posterior(y, operator)
    exact = operator.A(torch.eye(N).unflatten(1, FACE)).T.double()
    spread = posterior.prior.root @ posterior.prior.root.T
    joint = exact @ spread @ exact.T + posterior.sigma**2 * torch.eye(20).double()
    difference = y.double() - posterior.prior.mean @ exact.T
    expected = posterior.prior.mean + torch.linalg.solve(joint, difference.T).T @ exact @ spread
    assert (posterior.mean(y, operator).flatten(1) - expected).abs().max() < 1e-3


def test_it_searches_in_float64_as_in_float32() -> None:
    operator = Denoising(FACE, sigma=0.1)
    y = operator(held_out())
    wide = FlowPrior(copy.deepcopy(glow().frozen()).to(torch.float64), "glow")
    found = ImageSearch(wide).recover(y.double(), operator)
    assert found.image.dtype == torch.float64
    assert (
        psnr(found.image.float(), ImageSearch(glow_prior()).recover(y, operator).image) > 50
    ).all()


def test_the_posterior_is_kept_as_long_as_its_operator() -> None:
    prior, operator = gaussian_prior(0.02), GaussianSensing(SHAPE, m=20)
    y = operator(drawn_from(prior))
    fitted = gaussian_of(prior, 500, LIKE)
    posterior = posterior_of(fitted, operator, y, operator.sigma)
    assert posterior_of(fitted, operator, y, operator.sigma) is posterior
    assert posterior_of(fitted, operator, y, 0.1) is not posterior
    held = len(gaussian_posterior._posteriors)
    del operator
    gc.collect()
    assert len(gaussian_posterior._posteriors) == held - 1


@pytest.mark.parametrize("m", [12, 96, N])
def test_it_ends_lower_than_both_of_its_starts(m: int) -> None:
    prior, operator = glow_prior(), GaussianSensing(FACE, m=m)
    y = operator(held_out())
    method = ImageSearch(prior, weight=1.0, temperature=0.1)
    found = method.recover(y, operator, seeds=range(5))
    few = m < N / 4
    typical = typical_of(prior, 0.1, LIKE) if few else -math.inf

    def objective(image: Tensor) -> Tensor:
        fit = residual_energy(y, operator.A(image))
        return fit + operator.sigma**2 * unlikely(image).clamp_min(typical)

    start = posterior_of(gaussian_of(prior, 4000, LIKE), operator, y, operator.sigma)
    latent = LatentSearch(prior, evaluations=120).recover(y, operator)
    assert (found.objective < objective(start.mean(y, operator))).all()
    assert (found.objective <= objective(latent.image)).all()
    assert torch.allclose(found.objective, objective(found.image), rtol=1e-3)
    assert ((found.evaluations > 60) == few).all()  # those of the latent search are counted
    assert found.latent is not None
    assert torch.allclose(prior.decode(found.latent), found.image, atol=1e-3)


def test_with_everything_measured_it_is_nearer_than_a_latent_search_of_ten_times_the_cost() -> None:
    prior, operator = glow_prior(), GaussianSensing(FACE, m=N)
    y = operator(held_out())
    found = ImageSearch(prior).recover(y, operator)
    searched = LatentSearch(prior, evaluations=600).recover(y, operator)

    def error(image: Tensor) -> float:
        return float((image - held_out()).square().mean())

    assert error(found.image) < error(searched.image)
    assert found.evaluations.max() <= 60


def test_an_image_that_fits_and_is_typical_is_left_alone() -> None:
    """No face is much likelier than samples: with few measurements, a likelier one is a blur."""
    prior, operator = glow_prior(), GaussianSensing(FACE, m=12)
    y = operator(held_out())
    short = ImageSearch(prior, temperature=1.0, latent_evaluations=0).recover(y, operator)
    long = ImageSearch(prior, temperature=0.05, latent_evaluations=0).recover(y, operator)
    assert short.status == ("converged",) * 5
    assert (short.evaluations < long.evaluations).all()
    assert (short.residual.square() <= operator.noise_energy).all()
    assert (unlikely(long.image) < unlikely(short.image)).all()


def test_with_many_measurements_a_likely_image_is_no_blur_and_the_search_goes_on() -> None:
    prior, operator = glow_prior(), GaussianSensing(FACE, m=N // 4)
    y = operator(held_out())
    loose = ImageSearch(prior, temperature=1.0).recover(y, operator)
    strict = ImageSearch(prior, temperature=0.05).recover(y, operator)
    assert torch.equal(loose.image, strict.image)


def test_an_images_result_does_not_depend_on_its_batch_mates() -> None:
    prior, operator = glow_prior(), GaussianSensing(FACE, m=30)
    y = operator(held_out())
    together = ImageSearch(prior).recover(y, operator, seeds=range(5))
    alone = concatenate(
        [ImageSearch(prior).recover(y[i : i + 1], operator, seeds=[i]) for i in range(5)]
    )
    assert torch.allclose(together.image, alone.image, atol=5e-3)
    parts = ImageSearch(prior, batch_size=2).recover(y, operator, seeds=range(5))
    assert torch.allclose(together.image, parts.image, atol=5e-3)


def test_exact_measurements_are_searched_too() -> None:
    operator = Inpainting(FACE, "random", 0.3)  # too small a share for a hole
    assert not operator.leaves_a_hole()
    found = ImageSearch(glow_prior()).recover(operator(held_out()), operator)
    kept = (found.image - held_out()) * operator.kept
    assert (found.evaluations > 1).all() and kept.abs().max() < 0.02


def test_what_it_cannot_serve_is_named() -> None:
    with pytest.raises(ValueError, match="needs an invertible prior"):
        ImageSearch(gan_prior())
    for name, number in (
        ("weight", 0.0),
        ("temperature", -1.0),
        ("sigma", -0.1),
        ("evaluations", 0),
        ("latent_evaluations", -1),
        ("history", 0),
        ("samples", 1),
        ("batch_size", 0),
    ):
        with pytest.raises(ValueError, match=f"{name} must be"):
            ImageSearch(glow_prior(), **{name: number})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hindered", "said"),
    [
        ({"tells_noise": False}, "does not tell its noise"),
        ({"linear": False}, "it is not linear"),
        ({}, "images of more than 100 values"),
        (None, "a hole is filled better so"),
    ],
)
def test_where_it_cannot_search_images_it_is_the_papers_search_and_says_so(
    monkeypatch: pytest.MonkeyPatch, hindered: dict[str, bool] | None, said: str
) -> None:
    operator: Operator = GaussianSensing(FACE, m=20)
    if hindered is None:
        operator = Inpainting(FACE)
    y = operator(held_out()[:2])
    for name, value in (hindered or {}).items():
        setattr(operator, name, value)
    if hindered == {}:
        monkeypatch.setattr(image_search, "LARGEST_IMAGE", 100)
    method = ImageSearch(glow_prior(), 0.01)
    with pytest.warns(UserWarning, match=f"{said}.*ImageSearch searches latents"):
        method.check(operator)
    papers = LatentSearch(glow_prior(), 0.01).recover(y, operator)
    assert torch.equal(method.recover(y, operator).image, papers.image)


def test_more_measurements_than_a_matrix_may_have_rows_are_searched_among_latents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_search, "LARGEST_IMAGE", N)
    with pytest.warns(UserWarning, match="more than 192 measurements are too many"):
        ImageSearch(glow_prior()).check(GaussianSensing(FACE, m=N + 1))


@pytest.mark.filterwarnings("error")
def test_where_it_can_it_says_nothing() -> None:
    operator = GaussianSensing(FACE, m=20)
    ImageSearch(glow_prior()).check(operator)
    operator.tells_noise = False
    ImageSearch(glow_prior(), sigma=0.1).check(operator)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("m", [30, N])
def test_a_gpu_recovers_as_well_as_the_cpu(m: int) -> None:
    require_full_precision()
    there = FlowPrior(copy.deepcopy(glow()).cuda().frozen(), "glow")
    operator = GaussianSensing(FACE, m=m)
    y = operator(held_out())
    on_cpu = ImageSearch(glow_prior()).recover(y, operator)
    on_gpu = ImageSearch(there).recover(y.cuda(), GaussianSensing(FACE, m=m).cuda())
    difference = psnr(on_gpu.image.cpu(), held_out()) - psnr(on_cpu.image, held_out())
    assert difference.abs().max() < 0.1
