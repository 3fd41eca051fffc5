"""Posterior samples: exact of a linear flow, the same in any batch of any prior."""

import pytest
import torch

from priors.prior import FlowPrior
from recovery.linear_gaussian import Wiener
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing, Operator
from recovery.posterior import PosteriorSamples
from tests.made import drawn_from, gan_prior, gaussian_prior, held_out
from tests.made import flow_prior as glow_prior
from tests.recovery.test_linear_gaussian import SHAPE


def posterior_covariance(prior: FlowPrior, operator: Operator) -> torch.Tensor:
    """C - C A' (A C A' + sigma^2 I)^-1 A C, (n, n) in float64."""
    matrix = operator.A(torch.eye(48).unflatten(1, SHAPE)).flatten(1).T.double()
    covariance = prior.double().network.covariance(torch.eye(48).double())  # type: ignore[attr-defined]
    joint = matrix @ covariance @ matrix.T + operator.sigma**2 * torch.eye(len(matrix)).double()
    return covariance - covariance @ matrix.T @ torch.linalg.solve(joint, matrix @ covariance)


@pytest.mark.parametrize(
    ("operator", "perturb"),
    [
        (GaussianSensing(SHAPE, m=20, noise_norm=0.1), True),
        (Denoising(SHAPE, sigma=0.1), True),
        (GaussianSensing(SHAPE, m=20, noise_norm=1e-3), False),  # exact as noise goes to 0
    ],
)
def test_samples_of_a_linear_flow_have_its_posteriors_mean_and_covariance(
    operator: Operator, perturb: bool
) -> None:
    prior = gaussian_prior()
    y = operator(drawn_from(prior, 1))
    method = PosteriorSamples(
        prior, samples=600, perturb=perturb, evaluations=400, gradient_tolerance=1e-6
    )
    found = method.recover(y, operator)
    # the errors of a pair cancel: the mean is exact, not of 600 draws
    assert torch.allclose(found.image, Wiener(prior).recover(y, operator).image, atol=3e-3)
    assert found.samples is not None
    drawn = found.samples[0].flatten(1).double()
    ours = torch.cov(drawn.T, correction=0)
    theirs = posterior_covariance(prior, operator)
    assert abs(ours.trace() / theirs.trace() - 1) < 0.05
    # 300 independent draws: of white noise in 48 dimensions the error would be sqrt(48 / 300)
    assert (ours - theirs).norm() / theirs.norm() < 0.5


def test_without_noise_samples_fit_the_measurements() -> None:
    prior = gaussian_prior()
    operator = GaussianSensing(SHAPE, m=20, noise_norm=0.0)
    y = operator(drawn_from(prior, 2))
    found = PosteriorSamples(prior, samples=4, evaluations=400).recover(y, operator)
    assert found.samples is not None
    for k in range(4):
        assert (operator.A(found.samples[:, k]) - y).norm(dim=1).max() < 1e-3
    assert (found.samples[:, 0] - found.samples[:, 1]).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_a_problems_penalty_does_not_draw_samples_together() -> None:
    prior, operator = gaussian_prior(), Denoising(SHAPE, sigma=0.1)
    y = operator(drawn_from(prior, 1))
    found = PosteriorSamples(prior, gamma=0.01, samples=4).recover(y, operator)
    assert found.samples is not None and found.samples.std(dim=1).mean() > 0.01


@pytest.mark.parametrize("perturb", [False, True])
def test_an_images_samples_depend_on_its_seed_alone(perturb: bool) -> None:
    operator = GaussianSensing((3, 8, 8), m=40)
    y = operator(held_out()[:3], seeds=[5, 6, 7])
    options = {"samples": 4, "evaluations": 60, "perturb": perturb}
    together = PosteriorSamples(glow_prior(), **options).recover(y, operator, seeds=[5, 6, 7])
    few = PosteriorSamples(glow_prior(), batch_size=3, **options)
    alone = few.recover(y[2:], operator, seeds=[7])
    assert (psnr(alone.image, together.image[2:]) > 45).all()
    other = few.recover(y[2:], operator, seeds=[8])
    assert (psnr(other.image, together.image[2:]) < 45).all()


def test_a_recovery_is_the_mean_of_its_samples_and_counts_all_their_evaluations() -> None:
    operator = GaussianSensing((3, 8, 8), m=40)
    y = operator(held_out()[:2])
    found = PosteriorSamples(gan_prior(), samples=4, evaluations=20).recover(y, operator)
    assert found.samples is not None and found.samples.shape == (2, 4, 3, 8, 8)
    assert torch.allclose(found.image, found.samples.mean(dim=1))
    assert torch.equal(found.alternatives["sample"].image, found.samples[:, 0])
    assert (found.evaluations > found.alternatives["sample"].evaluations).all()
    assert found.latent is None and set(found.status) <= {"converged", "budget"}


def test_a_sample_that_is_not_finite_spoils_no_mean() -> None:
    class Odd:
        """A prior that decodes latents with a positive first entry to nothing finite."""

        name, fingerprint, latent_dim, image_shape = "odd", "", 192, (3, 8, 8)
        initial_latent = staticmethod(glow_prior().initial_latent)

        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            image = latent.unflatten(1, self.image_shape)
            return torch.where((latent[:, 0] > 0).view(-1, 1, 1, 1), torch.nan, image)

    operator = Denoising((3, 8, 8), sigma=0.5)
    y = operator(held_out()[:2])
    method = PosteriorSamples(Odd(), samples=4, evaluations=3)
    method._finite = lambda start: start  # type: ignore[method-assign]
    found = method.recover(y, operator)
    assert found.image.isfinite().all() and set(found.status) == {"budget"}


def test_what_it_cannot_serve_is_named() -> None:
    with pytest.raises(ValueError, match="an even number from 2 on, got 3"):
        PosteriorSamples(glow_prior(), samples=3)
    with pytest.raises(ValueError, match="tau must be above 0"):
        PosteriorSamples(glow_prior(), tau=0.0)
    exact = Denoising((3, 8, 8), sigma=0.0)
    with pytest.raises(ValueError, match="need noise of known sigma"):
        PosteriorSamples(glow_prior(), perturb=True).check(exact)
    PosteriorSamples(glow_prior()).check(exact)
