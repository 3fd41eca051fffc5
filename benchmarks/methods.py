"""Methods that need no prior, at 32px: one image at a time against all at once.

Gaussian sensing, 25% of n; BM3D denoises, sigma 0.1. Target: equal PSNR within 0.02 dB. Untrained
networks make a few steps, enough to compare the time per step: a whole fit takes thousands. Times
are the process's CPU time on one thread.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from time import process_time

import torch

from benchmarks.measure import print_table
from benchmarks.networks import load_truth
from networks.deep_decoder import DeepDecoder
from networks.deep_image_prior import DeepImagePrior
from recovery.bm3d import BM3D
from recovery.deepinv import TotalVariation
from recovery.lasso import Lasso
from recovery.linear import Adjoint, PseudoInverse
from recovery.methods import Method
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing
from recovery.untrained import Untrained

SHAPE = (3, 32, 32)


def contestants(steps: int) -> dict[str, Method]:
    return {
        "adjoint": Adjoint(),
        "pseudo-inverse": PseudoInverse(),
        "Lasso, DCT": Lasso("dct"),
        "Lasso, Haar": Lasso("haar"),
        "BM3D": BM3D(),
        f"Deep Decoder, {steps} steps": Untrained(partial(DeepDecoder, width=250), steps=steps),
        f"Deep Image Prior, {steps} steps": Untrained(
            DeepImagePrior, steps=steps, input_noise=0.033
        ),
        "total variation": TotalVariation(),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", help="prepared 32px images; else drawn faces")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--alone", type=int, default=4, help="images recovered one at a time")
    parser.add_argument("--steps", type=int, default=20, help="of the untrained networks")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    truth = load_truth(options.shards, options.images, SHAPE[-1])
    seeds = range(len(truth))
    rows: list[Sequence[object]] = []
    for name, method in contestants(options.steps).items():
        operator = Denoising(SHAPE, 0.1) if name == "BM3D" else GaussianSensing(SHAPE, 0.25)
        y = operator(truth, seeds=seeds)
        began = process_time()
        recovered = [
            method.recover(y[i : i + 1], operator, seeds=[i]).image for i in range(options.alone)
        ]
        alone = (process_time() - began) / options.alone
        began = process_time()
        together = method.recover(y, operator, seeds=seeds).image
        at_once = (process_time() - began) / len(truth)
        first = truth[: options.alone]
        apart = psnr(torch.cat(recovered), first) - psnr(together[: options.alone], first)
        times = [f"{alone:.3f}", f"{at_once:.3f}", f"{alone / at_once:.1f}"]
        rows.append(
            [name, *times, f"{psnr(together, truth).mean():.2f}", f"{apart.abs().max():.3f}"]
        )
        print(*rows[-1], flush=True)
    header = ["method", "s/image, alone", "s/image, at once", "times as fast", "mean dB"]
    note = f"{options.images} images at once, {options.alone} alone."
    print_table([*header, "largest difference, dB"], rows, note)
