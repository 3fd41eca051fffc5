"""Sparse recovery: the Lasso in an orthonormal basis (paper, section 3 and its supplement)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from core.checks import require_above, require_at_least
from recovery.linear import norm_squared
from recovery.methods import (
    PriorFree,
    Progress,
    Recovery,
    Status,
    require_linear,
    residual_norm,
)
from recovery.operators import Operator


class Basis(ABC):
    """An orthonormal basis of images (B, C, H, W), each channel on its own."""

    @abstractmethod
    def analyse(self, image: Tensor) -> Tensor:
        """Compute the coefficients w (B, C, H, W) of an image."""

    @abstractmethod
    def synthesise(self, w: Tensor) -> Tensor:
        """Compute the image with coefficients w: the inverse, and the adjoint, of `analyse`."""


class Dct(Basis):
    """The two-dimensional DCT-II, one side at a time."""

    def analyse(self, image: Tensor) -> Tensor:
        rows, columns = self._sides(image)
        return rows @ image @ columns.T

    def synthesise(self, w: Tensor) -> Tensor:
        rows, columns = self._sides(w)
        return rows.T @ w @ columns

    def _sides(self, like: Tensor) -> tuple[Tensor, Tensor]:
        height, width = like.shape[-2:]
        device, dtype = like.device, like.dtype
        return dct_matrix(height, device, dtype), dct_matrix(width, device, dtype)


@lru_cache
def dct_matrix(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Compute C_kj = sqrt(2 / size) cos(pi k (2 j + 1) / (2 size)), row 0 over sqrt(2)."""
    k, j = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size)
    matrix = math.sqrt(2 / size) * torch.cos(math.pi * k * (2 * j + 1) / (2 * size))
    matrix[0] /= math.sqrt(2)
    return matrix.to(device, dtype)


class Haar(Basis):
    """The two-dimensional Haar wavelet to full depth: `pywt.wavedec2(image, "haar")`.

    Coefficients lie as in the usual picture of a wavelet transform: the average in the top left
    corner, each level around the coarser ones. The sides must be powers of two.
    """

    def analyse(self, image: Tensor) -> Tensor:
        w = image.clone()
        for height, width in self._levels(image):
            part = _haar(_haar(w[..., :height, :width], -1), -2)
            w[..., :height, :width] = part
        return w

    def synthesise(self, w: Tensor) -> Tensor:
        image = w.clone()
        for height, width in reversed(self._levels(w)):
            part = _haar_inverse(_haar_inverse(image[..., :height, :width], -2), -1)
            image[..., :height, :width] = part
        return image

    def _levels(self, image: Tensor) -> list[tuple[int, int]]:
        height, width = image.shape[-2:]
        if height & (height - 1) or width & (width - 1):
            raise ValueError(
                f"the Haar basis needs sides that are powers of two, got {height} x {width}"
            )
        depth = min(height, width).bit_length() - 1
        return [(height >> level, width >> level) for level in range(depth)]


def _haar(x: Tensor, side: int) -> Tensor:
    """Compute averages, then differences, of neighbours along a side."""
    even, odd = x.unflatten(side, (-1, 2)).unbind(side)
    return torch.cat([even + odd, even - odd], dim=side) / math.sqrt(2)


def _haar_inverse(x: Tensor, side: int) -> Tensor:
    average, difference = x.chunk(2, dim=side)
    pairs = torch.stack([average + difference, average - difference], dim=side)
    return pairs.flatten(side - 1, side) / math.sqrt(2)


BASES: dict[str, Basis] = {"dct": Dct(), "haar": Haar()}
# The factor by which the weight falls at each step. Starting from a large weight keeps iterates
# sparse on the way: 32px faces at a fifth of n measurements take 0.7 times the steps.
CONTINUATION = 0.95


class Lasso(PriorFree):
    """Minimises, for each image on its own, over its coefficients w in an orthonormal basis,

        P(w) = ||y - A x(w)||^2 + weight ||w||_1,

    by FISTA with restarts (Beck & Teboulle 2009; O'Donoghue & Candès 2015) and continuation (Hale,
    Yin & Zhang 2008), down to a duality gap. It uses A and its adjoint alone.

    Status: `converged` once the gap proves P(w) to be within `tolerance` of the least, relatively.

    Args:
        basis: `dct`, or `haar` (paper: both).
        weight: of ||w||_1 (paper: 0.01).
        tolerance: relative duality gap. P(w) itself is far closer to its least; float32 can prove
            no better than some 5e-4 of it.
        steps: at most so many, each one A and one adjoint.
        batch_size: images solved at once; bounds memory, changes no result.

    Raises:
        ValueError: an option is out of range; names it.
    """

    def __init__(
        self,
        basis: Literal["dct", "haar"] = "dct",
        weight: float = 0.01,
        *,
        tolerance: float = 1e-3,
        steps: int = 20_000,
        batch_size: int = 128,
    ) -> None:
        super().__init__()
        if basis not in BASES:
            raise ValueError(f"basis must be dct or haar, got {basis!r}")
        require_above(0, weight=weight)
        require_at_least(1, steps=steps, batch_size=batch_size)
        self.basis = basis
        self.weight = weight
        self.tolerance = tolerance
        self.steps = steps
        self.batch_size = batch_size

    def check(self, operator: Operator) -> None:
        require_linear("the Lasso", operator)
        BASES[self.basis].analyse(torch.zeros(1, *operator.image_shape))

    @torch.no_grad()
    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        basis = BASES[self.basis]
        found = minimise_lasso(
            lambda w: operator.A(basis.synthesise(w)),
            lambda r: basis.analyse(operator.A_adjoint(r)),
            y,
            self.weight,
            operator.image_shape,
            tolerance=self.tolerance,
            steps=self.steps,
            progress=progress,
        )
        return _recovery(found, basis.synthesise(found.w), y, operator)


@dataclass(frozen=True)
class Sparse:
    """What `minimise_lasso` found, per problem."""

    w: Tensor  # (B, *shape)
    objective: Tensor  # (B,)
    gap: Tensor  # (B,), P(w) minus a lower bound of the least P
    steps: Tensor  # (B,) int64
    converged: Tensor  # (B,) bool


def minimise_lasso(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    y: Tensor,
    weight: float,
    shape: tuple[int, ...],
    *,
    tolerance: float = 1e-3,
    steps: int = 20_000,
    progress: Progress | None = None,
) -> Sparse:
    """Minimise P(w) = ||y - F w||^2 + weight ||w||_1 for every row of y (B, ...).

    Args:
        forward, adjoint: F and its transpose, for batches of any number of rows.
        y: measurements; decides device and precision.
        weight: above 0.
        shape: of one w.
        tolerance: a row leaves the batch once its duality gap is at most this times P(w).
        steps: at most so many; each takes one F and one transpose.
        progress: see `recovery.methods.Progress`.
    """
    result = Sparse(
        w=y.new_zeros(len(y), *shape),
        objective=y.new_full((len(y),), torch.inf),
        gap=y.new_full((len(y),), torch.inf),
        steps=torch.zeros(len(y), dtype=torch.int64),
        converged=torch.zeros(len(y), dtype=torch.bool),
    )
    rows = torch.arange(len(y), device=y.device)
    state = _State.start(forward, adjoint, y, shape)
    for step in range(1, steps + 1):
        state = state.advance(forward, adjoint, weight)
        objective, gap = state.certificate(weight)
        done = gap <= tolerance * objective
        over = done | ~objective.isfinite()
        if bool(over.any()) or step == steps:
            for whole, part in (
                (result.w, state.w),
                (result.objective, objective),
                (result.gap, gap),
                (result.converged, done.cpu()),
            ):
                whole[rows.to(whole.device)] = part
            result.steps[rows.cpu()] = step
            rows, state = rows[~over], state.rows(~over)
        if progress is not None:
            progress(step, len(rows))
        if not len(rows):
            break
    return result


@dataclass(frozen=True)
class _State:
    """FISTA's iterates and their images under F.

    F and its transpose are linear, so a product at an extrapolated point costs nothing and a step
    takes one of each.
    """

    y: Tensor
    w: Tensor
    measured: Tensor  # F w
    gradient: Tensor  # of ||y - F w||^2 at w
    ahead: tuple[Tensor, Tensor, Tensor]  # the extrapolated point, its F and gradient
    weight: Tensor  # of ||w||_1 per row: continuation lets it fall to the problem's
    momentum: Tensor  # t of Beck & Teboulle, per row
    curvature: Tensor  # L per row: an upper bound of 2 ||F||^2 along every step so far

    @staticmethod
    def start(
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
        y: Tensor,
        shape: tuple[int, ...],
    ) -> "_State":
        w = y.new_zeros(len(y), *shape)
        measured = torch.zeros_like(y)
        gradient = -2 * adjoint(y)
        largest = gradient.abs().flatten(1).amax(dim=1)  # the least weight whose minimiser is 0
        curvature = 2 * norm_squared(forward, adjoint, w[:1])
        ones = y.new_ones(len(y))
        ahead = (w, measured, gradient)
        return _State(y, w, measured, gradient, ahead, largest, ones, curvature * ones)

    def rows(self, keep: Tensor) -> "_State":
        first, second, third = self.ahead
        return _State(
            self.y[keep],
            self.w[keep],
            self.measured[keep],
            self.gradient[keep],
            (first[keep], second[keep], third[keep]),
            self.weight[keep],
            self.momentum[keep],
            self.curvature[keep],
        )

    def advance(
        self,
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
        weight: float,
    ) -> "_State":
        """Take one step of FISTA; a row whose step goes against its momentum loses the momentum."""
        v, measured_v, gradient_v = self.ahead
        L = _like(self.curvature, v)  # noqa: N806
        falling = (CONTINUATION * self.weight).clamp_min(weight)
        w = soft_threshold(v - gradient_v / L, _like(falling, v) / L)
        measured = forward(w)
        gradient = 2 * adjoint(measured - self.y)
        # the majorisation f(w) <= f(v) + <grad, w - v> + L/2 ||w - v||^2, exact for a quadratic
        moved = _energy(w - v)
        needed = 2 * _energy(measured - measured_v)
        # (a difference lost in rounding teaches nothing)
        told = moved > (1e4 * torch.finfo(w.dtype).eps) ** 2 * _energy(v)
        short = told & (needed > self.curvature * moved)
        curvature = torch.where(short, 1.01 * needed / moved, self.curvature)
        against = ((v - w) * (w - self.w)).flatten(1).sum(dim=1) > 0
        momentum = torch.where(against, 1.0, self.momentum)
        t = (1 + torch.sqrt(1 + 4 * momentum.square())) / 2
        beta = torch.where(against, 0.0, (momentum - 1) / t)
        ahead = (
            torch.lerp(self.w, w, 1 + _like(beta, w)),
            torch.lerp(self.measured, measured, 1 + _like(beta, measured)),
            torch.lerp(self.gradient, gradient, 1 + _like(beta, gradient)),
        )
        return _State(self.y, w, measured, gradient, ahead, falling, t, curvature)

    def certificate(self, weight: float) -> tuple[Tensor, Tensor]:
        """Compute P(w) and its duality gap, each (B,).

        D(u) = <u, y> - ||u||^2 / 4 bounds P from below for every u with |F^T u| <= weight. The
        residual 2 (y - F w), scaled down until it is such a u, is the best one at the optimum.
        """
        residual = self.y - self.measured
        primal = _energy(residual) + weight * self.w.abs().flatten(1).sum(dim=1)
        largest = self.gradient.abs().flatten(1).amax(dim=1)
        tiny = torch.finfo(primal.dtype).tiny
        u = 2 * residual * _like((weight / largest.clamp_min(tiny)).clamp(max=1), residual)
        dual = (u * self.y).flatten(1).sum(dim=1) - _energy(u) / 4
        return primal, primal - dual


def soft_threshold(w: Tensor, by: Tensor) -> Tensor:
    """Apply the proximal map of by ||.||_1."""
    return w.sign() * (w.abs() - by).clamp_min(0)


def _energy(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(dim=1)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """Shape rows (B,) to multiply x (B, ...)."""
    return rows.view(-1, *[1] * (x.ndim - 1))


def _recovery(found: Sparse, image: Tensor, y: Tensor, operator: Operator) -> Recovery:
    status: list[Status] = [
        "converged" if done else "budget" if finite else "diverged"
        for done, finite in zip(
            found.converged.tolist(), found.objective.isfinite().tolist(), strict=True
        )
    ]
    return Recovery(
        image=image,
        latent=None,
        objective=found.objective,
        residual=residual_norm(image, y, operator),
        steps=found.steps,
        evaluations=found.steps,
        status=tuple(status),
    )
