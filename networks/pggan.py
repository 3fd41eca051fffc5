"""Progressive GAN (Karras, Aila, Laine & Lehtinen 2018), in the paper's 128px size by default.

Generator and discriminator take a stage: they work at 4 << stage pixels, and `blend` in [0, 1] says
how far that size has faded in over the one before (0: not at all, 1: done). With stage None they
have their final size. Every weight is N(0, 1) and scaled when used, so that Adam moves all layers
equally fast (equalised learning rate).

The scales are constants, as in Karras' code: at 128px the generator has 13,625,379 parameters.
The paper's 13,625,904 also count 13 scales declared as parameters, and the latent's 512.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.sizes import SMALLEST, doublings

GROUP = 4  # images per minibatch standard deviation


def channels_at(stage: int, base: int, most: int) -> int:
    """Count feature maps at 4 << stage pixels: by default 512, 512, 256, 128, 64, 32."""
    return max(1, min(base >> (stage + 1), most))


def pixel_norm(x: Tensor) -> Tensor:
    """Normalise: x / sqrt(mean over channels of x^2 + 1e-8)."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def half(x: Tensor) -> Tensor:
    """Halve the side, by the mean of 2 x 2 pixels."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Double the side, by nearest neighbours."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def fade(images: Tensor, stage: int, blend: float) -> Tensor:
    """Scale full-size real images (B, C, H, W) to what the networks see at a stage.

    Averages down to 4 << stage pixels, then blends with the next smaller version, as the generator
    does: lerp(double(half(x)), x, blend).
    """
    x = F.avg_pool2d(images, images.shape[-1] // (SMALLEST << stage))
    return x if blend >= 1 or stage == 0 else torch.lerp(double(half(x)), x, blend)


class EqualisedConv(nn.Module):
    """Convolution by weight * gain / sqrt(fan_in), weight ~ N(0, 1), bias 0 (Karras, 4.1)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, padding: int = 0, gain: float = math.sqrt(2)
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs * kernel**2)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


class GeneratorBlock(nn.Module):
    """Two 3x3 convolutions, each of its normalised input; the first one after doubling the side.

    The first block makes 4 x 4 pixels from one, by a 4 x 4 convolution.
    """

    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        self.first = first
        kernel, padding = (4, 3) if first else (3, 1)
        # the same as Karras' first layer, whose fan-in leaves out the kernel, at gain sqrt(2) / 4
        self.conv1 = EqualisedConv(inputs, outputs, kernel, padding)
        self.conv2 = EqualisedConv(outputs, outputs, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_norm(x)
        x = activate(self.conv1(x if self.first else double(x)))
        return activate(self.conv2(pixel_norm(x)))


class Generator(nn.Module):
    """z (B, latent_dim) -> image (B, channels, H, W), nominally in [-1, 1] (linear RGB).

    Args:
        image_size: final H = W, a power of two from 8.
        latent_dim: entries of z. It is normalised first, so that its norm does not matter.
        base, most: of `channels_at`.
        channels: of the image.
        growing: also make the RGB layers of the smaller sizes, which training by stages needs. The
            published count leaves them out.

    Raises:
        ValueError: `image_size` is not a power of two from 8.
    """

    def __init__(
        self,
        image_size: int = 128,
        latent_dim: int = 512,
        base: int = 2048,
        most: int = 512,
        channels: int = 3,
        growing: bool = False,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_shape = (channels, image_size, image_size)
        self.growing = growing
        self.final_stage = doublings(image_size)
        widths = [channels_at(stage, base, most) for stage in range(self.final_stage + 1)]
        self.blocks = nn.ModuleList(
            GeneratorBlock(inputs, outputs, first=stage == 0)
            for stage, (inputs, outputs) in enumerate(
                zip([latent_dim, *widths[:-1]], widths, strict=True)
            )
        )
        kept = range(self.final_stage + 1) if growing else [self.final_stage]
        self.to_rgb = nn.ModuleDict(
            {str(stage): EqualisedConv(widths[stage], channels, 1, gain=1.0) for stage in kept}
        )

    def forward(self, z: Tensor, stage: int | None = None, blend: float = 1.0) -> Tensor:
        """Generate images of 4 << stage pixels; see the head of this file."""
        stage = self.final_stage if stage is None else stage
        x = before = z[:, :, None, None]
        for block in self.blocks[: stage + 1]:
            before, x = x, block(x)
        image = self.rgb(x, stage)
        if blend < 1 and stage > 0:
            image = torch.lerp(double(self.rgb(before, stage - 1)), image, blend)
        return image

    def rgb(self, features: Tensor, stage: int) -> Tensor:
        return self.to_rgb[str(stage)](pixel_norm(features))

    def at(self, stage: int, blend: float) -> nn.Module:
        """Return the generator as it is at a stage, with its images enlarged to the final size."""
        done = stage == self.final_stage and blend == 1
        return self if done else Unfinished(self, stage, blend)


class Unfinished(nn.Module):
    """A generator that is still growing, made one of full-size images."""

    def __init__(self, generator: Generator, stage: int, blend: float) -> None:
        super().__init__()
        self.latent_dim = generator.latent_dim
        self.image_shape = generator.image_shape
        self.generator = generator
        self.stage = stage
        self.blend = blend

    def forward(self, z: Tensor) -> Tensor:
        image = self.generator(z, self.stage, self.blend)
        enlarge = self.image_shape[-1] // image.shape[-1]
        return F.interpolate(image, scale_factor=float(enlarge), mode="nearest")


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions, and the side halved."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = EqualisedConv(inputs, inputs, 3, 1)
        self.conv2 = EqualisedConv(inputs, outputs, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return half(activate(self.conv2(activate(self.conv1(x)))))


class Discriminator(nn.Module):
    """image (B, channels, h, w) of 4 << stage pixels -> score (B,), higher for real ones.

    Mirrors the generator; at 4 pixels, the standard deviation over groups of images is one more
    feature map (Karras, section 3).

    Args:
        image_size: final H = W, a power of two from 8.
        base, most: of `channels_at`.
        channels: of the image.

    Raises:
        ValueError: `image_size` is not a power of two from 8.
    """

    def __init__(
        self, image_size: int = 128, base: int = 2048, most: int = 512, channels: int = 3
    ) -> None:
        super().__init__()
        self.image_shape = (channels, image_size, image_size)
        self.final_stage = doublings(image_size)
        widths = [channels_at(stage, base, most) for stage in range(self.final_stage + 1)]
        self.from_rgb = nn.ModuleList(EqualisedConv(channels, width, 1) for width in widths)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(here, smaller) for smaller, here in pairwise(widths)
        )
        self.last_conv = EqualisedConv(widths[0] + 1, widths[0], 3, 1)
        self.dense = EqualisedConv(widths[0], channels_at(0, base, most), SMALLEST)
        self.score = EqualisedConv(channels_at(0, base, most), 1, 1, gain=1.0)

    def forward(self, x: Tensor, stage: int | None = None, blend: float = 1.0) -> Tensor:
        """Score images at a stage; see the head of this file."""
        stage = self.final_stage if stage is None else stage
        features = activate(self.from_rgb[stage](x))
        for level in range(stage, 0, -1):
            features = self.blocks[level - 1](features)
            if level == stage and blend < 1:
                before = activate(self.from_rgb[stage - 1](half(x)))
                features = torch.lerp(before, features, blend)
        features = activate(self.last_conv(append_deviation(features)))
        return self.score(activate(self.dense(features))).flatten()


def append_deviation(x: Tensor) -> Tensor:
    """Append to x (B, C, h, w) a map of the standard deviation over each image's group, averaged.

    Groups hold 4 images, or what divides the batch; image i is in group i modulo their number.
    """
    batch, _, height, width = x.shape
    groups = x.unflatten(0, (math.gcd(GROUP, batch), -1))  # (images of a group, groups, C, h, w)
    deviation = (groups.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    deviation = deviation.repeat(groups.shape[0])[:, None, None, None]
    return torch.cat([x, deviation.expand(batch, 1, height, width)], dim=1)


@dataclass(frozen=True)
class Growth:
    """Progressive growing by images seen (Karras et al. 2018): 4px, fade to 8px, 8px, fade, ...

    Args:
        stabilise_images: length of training at a size before the next one fades in.
        fade_images: how many it takes to fade in.
        minibatch: images per device and step by size in pixels; a size that it does not name takes
            the loader's whole batch.

    Raises:
        ValueError: a length or a minibatch is not positive.
    """

    stabilise_images: int = 600_000
    fade_images: int = 600_000
    minibatch: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, count in (
            ("stabilise_images", self.stabilise_images),
            ("fade_images", self.fade_images),
            *((f"minibatch[{size}]", count) for size, count in self.minibatch.items()),
        ):
            if count < 1:
                raise ValueError(f"growth: {name} must be at least 1 image, got {count}")

    def at(self, images_seen: int, final_stage: int) -> tuple[int, float]:
        """Return (stage, blend): 4 << stage pixels, blended in so far."""
        stage, within = divmod(images_seen, self.stabilise_images + self.fade_images)
        if stage >= final_stage:
            return final_stage, 1.0
        faded = within - self.stabilise_images
        return (stage, 1.0) if faded < 0 else (stage + 1, faded / self.fade_images)
