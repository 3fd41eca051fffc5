"""BM3D against the published denoising figures: mean PSNR at four known noise levels, 64px.

Published: the authors' 12 CelebA test images. Prepare those for --shards; without, drawn faces.
"""

import argparse
from collections.abc import Sequence
from time import perf_counter

import torch

from benchmarks.measure import print_table
from benchmarks.networks import load_truth
from recovery.bm3d import BM3D
from recovery.metrics import psnr
from recovery.operators import Denoising

# dB by sigma: the BM3D rows of the authors' denoising CSV, github.com/CACTuS-AI/GlowIP; they do not
# name the implementation
PUBLISHED = {0.01: 43.67, 0.05: 33.95, 0.1: 29.93, 0.2: 25.16}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", help="prepared 64px images; else drawn faces")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    truth = load_truth(options.shards, options.images, 64)
    rows: list[Sequence[object]] = []
    for sigma, published in PUBLISHED.items():
        operator = Denoising((3, 64, 64), sigma)
        y = operator(truth, seeds=range(len(truth)))
        began = perf_counter()
        image = BM3D().recover(y, operator).image
        seconds = (perf_counter() - began) / len(truth)
        noisy, clean = psnr(y, truth).mean(), psnr(image, truth).mean()
        difference = f"{clean - published:+.2f}"
        rows.append(
            [sigma, f"{noisy:.2f}", f"{clean:.2f}", published, difference, f"{seconds:.2f}"]
        )
        print(*rows[-1], flush=True)
    header = ["sigma", "noisy, dB", "BM3D, dB", "published, dB", "difference", "s/image"]
    print_table(header, rows, f"{options.images} images.")
