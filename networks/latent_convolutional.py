"""Latent convolutional model (Athar, Burnaev & Lempitsky, ICLR 2019): x = G(f(s; phi)).

A generator G makes the image from a latent map, and the latent map of every image is the output of
a small convolutional network f of its own, on one fixed input s. So an image's latent is phi, the
weights of f. The sizes are those of the authors' code for 128px, where it states them; what it
leaves open, or states in two ways, is decided here and told below.
"""

import math
from collections.abc import Sequence
from itertools import pairwise, zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.sizes import doublings

BOUND = 0.01  # of the latent network's convolution weights
SLOPE = 0.2  # of every rectifier
EPSILON = 1e-5  # of the latent network's normalisation, as BatchNorm's


class LatentConvolutional(nn.Module):
    """z (B, latent_dim) -> image (B, channels, H, W) in (-1, 1); row by row, but for BatchNorm.

    z is the offset of an image's latent network from the one that all images start from, in units
    of 0.01 for convolution weights and 1 for BatchNorm's, so that z = 0 is the start. The latent
    network f has four unpadded 3x3 convolutions without bias, normalised over the pixels (which
    BatchNorm of one image in training mode does) but for the last: 24,448 weights as published.

    At 128px the generator has 38.7 million parameters: stride-2 convolutions 64 -> 256 -> 512 ->
    1024 down to 4px, three grouped dilated ones there, and transposed ones 2048 -> 512, 1024 ->
    512, 512 -> 256, 256 -> 128 up, of which the first two also take what the way down had at their
    size. A doubling of the image is one convolution each way.

    Decided here: three convolutions lead down, where the authors tell of four, of which one would
    end at 2px; G's rectifiers leak and all of its convolutions but the last are normalised; f
    starts at U(-0.01, 0.01), where PyTorch's draws exceed the bound that training keeps.

    Args:
        image_size: H = W, a power of two from 16. The latent map has a quarter of its side.
        width: channels before the last but one convolution, 64 as published; G's other layers are
            multiples of it.
        latent_widths: channels of the four layers of f; the last are those of the latent map.
        channels: of the image.

    Raises:
        ValueError: `image_size` is not a power of two from 16, or a width is none.
    """

    kind = "latent-convolutional"
    start: Tensor
    input: Tensor
    units: Tensor
    in_kernel: Tensor  # bool

    def __init__(
        self,
        image_size: int = 64,
        width: int = 64,
        latent_widths: Sequence[int] = (8, 16, 32, 64),
        channels: int = 3,
    ) -> None:
        super().__init__()
        side = image_size // 4
        if doublings(image_size) < 2:
            raise ValueError(f"image_size must be at least 16, got {image_size}")
        if len(latent_widths) != 4 or min(latent_widths) < 1 or latent_widths[-1] % 2:
            raise ValueError(
                "latent_widths must be four numbers of channels, the last of them even, got "
                f"{list(latent_widths)}"
            )
        if width < 2 or width % 2:
            raise ValueError(f"width must be even and at least 2, got {width}")
        self.image_shape = (channels, image_size, image_size)
        self.shapes = weight_shapes(latent_widths)
        generator = Generator(image_size, latent_widths[-1], width, channels)
        self.generator = generator.to(memory_format=torch.channels_last)  # a quarter faster
        draws = torch.Generator().manual_seed(0)
        self.register_buffer("input", 0.1 * torch.rand(1, 2, side + 8, side + 8, generator=draws))
        kernels = torch.cat([torch.full((math.prod(s),), len(s) == 4) for s in self.shapes])
        self.register_buffer("in_kernel", kernels, persistent=False)
        self.register_buffer("units", torch.where(kernels, BOUND, 1.0), persistent=False)
        drawn = BOUND * (2 * torch.rand(len(kernels), generator=draws) - 1)
        self.register_buffer("start", torch.where(kernels, drawn, 0.0))
        self.latent_dim = len(self.start)

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(self.latent_map(z))

    def latent_map(self, z: Tensor) -> Tensor:
        """Put s through every row's latent network: (B, latent_widths[-1], H / 4, W / 4)."""
        weights = self.latent_network(z)
        x = self.input.expand(len(z), -1, -1, -1)
        for kernel, norm in zip_longest(weights[::2], weights[1::2]):
            x = convolved(x, kernel)
            if norm is not None:
                scale, shift = norm[..., None, None].unbind(1)
                x = (1 + scale) * F.instance_norm(x, eps=EPSILON) + shift
            x = F.leaky_relu(x, SLOPE)
        return x

    def latent_network(self, z: Tensor) -> list[Tensor]:
        """Give the weights phi that z stands for.

        Kernels (B, out, in, 3, 3) and, between them, normalisations (B, 2, out): scale - 1, shift.
        """
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = (self.start + self.units * z).split(sizes, dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    @torch.no_grad()
    def bound(self, z: Tensor) -> None:
        """Clamp the convolution weights that z (B, latent_dim) stands for to +-0.01, in place."""
        low, high = (-BOUND - self.start) / BOUND, (BOUND - self.start) / BOUND
        z.copy_(torch.where(self.in_kernel, z.clamp(low, high), z))


class Generator(nn.Module):
    """Latent map (B, latent_channels, H / 4, W / 4) -> image (B, channels, H, W) in (-1, 1)."""

    def __init__(self, image_size: int, latent_channels: int, width: int, channels: int) -> None:
        super().__init__()
        downs, ups = doublings(image_size) - 2, doublings(image_size) - 1
        widths = [latent_channels, *(4 * width << i for i in range(downs))]
        self.down = nn.ModuleList(
            block(nn.Conv2d(here, there, 4, stride=2, padding=1, bias=False))
            for here, there in pairwise(widths)
        )
        bottom = widths[-1]
        self.dilated = nn.Sequential(
            *(
                block(
                    nn.Conv2d(
                        bottom, bottom, 3, padding=2, dilation=2, groups=bottom // 2, bias=False
                    )
                )
                for _ in range(3)
            )
        )
        outs = [width * min(2 << i, 8) for i in reversed(range(ups))]
        skips = [*reversed(widths)][:2]
        self.up = nn.ModuleList()
        here = bottom
        for i, there in enumerate(outs):
            here += skips[i] if i < len(skips) else 0
            self.up.append(block(nn.ConvTranspose2d(here, there, 4, 2, padding=1, bias=False)))
            here = there
        self.skips = len(skips)
        self.to_image = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            block(nn.Conv2d(2 * width, width, 3, padding=1, bias=False)),
            block(nn.Conv2d(width, width // 2, 3, padding=1, bias=False)),
            nn.Conv2d(width // 2, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.down:
            features.append(layer(features[-1]))
        x = self.dilated(features[-1])
        for i, layer in enumerate(self.up):
            x = layer(torch.cat([x, features[-1 - i]], dim=1) if i < self.skips else x)
        return 2 * self.to_image(x).sigmoid() - 1


def block(convolution: nn.Module) -> nn.Sequential:
    """A convolution, normalised and rectified."""
    channels: int = convolution.out_channels  # type: ignore[assignment]
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE))


def weight_shapes(widths: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes of a latent network's weights: kernels and, between them, normalisations."""
    shapes: list[tuple[int, ...]] = []
    for here, there in pairwise([2, *widths]):
        shapes += [(there, here, 3, 3), (2, there)]
    return shapes[:-1]


def convolved(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve x (B, in, H, W), unpadded, with a kernel (B, out, in, 3, 3) for every row."""
    _, _, height, width = x.shape
    patches = F.unfold(x, 3)  # as one batched matrix product: grouped convolutions are slow
    return (kernels.flatten(2) @ patches).unflatten(2, (height - 2, width - 2))
