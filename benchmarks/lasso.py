"""The Lasso: ours against scikit-learn's coordinate descent, at equal objective.

64px images, n = 12,288, float32 against float64. scikit-learn fits each image alone, with the
matrix in the basis (made once, not timed). Both run at falling tolerances until the objective is
within 1e-4 of ours at its default tolerance, or below. Times are the process's CPU time on one
thread. Target: 10 times as fast.
"""

import argparse
import warnings
from collections.abc import Sequence
from time import process_time

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import print_table
from benchmarks.networks import load_truth
from recovery.lasso import BASES, Lasso
from recovery.operators import GaussianSensing

WEIGHT = 0.01
OURS = (1e-2, 1e-3)  # the default last
THEIRS = (1e-4, 1e-5, 1e-6, 1e-7)  # the default first


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", help="prepared 64px images; else drawn faces")
    parser.add_argument("--m", type=int, default=2500)
    parser.add_argument("--bases", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--images", type=int, default=12, help="solved by ours at once")
    parser.add_argument("--theirs", type=int, default=1, help="images solved by scikit-learn")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    truth = load_truth(options.shards, options.images, 64)
    operator = GaussianSensing((3, 64, 64), options.m)
    y = operator(truth, seeds=range(len(truth)))
    rows: list[Sequence[object]] = []
    for basis in options.bases:
        _, reference = ours(basis, y[: options.theirs], operator, OURS[-1])
        enough = reference * (1 + 1e-4)
        for tolerance in OURS:
            alone, objective = ours(basis, y[: options.theirs], operator, tolerance, batch_size=1)
            together, _ = ours(basis, y, operator, tolerance)
            times = f"{alone:.1f}, {together:.1f}"
            rows.append([basis, f"ours, {tolerance:.0e}", f"{objective.mean():.5f}", times, ""])
            print(*rows[-1], flush=True)
            if (objective <= enough).all():
                break
        for tolerance in THEIRS:
            seconds, objective = theirs(basis, y[: options.theirs], operator, tolerance)
            ratios = f"{seconds / alone:.1f}, {seconds / together:.1f}"
            name = f"scikit-learn, {tolerance:.0e}"
            rows.append([basis, name, f"{objective.mean():.5f}", f"{seconds:.1f}", ratios])
            print(*rows[-1], flush=True)
            if (objective <= enough).all():
                break
    header = ["basis", "solver, tolerance", "objective", "s/image", "times as long as ours"]
    note = f"m = {options.m}; objective of {options.theirs} images; alone, and {len(y)} at once."
    print_table(header, rows, note)


def ours(
    basis: str, y: Tensor, operator: GaussianSensing, tolerance: float, batch_size: int = 128
) -> tuple[float, np.ndarray]:
    """Solve by our Lasso; return CPU seconds per image, and the objectives."""
    began = process_time()
    method = Lasso(basis, WEIGHT, tolerance=tolerance, batch_size=batch_size)  # type: ignore[arg-type]
    objective = method.recover(y, operator).objective
    return (process_time() - began) / len(y), objective.double().numpy()


def theirs(
    basis: str, y: Tensor, operator: GaussianSensing, tolerance: float
) -> tuple[float, np.ndarray]:
    from sklearn import linear_model

    rows = operator.A_adjoint(torch.eye(operator.m))
    matrix = np.asfortranarray(BASES[basis].analyse(rows).flatten(1).double().numpy())
    solver = linear_model.Lasso(
        WEIGHT / (2 * operator.m), fit_intercept=False, tol=tolerance, max_iter=100_000
    )
    objectives, targets = [], y.double().numpy()
    seconds = 0.0
    for target in targets:
        began = process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            w = solver.fit(matrix, target).coef_
        seconds += process_time() - began
        objectives.append(np.square(target - matrix @ w).sum() + WEIGHT * np.abs(w).sum())
    return seconds / len(targets), np.array(objectives)
