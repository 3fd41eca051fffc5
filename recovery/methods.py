"""What a recovery method is, and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from priors.prior import Prior
from recovery.lbfgs import Progress
from recovery.operators import Operator
from recovery.physics import as_operator

# "mixed", "unmixed": of Markov chains, which have met or not
Status = Literal["converged", "budget", "diverged", "mixed", "unmixed"]
REACHED: tuple[Status, ...] = ("converged", "mixed")  # what the method is for


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
        alternatives: other iterates of the same search, by their rows' variant.
        samples: (B, S, C, H, W) of the posterior, where the method draws any; else None.
        diagnostics: what else a method tells of each image, (B,) by name.
    """

    image: Tensor
    latent: Tensor | None
    objective: Tensor
    residual: Tensor
    steps: Tensor
    evaluations: Tensor
    status: tuple[Status, ...]
    alternatives: Mapping[str, "Recovery"] = field(default_factory=dict)
    samples: Tensor | None = None
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


def concatenate(parts: Sequence[Recovery]) -> Recovery:
    """Join the recoveries of consecutive parts of a batch."""
    latents = [part.latent for part in parts if part.latent is not None]
    samples = [part.samples for part in parts if part.samples is not None]
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
        samples=torch.cat(samples) if samples else None,
        diagnostics={
            name: torch.cat([part.diagnostics[name] for part in parts])
            for name in parts[0].diagnostics
        },
    )


def in_parts(recover: Callable[[slice], Recovery], count: int, size: int) -> Recovery:
    """Recover `count` images, `size` at a time."""
    return concatenate([recover(slice(i, i + size)) for i in range(0, count, size)])


class Method(nn.Module):
    """Recovers images from measurements y (B, ...) of an operator.

    Subclasses write `_recover` for one batch. It is a module only so that deepinv can run it:
    `method(y, physics)` returns the image alone.

    Attributes:
        variant: of its rows, where a recovery has alternatives.
        batch_size: images recovered at once; None for all of them.
    """

    variant: str = ""
    batch_size: int | None = None

    def recover(
        self,
        y: Tensor,
        operator: Operator,
        *,
        seeds: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Recovery:
        """Recover one image per measurement; whatever is random in image i's comes from seeds[i].

        Without seeds, it comes from the position in y. Calls `progress` after every batched
        evaluation, with its number and the number of images it still searches.
        """
        seeds = range(len(y)) if seeds is None else seeds

        def batch(part: slice) -> Recovery:
            return self._recover(y[part], operator, seeds[part], progress)

        return in_parts(batch, len(y), self.images_at_once or len(y))

    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        """Recover one batch."""
        raise NotImplementedError

    @property
    def images_at_once(self) -> int | None:
        return self.batch_size

    def check(self, operator: Operator) -> None:
        """Raise ValueError, with the reason, if this method cannot serve the operator."""

    def takes_gamma(self, operator: Operator) -> bool:
        """Whether the weight of the penalty, gamma, changes what it recovers."""
        return False

    def forward(self, y: Tensor, physics: nn.Module, **kwargs: Any) -> Tensor:
        """Recover images (B, C, H, W) from y of one of our operators or of a deepinv physics."""
        prior = getattr(self, "prior", None)
        operator = as_operator(physics, y, prior and prior.image_shape)
        self.check(operator)
        return self.recover(y, operator).image


class PriorFree(Method):
    """A method that needs no trained prior: the same for every run, at any time of training."""


class PriorBased(Method):
    """A method made from a prior, and made again whenever training has changed the prior.

    A class apart from `PriorFree`, so that the parser of configs reports errors of the right one.
    """

    def takes_gamma(self, operator: Operator) -> bool:
        return True


# (prior, gamma) -> method; gamma is the weight of the penalty, which belongs to the problem
MethodFactory = Callable[[Prior, float], PriorBased]


def residual_energy(y: Tensor, measured: Tensor) -> Tensor:
    """Compute ||measured - y||^2 per image, (B,)."""
    return (measured - y).flatten(1).square().sum(dim=1)


def require_linear(method: str, operator: Operator) -> None:
    """Raise ValueError for an operator that is not linear."""
    if not operator.linear:
        raise ValueError(f"{method} needs a linear operator, and {operator.label} is not one")


def residual_norm(image: Tensor, y: Tensor, operator: Operator) -> Tensor:
    """Compute ||A(image) - y|| per image, (B,), without gradient."""
    with torch.no_grad():
        return residual_energy(y, operator.A(image)).sqrt()
