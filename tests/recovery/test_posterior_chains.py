"""Markov chains of images: exact of a linear flow wherever they start, and honest if unmixed."""

import pytest
import torch

from recovery.linear_gaussian import Wiener
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing
from recovery.posterior import PosteriorSamples
from recovery.posterior_chains import Counted, PosteriorChains, Target, gauss_newton_root, startable
from tests.made import drawn_from, flow_prior, gan_prior, gaussian_prior, held_out
from tests.recovery.test_linear_gaussian import SHAPE
from tests.recovery.test_posterior import posterior_covariance


def test_the_metric_of_a_linear_flow_is_its_posterior_covariance() -> None:
    prior, operator = gaussian_prior(), Denoising(SHAPE, sigma=0.1)
    root = gauss_newton_root(prior, drawn_from(prior, 1), torch.eye(48), 0.1, 5, Counted(None))
    assert root is not None
    root = root.double()
    assert torch.allclose(root @ root.T, posterior_covariance(prior, operator), atol=1e-5)


@pytest.mark.parametrize(
    "operator", [Denoising(SHAPE, sigma=0.1), GaussianSensing(SHAPE, m=20, noise_norm=0.3)]
)
def test_chains_of_a_linear_flow_mend_samples_that_are_wrong(operator: Denoising) -> None:
    """Unperturbed searches from tau 0.3 are far too narrow a sample at this noise."""
    prior = gaussian_prior()
    y = operator(drawn_from(prior, 1))
    options = {"samples": 200, "tau": 0.3, "evaluations": 100, "batch_size": 64}
    wrong = PosteriorSamples(prior, **options).recover(y, operator)
    found = PosteriorChains(prior, steps=40, **options).recover(y, operator)
    assert found.status == ("mixed",)
    assert found.diagnostics["r_hat"] < 1.08 and found.diagnostics["effective_samples"] > 500
    assert abs(found.diagnostics["acceptance"] - 0.8) < 0.15 and found.diagnostics["step"] > 0.1
    assert (found.image - Wiener(prior).recover(y, operator).image).abs().max() < 0.02
    theirs = posterior_covariance(prior, operator)
    assert found.samples is not None and wrong.samples is not None
    before, after = (
        torch.cov(r.samples[0].flatten(1).double().T)
        for r in (wrong, found)  # type: ignore[union-attr]
    )
    assert abs(before.trace() / theirs.trace() - 1) > 0.3
    assert abs(after.trace() / theirs.trace() - 1) < 0.06
    assert (after - theirs).norm() / theirs.norm() < 0.6


def test_chains_that_have_not_met_are_unmixed() -> None:
    prior, operator = gaussian_prior(), GaussianSensing(SHAPE, m=20)
    y = operator(drawn_from(prior, 2))
    found = PosteriorChains(prior, steps=8, leapfrogs=1, samples=4).recover(y, operator)
    assert found.status == ("unmixed", "unmixed")
    assert (found.diagnostics["r_hat"] > 1.1).all() and found.image.isfinite().all()


def test_an_images_chains_depend_on_its_seed_alone_and_count_what_they_cost() -> None:
    prior, operator = flow_prior(), GaussianSensing((3, 8, 8), m=40)
    y = operator(held_out()[:2], seeds=[5, 6])
    method = PosteriorChains(prior, steps=8, leapfrogs=3, samples=4, evaluations=40, batch_size=3)
    searched = PosteriorSamples(prior, samples=4, evaluations=40, batch_size=3)
    together = method.recover(y, operator, seeds=[5, 6])
    alone = method.recover(y[1:], operator, seeds=[6])
    assert (psnr(alone.image, together.image[1:]) > 45).all()
    other = method.recover(y[1:], operator, seeds=[7])
    assert (psnr(other.image, together.image[1:]) < 45).all()
    spent = together.evaluations - searched.recover(y, operator, seeds=[5, 6]).evaluations
    assert spent.tolist() == [4 * (1 + 8 * 3) + 192] * 2
    assert together.samples is not None
    sample = together.alternatives["sample"]
    assert torch.equal(sample.image, together.samples[:, 0])
    assert sample.status == together.status
    assert torch.allclose(prior.decode(sample.latent), sample.image, atol=1e-3)


def test_chains_move_in_the_posteriors_density_through_a_glow() -> None:
    """Its log-determinant is not constant, as a linear flow's is."""
    prior, operator = flow_prior().double(), GaussianSensing((3, 8, 8), m=40)
    operator = operator.double()
    images = held_out()[:3].double()
    y = operator(images[:1])
    root = torch.randn(192, 192, generator=torch.Generator().manual_seed(0)).double() / 500
    target = Target(prior, operator, y, operator.sigma, images, root, 2, Counted(None))
    u = torch.randn(3, 192, generator=torch.Generator().manual_seed(1)).double()
    energy, gradient = target(u)
    x = images + (u @ root.T).unflatten(1, (3, 8, 8))
    fit = (operator.A(x) - y).square().sum(dim=1) / (2 * operator.sigma**2)
    assert torch.allclose(energy, fit - prior.encode(x)[1])
    along = torch.randn(3, 192, generator=torch.Generator().manual_seed(2)).double()
    rise = (target(u + 1e-5 * along)[0] - target(u - 1e-5 * along)[0]) / 2e-5
    assert torch.allclose(rise, (gradient * along).sum(dim=1), rtol=1e-4)


def test_an_image_without_a_start_spoils_no_other() -> None:
    operator = GaussianSensing((3, 8, 8), m=40)
    y = operator(held_out()[:2])
    y[0] = torch.nan
    method = PosteriorChains(flow_prior(), steps=8, leapfrogs=1, samples=2, evaluations=5)
    found = method.recover(y, operator)
    assert found.status[0] == "diverged" and found.status[1] in ("mixed", "unmixed")
    assert found.diagnostics["r_hat"].isnan().tolist() == [True, False]
    assert found.image[1].isfinite().all()


def test_a_start_of_no_finite_density_is_replaced_and_slows_no_chain() -> None:
    prior, operator = flow_prior(), GaussianSensing((3, 8, 8), m=40)
    samples = held_out()[:3].clone()
    y = operator(samples[:1])
    samples[0] = torch.nan
    samples[2] = 1e30
    start = startable(prior, operator, y, samples)
    assert start is not None and torch.equal(start, samples[[1, 1, 1]])
    assert startable(prior, operator, y, samples[[0, 2]]) is None


def test_progress_is_told_of_every_evaluation() -> None:
    operator = GaussianSensing((3, 8, 8), m=40)
    told: list[int] = []
    method = PosteriorChains(
        flow_prior(), steps=8, leapfrogs=3, samples=4, evaluations=5, batch_size=2
    )
    method.recover(operator(held_out()[:1]), operator, progress=lambda n, _: told.append(n))
    rows_of_f, chains = 192 // 2, 2 * (1 + 8 * 3)
    assert told[-(rows_of_f + chains) :] == list(range(1, rows_of_f + chains + 1))


def test_what_it_cannot_serve_is_named() -> None:
    with pytest.raises(ValueError, match="a Markov chain of images needs an invertible prior"):
        PosteriorChains(gan_prior())
    with pytest.raises(ValueError, match="steps must be at least 8"):
        PosteriorChains(flow_prior(), steps=7)
    with pytest.raises(ValueError, match="leapfrogs must be at least 1"):
        PosteriorChains(flow_prior(), leapfrogs=0)
    operator = GaussianSensing((3, 8, 8), m=40)
    operator.tells_noise = False
    with pytest.raises(ValueError, match="needs noise of known sigma"):
        PosteriorChains(flow_prior()).check(operator)
