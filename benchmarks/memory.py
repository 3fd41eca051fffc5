"""Memory and time of the paper's Glows, keeping activations or computing them again (`recompute`).

Of a training step, loss and gradient in float32, and of a decode with the gradient of its latents,
as recovery repeats it. A process of its own for each case tells by how much its memory grows above
weights and gradients, at its peak, while freed memory goes back to the system at once; then the
time, while it does not. The line through the batches' peaks gives MiB an image, MiB of any batch,
and what a card of 80 GB holds; `--figure` draws peaks and lines. Targets: 7 times less memory an
image, at most 1.4 times the time. Linux only: the peaks are /proc's.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.decode import gradient
from benchmarks.measure import print_table, seconds
from benchmarks.networks import perturbed
from core.memory import keep_freed_memory
from networks.glow import Glow

NETWORKS: dict[str, dict[str, Any]] = {
    "64px, 25.8 million": {"image_size": 64, "steps": 18, "levels": 4},
    "64px, 67.2 million": {"image_size": 64, "steps": 48, "levels": 4},
    "128px, 129.4 million": {"image_size": 128, "steps": 32, "levels": 6},
}
WORKS = ("training step", "decode")
ACTIVATIONS = {False: "kept", True: "again"}  # by `recompute`
BATCHES = (1, 2, 4)
CARD = 80e9  # bytes
TRAINED = 4  # times the weights that training keeps: with gradients and Adam's two moments
# Of the C library: give back what is freed, above 64 KiB
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Peak(NamedTuple):
    """Of one batch: MiB above weights and gradients, seconds, MiB of the weights."""

    above: float
    seconds: float
    weights: float


class Line(NamedTuple):
    """Through the peaks of all batches: MiB an image, and MiB of any batch."""

    image: float
    besides: float

    @classmethod
    def through(cls, peaks: Sequence[Peak]) -> "Line":
        image, besides = np.polyfit(BATCHES, [peak.above for peak in peaks], 1)
        return cls(float(image), max(0.0, float(besides)))

    def at(self, images: np.ndarray) -> np.ndarray:
        return self.image * images + self.besides


Peaks = dict[tuple[str, str, bool], list[Peak]]  # by network, work and `recompute`, one a batch


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: all")
    add("--hidden", type=int, default=512)
    add("--threads", type=int, default=1)
    add("--repetitions", type=int, default=3, help="of each case, for the median time")
    add("--figure", type=Path, metavar="PNG", help="draw peaks and lines there")


def run(options: argparse.Namespace) -> None:
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("python -m benchmarks memory reads peaks from Linux's /proc, which is not here")
    peaks: Peaks = {
        (name, work, recompute): [
            measure(options, name, work, recompute, batch) for batch in BATCHES
        ]
        for name in options.networks
        for work in WORKS
        for recompute in (False, True)
    }
    header = ["network", "work", "activations", "MiB/image", "MiB besides", "s/image", "less"]
    print_table(
        [*header, "longer", "images in 80 GB"],
        rows(peaks),
        f"hidden {options.hidden}, batches of {', '.join(map(str, BATCHES))}. Besides: any "
        "batch's, above weights and gradients. Less, longer: memory an image and time, as ratios.",
    )
    if options.figure:
        figure(peaks).savefig(options.figure, dpi=150)


def rows(peaks: Peaks) -> list[list[object]]:
    """Tell each case's line, and what computing again saves and costs."""
    told: list[list[object]] = []
    for (name, work, recompute), found in peaks.items():
        image, besides = Line.through(found)
        pace = found[-1].seconds / BATCHES[-1]
        copies = TRAINED if work == WORKS[0] else 1
        free = CARD / 2**20 - besides - copies * found[0].weights
        less = longer = ""
        if recompute:
            kept = peaks[name, work, False]
            less = f"{Line.through(kept).image / image:.1f}"
            longer = f"{found[-1].seconds / kept[-1].seconds:.2f}"
        cells = [f"{image:.0f}", f"{besides:.0f}", f"{pace:.2f}", less, longer]
        told.append([name, work, ACTIVATIONS[recompute], *cells, f"{free / image:,.0f}"])
    return told


def figure(peaks: Peaks) -> Figure:
    """Draw peaks against images, a panel for each work, and the lines on to ten times as many."""
    drawn = Figure(figsize=(9, 4), layout="constrained")
    panels = drawn.subplots(1, len(WORKS), sharey=True)
    names = dict.fromkeys(name for name, _, _ in peaks)
    colours = {name: f"C{index}" for index, name in enumerate(names)}
    images = np.geomspace(BATCHES[0], 10 * BATCHES[-1])
    for axes, work in zip(panels, WORKS, strict=True):
        for (name, of, recompute), found in peaks.items():
            if of == work:
                colour, label = colours[name], f"{name}, {ACTIVATIONS[recompute]}"
                marks = {"color": colour, "mfc": "none" if recompute else colour}
                axes.plot(BATCHES, [peak.above for peak in found], "o", **marks)
                style = "--" if recompute else "-"
                axes.plot(images, Line.through(found).at(images), style, color=colour, label=label)
        axes.set(title=work, xlabel="images", xscale="log", yscale="log")
        axes.grid(True, alpha=0.3)
    panels[0].set_ylabel("MiB above weights and gradients")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(colours))
    return drawn


def measure(options: argparse.Namespace, name: str, work: str, recompute: bool, batch: int) -> Peak:
    """Measure in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with patch.dict(os.environ, AT_ONCE), context.Pool(1) as pool:
        network = dict(NETWORKS[name], hidden=options.hidden, recompute=recompute)
        return pool.apply(case, (network, work, batch, options.threads, options.repetitions))


def case(network: dict[str, Any], work: str, batch: int, threads: int, repetitions: int) -> Peak:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    glow = perturbed(Glow(**network), 0.001)
    run = trains(glow, batch) if work == WORKS[0] else decodes(glow, batch)
    run()  # what libraries and the optimiser keep from now on
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present, from here on
    run()
    peak = status("VmHWM") - before
    for name in AT_ONCE:
        del os.environ[name]
    keep_freed_memory()  # as programs do
    run()
    times = [seconds(run) for _ in range(repetitions)]
    weights = sum(parameter.nbytes for parameter in glow.parameters()) / 2**20
    return Peak(peak, statistics.median(times), weights)


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
