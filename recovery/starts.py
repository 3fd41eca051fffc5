"""Where a latent search begins (paper, section 6.2: the study of initialisations)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recovery.linear import solve_normal
from recovery.methods import PriorFree, require_linear
from recovery.operators import Operator
from recovery.priors import GanPrior
from recovery.seeds import normal


class Start:
    """Makes the first latents (B, n) of a search from measurements y (B, ...) of an operator.

    What is random in image i's comes from seeds[i] alone.
    """

    def __call__(self, prior: Any, y: Tensor, operator: Operator, seeds: Sequence[int]) -> Tensor:
        raise NotImplementedError

    def check(self, prior: Any, operator: Operator) -> None:
        """Raises ValueError if this start cannot serve the prior and the operator, saying why."""

    def knowing(self, truth: Tensor) -> "Start":
        """This start once it has seen the true images (B, C, H, W): only diagnostics differ."""
        return self

    def part(self, images: slice) -> "Start":
        """This start for a part of the batch whose truth it has seen."""
        return self


@dataclass(frozen=True)
class Normal(Start):
    """N(0, std^2 I); std 0 is the paper's start.

    Raises:
        ValueError: std is negative.
    """

    std: float = 0.0

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(f"std must be at least 0, got {self.std}")

    def __call__(self, prior: Any, y: Tensor, operator: Operator, seeds: Sequence[int]) -> Tensor:
        return prior.initial_latent(list(seeds), self.std)


@dataclass(frozen=True)
class OnSphere(Start):
    """A random direction of norm `radius` sqrt(n): at radius 1 that of a typical latent.

    Raises:
        ValueError: radius is negative.
    """

    radius: float

    def __post_init__(self) -> None:
        if not self.radius >= 0:
            raise ValueError(f"radius must be at least 0, got {self.radius}")

    def __call__(self, prior: Any, y: Tensor, operator: Operator, seeds: Sequence[int]) -> Tensor:
        directions = normal(seeds, (prior.latent_dim,))
        norm = self.radius * prior.latent_dim**0.5
        return norm * directions / directions.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Encoded(Start):
    """The latent of what another method recovers, e.g. the Lasso. Needs an invertible prior."""

    method: PriorFree

    def check(self, prior: Any, operator: Operator) -> None:
        require_encoder("a start at an encoded image", prior)
        self.method.check(operator)

    @torch.no_grad()
    def __call__(self, prior: Any, y: Tensor, operator: Operator, seeds: Sequence[int]) -> Tensor:
        return prior.encode(self.method.recover(y, operator, seeds=seeds).image)[0]


@dataclass(frozen=True)
class NullSpace(Start):
    """The latent of the truth moved by `distance` where A does not see it: a diagnostic.

    A search that ends as far from the truth as it began was held by its start, not by y. It sees
    the truth, so it is no method to compare others with. Needs a linear operator.
    """

    distance: float = 5.0
    truth: Tensor | None = None

    def check(self, prior: Any, operator: Operator) -> None:
        require_encoder("a start in the null space", prior)
        require_linear("a start in the null space", operator)

    def knowing(self, truth: Tensor) -> "NullSpace":
        return replace(self, truth=truth)

    def part(self, images: slice) -> "NullSpace":
        return self if self.truth is None else replace(self, truth=self.truth[images])

    @torch.no_grad()
    def __call__(self, prior: Any, y: Tensor, operator: Operator, seeds: Sequence[int]) -> Tensor:
        if self.truth is None:
            raise ValueError("NullSpace starts from the truth, which this search was not shown")
        drawn = normal(seeds, operator.image_shape).to(y)
        u, _, solved = solve_normal(operator.A(drawn), operator, iterations=1000)
        unseen = drawn - operator.A_adjoint(u)  # drawn - A^+ A drawn
        length = unseen.flatten(1).norm(dim=1)
        # where A sees everything, what is left is rounding: the start is then the truth itself
        hidden = solved & (length > 1e-3 * drawn.flatten(1).norm(dim=1))
        scale = torch.where(hidden, self.distance / length, 0.0)
        step = scale.view(-1, 1, 1, 1) * unseen
        return prior.encode(self.truth + step)[0]


def require_encoder(what: str, prior: Any) -> None:
    """Raises ValueError for a prior that is not invertible."""
    if isinstance(prior, GanPrior) or not hasattr(prior, "encode"):
        raise ValueError(f"{what} needs an invertible prior, and {prior.name} is not one")
