"""The batched L-BFGS against SciPy's L-BFGS-B at equal history and evaluations.

SciPy minimises each problem alone. Quadratics of condition 1e2 to 1e6: our lowest value over
SciPy's, while SciPy's has fallen by less than 1e6 (after that both are as good as exact).
Compressive sensing through a Glow prior: our PSNR minus SciPy's, mean of the images.
Target: median ratio at most 1.05; PSNR no worse than 0.1 dB below.
"""

import argparse
from collections.abc import Callable

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from benchmarks.measure import print_table
from benchmarks.networks import load_prior
from benchmarks.search import Recorder, Sensing
from recovery.lbfgs import Objective, minimise

HISTORY = 20
BUDGETS = (50, 100, 200)
CONDITIONS = (1e2, 1e3, 1e4, 1e5, 1e6)
LARGEST_FALL = 1e6
FRACTIONS = (0.1, 0.5)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="RUN/checkpoints/NAME.ckpt; a toy network without")
    parser.add_argument("--shards", metavar="DIR", help="held-out images; procedural without")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=10, help="of the quadratics")
    parser.add_argument("--dimension", type=int, default=300, help="of the quadratics")


def run(options: argparse.Namespace) -> None:
    rows = [
        [f"quadratics, condition {condition:.0e}", *quadratic_cells(condition, options)]
        for condition in CONDITIONS
    ]
    prior = load_prior(options.checkpoint)
    for fraction in FRACTIONS:
        sensing = Sensing.of(prior, options.shards, options.images, fraction)
        rows.append([f"sensing, m = {fraction:.0%} of n", *sensing_cells(sensing)])
    print_table(
        ["problem", *(f"{budget} evaluations" for budget in BUDGETS)],
        rows,
        f"History {HISTORY}. Quadratics: ratio of the objectives, median / worst of "
        f"{options.seeds} seeds, n = {options.dimension} (- : fallen by more than 1e6). "
        f"Sensing: SciPy's mean PSNR and ours minus it, dB, {options.images} images.",
    )


def quadratic_cells(condition: float, options: argparse.Namespace) -> list[str]:
    objective, start = quadratics(condition, options.dimension, options.seeds)
    ours, theirs = values_of_both(objective, start)
    cells = []
    for budget in BUDGETS:
        pairs = [
            (min(a[:budget]), min(b[:budget]), b[0]) for a, b in zip(ours, theirs, strict=True)
        ]
        ratios = [a / b for a, b, first in pairs if first < LARGEST_FALL * b]
        cells.append(f"{np.median(ratios):.2f} / {max(ratios):.2f}" if ratios else "-")
    return cells


def quadratics(condition: float, n: int, seeds: int) -> tuple[Objective, Tensor]:
    """Make `seeds` functions z'Hz / 2, with eigenvalues log-spaced over the condition, rotated."""
    eigenvalues = torch.logspace(0, -np.log10(condition), n, dtype=torch.float64)
    rotations, starts = [], []
    for seed in range(seeds):
        torch.manual_seed(seed)
        rotations.append(torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0])
        starts.append(torch.randn(n, dtype=torch.float64))
    hessians = torch.stack([q * eigenvalues @ q.T for q in rotations])

    def objective(points: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        gradients = (hessians[indices] @ points[:, :, None]).squeeze(2)
        return 0.5 * (points * gradients).sum(1), gradients

    return objective, torch.stack(starts)


def values_of_both(objective: Objective, start: Tensor) -> tuple[list[list[float]], ...]:
    """Collect the values that both meet, per problem and evaluation."""
    ours: list[list[float]] = [[] for _ in start]
    theirs: list[list[float]] = [[] for _ in start]
    minimise_ours(remembering(objective, ours), start)
    minimise_theirs(remembering(objective, theirs), start)
    return ours, theirs


def remembering(objective: Objective, values: list[list[float]]) -> Objective:
    def remember(points: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        found, gradients = objective(points, indices)
        for i, value in zip(indices.tolist(), found.tolist(), strict=True):
            values[i].append(value)
        return found, gradients

    return remember


def sensing_cells(sensing: Sensing) -> list[str]:
    ours, theirs = Recorder(sensing), Recorder(sensing)
    minimise_ours(ours, sensing.start())
    minimise_theirs(theirs, sensing.start())
    a, b = ours.curve(), theirs.curve()
    means = [(a[:, :budget][:, -1].mean(), b[:, :budget][:, -1].mean()) for budget in BUDGETS]
    return [f"{scipy:.2f} {own - scipy:+.2f}" for own, scipy in means]


def minimise_ours(objective: Objective, start: Tensor) -> None:
    minimise(objective, start, max_evaluations=max(BUDGETS), history=HISTORY, gradient_tolerance=0)


def minimise_theirs(objective: Objective, start: Tensor) -> None:
    """Run L-BFGS-B on each problem alone, in float64, until it has spent the evaluations."""
    # it checks maxfun only between iterations: what it does beyond does not count
    options = {"maxcor": HISTORY, "maxfun": max(BUDGETS), "maxiter": 10**6, "ftol": 0, "gtol": 0}
    for i in range(len(start)):
        scipy.optimize.minimize(
            alone(objective, i, start.dtype),
            start[i].double().numpy(),
            jac=True,
            method="L-BFGS-B",
            options=options,
        )


def alone(
    objective: Objective, i: int, dtype: torch.dtype
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Make problem i a function that SciPy can call."""

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(torch.tensor(x, dtype=dtype)[None], torch.tensor([i]))
        return value.item(), gradient[0].double().numpy()

    return value_and_gradient
