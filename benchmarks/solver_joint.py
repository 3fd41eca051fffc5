"""Latent search image by image against the authors' one L-BFGS over the whole batch.

Joint: torch.optim.LBFGS on the batch of latents, its objective the mean over the images; ours:
`recovery.latent_search.LatentSearch`, from 0 too, and `recovery.image_search.ImageSearch`. Same
prior, measurements, noise, frozen decode. Targets: at 50% of n the joint search's final mean PSNR
at 1/10 of its time; at 10% too; the worst image no worse.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Ratio, alternate, print_table
from benchmarks.networks import load_prior
from benchmarks.search import Recorder, Sensing
from recovery.image_search import ImageSearch
from recovery.latent_search import LatentSearch
from recovery.lbfgs import minimise
from recovery.methods import Method, residual_energy
from recovery.metrics import psnr

OUTER_STEPS = 30
GAMMA = 0.0

Row = list[object]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="RUN/checkpoints/NAME.ckpt; a toy network without")
    parser.add_argument("--shards", metavar="DIR", help="held-out images; procedural without")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--histories", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[100, 200], help="at 50%%")


def run(options: argparse.Namespace) -> None:
    prior = load_prior(options.checkpoint)
    few, many = (Sensing.of(prior, options.shards, options.images, m) for m in (0.1, 0.5))
    rows = [
        *(["50%", *cells] for cells in many_measurements(many, options)),
        *(["10%", *cells] for cells in few_measurements(few, options)),
    ]
    print_table(
        ["m / n", "search", "evaluations", "mean PSNR", "worst", "seconds", "joint's / its time"],
        rows,
        f"{options.images} images; PSNR in dB. Evaluations are the slowest image's (mean of the "
        f"images). Seconds: median of {options.repetitions} alternate repetitions; ratio: median "
        "(quartiles).",
    )


def many_measurements(sensing: Sensing, options: argparse.Namespace) -> list[Row]:
    """Measure at 50% the effort to reach the joint search's final PSNR, and PSNR at given efforts.

    A recorded run finds the effort; then `LatentSearch` runs with exactly that budget for the time.
    """
    goal = psnr(joint_search(sensing)[0], sensing.truth).mean().item()
    rows: list[Row] = []
    searches = among_images(sensing, (5, 20, 60))
    for history in options.histories:
        curve = recorded(sensing, history, max(300, *options.evaluations))
        name = f"ours, history {history}"
        reached = np.flatnonzero(curve.mean(axis=0) >= goal)
        if len(reached):
            needed = int(reached[0]) + 1
            search = LatentSearch(sensing.prior, evaluations=needed, history=history)
            searches[f"{name}, to joint's PSNR"] = search
        else:
            rows.append([f"{name}, never at joint's PSNR", *["-"] * 5])
        rows += [untimed(name, curve, budget) for budget in options.evaluations]
    return [*timed(sensing, searches, options.repetitions), *rows]


def few_measurements(sensing: Sensing, options: argparse.Namespace) -> list[Row]:
    """Measure at 10%, stopped once the residual has fallen to the noise's energy, or after 80."""
    rows: list[Row] = []
    searches = among_images(sensing, (20, 60))
    for history in options.histories:
        name = f"ours, history {history}"
        search = LatentSearch(sensing.prior, evaluations=200, history=history)
        searches[f"{name}, stopped at the noise"] = search
        rows.append(untimed(name, recorded(sensing, history, 80), 80))
    return [*timed(sensing, searches, options.repetitions), *rows]


def among_images(sensing: Sensing, budgets: Sequence[int]) -> dict[str, Method]:
    """Make searches among images. What is factored once per prior and operator is factored here."""
    searches: dict[str, Method] = {
        f"ours, among images, {budget}": ImageSearch(
            sensing.prior, evaluations=budget, latent_evaluations=0
        )
        for budget in budgets
    }
    ImageSearch(sensing.prior, evaluations=1, latent_evaluations=0).recover(
        sensing.y, sensing.operator
    )
    return searches


def timed(sensing: Sensing, searches: dict[str, Method], repetitions: int) -> list[Row]:
    """Time the joint search and each of ours, run in turn."""
    found: dict[str, tuple[Tensor, Tensor]] = {}  # images, and evaluations of each

    def joint() -> None:
        image, evaluations = joint_search(sensing)
        found["joint"] = image, torch.full((len(image),), evaluations)

    def ours(name: str) -> None:
        recovery = searches[name].recover(sensing.y, sensing.operator)
        found[name] = recovery.image, recovery.evaluations

    contestants: list[Callable[[], object]] = [joint, *(partial(ours, name) for name in searches)]
    times = alternate(*contestants, repetitions=repetitions, warm_up=0)
    return [
        [
            name,
            f"{int(found[name][1].max())} ({found[name][1].double().mean():.0f})",
            *quality(psnr(found[name][0], sensing.truth)),
            f"{median(seconds):.1f}",
            "1" if name == "joint" else Ratio.of(times[0], seconds),
        ]
        for name, seconds in zip(["joint", *searches], times, strict=True)
    ]


def untimed(name: str, curve: np.ndarray, budget: int) -> Row:
    return [name, budget, *quality(torch.tensor(curve[:, :budget][:, -1])), "-", "-"]


def quality(decibels: Tensor) -> Sequence[str]:
    return f"{decibels.mean():.2f}", f"{decibels.min():.2f}"


def recorded(sensing: Sensing, history: int, evaluations: int) -> np.ndarray:
    """Record PSNR (B, evaluations) of latent search after each of its evaluations."""
    recorder = Recorder(sensing)
    target = sensing.operator.noise_energy
    minimise(recorder, sensing.start(), max_evaluations=evaluations, history=history, target=target)
    return recorder.curve()


def joint_search(sensing: Sensing) -> tuple[Tensor, int]:
    """Search as the authors do (glow-ip, 2020); return the images and the evaluations spent."""
    z = sensing.start().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [z], lr=0.1, max_iter=20, history_size=100, tolerance_grad=1e-5, tolerance_change=1e-9
    )
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        fit = residual_energy(sensing.y, sensing.operator.A(sensing.prior.decode(z)))
        loss = (fit + GAMMA * z.square().sum(dim=1)).mean()
        loss.backward()
        return loss

    for _ in range(OUTER_STEPS):
        optimizer.step(closure)
    with torch.no_grad():
        return sensing.prior.decode(z), evaluations
