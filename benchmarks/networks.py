"""The networks the benchmarks run on: one from a run's checkpoint, or an untrained toy."""

from pathlib import Path

import torch
from torch import Tensor

import priors
from datamodules.procedural import faces
from datamodules.shards import ShardIndex, load_images
from networks.dcgan import Generator
from networks.glow import Glow
from priors.prior import FlowPrior, GanPrior, Prior


def load_prior(checkpoint: str | Path | None, device: str | torch.device = "cpu") -> FlowPrior:
    """Load the invertible prior of a run, checkpoint or export; without one make `toy_glow`'s."""
    if checkpoint is None:
        return FlowPrior(toy_glow().to(device).frozen(), "glow")
    prior = priors.load_prior(checkpoint, device)
    if not isinstance(prior, FlowPrior):
        raise ValueError(f"{checkpoint} is a GAN prior: this benchmark needs an invertible one")
    return prior


def load_gan(path: str | Path | None) -> Prior:
    """Load a GAN prior; without one make an untrained DCGAN's of 32px."""
    if path is None:
        return GanPrior(Generator(32).eval().requires_grad_(False), "dcgan")
    return priors.load_prior(path)


def toy_glow() -> Glow:
    """Make a small network, initialised on drawn faces and perturbed so that couplings couple."""
    torch.manual_seed(0)
    glow = Glow(image_size=32, steps=4, levels=3, hidden=32, last_level_steps=4)
    glow.initialize(faces(range(128)).float() / 255 - 0.5)
    return perturbed(glow)


@torch.no_grad()
def perturbed(glow: Glow, std: float = 0.01) -> Glow:
    """Add N(0, std^2) to every parameter, from seed 0: without it new couplings do nothing."""
    torch.manual_seed(0)
    for parameter in glow.parameters():
        parameter.add_(std * torch.randn_like(parameter))
    return glow


def load_truth(shards: str | None, count: int, image_size: int) -> Tensor:
    """Load held-out images (count, 3, H, W) in [0, 1], from prepared shards or drawn faces."""
    if shards is None:
        return faces(range(count), seed=1, image_size=image_size).float() / 255
    return load_images(ShardIndex.load(shards, image_size), count)[0].float() / 255
