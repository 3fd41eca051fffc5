"""Where a latent search begins (paper, section 6.2: the study of initialisations)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.checks import require_at_least
from core.seeds import normal
from recovery.methods import PriorFree
from recovery.operators import Operator


class Start:
    """Makes the first latents (B, n) of a search from measurements y (B, ...) of an operator.

    Whatever is random in image i's comes from seeds[i] alone.
    """

    def __call__(self, prior: Any, y: Tensor, operator: Operator, seeds: Sequence[int]) -> Tensor:
        raise NotImplementedError

    def check(self, prior: Any, operator: Operator) -> None:
        """Raise ValueError, with the reason, if this start cannot serve the prior or operator."""


@dataclass(frozen=True)
class Normal(Start):
    """Starts at N(0, std^2 I); std 0 is the paper's start.

    Raises:
        ValueError: std is negative.
    """

    std: float = 0.0

    def __post_init__(self) -> None:
        require_at_least(0, std=self.std)

    def __call__(self, prior: Any, y: Tensor, operator: Operator, seeds: Sequence[int]) -> Tensor:
        return prior.initial_latent(list(seeds), self.std)


@dataclass(frozen=True)
class OnSphere(Start):
    """Starts in a random direction at norm `radius` sqrt(n): radius 1 is that of a typical latent.

    Raises:
        ValueError: radius is negative.
    """

    radius: float

    def __post_init__(self) -> None:
        require_at_least(0, radius=self.radius)

    def __call__(self, prior: Any, y: Tensor, operator: Operator, seeds: Sequence[int]) -> Tensor:
        directions = normal(seeds, (prior.latent_dim,))
        norm = self.radius * prior.latent_dim**0.5
        return norm * directions / directions.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Encoded(Start):
    """Starts at the latent of another method's recovery, say the Lasso's. Needs an encoder."""

    method: PriorFree

    def check(self, prior: Any, operator: Operator) -> None:
        require_encoder("a start at an encoded image", prior)
        self.method.check(operator)

    @torch.no_grad()
    def __call__(self, prior: Any, y: Tensor, operator: Operator, seeds: Sequence[int]) -> Tensor:
        return prior.encode(self.method.recover(y, operator, seeds=seeds).image)[0]


def require_encoder(what: str, prior: Any) -> None:
    """Raise ValueError for a prior that is not invertible."""
    if not hasattr(prior, "encode"):
        raise ValueError(f"{what} needs an invertible prior, and {prior.name} is not one")
