"""Memory and time of the paper's Glows, keeping activations or computing them again (`recompute`).

Of a training step, loss and gradient in float32, and of a decode with the gradient of its latents,
as recovery repeats it. A process of its own for each case tells by how much its memory grows above
weights and gradients, at its peak; freed memory goes back to the system at once there. The line
through two batches gives MiB an image, MiB of any batch, and what a card of 80 GB holds. Targets: 7
times less memory an image, at most 1.4 times the time. Linux only: the peaks are /proc's.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.decode import gradient
from benchmarks.measure import print_table
from benchmarks.networks import perturbed
from networks.glow import Glow

NETWORKS: dict[str, dict[str, Any]] = {
    "64px, 25.8 million": {"image_size": 64, "steps": 18, "levels": 4},
    "64px, 67.2 million": {"image_size": 64, "steps": 48, "levels": 4},
    "128px, 129.4 million": {"image_size": 128, "steps": 32, "levels": 6},
}
WORKS = ("training step", "decode")
BATCHES = (1, 3)
CARD = 80e9  # bytes
TRAINED = 4  # times the weights that training keeps: with gradients and Adam's two moments
# Of the C library: give back what is freed, above 64 KiB
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: all")
    add("--hidden", type=int, default=512)
    add("--threads", type=int, default=1)


def run(options: argparse.Namespace) -> None:
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("python -m benchmarks memory reads peaks from Linux's /proc, which is not here")
    rows = []
    for name in options.networks:
        for work in WORKS:
            kept, again = (
                [measure(options, name, work, recompute, batch) for batch in BATCHES]
                for recompute in (False, True)
            )
            rows += [row(name, work, "kept", kept, ""), row(name, work, "again", again, kept)]
    header = ["network", "work", "activations", "MiB/image", "MiB besides", "s/image", "less"]
    print_table(
        [*header, "longer", "images in 80 GB"],
        rows,
        f"hidden {options.hidden}, batches of {BATCHES[0]} and {BATCHES[1]}. Besides: any batch's, "
        "above weights and gradients. Less, longer: memory an image and time, as ratios.",
    )


def row(name: str, work: str, how: str, figures: list[Any], kept: Any) -> list[object]:
    """Fit a line to the peaks of two batches; compare it with that of kept activations."""
    image, besides, weights = line(figures)
    seconds = figures[-1][1] / BATCHES[-1]
    free = CARD / 2**20 - besides - (TRAINED if work == WORKS[0] else 1) * weights
    cells = [f"{image:.0f}", f"{besides:.0f}", f"{seconds:.2f}"]
    if kept:
        cells += [f"{line(kept)[0] / image:.1f}", f"{seconds * BATCHES[-1] / kept[-1][1]:.2f}"]
    else:
        cells += ["", ""]
    return [name, work, how, *cells, f"{free / image:,.0f}"]


def line(figures: list[Any]) -> tuple[float, float, float]:
    """Compute MiB an image, MiB besides and MiB of the weights from two batches' figures."""
    (one, _, weights), (other, _, _) = figures
    image = (other - one) / (BATCHES[1] - BATCHES[0])
    return image, max(0.0, one - BATCHES[0] * image), weights


def measure(
    options: argparse.Namespace, name: str, work: str, recompute: bool, batch: int
) -> tuple[float, float, float]:
    """Measure (MiB of the peak, seconds, MiB of the weights) in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with patch.dict(os.environ, AT_ONCE), context.Pool(1) as pool:
        return pool.apply(
            case, (NETWORKS[name], options.hidden, work, recompute, batch, options.threads)
        )


def case(
    network: dict[str, Any], hidden: int, work: str, recompute: bool, batch: int, threads: int
) -> tuple[float, float, float]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    glow = perturbed(Glow(**network, hidden=hidden, recompute=recompute), 0.001)
    run = trains(glow, batch) if work == WORKS[0] else decodes(glow, batch)
    run()  # what libraries and the optimiser keep from now on
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present, from here on
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    weights = sum(parameter.nbytes for parameter in glow.parameters()) / 2**20
    return status("VmHWM") - before, seconds, weights


def trains(glow: Glow, batch: int) -> Callable[[], object]:
    x = torch.rand(batch, *glow.image_shape) - 0.5

    def train() -> None:
        z, log_det = glow(x)
        (z.square().sum() / 2 - log_det.sum()).backward()  # adds to the gradients that are there

    return train


def decodes(glow: Glow, batch: int) -> Callable[[], object]:
    frozen = glow.frozen()
    latents = 0.5 * torch.randn(batch, frozen.latent_dim)
    cotangent = torch.randn(batch, *frozen.image_shape)
    return lambda: gradient(frozen.inverse, latents, cotangent)


def status(name: str) -> float:
    """Read a figure of this process from /proc, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")
