"""DCGAN (Radford, Metz & Chintala 2016) as used by Bora et al. (2017) and Asim et al. (ICML 2020).

A generator G maps a latent z ~ N(0, I) to an image in (-1, 1); a discriminator D gives the logit
that an image is real. Transposed convolutions, BatchNorm, no biases. At 64px G has 3,576,704
parameters and D 2,765,568, the paper's; other sizes have fewer or more doublings.
"""

import torch
from torch import Tensor, nn

from networks.sizes import doublings


class Generator(nn.Module):
    """z (B, latent_dim) -> image (B, channels, H, W) in (-1, 1).

    Args:
        image_size: H = W, a power of two from 8.
        latent_dim: length of z.
        width: channels of the largest feature map; each smaller one has twice as many.
        channels: of the image.

    Raises:
        ValueError: `image_size` is not a power of two from 8.
    """

    def __init__(
        self, image_size: int = 64, latent_dim: int = 100, width: int = 64, channels: int = 3
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_shape = (channels, image_size, image_size)
        widths = [width << i for i in reversed(range(doublings(image_size)))]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, widths[0], 4, bias=False)]
        for here, there in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(here), nn.ReLU()]
            layers += [nn.ConvTranspose2d(here, there, 4, stride=2, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(initialize)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z[:, :, None, None])


class Discriminator(nn.Module):
    """image (B, channels, H, W) in [-1, 1] -> logit (B,) that it is real.

    Args:
        image_size: H = W, a power of two from 8.
        width: channels of the largest feature map; each smaller one has twice as many.
        channels: of the image.

    Raises:
        ValueError: `image_size` is not a power of two from 8.
    """

    def __init__(self, image_size: int = 64, width: int = 64, channels: int = 3) -> None:
        super().__init__()
        self.image_shape = (channels, image_size, image_size)
        widths = [width << i for i in range(doublings(image_size))]
        layers: list[nn.Module] = []
        for here, there in zip([channels, *widths[:-1]], widths, strict=True):
            layers += [nn.Conv2d(here, there, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(there)] if here != channels else []
            layers += [nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, bias=False))
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten()


def initialize(module: nn.Module) -> None:
    """Draw convolutions N(0, 0.02^2), BatchNorm scales N(1, 0.02^2) (Radford et al., section 4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        torch.nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        torch.nn.init.normal_(module.weight, 1.0, 0.02)
