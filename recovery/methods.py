"""What every recovery method returns, and how to make one from a prior."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recovery.operators import Operator
from recovery.priors import Prior

Status = Literal["converged", "budget", "diverged"]


@dataclass(frozen=True)
class Recovery:
    """One recovered image per row; never an average.

    Attributes:
        image: (B, C, H, W), not clamped.
        latent: (B, n), or None for methods without latents.
        objective: (B,) final value of what was minimised.
        residual: (B,) ||A(image) - y||.
        steps, evaluations: (B,) int64, of the minimiser and of the objective.
        status: per image.
        alternatives: other iterates of the same search, by the name their rows bear as variant.
    """

    image: Tensor
    latent: Tensor | None
    objective: Tensor
    residual: Tensor
    steps: Tensor
    evaluations: Tensor
    status: tuple[Status, ...]
    alternatives: Mapping[str, "Recovery"] = field(default_factory=dict)


def concatenate(parts: Sequence[Recovery]) -> Recovery:
    """The recoveries of consecutive parts of a batch as one."""
    latents = [part.latent for part in parts if part.latent is not None]
    return Recovery(
        image=torch.cat([part.image for part in parts]),
        latent=torch.cat(latents) if latents else None,
        objective=torch.cat([part.objective for part in parts]),
        residual=torch.cat([part.residual for part in parts]),
        steps=torch.cat([part.steps for part in parts]),
        evaluations=torch.cat([part.evaluations for part in parts]),
        status=tuple(status for part in parts for status in part.status),
        alternatives={
            name: concatenate([part.alternatives[name] for part in parts])
            for name in parts[0].alternatives
        },
    )


# called after every batched evaluation with its number and the number of images still searched
Progress = Callable[[int, int], None]


class Method(nn.Module, ABC):
    """Recovers images from measurements y (B, ...) of an operator.

    A module only so that deepinv can run it: `method(y, physics)` is the image alone.

    Attributes:
        variant: of its rows, where a recovery has alternatives.
    """

    variant: str = ""

    @abstractmethod
    def recover(
        self,
        y: Tensor,
        operator: Operator,
        *,
        seeds: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Recovery:
        """One recovery per measurement; what is random in image i's comes from seeds[i] alone.

        Without seeds, from the position in the batch.
        """

    def check(self, operator: Operator) -> None:
        """Raises ValueError if this method cannot serve the operator, saying why."""

    def knowing(self, truth: Tensor) -> "Method":
        """This method once it has seen the true images: only diagnostics differ."""
        return self

    def forward(self, y: Tensor, physics: nn.Module, **kwargs: Any) -> Tensor:
        """Images (B, C, H, W) from y, measured by one of our operators or a deepinv physics."""
        from recovery.deepinv import as_operator  # which knows methods, and imports no deepinv

        prior = getattr(self, "prior", None)
        operator = as_operator(physics, y, prior and prior.image_shape)
        self.check(operator)
        return self.recover(y, operator).image


class PriorFree(Method):
    """A method that needs no trained prior: the same for every run and at any time of training."""


class PriorBased(Method):
    """A method made from a prior, and asked again whenever training has changed it.

    Told from `PriorFree` by class, so that a config's errors are those of the right one.
    """


# (prior, gamma) -> method; gamma is the weight of the penalty, which belongs to the problem
MethodFactory = Callable[[Prior, float], PriorBased]


def residual_energy(y: Tensor, measured: Tensor) -> Tensor:
    """||measured - y||^2 per image, (B,)."""
    return (measured - y).flatten(1).square().sum(dim=1)


def require_linear(method: str, operator: Operator) -> None:
    """Raises ValueError for an operator that is not linear."""
    if not operator.linear:
        raise ValueError(f"{method} needs a linear operator, and {operator.label} is not one")


def residual_norm(image: Tensor, y: Tensor, operator: Operator) -> Tensor:
    """||A(image) - y|| per image, (B,), without gradient."""
    with torch.no_grad():
        return residual_energy(y, operator.A(image)).sqrt()
