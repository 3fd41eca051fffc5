"""Searches that see the truth: not methods to compare, but tests of what holds a search back."""

import copy
from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from core.seeds import normal, seed_from
from core.variants import SEES_THE_TRUTH
from priors.prior import FlowPrior
from recovery.latent_search import LatentSearch
from recovery.linear import solve_normal
from recovery.methods import Progress, Recovery, in_parts, require_linear
from recovery.operators import Operator
from recovery.starts import require_encoder


@runtime_checkable
class Diagnostic(Protocol):
    """A search that wants to see the true images before it recovers them."""

    def shown(self, truth: Tensor) -> Self:
        """Return a copy that has seen the images (B, C, H, W)."""


class NullSpaceSearch(LatentSearch):
    """Searches from the truth, moved by `distance` in a direction that A does not see.

    If the search ends as far from the truth as it began, its start held it, not y (paper, section
    6.2, Fig. 15).

    Args:
        prior: an invertible prior.
        distance: Euclidean, of images.
        gamma, evaluations, history, stop_at_noise, gradient_tolerance, seed, batch_size: see
            `LatentSearch`.
    """

    variant = SEES_THE_TRUTH
    prior: FlowPrior

    def __init__(
        self,
        prior: FlowPrior,
        gamma: float = 0.0,
        *,
        distance: float = 5.0,
        evaluations: int = 200,
        history: int = 50,
        stop_at_noise: bool = True,
        gradient_tolerance: float = 1e-5,
        seed: int = 0,
        batch_size: int = 32,
    ) -> None:
        super().__init__(
            prior,
            gamma,
            evaluations=evaluations,
            history=history,
            stop_at_noise=stop_at_noise,
            gradient_tolerance=gradient_tolerance,
            seed=seed,
            batch_size=batch_size,
        )
        self.distance = distance
        self._truth: Tensor | None = None

    def check(self, operator: Operator) -> None:
        require_encoder("a start in the null space", self.prior)
        require_linear("a start in the null space", operator)

    def shown(self, truth: Tensor) -> Self:
        informed = copy.copy(self)
        informed._truth = truth
        return informed

    def recover(
        self,
        y: Tensor,
        operator: Operator,
        *,
        seeds: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Recovery:
        """Recover as `Method.recover` does. Raises ValueError if it has not seen the truth."""
        if self._truth is None:
            raise ValueError("this search starts from the truth, which it was not shown")
        truth, seeds = self._truth, range(len(y)) if seeds is None else seeds

        def batch(part: slice) -> Recovery:
            start = self.starts(truth[part], operator, seeds[part])
            return self.search(y[part], start, operator, progress)

        return in_parts(batch, len(y), self.batch_size or len(y))

    @torch.no_grad()
    def starts(self, truth: Tensor, operator: Operator, seeds: Sequence[int]) -> Tensor:
        """Make the first latents (B, n); image i's direction comes from seeds[i]."""
        mixed = [seed_from("start", self.seed, seed) for seed in seeds]
        drawn = normal(mixed, operator.image_shape).to(truth)
        u, _, solved = solve_normal(operator.A(drawn), operator, iterations=1000)
        unseen = drawn - operator.A_adjoint(u)  # drawn - A^+ A drawn
        length = unseen.flatten(1).norm(dim=1)
        # where A sees everything only rounding is left, and the start is the truth itself
        hidden = solved & (length > 1e-3 * drawn.flatten(1).norm(dim=1))
        scale = torch.where(hidden, self.distance / length, 0.0)
        return self.prior.encode(truth + scale.view(-1, 1, 1, 1) * unseen)[0]
