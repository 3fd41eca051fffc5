"""Latent search: closed-form solutions of a linear prior, and a small Glow as it is used."""

import copy
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.precision import require_full_precision
from core.seeds import generator, normal
from priors.prior import FlowPrior, Prior
from recovery.latent_search import LatentSearch
from recovery.methods import Recovery, concatenate
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator
from recovery.starts import Normal
from tests.made import flow_prior, glow, held_out

Array = NDArray[np.float64]
SMALL, N = (1, 4, 4), 16
FACE = (3, 8, 8)
SEEDS = [11, 12, 13, 14, 15]


class LinearPrior:
    """G(z) = M z, in float64."""

    name = "linear"
    fingerprint = ""
    latent_dim = N
    image_shape = SMALL

    def __init__(self) -> None:
        perturbation = torch.randn(N, N, generator=generator("linear prior")).double()
        self.matrix = torch.eye(N).double() + 0.15 * perturbation

    def decode(self, latent: Tensor) -> Tensor:
        return (latent @ self.matrix.T).unflatten(1, SMALL)

    def initial_latent(self, seeds: list[int], std: float) -> Tensor:
        return std * normal(seeds, (N,))


class NotEverywherePrior(LinearPrior):
    """Decodes latents with a positive first entry to nan."""

    def decode(self, latent: Tensor) -> Tensor:
        bad = (latent[:, :1] > 0)[..., None, None]
        return super().decode(latent).masked_fill(bad, math.nan)


def linear_truth(count: int = 3) -> Tensor:
    return torch.rand(count, *SMALL, generator=generator("linear truth")).double()


def forward_matrix(prior: LinearPrior, operator: Operator) -> Array:
    """B = A M, (m, n)."""
    unit = torch.eye(N).double()
    return operator.A(prior.decode(unit)).flatten(1).T.numpy()


def exact(prior: Prior, gamma: float, **options: object) -> LatentSearch:
    """Searches until nothing is left to gain."""
    settings = {"evaluations": 500, "gradient_tolerance": 1e-11, "stop_at_noise": False, **options}
    return LatentSearch(prior, gamma, **settings)  # type: ignore[arg-type]


def problem(kind: str) -> tuple[Operator, float]:
    """(operator, gamma) with formulation (1) for denoising and (2) for the others."""
    if kind == "denoising":
        return Denoising(FACE, 0.1), 0.01
    if kind == "inpainting":
        return Inpainting(FACE, "random", 0.3), 0.0
    return GaussianSensing(FACE, 0.5), 0.0


each_problem = pytest.mark.parametrize("kind", ["denoising", "sensing", "inpainting"])


def rows(recovery: Recovery, indices: list[int]) -> Recovery:
    assert recovery.latent is not None
    return Recovery(
        recovery.image[indices],
        recovery.latent[indices],
        recovery.objective[indices],
        recovery.residual[indices],
        recovery.steps[indices],
        recovery.evaluations[indices],
        tuple(recovery.status[i] for i in indices),
    )


def assert_same(a: Recovery, b: Recovery) -> None:
    """To rounding: 0.02 dB per image. Rounding may decide between the last two evaluations."""
    truth = held_out()[: len(a.image)]
    assert (psnr(a.image, truth) - psnr(b.image, truth)).abs().max() < 0.02
    assert "diverged" not in a.status + b.status


def assert_equal(a: Recovery, b: Recovery) -> None:
    assert a.latent is not None and b.latent is not None
    assert torch.equal(a.latent, b.latent) and torch.equal(a.image, b.image)
    assert torch.equal(a.evaluations, b.evaluations) and a.status == b.status


# --- a linear prior: the solutions are known


@pytest.mark.parametrize(
    "operator",
    [GaussianSensing(SMALL, 8), Denoising(SMALL, 0.1), Inpainting(SMALL, "left", 0.5, sigma=0.1)],
    ids=["sensing", "denoising", "inpainting"],
)
@pytest.mark.parametrize("gamma", [0.01, 1.0])
def test_formulation_1_arrives_at_the_ridge_solution(operator: Operator, gamma: float) -> None:
    prior = LinearPrior()
    y = operator(linear_truth(), seeds=[1, 2, 3])
    found = exact(prior, gamma).recover(y, operator)
    b, rhs = forward_matrix(prior, operator), y.flatten(1).numpy()
    expected = np.linalg.solve(b.T @ b + gamma * np.eye(N), b.T @ rhs.T).T
    assert found.latent is not None
    np.testing.assert_allclose(found.latent.numpy(), expected, atol=1e-6)
    value = ((expected @ b.T - rhs) ** 2).sum(axis=1) + gamma * (expected**2).sum(axis=1)
    np.testing.assert_allclose(found.objective.numpy(), value, rtol=1e-9)
    assert found.status == ("converged",) * 3


def test_formulation_2_from_zero_arrives_at_the_minimum_norm_solution() -> None:
    prior, operator = LinearPrior(), GaussianSensing(SMALL, 6)
    y = operator(linear_truth(), seeds=[1, 2, 3])
    b = forward_matrix(prior, operator)
    expected = (np.linalg.pinv(b) @ y.numpy().T).T
    errors = []
    for evaluations in (3, 6, 12, 500):
        found = exact(prior, 0.0, evaluations=evaluations).recover(y, operator)
        assert found.latent is not None
        errors.append(np.abs(found.latent.numpy() - expected).max())
        in_null_space = found.latent.numpy() @ (np.eye(N) - np.linalg.pinv(b) @ b)
        assert np.abs(in_null_space).max() < 1e-9
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6


def test_formulation_2_from_elsewhere_keeps_the_start_where_nothing_is_measured() -> None:
    prior, operator = LinearPrior(), GaussianSensing(SMALL, 6)
    y = operator(linear_truth(), seeds=[1, 2, 3])
    start = exact(prior, 0.0, start=Normal(1.0), evaluations=1).recover(y, operator).latent
    found = exact(prior, 0.0, start=Normal(1.0)).recover(y, operator).latent
    assert start is not None and found is not None
    b = forward_matrix(prior, operator)
    nothing_measured = np.eye(N) - np.linalg.pinv(b) @ b
    moved = (found - start).numpy() @ nothing_measured
    assert np.abs(moved).max() < 1e-9 < np.abs(start.numpy() @ nothing_measured).max()
    np.testing.assert_allclose(found.numpy() @ b.T, y.numpy(), atol=1e-6)


def test_a_noiseless_invertible_problem_is_solved_exactly() -> None:
    operator, truth = Denoising(SMALL, 0.0), linear_truth()
    found = exact(LinearPrior(), 0.0).recover(operator(truth), operator)
    assert torch.allclose(found.image, truth, atol=1e-8)
    assert found.image.dtype == torch.float64


# --- stopping


def test_the_search_stops_at_the_noise() -> None:
    prior, operator = LinearPrior(), GaussianSensing(SMALL, 12)
    y = operator(linear_truth(), seeds=[1, 2, 3])
    stopped = exact(prior, 0.0, stop_at_noise=True).recover(y, operator)
    further = exact(prior, 0.0).recover(y, operator)
    assert (stopped.residual**2 <= operator.noise_energy).all()
    assert (further.residual < stopped.residual).all()
    assert (stopped.evaluations < further.evaluations).all()
    assert stopped.status == ("converged",) * 3


def test_glow_stops_at_the_noise_too() -> None:
    operator, _ = problem("sensing")
    y = operator(held_out(), seeds=SEEDS)
    stopped = LatentSearch(flow_prior()).recover(y, operator)
    further = LatentSearch(flow_prior(), stop_at_noise=False).recover(y, operator)
    assert (stopped.residual**2 <= operator.noise_energy * 1.0001).all()
    assert (stopped.evaluations < further.evaluations).all()
    assert stopped.status == ("converged",) * 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["denoising", "sensing"])
def test_a_gpu_recovers_as_well_as_the_cpu(kind: str) -> None:
    require_full_precision()
    operator, gamma = problem(kind)
    there = FlowPrior(copy.deepcopy(glow()).cuda().frozen(), "glow")
    y = operator(held_out(), seeds=SEEDS)
    on_cpu = LatentSearch(flow_prior(), gamma).recover(y, operator)
    on_gpu = LatentSearch(there, gamma).recover(y.cuda(), problem(kind)[0].cuda())
    difference = psnr(on_gpu.image.cpu(), held_out()) - psnr(on_cpu.image, held_out())
    assert difference.abs().max() < 0.1


def test_the_penalty_ignores_the_noise_level() -> None:
    operator, gamma = problem("denoising")
    y = operator(held_out(), seeds=SEEDS)
    stopped, further = (
        LatentSearch(flow_prior(), gamma, stop_at_noise=stop, evaluations=40).recover(y, operator)
        for stop in (True, False)
    )
    assert_equal(stopped, further)
    assert (stopped.residual**2 < operator.noise_energy).any()  # it could have stopped


def test_a_search_spends_no_more_than_its_budget() -> None:
    operator, gamma = problem("denoising")
    y = operator(held_out(), seeds=SEEDS)
    found = LatentSearch(flow_prior(), gamma, evaluations=7).recover(y, operator)
    assert (found.evaluations == 7).all()
    assert found.status == ("budget",) * 5
    assert (found.steps < found.evaluations).all() and (found.steps > 0).all()


def test_progress_is_told_every_evaluation_of_every_part() -> None:
    operator, gamma = problem("denoising")
    y = operator(held_out(), seeds=SEEDS)
    told: list[tuple[int, int]] = []
    search = LatentSearch(flow_prior(), gamma, evaluations=3, batch_size=3)
    search.recover(y, operator, progress=lambda step, active: told.append((step, active)))
    assert told == [(1, 3), (2, 3), (3, 0), (1, 2), (2, 2), (3, 0)]


# --- Glow


@each_problem
def test_recovery_is_much_closer_to_the_truth_than_the_start(kind: str) -> None:
    operator, gamma = problem(kind)
    y = operator(held_out(), seeds=SEEDS)
    found = LatentSearch(flow_prior(), gamma).recover(y, operator)
    start = flow_prior().decode(torch.zeros(1, flow_prior().latent_dim))
    gain = psnr(found.image, held_out()) - psnr(start.expand_as(held_out()), held_out())
    assert gain.min() > 1.5  # an untrained Glow: it knows little of faces


@each_problem
def test_recovery_fits_the_measurements_it_reports_on(kind: str) -> None:
    operator, gamma = problem(kind)
    y = operator(held_out(), seeds=SEEDS)
    found = LatentSearch(flow_prior(), gamma).recover(y, operator)
    assert found.latent is not None
    assert torch.allclose(flow_prior().decode(found.latent), found.image, atol=1e-6)
    residual = torch.stack([(operator.A(found.image[i : i + 1]) - y[i]).norm() for i in range(5)])
    assert torch.allclose(found.residual, residual, rtol=1e-4, atol=1e-6)
    objective = residual**2 + gamma * found.latent.square().sum(dim=1)
    assert torch.allclose(found.objective, objective, rtol=1e-4, atol=1e-6)


@each_problem
def test_an_image_alone_is_recovered_as_in_a_batch(kind: str) -> None:
    operator, gamma = problem(kind)
    y = operator(held_out(), seeds=SEEDS)
    search = LatentSearch(flow_prior(), gamma, evaluations=40)
    alone = [search.recover(y[i : i + 1], operator) for i in range(5)]
    assert_same(search.recover(y, operator), concatenate(alone))


@each_problem
@pytest.mark.parametrize("start_std", [0.0, 0.3])
def test_batch_size_changes_no_result(kind: str, start_std: float) -> None:
    operator, gamma = problem(kind)
    y = operator(held_out(), seeds=SEEDS)
    options = {"start": Normal(start_std), "evaluations": 40}
    whole, pairs = (
        LatentSearch(flow_prior(), gamma, **options, batch_size=size).recover(y, operator)  # type: ignore[arg-type]
        for size in (5, 2)
    )
    assert_same(whole, pairs)


def test_an_image_without_finite_measurements_diverges_alone() -> None:
    operator, gamma = problem("denoising")
    y = operator(held_out(), seeds=SEEDS)
    search = LatentSearch(flow_prior(), gamma, evaluations=40)
    clean = search.recover(y, operator)
    for bad in (math.nan, math.inf):
        broken = y.clone()
        broken[1, 0, 2, 3] = bad
        found = search.recover(broken, operator)
        assert found.status[1] == "diverged"
        assert found.image[1].isfinite().all()
        others = [0, 2, 3, 4]
        assert "diverged" not in rows(found, others).status
        truth = held_out()[others]
        change = psnr(found.image[others], truth) - psnr(clean.image[others], truth)
        assert change.abs().max() < 0.02


def starts(prior: Prior, y: Tensor, operator: Operator, **options: object) -> Tensor:
    """Latents after the one evaluation at the start."""
    latent = exact(prior, 0.0, evaluations=1, **options).recover(y, operator).latent
    assert latent is not None
    return latent


# --- starts


def test_random_starts_differ_by_image_and_seed_and_come_again() -> None:
    prior, operator, y = LinearPrior(), Denoising(SMALL, 0.0), linear_truth()
    first = starts(prior, y, operator, start=Normal(0.5))
    assert torch.equal(starts(prior, y, operator, start=Normal(0.5), batch_size=2), first)
    assert not torch.equal(first[0], first[1])
    assert (starts(prior, y, operator, start=Normal(0.5), seed=1) != first).all()
    assert torch.allclose(starts(prior, y, operator, start=Normal(1.0)), 2 * first)
    assert 0.3 < first.std() < 0.7
    assert (starts(prior, y, operator) == 0).all()


def test_a_random_start_belongs_to_the_image_whatever_its_batch() -> None:
    operator, y = Denoising(SMALL, 0.0), linear_truth(3)
    search = exact(LinearPrior(), 0.0, evaluations=1, start=Normal(0.5))
    together = search.recover(y, operator, seeds=[5, 6, 7]).latent
    alone = search.recover(y[1:2], operator, seeds=[6]).latent
    assert together is not None and alone is not None
    assert torch.equal(together[1:2], alone)


def test_only_images_whose_start_does_not_decode_start_at_zero() -> None:
    operator, y = Denoising(SMALL, 0.0), linear_truth(6)
    drawn = starts(LinearPrior(), y, operator, start=Normal(1.0))
    bad = drawn[:, 0] > 0
    assert bad.any() and not bad.all()
    used = starts(NotEverywherePrior(), y, operator, start=Normal(1.0))
    assert (used[bad] == 0).all()
    assert torch.equal(used[~bad], drawn[~bad])


@pytest.mark.parametrize("start_std", [1e19, 1e30, 1e38, math.inf])
def test_a_start_too_far_to_be_evaluated_becomes_the_papers_start(start_std: float) -> None:
    operator, gamma = problem("denoising")
    y = operator(held_out(), seeds=SEEDS)
    far, paper = (
        LatentSearch(flow_prior(), gamma, start=Normal(std), evaluations=5).recover(y, operator)
        for std in (start_std, 0.0)
    )
    assert_equal(far, paper)
    assert far.image.isfinite().all()


# --- priors and methods


def test_searching_leaves_global_randomness_and_gradients_alone() -> None:
    operator, gamma = problem("denoising")
    before = torch.get_rng_state()
    with torch.no_grad():
        y = operator(held_out(), seeds=SEEDS)
        found = LatentSearch(flow_prior(), gamma, evaluations=3, start=Normal(0.1)).recover(
            y, operator
        )
    assert torch.equal(torch.get_rng_state(), before)
    assert not found.image.requires_grad and not found.objective.requires_grad
    assert all(parameter.grad is None for parameter in glow().parameters())


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma.*-0\.1"):
        LatentSearch(LinearPrior(), -0.1)


@pytest.mark.parametrize("option", ["evaluations", "history"])
def test_an_empty_budget_is_refused(option: str) -> None:
    operator, y = Denoising(SMALL, 0.0), linear_truth()
    with pytest.raises(ValueError, match=f"{option}.*at least 1"):
        LatentSearch(LinearPrior(), **{option: 0}).recover(y, operator)  # type: ignore[arg-type]
