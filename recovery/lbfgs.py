"""Batched L-BFGS in which every row of the batch is its own problem.

Each problem has its own curvature pairs, line search, stop and failure, so its result does not
depend on its batch mates. One batched evaluation, the only expensive thing, serves every active
problem, whatever the phase of its search. Two classes divide the work:

- `_Vectors` holds the (B, n) tensors on the device and never asks the host for a decision;
- `_Problem` holds one problem's scalars on the host and decides what becomes of it.

They meet once per evaluation, when four numbers per active problem move from device to host.

No decision compares the objective or its gradient with an absolute number, so minimising c f
gives the iterates of f. Vectors, dot products and values keep the precision of the start.

Sources: Nocedal & Wright, Numerical Optimization, 2nd ed., 2006 ("N&W"); Moré & Thuente, Line
search algorithms with guaranteed sufficient decrease, ACM TOMS 20, 1994 ("MT").
"""

import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Status = Literal["converged", "budget", "diverged"]

# (points (k, n), indices (k,) of the problems they belong to) -> (values (k,), gradients (k, n))
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# called after every batched evaluation with its number, from 1, and the problems still active
Progress = Callable[[int, int], object]

SUFFICIENT_DECREASE, CURVATURE = 1e-3, 0.9  # c1 and c2 of N&W (3.7), as in L-BFGS-B
NARROW = 0.1  # a search ends when its bracket is this narrow, relative to its far end
MAX_TRIALS = 20  # evaluations in one search


@dataclass(frozen=True)
class Minimum:
    """Where `minimise` arrived, per problem."""

    point: Tensor  # (B, n), the lowest point evaluated; the start where none was finite
    value: Tensor  # (B,), the objective there; inf where none was finite
    steps: Tensor  # (B,) int64, accepted steps
    evaluations: Tensor  # (B,) int64, evaluations spent
    status: tuple[Status, ...]


def minimise(
    objective: Objective,
    start: Tensor,
    *,
    max_evaluations: int = 200,
    history: int = 20,
    gradient_tolerance: float = 1e-5,
    target: Tensor | float | None = None,
    progress: Progress | None = None,
) -> Minimum:
    """Minimise B independent functions of n variables, each with its own L-BFGS (N&W 7.5).

    Args:
        objective: maps points (k, n) and the indices (k,) of the problems they belong to, to
            values (k,) and gradients (k, n). Sees active problems only, in rising order. A
            non-finite value or gradient shortens that problem's step.
        start: (B, n) floating point, neither dimension empty. Results keep its dtype and device.
        max_evaluations: evaluations each problem may spend, the one at its start included; >= 1.
        history: curvature pairs kept, 2 * B * history * n numbers in all; >= 1.
        gradient_tolerance: converged once the gradient's norm is at most this fraction of its
            norm at the start; >= 0.
        target: converged once the value is at most this; one number, or (B,), or None.
        progress: see `Progress`.

    Returns:
        The lowest point each problem has evaluated, and its status:
        `converged`: target reached, or gradient small, or no lower value found along steepest
        descent (whatever decrease is left drowns in rounding);
        `budget`: `max_evaluations` spent before that;
        `diverged`: non-finite at the start, or however short the step along steepest descent.

    Raises:
        ValueError: an argument, or what the objective returns, has a wrong shape or range.
    """
    targets = _validate(start, max_evaluations, history, gradient_tolerance, target)
    vectors = _Vectors(start.detach(), history)
    active = list(range(len(start)))
    report = vectors.evaluate(objective, active, [0.0] * len(active))
    vectors.begin()
    epsilon = torch.finfo(start.dtype).eps
    problems = [
        _Problem(value, norm, goal, gradient_tolerance * norm, max_evaluations, epsilon)
        for (value, norm, _, _), goal in zip(report, targets, strict=True)
    ]
    for evaluation_round in itertools.count(1):
        active = [i for i in active if problems[i].status is None]
        if progress is not None:
            progress(evaluation_round, len(active))
        if not active:
            break
        report = vectors.evaluate(objective, active, [problems[i].step for i in active])
        events = {i: problems[i].judge(*row) for i, row in zip(active, report, strict=True)}
        if moved := [i for i in active if events[i] == "moved"]:
            vectors.move(moved)
        if failed := [i for i in active if events[i] == "failed"]:
            vectors.forget(failed)
        if aiming := [i for i in moved + failed if problems[i].status is None]:
            vectors.aim(aiming)

    return Minimum(
        vectors.lowest_point,
        vectors.lowest_value,
        vectors.steps,
        torch.tensor([problem.evaluations for problem in problems], device=start.device),
        tuple(problem.status for problem in problems if problem.status is not None),
    )


def _validate(
    start: Tensor,
    max_evaluations: int,
    history: int,
    gradient_tolerance: float,
    target: Tensor | float | None,
) -> list[float]:
    """Check the arguments of `minimise` and spread the target over the problems."""
    if start.ndim != 2 or start.numel() == 0 or not start.is_floating_point():
        raise ValueError(
            f"start must be a non-empty floating-point (B, n) tensor, "
            f"got {start.dtype} of shape {tuple(start.shape)}"
        )
    if max_evaluations < 1 or history < 1:
        raise ValueError(
            f"max_evaluations and history must be at least 1, got {max_evaluations} and {history}"
        )
    if not gradient_tolerance >= 0:
        raise ValueError(f"gradient_tolerance must be at least 0, got {gradient_tolerance}")
    if not isinstance(target, Tensor):
        target = torch.tensor(-math.inf if target is None else target, dtype=torch.float64)
    if target.shape not in [(), start.shape[:1]]:
        raise ValueError(
            f"target must be a number or of shape ({len(start)},), got shape {tuple(target.shape)}"
        )
    targets: list[float] = target.expand(len(start)).tolist()
    return targets


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Compute row-wise inner products; a matrix product may round by the size of the batch."""
    return (a * b).sum(-1)


class _Vectors:
    """All that has n numbers per problem, and what follows from it without asking the host.

    A search starts from `origin`; `lowest` is the lowest point evaluated so far, to which the
    problem moves when its search ends. Pairs are stored as s / sqrt(s'y) and y / sqrt(s'y), so
    that rho = 1 / s'y is 1 and a slot of zeros is an empty slot.
    """

    def __init__(self, start: Tensor, history: int) -> None:
        problems, n = start.shape
        self.origin, self.origin_gradient = start.clone(), torch.zeros_like(start)
        self.lowest_point, self.lowest_gradient = start.clone(), torch.zeros_like(start)
        self.lowest_value = start.new_full((problems,), math.inf)
        self.direction = torch.zeros_like(start)
        self.scale = start.new_ones(problems)  # of H0 = scale * I, N&W (7.20)
        self.s, self.y = start.new_zeros(2, problems, history, n)
        self.steps = torch.zeros(problems, dtype=torch.int64, device=start.device)
        self.depth = 0  # slots that may be filled

    def rows(self, problems: list[int]) -> Tensor:
        return torch.tensor(problems, dtype=torch.int64, device=self.origin.device)

    def evaluate(
        self, objective: Objective, problems: list[int], steps: list[float]
    ) -> list[list[float]]:
        """Evaluate origin + step * direction. Per problem: value, gradient norm, slope, slope at 0.

        Reports a non-finite value or gradient as the value inf. This is the one transfer to the
        host.
        """
        rows = self.rows(problems)
        direction = self.direction[rows]
        points = self.origin[rows] + self.origin.new_tensor(steps)[:, None] * direction
        values, gradients = objective(points, rows)
        if values.shape != rows.shape or gradients.shape != points.shape:
            raise ValueError(
                f"objective must return values {tuple(rows.shape)} and gradients "
                f"{tuple(points.shape)}, got {tuple(values.shape)} and {tuple(gradients.shape)}"
            )
        values, gradients = values.detach().to(points), gradients.detach().to(points)
        norms = gradients.norm(dim=-1)
        values = values.where(values.isfinite() & norms.isfinite(), math.inf)

        lower = values < self.lowest_value[rows]
        self.lowest_value[rows] = values.where(lower, self.lowest_value[rows])
        self.lowest_point[rows] = points.where(lower[:, None], self.lowest_point[rows])
        self.lowest_gradient[rows] = gradients.where(lower[:, None], self.lowest_gradient[rows])
        slopes = _dot(gradients, direction), _dot(self.origin_gradient[rows], direction)
        report: list[list[float]] = torch.stack([values, norms, *slopes], dim=1).tolist()
        return report

    def begin(self) -> None:
        """Aim every problem from its evaluated start down the gradient, for a step of length 1."""
        self.origin_gradient = self.lowest_gradient.clone()
        self.scale = 1 / self.origin_gradient.norm(dim=-1)
        self.direction = -self.scale[:, None] * self.origin_gradient

    def move(self, problems: list[int]) -> None:
        """Make the lowest point the origin of the next search; remember the pair (N&W 7.18)."""
        rows = self.rows(problems)
        s = self.lowest_point[rows] - self.origin[rows]
        y = self.lowest_gradient[rows] - self.origin_gradient[rows]
        curvature = _dot(s, y)
        # H stays positive definite only if s'y > 0 (N&W 7.17); a smaller s'y is a rounding error.
        # Unlike s'y > constant * y'y, this does not depend on the objective's scale.
        sound = curvature > torch.finfo(s.dtype).eps * s.norm(dim=-1) * y.norm(dim=-1)
        normaliser = curvature.rsqrt().where(sound, 0.0)[:, None]
        slots = self.steps[rows] % self.s.shape[1]
        self.s[rows, slots], self.y[rows, slots] = normaliser * s, normaliser * y
        self.scale[rows] = (curvature / _dot(y, y)).where(sound, self.scale[rows])
        self.origin[rows] = self.lowest_point[rows]
        self.origin_gradient[rows] = self.lowest_gradient[rows]
        self.steps[rows] += 1
        self.depth = min(self.depth + 1, self.s.shape[1])

    def forget(self, problems: list[int]) -> None:
        """Empty the problems' slots: their next direction is the steepest descent."""
        rows = self.rows(problems)
        self.s[rows], self.y[rows] = 0.0, 0.0

    def aim(self, problems: list[int]) -> None:
        """Set the directions -H g by the two-loop recursion (N&W Algorithm 7.4)."""
        rows = self.rows(problems)
        direction = -self.origin_gradient[rows]
        newest_first = [(self.steps[rows] - 1 - j) % self.s.shape[1] for j in range(self.depth)]
        alphas = []
        for slots in newest_first:
            alpha = _dot(self.s[rows, slots], direction)[:, None]
            direction -= alpha * self.y[rows, slots]
            alphas.append(alpha)
        direction *= self.scale[rows, None]
        for slots, alpha in zip(reversed(newest_first), reversed(alphas), strict=True):
            beta = _dot(self.y[rows, slots], direction)[:, None]
            direction += (alpha - beta) * self.s[rows, slots]
        self.direction[rows] = direction


class _Problem:
    """One problem's scalars: its search, its budget, its stop."""

    def __init__(
        self,
        value: float,
        norm: float,
        target: float,
        small_norm: float,
        budget: int,
        epsilon: float,
    ) -> None:
        self.target, self.small_norm, self.budget, self.epsilon = (
            target,
            small_norm,
            budget,
            epsilon,
        )
        self.lowest, self.evaluations = value, 1
        self.status = self.stop(value, norm)
        self.begin_search(steepest=True)

    def begin_search(self, steepest: bool) -> None:
        self.steepest, self.origin = steepest, self.lowest
        self.search = _wolfe_search(self.origin, rounding=self.epsilon * abs(self.origin))
        self.step = next(self.search)

    def stop(self, value: float, norm: float) -> Status | None:
        """Return the status if the evaluation just made has to be the last one, else None."""
        if self.lowest == math.inf:
            return "diverged"
        if value == self.lowest and (value <= self.target or norm <= self.small_norm):
            return "converged"
        return "budget" if self.evaluations == self.budget else None

    def judge(
        self, value: float, norm: float, slope: float, first_slope: float
    ) -> Literal["searching", "moved", "failed"]:
        """Take in the evaluation at `step`; choose the next step, or end the search.

        After a search that fails, one along the steepest descent follows; if that one fails, the
        problem is done.
        """
        self.evaluations += 1
        self.lowest = min(self.lowest, value)
        self.status = self.stop(value, norm)
        try:
            self.step = self.search.send((value, slope, first_slope))
            if self.status is None:
                return "searching"
        except StopIteration:
            pass
        moved = self.lowest < self.origin
        if self.steepest and not moved and self.status is None:
            self.status = "diverged" if value == math.inf else "converged"
        self.begin_search(steepest=not moved)
        return "moved" if moved else "failed"


class _Trial(NamedTuple):
    step: float
    value: float
    slope: float


def _wolfe_search(
    origin: float, rounding: float
) -> Generator[float, tuple[float, float, float], None]:
    """Yield trial steps; receive the value and the slope there, and the slope at 0.

    A coroutine, so that the searches of a batch, each in its own phase, share every evaluation.
    Ends at a step that satisfies the strong Wolfe conditions (N&W 3.7), or when it can find none.
    Bracketing and zoom (N&W Algorithms 3.5, 3.6) are one loop: the step sought lies between
    `low`, the lowest trial of sufficient decrease, and `high`, infinite until one is known.
    """
    step = 1.0
    value, slope, first_slope = yield step
    low, high = _Trial(0.0, origin, first_slope), _Trial(math.inf, math.inf, math.nan)
    widths = math.inf, math.inf  # of the bracket, before the last two trials
    for _ in range(MAX_TRIALS - 1):
        if not first_slope < 0:
            return  # rounding has spoilt the direction, or it is not finite
        trial, previous = _Trial(step, value, slope), low
        sufficient = origin + SUFFICIENT_DECREASE * trial.step * first_slope
        if trial.value > sufficient or trial.value >= low.value:
            if trial.step * -first_slope <= rounding:
                return  # rounding hides the decrease that is left
            high = trial
        elif abs(trial.slope) <= CURVATURE * -first_slope:
            return
        else:
            if trial.slope * (high.step - low.step) >= 0:
                high = low
            low = trial

        width = abs(high.step - low.step)
        if math.isinf(width):
            step = _extrapolate(previous, low)
        elif width <= NARROW * max(high.step, low.step):
            return
        elif width > 0.66 * widths[0]:
            step = (low.step + high.step) / 2  # two trials narrowed it too little (MT, section 4)
        else:
            step = _interpolate(low, high)
        widths = widths[1], width
        value, slope, _ = yield step


def _extrapolate(previous: _Trial, low: _Trial) -> float:
    """Choose a step beyond `low`, where the function still falls: 1.1 to 4 times as far (MT)."""
    stride = low.step - previous.step
    step = _cubic_minimiser(previous, low)
    farthest = low.step + 4 * stride
    return min(max(step, low.step + 1.1 * stride), farthest) if step > low.step else farthest


def _interpolate(low: _Trial, high: _Trial) -> float:
    """Choose a step well inside the bracket; nearer to `low` where `high` was not finite."""
    if math.isinf(high.value):
        fraction = 0.25
    else:
        fraction = (_cubic_minimiser(low, high) - low.step) / (high.step - low.step)
        fraction = 0.5 if math.isnan(fraction) else min(max(fraction, 0.1), 0.9)
    return low.step + fraction * (high.step - low.step)


def _cubic_minimiser(a: _Trial, b: _Trial) -> float:
    """Minimise the cubic through both values and slopes (N&W 3.59); nan if it has no minimum."""
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
    square = d1 * d1 - a.slope * b.slope
    d2 = math.copysign(math.sqrt(square), b.step - a.step) if square >= 0 else math.nan
    curvature = b.slope - a.slope + 2 * d2
    if curvature == 0:
        return math.nan
    return b.step - (b.step - a.step) * (b.slope + d2 - d1) / curvature
