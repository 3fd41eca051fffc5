"""Decode and its gradient with respect to the latents: frozen Glow against Glow written plainly.

This is the cost of one evaluation in every recovery. Plain: layer by layer, NCHW contiguous,
without gradients of the weights. Frozen: `Glow.frozen()`.
Target: at least 1.6 times as fast at hidden 64 and 128, 1.3 times at hidden 512.
"""

import argparse
import copy
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Ratio, alternate, print_table
from benchmarks.networks import perturbed
from benchmarks.plain_glow import plain_inverse
from networks.glow import Glow

SMALL: dict[str, Any] = {"image_size": 32, "steps": 8, "levels": 3, "last_level_steps": 8}
LARGE: dict[str, Any] = {"image_size": 64, "steps": 18, "levels": 4}
CASES = {  # name -> network, batch size, share of the repetitions, target
    "32px, hidden 64": (SMALL | {"hidden": 64}, 16, 1.0, 1.6),
    "32px, hidden 128": (SMALL | {"hidden": 128}, 16, 1.0, 1.6),
    "64px, hidden 512": (LARGE | {"hidden": 512}, 2, 0.25, 1.3),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name has TEXT")


def run(options: argparse.Namespace) -> None:
    rows = []
    for name, (network, batch, part, target) in CASES.items():
        if options.only in name:
            repetitions = max(3, round(part * options.repetitions))
            rows.append([name, batch, *compare(Glow(**network), batch, repetitions), target])
    print_table(
        ["network", "images", "difference", "plain, ms", "frozen, ms", "times as fast", "target"],
        rows,
        "Milliseconds per batch: median. Times as fast: median (quartiles) of alternate "
        "repetitions. Difference: of both gradients, relative.",
    )


def compare(glow: Glow, batch: int, repetitions: int) -> list[str]:
    perturbed(glow).requires_grad_(False)
    plain = copy.deepcopy(glow).to(memory_format=torch.contiguous_format)
    frozen = glow.frozen()
    latents = 0.5 * torch.randn(batch, glow.latent_dim)
    cotangent = torch.randn(batch, *glow.image_shape)

    def slow() -> Tensor:
        return gradient(lambda z: plain_inverse(plain, z), latents, cotangent)

    def fast() -> Tensor:
        return gradient(frozen.inverse, latents, cotangent)

    difference = (slow() - fast()).norm() / slow().norm()
    times = alternate(slow, fast, repetitions=repetitions)
    milliseconds = [f"{1000 * median(t):.1f}" for t in times]
    return [f"{difference:.0e}", *milliseconds, str(Ratio.of(*times))]


def gradient(decode: Callable[[Tensor], Tensor], latents: Tensor, cotangent: Tensor) -> Tensor:
    z = latents.clone().requires_grad_()
    return torch.autograd.grad(decode(z), z, cotangent)[0]
