"""What two settings for the CPU gain, with each other's and without, in one process.

1x1 convolutions of few images as those of 16 (`networks.glow`), and freed memory that serves the
next tensors instead of going back to the kernel (`core.memory`): a training step in float32 and a
decode with the gradient of its latents. Linux with glibc only, for the second.
"""

import argparse
import ctypes
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.decode import gradient
from benchmarks.measure import Ratio, alternate, print_table
from benchmarks.networks import perturbed
from benchmarks.training import step
from core.memory import M_MMAP_THRESHOLD, keep_freed_memory
from networks.glow import Glow

NETWORKS: dict[str, dict[str, Any]] = {
    "32px, hidden 128": {"image_size": 32, "steps": 8, "levels": 3, "hidden": 128},
    "64px, hidden 128": {"image_size": 64, "steps": 12, "levels": 4, "hidden": 128},
    "64px, hidden 512": {"image_size": 64, "steps": 4, "levels": 4, "hidden": 512},
}
GLIBCS_OWN = 32 * 2**20  # what its threshold grows to


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--only", metavar="TEXT", default="", help="networks whose name has TEXT")
    add("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    add("--repetitions", type=int, default=5)


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rows = [
        [name, batch, work, *gains(call, options.repetitions)]
        for name, network in NETWORKS.items()
        if options.only in name
        for batch in options.batches
        for work, call in works(network, batch).items()
    ]
    print_table(
        ["network", "images", "work", "1x1 as 16 images", "memory kept"],
        rows,
        "Times as fast with the setting: median (quartiles) of alternate repetitions.",
    )


def works(network: dict[str, Any], batch: int) -> dict[str, Callable[[], object]]:
    glow = perturbed(Glow(**network, last_level_steps=network["steps"]))
    frozen = glow.frozen()
    images = torch.rand(batch, *glow.image_shape) - 0.5
    latents = 0.5 * torch.randn(batch, glow.latent_dim)
    return {
        "step": step(glow, Glow.forward, images),
        "decode": lambda: gradient(frozen.inverse, latents, images),
    }


def gains(call: Callable[[], object], repetitions: int) -> list[str]:
    def as_torch_chooses() -> None:
        with patch("networks.glow._few_images", lambda x: False):
            call()

    def given_back() -> None:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, GLIBCS_OWN)
        call()
        keep_freed_memory()

    keep_freed_memory()
    times, plain, mapped = alternate(call, as_torch_chooses, given_back, repetitions=repetitions)
    return [str(Ratio.of(plain, times)), str(Ratio.of(mapped, times))]
