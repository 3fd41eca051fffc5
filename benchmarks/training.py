"""One training step of the 32px Glow: the network's own forward against Glow written plainly.

A step does what `lightning_modules.MaximumLikelihood` does, without Lightning: forward, bits per
dimension, backward, clip, Adam. Ours folds once per batch and is channels-last; plain goes layer by
layer, NCHW contiguous. On a CPU that has bfloat16, a third contestant runs ours in bf16-mixed.
Target: at least 1.3 times the images per second, in float32.
"""

import argparse
import copy
import math
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Ratio, alternate, print_table
from benchmarks.plain_glow import plain_forward
from core.precision import has_bfloat16
from datamodules.procedural import faces
from networks.glow import Glow
from priors.prior import standard_normal_log_prob

NETWORK: dict[str, Any] = {"image_size": 32, "steps": 8, "levels": 3, "last_level_steps": 8}
CLIP_NORM = 50.0
TARGET = 1.3

Forward = Callable[[Glow, Tensor], tuple[Tensor, Tensor]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=20)


def run(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    ours = Glow(**NETWORK, hidden=options.hidden)
    images = faces(range(max(128, options.batch_size))).float() / 255 - 0.5
    ours.initialize(images)
    plain = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
    batch = images[: options.batch_size]
    contestants = {
        "ours": step(ours, Glow.forward, batch),
        "ours, bf16-mixed": step(copy.deepcopy(ours), in_bfloat16, batch),
    }
    if not has_bfloat16():
        del contestants["ours, bf16-mixed"]
    plainly, *times = alternate(
        step(plain, plain_forward, batch), *contestants.values(), repetitions=options.repetitions
    )
    rows = [
        [name, f"{options.batch_size / median(own):.1f}", Ratio.of(plainly, own), target]
        for name, own, target in zip(contestants, times, (TARGET, ""), strict=False)
    ]
    print_table(
        ["network", "images/s", "times as fast as plain", "target"],
        [["plain", f"{options.batch_size / median(plainly):.1f}", "", ""], *rows],
        f"32px, 8 steps of {options.hidden} channels, batch {options.batch_size}. Images per "
        "second: median. Times as fast: median (quartiles) of alternate repetitions.",
    )


def in_bfloat16(glow: Glow, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return glow(x)


def step(glow: Glow, forward: Forward, x: Tensor) -> Callable[[], None]:
    """Make a step of training `glow` on x, to call again and again."""
    optimizer = torch.optim.Adam(glow.parameters(), lr=1e-4, betas=(0.9, 0.99), fused=True)

    def train() -> None:
        optimizer.zero_grad()
        z, log_det = forward(glow, x)
        nats = standard_normal_log_prob(z) + log_det
        loss = -nats.mean() / (z.shape[1] * math.log(2))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(glow.parameters(), CLIP_NORM)
        optimizer.step()

    return train
