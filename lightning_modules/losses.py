"""Losses: D(x) is the discriminator's output for an image, G(z) a generated image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.pyramid import pyramid_distance


def logistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """mean -log s(D(x)) + mean -log(1 - s(D(G(z)))), s the sigmoid (Goodfellow et al. 2014).

    Binary cross-entropy with labels 1 and 0, from logits (B,).
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def logistic_generator(fake: Tensor) -> Tensor:
    """mean -log s(D(G(z))): the non-saturating loss (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


def wasserstein_critic(real: Tensor, fake: Tensor, drift: float) -> Tensor:
    """mean D(G(z)) - mean D(x) + drift mean D(x)^2 (Karras et al. 2018, appendix A.1)."""
    return fake.mean() - real.mean() + drift * real.square().mean()


def wasserstein_generator(fake: Tensor) -> Tensor:
    """-mean D(G(z)) (Arjovsky et al. 2017)."""
    return -fake.mean()


def interpolate(real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """mix x + (1 - mix) G(z), one mix in [0, 1] per image: the points of the penalty."""
    return torch.lerp(fake, real, mix[:, None, None, None]).detach().requires_grad_()


def gradient_penalty(score: Tensor, images: Tensor) -> Tensor:
    """mean (||dD/dx||_2 - 1)^2 at `images`, which have scores (B,) (Gulrajani et al. 2017)."""
    (gradient,) = torch.autograd.grad(score.sum(), images, create_graph=True)
    return (gradient.float().flatten(1).norm(dim=1) - 1).square().mean()


# --- reconstruction -----------------------------------------------------------------------------


def reconstruction(image: Tensor, truth: Tensor) -> Tensor:
    """MSE + sum_l 4^-l mean |L_l(image) - L_l(truth)|, per image (B,) (Athar et al. 2019).

    L_l is level l of the Laplacian pyramid, from 0, the finest, to 3, the blurred rest. Images are
    (B, C, H, W) from 0 to 1. The means are over an image's values, which the authors leave open.
    """
    difference = image - truth
    return difference.square().mean(dim=(1, 2, 3)) + pyramid_distance(difference)
