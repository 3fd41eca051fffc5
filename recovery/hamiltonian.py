"""Hamiltonian Monte Carlo for many chains at once (Neal 2011), and whether they have mixed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# points (B, n) -> -log density up to a constant (B,), gradients (B, n)
Energy = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class State:
    """Where chains are: points (B, n), their energies (B,) and gradients (B, n)."""

    point: Tensor
    energy: Tensor
    gradient: Tensor


def advance(
    energy: Energy, state: State, leapfrogs: int, step: Tensor, momentum: Tensor, luck: Tensor
) -> tuple[State, Tensor]:
    """Move each chain by one trajectory, accepted or not (Metropolis); unit mass.

    Args:
        energy: of the target.
        state: of B chains.
        leapfrogs: of the trajectory.
        step: size of a leapfrog, (B,).
        momentum: (B, n), of N(0, I).
        luck: (B,), of U[0, 1).

    Returns:
        The new state, and each proposal's chance of acceptance, (B,): 0 of an energy that is not
        finite.
    """
    size = step[:, None]
    before = state.energy + momentum.square().sum(dim=1) / 2
    point, gradient = state.point, state.gradient
    momentum = momentum - size / 2 * gradient
    for left in reversed(range(leapfrogs)):
        point = point + size * momentum
        value, gradient = energy(point)
        momentum = momentum - (size if left else size / 2) * gradient
    after = value + momentum.square().sum(dim=1) / 2
    chance = torch.where(after.isfinite(), (before - after).clamp_max(0).exp(), 0.0)
    accepted = luck < chance
    moved = State(
        torch.where(accepted[:, None], point, state.point),
        torch.where(accepted, value, state.energy),
        torch.where(accepted[:, None], gradient, state.gradient),
    )
    return moved, chance


class StepSize:
    """Learns the step size that has `aim` of the proposals accepted: dual averaging (Hoffman &
    Gelman 2014, algorithm 5, with their constants).

    Attributes:
        size: to use now; after `settle`, for good.
    """

    def __init__(self, first: float, aim: float) -> None:
        self.size = first
        self.aim = aim
        self._anchor = math.log(10 * first)
        self._shortfall = self._average = 0.0
        self._count = 0

    def learn(self, chance: float) -> None:
        self._count += 1
        weight = 1 / (self._count + 10)
        self._shortfall += weight * (self.aim - chance - self._shortfall)
        logarithm = self._anchor - self._count**0.5 / 0.05 * self._shortfall
        self._average += self._count**-0.75 * (logarithm - self._average)
        self.size = math.exp(logarithm)

    def settle(self) -> None:
        self.size = math.exp(self._average)


def r_hat(draws: Tensor) -> Tensor:
    """Compute split R-hat (Gelman et al. 2013, eq. 11.4) of draws (chains, steps, K): (K,).

    1 where all halves of all chains agree. Needs 4 steps.
    """
    half = draws.shape[1] // 2
    within, total = _variances(torch.cat([draws[:, :half], draws[:, -half:]]))
    return (total / within).sqrt()


def effective_samples(draws: Tensor) -> Tensor:
    """Estimate how many independent draws those of (chains, steps, K) are worth: (K,).

    By their autocorrelation over all chains, summed up to the first pair of lags that is not
    positive (Geyer 1992; Vehtari et al. 2021, section 3.2, without splitting chains).
    """
    chains, steps = draws.shape[:2]
    within, total = _variances(draws)
    centred = draws - draws.mean(dim=1, keepdim=True)
    spectrum = torch.fft.rfft(centred, n=2 * steps, dim=1).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * steps, dim=1)[:, :steps].mean(dim=0) / steps
    correlation = 1 - (within - covariance) / total  # (steps, K), 1 at lag 0
    correlation[0] = 1
    pairs = correlation[: steps // 2 * 2].unflatten(0, (-1, 2)).sum(dim=1)
    positive = (pairs > 0).cumprod(dim=0)
    length = (2 * (pairs * positive).sum(dim=0) - 1).clamp_min(1 / math.log10(chains * steps))
    return chains * steps / length


def _variances(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate the variance from within chains, and from within and between them: (K,) each."""
    steps = draws.shape[1]
    within = draws.var(dim=1).mean(dim=0)
    between = draws.mean(dim=1).var(dim=0)  # of the chains' means
    return within, (steps - 1) / steps * within + between
