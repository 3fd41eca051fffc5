"""The over-parameterised Deep Decoder against the published curve: compressive sensing at 64px.

Width 250, Adam 0.01, the paper's A and noise. Published: means of 1000 images read off the authors'
plot. Ours are of the first few images of a set: a difference of a decibel or more may be chance.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from time import perf_counter

import torch

from benchmarks.measure import print_table
from benchmarks.networks import load_truth
from networks.deep_decoder import DeepDecoder
from recovery.metrics import psnr
from recovery.operators import GaussianSensing
from recovery.untrained import Untrained

# dB by m; read off images/cs_plot_64px.png of github.com/CACTuS-AI/GlowIP, to about 0.1
PUBLISHED = {
    "CelebA": {500: 21.5, 1000: 24.6, 2500: 29.3, 5000: 31.9, 10000: 33.2},
    "FFHQ": {500: 20.7, 1000: 23.7, 2500: 28.4, 5000: 31.2, 10000: 32.6},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", help="prepared 64px images; else drawn faces")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--m", type=int, nargs="+", default=[500, 1000, 2500, 5000])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    truth = load_truth(options.shards, options.images, 64)
    method = Untrained(partial(DeepDecoder, width=250), steps=options.steps)
    rows: list[Sequence[object]] = []
    for m in options.m:
        operator = GaussianSensing((3, 64, 64), m)
        y = operator(truth, seeds=range(len(truth)))
        began = perf_counter()
        last = method.recover(y, operator)
        seconds = (perf_counter() - began) / len(truth)
        least = last.alternatives["least-residual"]
        ours = [f"{psnr(found.image, truth).mean():.2f}" for found in (last, least)]
        published = [str(curve.get(m, "")) for curve in PUBLISHED.values()]
        rows.append([m, *ours, *published, f"{seconds:.0f}"])
        print(*rows[-1], flush=True)  # the whole table may be hours away
    header = ["m", "last, dB", "least residual, dB"]
    header += [f"published, {name}" for name in PUBLISHED]
    note = f"{options.images} images, {options.steps} steps."
    print()
    print_table([*header, "s/image"], rows, note)
