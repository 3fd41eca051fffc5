"""What two settings for the CPU gain: a training step in float32, a decode with its gradient.

1x1 convolutions of few images as those of 16 (`networks.glow`), against torch's choice in the same
process; and freed memory that serves the next tensors (`core.memory`), against a process that
gives it back to the kernel, in turn with it. One thread; the second needs Linux with glibc.
"""

import argparse
import multiprocessing
from collections.abc import Callable
from multiprocessing.pool import Pool
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.decode import gradient
from benchmarks.measure import Ratio, alternate, print_table
from benchmarks.networks import perturbed
from benchmarks.training import step
from core.memory import keep_freed_memory
from networks.glow import Glow

NETWORKS: dict[str, dict[str, Any]] = {
    "32px, hidden 128": {"image_size": 32, "steps": 8, "levels": 3, "hidden": 128},
    "64px, hidden 128": {"image_size": 64, "steps": 12, "levels": 4, "hidden": 128},
    "64px, hidden 512": {"image_size": 64, "steps": 4, "levels": 4, "hidden": 512},
}
WORKS = ("step", "decode")


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--only", metavar="TEXT", default="", help="networks whose name has TEXT")
    add("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    add("--repetitions", type=int, default=5)


def run(options: argparse.Namespace) -> None:
    rows = [
        [name, batch, work, *gains(network, batch, work, options.repetitions)]
        for name, network in NETWORKS.items()
        if options.only in name
        for batch in options.batches
        for work in WORKS
    ]
    print_table(
        ["network", "images", "work", "1x1 as 16 images", "memory kept"],
        rows,
        "Times as fast with the setting: median (quartiles) of alternate repetitions.",
    )


def gains(network: dict[str, Any], batch: int, work: str, repetitions: int) -> list[str]:
    with process(network, batch, work, True) as kept, process(network, batch, work, False) as back:
        plain, by_16 = kept.apply(convolutions, (repetitions,))
        slow, fast = alternate(
            lambda: back.apply(once), lambda: kept.apply(once), repetitions=repetitions, warm_up=3
        )
    return [str(Ratio.of(plain, by_16)), str(Ratio.of(slow, fast))]


def process(network: dict[str, Any], batch: int, work: str, keep: bool) -> Pool:
    context = multiprocessing.get_context("spawn")
    return context.Pool(1, initializer=prepare, initargs=(network, batch, work, keep))


# --- in a process


_call: Callable[[], object]


def prepare(network: dict[str, Any], batch: int, work: str, keep: bool) -> None:
    global _call
    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()
    glow = perturbed(Glow(**network, last_level_steps=network["steps"]))
    images = torch.rand(batch, *glow.image_shape) - 0.5
    if work == "step":
        _call = step(glow, Glow.forward, images)
        return
    frozen, latents = glow.frozen(), 0.5 * torch.randn(batch, glow.latent_dim)
    _call = lambda: gradient(frozen.inverse, latents, images)  # noqa: E731


def convolutions(repetitions: int) -> list[list[float]]:
    """Time the work as torch chooses and by 16, in turn."""

    def as_torch_chooses() -> None:
        with patch("networks.glow._few_images", lambda x: False):
            _call()

    return alternate(as_torch_chooses, _call, repetitions=repetitions)


def once() -> None:
    _call()
