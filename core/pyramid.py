"""The Laplacian pyramid (Burt & Adelson 1983)."""

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 4


def laplacian_pyramid(image: Tensor) -> list[Tensor]:
    """Split images (B, C, H, W) into `LEVELS` levels, each of half the side of the one before.

    From the finest on: what each of three blurs takes away, and what is left at the end.
    """
    binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).to(image) / 16
    channels = image.shape[1]
    kernel = binomial.outer(binomial).expand(channels, 1, 5, 5)
    levels = []
    for _ in range(LEVELS - 1):
        blurred = F.conv2d(F.pad(image, (2, 2, 2, 2), "replicate"), kernel, groups=channels)
        levels.append(image - blurred)
        image = F.avg_pool2d(blurred, 2)
    return [*levels, image]


def pyramid_distance(difference: Tensor) -> Tensor:
    """Compute sum_l 4^-l mean |L_l(difference)|, (B,), of differences of images (B, C, H, W)."""
    levels = enumerate(laplacian_pyramid(difference))
    parts = [level.abs().mean(dim=(1, 2, 3)) / 4**number for number, level in levels]
    return torch.stack(parts).sum(dim=0)
