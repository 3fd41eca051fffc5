"""Does a trained prior invert? The largest |decode(encode(x)) - x| over every kind of image.

    python -m benchmarks inversion runs/demo runs/demo-parity

Target: 1e-4 for every image with the default stability options. An image fails above that, or if
it does not come back finite.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import print_table
from benchmarks.networks import load_prior
from core.seeds import generator
from datamodules.procedural import faces
from priors.prior import FlowPrior

COUNT = 32
LIMIT = 1e-4


def kinds_of_image(size: int) -> dict[str, Tensor]:
    """Make COUNT images (3, size, size) in [0, 1] of each kind that a user may bring."""
    draw = generator("inversion")
    shape = (COUNT, 3, size, size)
    inside = faces(range(2_000_000, 2_000_000 + COUNT), image_size=size).float() / 255
    outside = faces(range(COUNT), distribution="out", image_size=size).float() / 255
    grey = torch.linspace(0, 1, COUNT)
    return {
        "faces": inside,
        "faces, out of distribution": outside,
        "noisy faces (0.2)": (inside + 0.2 * torch.randn(shape, generator=draw)).clamp(0, 1),
        "saturated faces": (8 * (inside - 0.5) + 0.5).clamp(0, 1),
        "constant": grey.view(-1, 1, 1, 1).expand(shape).clone(),
        "uniform noise": torch.rand(shape, generator=draw),
        "black and white noise": torch.rand(shape, generator=draw).round(),
    }


@torch.no_grad()
def inversion_errors(prior: FlowPrior) -> dict[str, Tensor]:
    """Compute by kind the largest error of each image (COUNT,); inf where it is not finite."""
    errors = {}
    for kind, images in kinds_of_image(prior.image_shape[-1]).items():
        returned = prior.decode(prior.encode(images)[0])
        error = (returned - images).abs().flatten(1).amax(dim=1)
        errors[kind] = error.nan_to_num(nan=torch.inf)
    return errors


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="run directories of train.py")


def run(options: argparse.Namespace) -> None:
    columns = {run.name: inversion_errors(load_prior(run)) for run in options.runs}
    rows = []
    for kind in next(iter(columns.values())):
        row = [kind]
        for errors in columns.values():
            failed = int((errors[kind] > LIMIT).sum())
            row += [f"{errors[kind].max():.1e}", f"{failed} of {COUNT}"]
        rows.append(row)
    heads = [f"{name}: {what}" for name in columns for what in ("largest error", "failed")]
    print_table(["kind of image", *heads], rows)
