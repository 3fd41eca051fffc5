"""Our CSGM beside deepinv's CSGMGenerator: the same generator, measurements and loss.

deepinv (pip install deepinv) searches one image at a time, from one start, uniform in [-1, 1], and
stops at the first step that changes its loss by less than a ten-thousandth. We compare whole
recoveries: PSNR, decodes with their gradient, and seconds, all for each image.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import print_table
from benchmarks.networks import load_gan, load_truth
from benchmarks.peers import imported
from core.seeds import seed_from
from priors.prior import Prior
from recovery.csgm import Csgm
from recovery.metrics import psnr
from recovery.operators import GaussianSensing

Recovered = tuple[Tensor, float]  # images (B, C, H, W), evaluations of each


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prior", help="a GAN prior; else an untrained DCGAN of 32px")
    parser.add_argument("--shards", metavar="DIR", help="held-out images; drawn faces without")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--fraction", type=float, default=0.2, help="of n that is measured")
    parser.add_argument("--steps", type=int, default=500, help="of ours (Bora et al.: 500)")
    parser.add_argument("--most", type=int, default=2500, help="steps of deepinv's (its default)")


def run(options: argparse.Namespace) -> None:
    prior = load_gan(options.prior)
    truth = load_truth(options.shards, options.images, prior.image_shape[-1])
    operator = GaussianSensing(prior.image_shape, options.fraction)
    y = operator(truth, seeds=range(len(truth)))

    def ours(restarts: int, at_once: int) -> Callable[[], Recovered]:
        method = Csgm(prior, steps=options.steps, restarts=restarts, batch_size=restarts * at_once)

        def recover() -> Recovered:
            found = method.recover(y, operator)
            return found.image, found.evaluations.double().mean().item()

        return recover

    def theirs(steps: int, **options: float) -> Callable[[], Recovered]:
        return lambda: by_deepinv(prior, y, operator, inf_max_iter=steps, **options)

    by_deepinv(prior, y[:1], operator, inf_max_iter=1)  # sets up, untimed
    contestants = {
        "deepinv": theirs(options.most),
        "deepinv, to the last step": theirs(options.most, inf_tol=0.0),
        "deepinv, our steps and rate": theirs(options.steps, inf_tol=0.0, inf_lr=0.1),
        "ours, 1 start, one at a time": ours(1, 1),
        "ours, 1 start, all at once": ours(1, len(truth)),
        "ours, 2 starts, all at once": ours(2, len(truth)),
    }
    print_table(
        ["CSGM", "PSNR, dB", "evaluations", "s/image", "as long as deepinv's", "ms/evaluation"],
        rows(contestants, truth),
        f"{len(truth)} images of {prior.image_shape[-1]}px, m = {options.fraction:.0%} of n, each "
        "once. The generator is the same; both minimise the residual by Adam.",
    )


def rows(contestants: dict[str, Callable[[], Recovered]], truth: Tensor) -> list[list[object]]:
    found: list[list[object]] = []
    first = 0.0  # seconds for an image of the first
    for name, recover in contestants.items():
        began = time.perf_counter()
        image, evaluations = recover()
        seconds = (time.perf_counter() - began) / len(truth)
        first = first or seconds
        decibel = psnr(image, truth).mean().item()
        figures = [f"{decibel:.2f}", f"{evaluations:.0f}", f"{seconds:.1f}"]
        figures += [f"{seconds / first:.2f}", f"{1000 * seconds / evaluations:.1f}"]
        found.append([name, *figures])
    return found


# --- deepinv's


class Backbone(nn.Module):
    """A prior's decoder as deepinv wants it: latents (1, nz, 1, 1) to images. It counts."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior
        self.nz = prior.latent_dim
        self.calls = 0

    def forward(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.prior.decode(z.flatten(1))


def by_deepinv(prior: Prior, y: Tensor, operator: GaussianSensing, **options: float) -> Recovered:
    """Recover each image of y (B, m) with deepinv's CSGMGenerator, of these options."""
    deepinv = imported("deepinv", "pip install deepinv")
    backbone = Backbone(prior)
    model = deepinv.models.CSGMGenerator(backbone, **options).eval()
    physics = deepinv.physics.LinearPhysics(A=operator.A, A_adjoint=operator.A_adjoint)
    images = []
    for index, measured in enumerate(y):
        torch.manual_seed(seed_from("start", index))
        images.append(model(measured[None], physics).detach())
    decodes_of_results = len(images)
    return torch.cat(images), (backbone.calls - decodes_of_results) / len(images)
