"""Hamiltonian Monte Carlo on a Gaussian, and diagnostics where the answer is known."""

import pytest
import torch
from torch import Tensor

from recovery.hamiltonian import State, StepSize, advance, effective_samples, r_hat

SCALES = torch.tensor([0.5, 1.0, 2.0, 1.5]).double()


def energy(points: Tensor) -> tuple[Tensor, Tensor]:
    return (points / SCALES).square().sum(dim=1) / 2, points / SCALES**2


def chains(steps: int, step: float, leapfrogs: int = 4, count: int = 64) -> tuple[Tensor, float]:
    """Draws (chains, steps, 4) of N(0, SCALES^2), started at 0, and the mean chance."""
    random = torch.Generator().manual_seed(0)
    point = torch.zeros(count, 4).double()
    state = State(point, *energy(point))
    draws, chances = [], []
    for _ in range(steps):
        momentum = torch.randn(count, 4, generator=random).double()
        luck = torch.rand(count, generator=random).double()
        size = step * (0.8 + 0.4 * torch.rand(count, generator=random).double())
        state, chance = advance(energy, state, leapfrogs, size, momentum, luck)
        draws.append(state.point)
        chances.append(chance)
    return torch.stack(draws, dim=1), float(torch.stack(chances).mean())


def test_chains_have_the_targets_mean_and_variance() -> None:
    draws, chance = chains(steps=400, step=0.6)
    assert 0.7 < chance < 0.95  # so coarse a step is wrong without the Metropolis test
    flat = draws[:, 20:].flatten(0, 1)
    assert (flat.mean(dim=0) / SCALES).abs().max() < 0.05
    assert (flat.std(dim=0) / SCALES - 1).abs().max() < 0.03
    assert (r_hat(draws[:, 20:]) < 1.01).all()


@pytest.mark.parametrize("beyond", [torch.nan, torch.inf, -torch.inf])
def test_a_proposal_that_is_not_finite_is_refused(beyond: float) -> None:
    def cliff(points: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = energy(points)
        return torch.where(points[:, 0] > 0, beyond, values), gradients

    point = -torch.ones(8, 4).double()
    state = State(point, *cliff(point))
    towards = 3 * torch.ones(8, 4).double()
    moved, chance = advance(
        cliff, state, 3, torch.ones(8).double() * 0.2, towards, torch.zeros(8).double()
    )
    assert (chance == 0).all() and torch.equal(moved.point, point)


def test_the_step_size_learns_the_share_of_accepted_proposals() -> None:
    step = StepSize(0.05, 0.8)
    for _ in range(40):
        step.learn(float(chains(steps=1, step=step.size, count=32)[1]))
    last = step.size
    step.settle()
    assert step.size != last  # the average, not the last that was tried
    assert abs(chains(steps=50, step=step.size)[1] - 0.8) < 0.06


def test_chains_that_have_not_met_are_told() -> None:
    draws = torch.randn(8, 200, 3, generator=torch.Generator().manual_seed(0)).double()
    assert (r_hat(draws) < 1.02).all()
    apart = draws + torch.arange(8).view(8, 1, 1)
    assert (r_hat(apart) > 1.5).all()
    drifting = draws + torch.linspace(0, 4, 200).view(1, 200, 1)  # split halves catch it
    assert (r_hat(drifting) > 1.3).all()
    assert not (r_hat(torch.zeros(4, 8, 1)) < 1.1).any()  # chains that never moved


def test_effective_samples_of_an_autoregression() -> None:
    """AR(1) of coefficient a: N draws are worth N (1 - a) / (1 + a)."""
    noise = torch.randn(8, 4000, 3, generator=torch.Generator().manual_seed(0)).double()
    for a in (0.0, 0.5, 0.9):
        draws = torch.zeros_like(noise)
        for t in range(noise.shape[1]):
            draws[:, t] = a * draws[:, t - 1] + noise[:, t]
        expected = 32000 * (1 - a) / (1 + a)
        assert ((effective_samples(draws) / expected - 1).abs() < 0.15).all()
