"""Recovery of many images at once against one at a time, through a 32px DCGAN prior.

CSGM, and stage 2 of image-adaptive search with a copy of the weights per image, each in its own
process, whose peak memory the table shows. A few steps suffice to compare the time per step.
Target: equal PSNR within 0.1 dB.
"""

import argparse
import multiprocessing
import resource
import time

import torch

from benchmarks.measure import print_table
from benchmarks.networks import load_gan
from datamodules.procedural import faces
from priors.prior import Prior
from recovery.csgm import Csgm
from recovery.image_adaptive import ImageAdaptive
from recovery.methods import PriorBased
from recovery.metrics import psnr
from recovery.operators import GaussianSensing

METHODS = ("CSGM", "image-adaptive")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", help="directory of a trained GAN; else an untrained DCGAN")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)


def run(options: argparse.Namespace) -> None:
    rows = []
    for name in METHODS:
        figures = [measure(options, name, size) for size in (1, options.images)]
        (slow, fast), memory, quality = zip(*figures, strict=True)
        times = [f"{slow:.2f}", f"{fast:.2f}", f"{slow / fast:.2f}"]
        peaks, dbs = [f"{mib:.0f}" for mib in memory], [f"{db:.2f}" for db in quality]
        rows.append([name, options.images, *times, *peaks, *dbs])
    header = ["method", "images", "s/image, one at a time", "s/image, at once", "times as fast"]
    header += ["MiB, one", "MiB, at once", "dB, one", "dB, at once"]
    print_table(header, rows, f"{options.steps} steps, 2 restarts. MiB: peak of the process.")


def measure(options: argparse.Namespace, name: str, size: int) -> tuple[float, float, float]:
    """Measure (seconds per image, peak MiB, mean PSNR) in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(recover, (options, name, size))


def recover(options: argparse.Namespace, name: str, size: int) -> tuple[float, float, float]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    prior = load_gan(options.run)
    truth = faces(range(options.images), image_size=prior.image_shape[-1]).float() / 255
    operator = GaussianSensing(prior.image_shape, 0.25)
    y = operator(truth, seeds=range(options.images))

    def search(prior: Prior, gamma: float) -> Csgm:
        steps = options.steps if name == "CSGM" else 1
        return Csgm(prior, gamma, steps=steps, batch_size=2 * size)

    method: PriorBased = search(prior, 0.0)
    if name != "CSGM":
        method = ImageAdaptive(prior, search=search, steps=options.steps, batch_size=size)
    began = time.perf_counter()
    recovery = method.recover(y, operator)
    seconds = (time.perf_counter() - began) / options.images
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return seconds, peak, psnr(recovery.image, truth).mean().item()
