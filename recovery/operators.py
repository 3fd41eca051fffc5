"""Forward models of inverse problems: y = A(x) + noise.

An operator has `A` and `A_adjoint`, and measures when called, as deepinv's `Physics` does, so that
either side's objects work in the other. The same config gives the same operator and, for the same
image seed, the same noise, on any device and in any batch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.checks import require_at_least
from core.seeds import generator, normal, seed_from

ImageShape = tuple[int, int, int]
HOLE = 0.01  # of the pixels, far from any that is measured: with more, it has a hole


class Operator(nn.Module):
    """A linear measurement with additive white Gaussian noise.

    Args:
        image_shape: (C, H, W) of the images it measures.
        sigma: standard deviation of the noise of each measurement.
        seed: of the operator's own randomness and of its noise.

    Attributes:
        linear: whether A is, and has an adjoint.
        denoises: whether A is the identity.
        tells_noise: whether its noise is Gaussian, of standard deviation sigma.
    """

    linear = True
    denoises = False
    tells_noise = True

    def __init__(self, image_shape: ImageShape, sigma: float, seed: int) -> None:
        super().__init__()
        require_at_least(0, sigma=sigma)
        self.image_shape = image_shape
        self.sigma = sigma
        self.seed = seed

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Measure images x (B, C, H, W) without noise."""
        raise NotImplementedError

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Apply the transpose of A: measurements to images (B, C, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor, seeds: Sequence[int] | None = None, **kwargs: Any) -> Tensor:
        """Measure x (B, C, H, W) with noise, row i's from the i-th image seed alone.

        Without seeds, noise comes from the operator's seed and the position in the batch.
        """
        y = self.A(x)
        if self.sigma == 0:
            return y
        seeds = range(len(x)) if seeds is None else seeds
        if len(seeds) != len(x):
            raise ValueError(f"{len(x)} images need as many seeds, got {len(seeds)}")
        noise = normal([seed_from("noise", self.seed, s) for s in seeds], tuple(y.shape[1:]))
        return y + self.measured(self.sigma * noise.to(y))

    def measured(self, noise: Tensor) -> Tensor:
        """Keep noise only where there are measurements."""
        return noise

    @torch.no_grad()
    def leaves_a_hole(self) -> bool:
        """Whether pixels are measured neither themselves nor next to them, 1 in 100 or more.

        For linear operators. Half of the pixels left out at random, or three of four in a grid, are
        no hole.
        """
        x = 1 + torch.rand(1, *self.image_shape, generator=generator("hole"))
        seen = (self.A_adjoint(self.A(x.to(device_of(self)))) != 0).to(torch.float32)
        near = torch.nn.functional.max_pool2d(seen, 3, stride=1, padding=1)
        return bool((near == 0).float().mean() >= HOLE)

    @torch.no_grad()
    def try_out(self) -> None:
        """Measure a random image, and take it back. Raises ValueError for whatever that raises."""
        example = torch.rand(1, *self.image_shape, generator=generator("try out"))
        try:
            y = self(example.to(device_of(self)))
            if self.linear:
                self.A_adjoint(y)
        except Exception as error:  # classes of the user's own may raise anything
            raise ValueError(
                f"{self.label} does not measure images of shape {self.image_shape}: "
                f"{type(error).__name__}: {error}"
            ) from error

    @property
    def label(self) -> str:
        """Its name in messages."""
        return type(self).__name__

    @property
    def kind(self) -> str:
        """cs (compressive sensing), denoise, inpaint, or the operator's label.

        Reports put problems of one kind into one figure, whatever a config calls them.
        """
        return "denoise" if self.denoises else self.label

    @property
    def measurements(self) -> int:
        """m, the number of measurements of one image."""
        return math.prod(self.image_shape)

    @property
    def noise_energy(self) -> float:
        """E ||noise||^2 of one image: at this residual there is nothing left to fit."""
        return self.measurements * self.sigma**2


class GaussianSensing(Operator):
    """Compressive sensing: A (m, n) with i.i.d. N(0, 1/m) entries (paper, section 3.2).

    Args:
        image_shape: (C, H, W).
        m: measurements; an int, or a float up to 1.0, the fraction of n.
        noise_norm: sqrt(E ||noise||^2), spread evenly over the measurements (paper: 0.1).
        seed: of A and noise.

    The matrix is drawn on the CPU when first used, and never inverted.
    """

    kind = "cs"

    def __init__(
        self, image_shape: ImageShape, m: int | float, noise_norm: float = 0.1, seed: int = 0
    ) -> None:
        n = math.prod(image_shape)
        count = round(m * n) if isinstance(m, float) and m <= 1 else int(m)
        if count < 1 or (m > 1 and count != m):
            raise ValueError(f"m must be a count or a fraction of n = {n}, at least 1: got {m}")
        require_at_least(0, noise_norm=noise_norm)
        super().__init__(image_shape, noise_norm / math.sqrt(count), seed)
        self.m = count
        self._drawn: Tensor | None = None

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x.flatten(1) @ self._matrix(x).T

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return (y @ self._matrix(y)).unflatten(1, self.image_shape)

    def _matrix(self, like: Tensor) -> Tensor:
        if self._drawn is None:
            shape = (self.m, math.prod(self.image_shape))
            entries = torch.randn(shape, generator=generator("sensing matrix", self.seed))
            self._drawn = entries.div_(math.sqrt(self.m))
        # keep the widest type seen so far: a visit to half precision must not round it for good
        dtype = torch.promote_types(self._drawn.dtype, like.dtype)
        self._drawn = self._drawn.to(like.device, dtype)
        return self._drawn.to(like.dtype)

    def leaves_a_hole(self) -> bool:
        return False

    def try_out(self) -> None:
        """Do nothing: the matrix may be large, and waits for its first use."""

    @property
    def measurements(self) -> int:
        return self.m


class Denoising(Operator):
    """The image itself with noise of standard deviation sigma in [0, 1] (paper, section 3.1)."""

    denoises = True

    def __init__(self, image_shape: ImageShape, sigma: float, seed: int = 0) -> None:
        super().__init__(image_shape, sigma, seed)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y


class Inpainting(Operator):
    """The image with a hole (paper, section 3.3).

    Args:
        image_shape: (C, H, W).
        mask: `centre`, a square hole of side `fraction` times the image's; `random`, that
            fraction of pixels; `left` or `bottom`, that fraction of columns or rows.
        fraction: see mask (paper: centre, 0.3).
        sigma: standard deviation of the noise on the kept pixels (paper: 0).
        seed: of the random mask and the noise.
    """

    kind = "inpaint"

    def __init__(
        self,
        image_shape: ImageShape,
        mask: Literal["centre", "random", "left", "bottom"] = "centre",
        fraction: float = 0.3,
        sigma: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(image_shape, sigma, seed)
        if not 0 < fraction < 1:
            raise ValueError(f"fraction, the hidden part, must be in (0, 1), got {fraction}")
        _, height, width = image_shape
        kept = torch.ones(height, width)
        if mask == "centre":
            low, high = (1 - fraction) / 2, (1 + fraction) / 2
            kept[int(low * height) : int(high * height), int(low * width) : int(high * width)] = 0
        elif mask == "random":
            hidden = torch.randperm(kept.numel(), generator=generator("mask", seed))
            kept.view(-1)[hidden[: round(fraction * kept.numel())]] = 0
        elif mask == "left":
            kept[:, : round(fraction * width)] = 0
        elif mask == "bottom":
            kept[height - round(fraction * height) :] = 0
        else:
            raise ValueError(f"mask must be centre, random, left or bottom, got {mask!r}")
        self.register_buffer("kept", kept, persistent=False)
        self.kept: Tensor

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x * self.kept.to(x)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y * self.kept.to(y)

    def measured(self, noise: Tensor) -> Tensor:
        return noise * self.kept.to(noise)

    @property
    def hole(self) -> Tensor:
        """Bool (H, W): the hidden pixels."""
        return self.kept == 0

    @property
    def measurements(self) -> int:
        return int(self.kept.sum()) * self.image_shape[0]


def device_of(module: nn.Module) -> torch.device:
    for tensor in (*module.buffers(), *module.parameters()):
        return tensor.device
    return torch.device("cpu")


OperatorFactory = Callable[[ImageShape], Operator]
