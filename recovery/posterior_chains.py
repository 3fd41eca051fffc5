"""Posterior samples made exact, or known not to be: Markov chains from where searches ended."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.checks import require_at_least
from core.seeds import normal, seed_from, uniform
from priors.prior import FlowPrior, Prior
from recovery.hamiltonian import State, StepSize, advance, effective_samples, r_hat
from recovery.image_search import LARGEST_IMAGE
from recovery.linear_gaussian import LEAST_SIGMA, matrix_of
from recovery.methods import (
    Progress,
    Recovery,
    Status,
    require_linear,
    residual_energy,
    residual_norm,
)
from recovery.operators import Operator
from recovery.posterior import PosteriorSamples
from recovery.starts import require_encoder

MIXED = 1.1  # chains whose R-hat is below it count as one (Gelman et al. 2013)
DIAGNOSTICS = ("r_hat", "effective_samples", "acceptance", "step")
DIRECTIONS = 16  # of the image, random, in which mixing is judged
ACCEPTED = 0.8  # mean chance of a proposal that the step size aims at
FIRST_STEP = 0.05
JITTER = 0.2  # of a step size, up and down, so that no trajectory is periodic
ROWS_AT_ONCE = 64  # of a Jacobian


class PosteriorChains(PosteriorSamples):
    """Moves `PosteriorSamples`' samples by Hamiltonian Monte Carlo, a chain from each, towards the
    posterior itself, whose density over images x is, up to a factor,

        p_G(x) exp(-||A x - y||^2 / (2 sigma^2))

    The chains of an image move in the coordinates u of x = start + R u, where

        R R' = (F'F + A'A / sigma^2)^-1,    F = dz/dx at the image's first sample

    is the Gauss-Newton posterior covariance, exact for a linear flow. The image's step size is
    learnt in the first half of the steps; only the second half counts.

    `image` is the mean over chains and steps, `samples` are where the chains end, `objective` is
    their mean -log density. Status: `mixed` where R-hat is below 1.1 for the log density and in 16
    random directions of the image; `unmixed` where it is not, and the chains have not met;
    `diverged` where no search found anything finite to start from.

    `diagnostics`: `r_hat` and `effective_samples`, the worst of those 17; `acceptance`, the mean
    chance of a proposal; `step`, its size. `evaluations` are those of the searches, the chains, and
    F's n rows.

    Args:
        prior: invertible, frozen.
        gamma: see `PosteriorSamples`.
        steps: of a chain, from 8 on.
        leapfrogs: of a step at most; a quarter of a period of u's Gaussian may take fewer. Each
            evaluates the prior and its gradient.
        options: of `PosteriorSamples`. `samples` are the chains of an image. `batch_size`, how many
            move at once, changes rounding, which chains amplify: other draws of the same density.

    Raises:
        ValueError: the prior is not invertible, or an option is out of range; names it.
    """

    prior: FlowPrior

    def __init__(
        self,
        prior: Prior,
        gamma: float = 0.0,
        *,
        steps: int = 40,
        leapfrogs: int = 30,
        **options: Any,
    ) -> None:
        require_encoder("a Markov chain of images", prior)
        require_at_least(8, steps=steps)  # a half counts, and R-hat halves it again
        require_at_least(1, leapfrogs=leapfrogs)
        super().__init__(prior, gamma, **options)
        self.steps = steps
        self.leapfrogs = leapfrogs

    def check(self, operator: Operator) -> None:
        super().check(operator)
        require_linear("a Markov chain of images", operator)
        instead = "use recovery.posterior.PosteriorSamples"
        if not operator.tells_noise:
            raise ValueError(
                f"a Markov chain of images needs noise of known sigma, and {operator.label} tells "
                f"none: {instead}"
            )
        if self.prior.latent_dim > LARGEST_IMAGE:
            raise ValueError(
                "a Markov chain of images factors a matrix of n rows, and images of more than "
                f"{LARGEST_IMAGE:,} values are too large for that: {instead}"
            )
        if operator.measurements > LARGEST_IMAGE:
            raise ValueError(
                "a Markov chain of images factors the operator's matrix, and the "
                f"{operator.measurements:,} measurements of {operator.label} are too many for "
                f"that: {instead}"
            )

    @property
    def images_at_once(self) -> int:
        return 1  # the chains of one image are the batch

    @torch.no_grad()
    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        found = super()._recover(y, operator, seeds, progress)
        assert found.samples is not None
        count = Counted(progress)
        sigma = max(operator.sigma, LEAST_SIGMA)
        start = startable(self.prior, operator, y, found.samples[0])
        root = None
        if start is not None:
            matrix = matrix_of(operator, y)
            root = gauss_newton_root(self.prior, start[:1], matrix, sigma, self.batch_size, count)
        if start is None or root is None:
            nothing = found.objective.new_full((1,), torch.nan)
            diagnostics = dict.fromkeys(DIAGNOSTICS, nothing)
            return replace(found, status=("diverged",), diagnostics=diagnostics)
        target = Target(self.prior, operator, y, sigma, start, root, self.batch_size, count)
        run = self.run(target, seeds[0])
        first, sample = run.last[:1], found.alternatives["sample"]
        rows_of_f = self.prior.latent_dim
        mixed = bool(run.diagnostics["r_hat"] < MIXED)
        status: tuple[Status] = ("mixed" if mixed else "unmixed",)
        return replace(
            found,
            image=run.image,
            objective=run.energy.mean().view(1),
            residual=residual_norm(run.image, y, operator),
            steps=found.steps + self.samples * self.steps,
            evaluations=found.evaluations + self.samples * run.evaluations + rows_of_f,
            status=status,
            alternatives={
                "sample": replace(
                    sample,
                    image=first,
                    latent=self.prior.encode(first)[0],
                    objective=run.energy[:1],
                    residual=residual_norm(first, y, operator),
                    steps=sample.steps + self.steps,
                    evaluations=sample.evaluations + run.evaluations + rows_of_f,
                    status=status,
                )
            },
            samples=run.last[None],
            diagnostics=run.diagnostics,
        )

    def run(self, target: "Target", seed: int) -> "_Run":
        """Run the chains of one image."""
        state, step, warm_up = target.start(), StepSize(FIRST_STEP, ACCEPTED), self.steps // 2
        directions = _directions(state.point)
        total, draws, chances, evaluations = torch.zeros_like(target.origin), [], [], 1
        for k in range(self.steps):
            # a quarter of a period carries the chain of a Gaussian to an independent point
            leapfrogs = min(self.leapfrogs, math.ceil(math.pi / 2 / step.size))
            evaluations += leapfrogs
            state, chance = self.step(target, state, step.size, leapfrogs, seed, k)
            if k < warm_up:
                step.learn(chance)
                if k == warm_up - 1:
                    step.settle()
            else:
                x = target.image(state.point)
                total += x
                draws.append(torch.cat([x.flatten(1) @ directions, state.energy[:, None]], dim=1))
                chances.append(chance)
        drawn = torch.stack(draws, dim=1)
        worst, few = float(r_hat(drawn).max()), float(effective_samples(drawn).min())
        told = (worst, few, sum(chances) / len(chances), step.size)
        return _Run(
            image=(total / len(draws)).mean(dim=0, keepdim=True),
            last=target.image(state.point),
            energy=state.energy,
            evaluations=evaluations,
            diagnostics={
                name: state.energy.new_tensor([value])
                for name, value in zip(DIAGNOSTICS, told, strict=True)
            },
        )

    def step(
        self, target: "Target", state: State, size: float, leapfrogs: int, seed: int, k: int
    ) -> tuple[State, float]:
        """Make step k of every chain; return also the mean chance of a proposal."""
        keys = [(self.seed, seed, k, chain) for chain in range(self.samples)]
        momentum = normal([seed_from("momentum", *key) for key in keys], state.point[0].shape)
        luck, jitter = uniform([seed_from("luck", *key) for key in keys], (2,)).unbind(dim=1)
        sizes = size * (1 + JITTER * (2 * jitter - 1))
        drawn = (tensor.to(state.point) for tensor in (sizes, momentum, luck))
        state, chance = advance(target, state, leapfrogs, *drawn)
        return state, float(chance.mean())


@dataclass(frozen=True)
class _Run:
    """The chains of one image: their mean, where they end, and how they got there."""

    image: Tensor  # (1, C, H, W), over chains and the steps that count
    last: Tensor  # (S, C, H, W)
    energy: Tensor  # (S,), there
    evaluations: int  # of a chain
    diagnostics: dict[str, Tensor]  # (1,) each


class Counted:
    """Tells a `Progress`, if there is one, of every batched evaluation for one image."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        if self.progress is not None:
            self.progress(self.count, 1)


class Target:
    """-log density of images start + R u, for the chains of one image."""

    def __init__(
        self,
        prior: FlowPrior,
        operator: Operator,
        y: Tensor,
        sigma: float,
        origin: Tensor,
        root: Tensor,
        batch_size: int,
        count: Counted,
    ) -> None:
        self.prior, self.operator, self.y, self.sigma = prior, operator, y, sigma
        self.origin, self.root, self.batch_size, self.count = origin, root, batch_size, count

    def start(self) -> State:
        point = torch.zeros_like(self.origin.flatten(1))
        return State(point, *self(point))

    def image(self, u: Tensor, chains: slice = slice(None)) -> Tensor:
        return self.origin[chains] + (u @ self.root.T).unflatten(1, self.operator.image_shape)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        parts = [
            self._part(slice(first, first + self.batch_size), points)
            for first in range(0, len(points), self.batch_size)
        ]
        values, gradients = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients)

    def _part(self, chains: slice, points: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = points[chains].detach().requires_grad_()
            x = self.image(u, chains)
            fit = residual_energy(self.y, self.operator.A(x)) / (2 * self.sigma**2)
            values = fit - self.prior.encode(x)[1]
            (gradients,) = torch.autograd.grad(values.sum(), u)
        self.count()
        return values.detach(), gradients


def gauss_newton_root(
    prior: FlowPrior, x: Tensor, matrix: Tensor, sigma: float, batch_size: int, count: Counted
) -> Tensor | None:
    """Compute R, (n, n), of R R' = (F'F + A'A / sigma^2)^-1 with F = dz/dx at x (1, C, H, W).

    `matrix` is A, (m, n). In float64, by a Cholesky factor; returned in the type of x. None where
    there is no factor.
    """
    seen = matrix.double() / sigma
    precision = seen.T @ seen
    del seen
    n, size = prior.latent_dim, min(ROWS_AT_ONCE, batch_size)
    for first in range(0, n, size):
        columns = torch.arange(first, min(first + size, n), device=x.device)
        with torch.enable_grad():
            copies = x.repeat(len(columns), 1, 1, 1).requires_grad_()
            latents = prior.encode(copies)[0].gather(1, columns[:, None])
            (rows,) = torch.autograd.grad(latents.sum(), copies)
        rows = rows.flatten(1).double()
        precision.addmm_(rows.T, rows)
        count()
    factor, failed = torch.linalg.cholesky_ex(precision)
    del precision
    if failed or not factor.isfinite().all():
        return None
    identity = torch.eye(n, dtype=factor.dtype, device=x.device)
    return torch.linalg.solve_triangular(factor.T, identity, upper=True).to(x)


def startable(prior: FlowPrior, operator: Operator, y: Tensor, samples: Tensor) -> Tensor | None:
    """Replace samples (S, C, H, W) of no finite density by the first that has one; None if none."""
    density = prior.encode(samples)[1] - residual_energy(y, operator.A(samples))
    sound = density.isfinite()
    if not sound.any():
        return None
    first = samples[int(sound.int().argmax())]
    return torch.where(sound.view(-1, 1, 1, 1), samples, first)


def _directions(points: Tensor) -> Tensor:
    """Make random directions of the image as columns (n, 16), always the same."""
    seeds = [seed_from("direction", index) for index in range(DIRECTIONS)]
    along = normal(seeds, points[0].shape).to(points).T
    return along / along.norm(dim=0)
