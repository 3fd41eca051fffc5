"""Deep Decoder, an untrained network (Heckel & Hand 2019; over-parameterised here: section 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.sizes import doublings


class Pixelwise(nn.Linear):
    """A 1x1 convolution as a matrix product: `vmap` over weights makes it one batched product."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return torch.einsum("oc,bchw->bohw", self.weight, x) + self.bias[:, None, None]


class DeepDecoder(nn.Module):
    """Seed (B, width, 4, 4) -> images (B, channels, size, size) in [0, 1].

    Each layer mixes channels at every pixel, normalises, doubles the resolution and rectifies:
    its weights know nothing of neighbourhoods, only the upsampling does.

    Parameters: 253,753 for 64px and width 250, 2,462,603 for 128px and width 700.

    Args:
        image_size: a power of two from 8.
        width: channels of every layer.
        channels: of the images.

    Raises:
        ValueError: `image_size` is not a power of two from 8.
    """

    def __init__(self, image_size: int = 64, width: int = 250, channels: int = 3) -> None:
        super().__init__()
        self.width = width
        layers = [
            # as many groups as channels, which is batch normalisation of one image, as published
            nn.Sequential(Pixelwise(width, width), nn.GroupNorm(width, width))
            for _ in range(doublings(image_size))
        ]
        self.layers = nn.ModuleList(layers)
        self.to_image = Pixelwise(width, channels)

    def draw_input(self, generator: torch.Generator) -> Tensor:
        """Draw the fixed seed (1, width, 4, 4), N(0, 1)."""
        return torch.randn(1, self.width, 4, 4, generator=generator)

    def forward(self, seed: Tensor) -> Tensor:
        x = seed
        for layer in self.layers:
            x = F.interpolate(layer(x), scale_factor=2, mode="bilinear", align_corners=True)
            x = F.relu(x)
        return self.to_image(x).sigmoid()
