"""CSGM: search through a generator, each image its own problem."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from priors.prior import GanPrior
from recovery.csgm import Csgm, generator_surgery, iagan_stage_1
from recovery.descent import descend
from recovery.image_adaptive import ImageAdaptive, ia_dcgan, iagan
from recovery.methods import MethodFactory
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing
from results.identity import describe


def sensing(m: int = 96) -> GaussianSensing:
    return GaussianSensing((3, 8, 8), m, noise_norm=0.0)


class Cliff(nn.Module):
    """A generator that is not a number where z[0] is large."""

    latent_dim = 4
    image_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 192)

    def forward(self, z: Tensor) -> Tensor:
        good = torch.where(z[:, :1] > 1.0, torch.nan, 1.0)
        return (self.layer(z) * good).view(-1, 3, 8, 8)


def test_what_is_in_the_range_is_recovered(prior: GanPrior, in_range: Tensor) -> None:
    operator = sensing()
    recovery = Csgm(prior, steps=400, restarts=3).recover(operator.A(in_range), operator)
    assert psnr(recovery.image, in_range).min() > 40
    assert set(recovery.status) <= {"converged", "budget"}
    assert recovery.evaluations.tolist() == [1200] * 4
    assert torch.equal(prior.decode(recovery.latent), recovery.image)  # type: ignore[arg-type]


def test_more_measurements_do_not_help_out_of_range(prior: GanPrior, out_of_range: Tensor) -> None:
    """Representation error: the paper's point about GANs."""
    found = [
        Csgm(prior, steps=200).recover(operator.A(out_of_range), operator).image
        for operator in (sensing(96), sensing(192))
    ]
    few, many = (psnr(image, out_of_range).mean().item() for image in found)
    assert many - few < 1.5 and many < 25


def test_the_restart_of_least_residual_is_kept(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y = operator.A(out_of_range)
    residuals = []
    for restarts in (1, 2, 3, 4):  # each adds a start to those before
        found = Csgm(prior, steps=10, restarts=restarts).recover(y, operator)
        assert torch.allclose((operator.A(found.image) - y).norm(dim=1), found.residual, atol=1e-5)
        residuals.append(found.residual)
    for fewer, more in pairwise(residuals):
        assert (more <= 1.001 * fewer).all()
    assert (residuals[-1] < 0.99 * residuals[0]).any()  # else this shows nothing


def test_an_image_does_not_depend_on_its_batch(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y, seeds = operator.A(out_of_range), [7, 8, 9, 10]
    whole = Csgm(prior, steps=80).recover(y, operator, seeds=seeds)
    for batch_size in (1, 3):
        parts = Csgm(prior, steps=80, batch_size=batch_size).recover(y, operator, seeds=seeds)
        assert torch.allclose(whole.image, parts.image, atol=1e-3)
    alone = Csgm(prior, steps=80).recover(y[2:3], operator, seeds=[9])
    assert torch.allclose(alone.image, whole.image[2:3], atol=1e-3)
    other = Csgm(prior, steps=80).recover(y[2:3], operator, seeds=[1])
    assert not torch.allclose(other.latent, alone.latent, atol=1e-3)  # type: ignore[arg-type]


def test_the_penalty_pulls_latents_in(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y = operator.A(out_of_range)
    norms = [
        Csgm(prior, gamma, steps=100).recover(y, operator).latent.norm(dim=1).mean()  # type: ignore[union-attr]
        for gamma in (0.0, 0.1, 1.0)
    ]
    assert norms[0] > norms[1] > norms[2]


def test_a_search_starts_at_random_by_image_and_within_its_limit(
    prior: GanPrior, out_of_range: Tensor
) -> None:
    operator = sensing()
    y = operator.A(out_of_range[:2])

    def starts(seeds: list[int], **options: Any) -> Tensor:
        """Of one evaluation, the latent it was made at."""
        search = Csgm(prior, steps=1, restarts=1, **options)
        latent = search.recover(y[: len(seeds)], operator, seeds=seeds).latent
        assert latent is not None
        return latent

    free = starts([4, 5])
    assert free.abs().max() > 0.5 and not torch.equal(free[0], free[1])
    assert torch.equal(starts([5])[0], free[1])
    assert torch.equal(starts([4, 5], start_limit=0.5), free.clamp(-0.5, 0.5))
    assert (starts([4, 5], seed=1) != free).all()
    assert torch.allclose(starts([4, 5], start_std=0.1), 0.1 * free)


def test_settled_searches_are_converged(prior: GanPrior, in_range: Tensor) -> None:
    operator = Denoising((3, 8, 8), sigma=0.2)
    y = operator(in_range, seeds=[1, 2, 3, 4])
    assert set(Csgm(prior, steps=600).recover(y, operator).status) == {"converged"}
    assert "budget" in Csgm(prior, steps=5).recover(y, operator).status


def test_an_image_that_diverges_spoils_no_other(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y = operator.A(out_of_range)
    healthy = Csgm(prior, steps=30).recover(y, operator)
    y[1, 0] = torch.nan
    hurt = Csgm(prior, steps=30).recover(y, operator)
    assert hurt.status[1] == "diverged" and "diverged" not in hurt.status[::2]
    others = [0, 2, 3]
    assert torch.allclose(hurt.image[others], healthy.image[others], atol=1e-4)


def test_a_restart_that_leaves_the_finite_keeps_its_best() -> None:
    torch.manual_seed(0)
    prior = GanPrior(Cliff().requires_grad_(False), "cliff")
    operator = Denoising((3, 8, 8), sigma=0.0)
    latent = torch.tensor([[0.5, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    truth = prior.network.layer(latent).view(-1, 3, 8, 8) / 2 + 0.5  # type: ignore[operator, union-attr]
    recovery = Csgm(prior, steps=200, start_std=0.3).recover(truth, operator)
    assert recovery.image.isfinite().all()
    assert psnr(recovery.image[:1], truth[:1]).item() > 40
    assert recovery.latent[1, 0] <= 1.0  # type: ignore[index]


def test_a_generator_that_is_never_finite_is_marked() -> None:
    prior = GanPrior(Cliff().requires_grad_(False), "cliff")
    prior.network.layer.weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    recovery = Csgm(prior, steps=3).recover(torch.zeros(2, 3, 8, 8), Denoising((3, 8, 8), 0.1))
    assert recovery.status == ("diverged", "diverged")


def test_adam_is_torchs() -> None:
    """Rows that are finite follow torch.optim.Adam to the last bit."""
    start = torch.randn(3, 4)
    ours = start.clone().requires_grad_()
    descend(lambda: (ours**4).sum(dim=1), [([ours], 0.1)], 20, lambda values: None)
    theirs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (theirs**4).sum().backward()
        optimizer.step()
    assert torch.equal(ours, theirs)


# --- options


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (Csgm, {"steps": 0}, "steps must be at least 1, got 0"),
        (Csgm, {"restarts": 0}, "restarts must be at least 1"),
        (Csgm, {"gamma": -1.0}, "gamma must be at least 0"),
        (ImageAdaptive, {"steps": 0}, "steps must be at least 1"),
        (ImageAdaptive, {"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_options(prior: GanPrior, method: type, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        method(prior, **options)


def test_published_settings(prior: GanPrior) -> None:
    bora = Csgm(prior)
    assert (bora.steps, bora.restarts, bora.learning_rate, bora.start_std) == (500, 2, 0.1, 1.0)
    for made, search, steps, rates in (
        (iagan(prior), (1800, 5, None), 300, (1e-4, 1e-3)),
        (ia_dcgan(prior), (1600, 3, 1.0), 600, (1e-4, 1e-4)),
    ):
        assert (made.search.steps, made.search.restarts, made.search.start_limit) == search
        assert made.steps == steps
        assert (made.latent_learning_rate, made.weight_learning_rate) == rates
    assert iagan_stage_1(prior, 0.5).gamma == generator_surgery(prior, 0.5).gamma == 0.5


def test_settings_from_yaml_and_in_the_rows(prior: GanPrior) -> None:
    parser = ArgumentParser()
    parser.add_argument("--methods", type=dict[str, MethodFactory])
    config = parser.parse_string(
        """
methods:
  csgm: {class_path: recovery.csgm.Csgm, init_args: {steps: 7}}
  preset: recovery.image_adaptive.ia_dcgan
  own:
    class_path: recovery.image_adaptive.ImageAdaptive
    init_args:
      steps: 11
      search: {class_path: recovery.csgm.Csgm, init_args: {restarts: 3}}
  stage:
    class_path: recovery.image_adaptive.ImageAdaptive
    init_args: {search: recovery.csgm.generator_surgery}
"""
    )
    methods = {
        name: make(prior, 0.25) for name, make in parser.instantiate_classes(config).methods.items()
    }
    assert methods["csgm"].steps == 7 and methods["csgm"].gamma == 0.25
    assert methods["preset"].steps == 600
    assert methods["own"].steps == 11 and methods["own"].search.restarts == 3
    assert methods["own"].search.gamma == 0.25
    assert methods["stage"].search.steps == 1600
    one, other = describe(methods["own"]), describe(methods["stage"])
    assert one["search"]["restarts"] == 3 and one["search"] != other["search"]
