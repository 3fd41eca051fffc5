"""Deep Image Prior's network: an encoder-decoder with skips (Ulyanov, Vedaldi & Lempitsky 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.sizes import doublings


def block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Make a convolution with reflected borders, a normalisation per image, and a leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect"),
        nn.GroupNorm(outputs, outputs),
        nn.LeakyReLU(0.2),
    )


class Scale(nn.Module):
    """One resolution: its own features through the skip, joined to what the coarser ones make."""

    def __init__(self, inputs: int, width: int, skip: int, coarser: nn.Module) -> None:
        super().__init__()
        self.skip = block(inputs, skip, 1)
        self.down = nn.Sequential(block(inputs, width, 3, stride=2), block(width, width, 3))
        self.coarser = coarser
        self.normalise = nn.GroupNorm(skip + width, skip + width)
        self.merge = nn.Sequential(block(skip + width, width, 3), block(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.coarser(self.down(x))
        coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        return self.merge(self.normalise(torch.cat([self.skip(x), coarse], dim=1)))


class DeepImagePrior(nn.Module):
    """Noise (B, input_channels, size, size) -> images (B, channels, size, size) in [0, 1].

    2,217,831 parameters at the published 5 levels.

    Args:
        image_size: a power of two from 8.
        width, skip: channels of the decoder's and encoder's layers, and of the skips.
        levels: resolutions; no more than leave 4px at the coarsest.
        input_channels: of the noise.
        channels: of the images.

    Raises:
        ValueError: `image_size` is not a power of two from 8, or there are fewer levels than 1.
    """

    def __init__(
        self,
        image_size: int = 64,
        width: int = 128,
        skip: int = 4,
        levels: int = 5,
        input_channels: int = 32,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels must be at least 1, got {levels}")
        levels = min(levels, doublings(image_size))
        self.input_shape = (input_channels, image_size, image_size)
        network: nn.Module = nn.Identity()
        for level in reversed(range(levels)):
            network = Scale(width if level else input_channels, width, skip, network)
        self.scales = network
        self.to_image = nn.Conv2d(width, channels, 1)

    def draw_input(self, generator: torch.Generator) -> Tensor:
        """Draw the fixed noise (1, input_channels, size, size), U(0, 0.1)."""
        return 0.1 * torch.rand(1, *self.input_shape, generator=generator)

    def forward(self, noise: Tensor) -> Tensor:
        return self.to_image(self.scales(noise)).sigmoid()
