"""Glow (Kingma & Dhariwal 2018) as used by Asim et al. (ICML 2020), with flat latents.

A flow maps an image x to a latent z of the same size and back. With f(x) = z,

    log p(x) = log N(z; 0, I) + log |det df/dx|.

Level: squeeze (space to depth) -> flow steps -> emit half of the channels as latent.
Flow step: ActNorm -> invertible 1x1 convolution -> affine coupling.

`fold` computes once all that depends on the weights alone: ActNorm merged into the convolution next
to it, inverse matrices, log-determinants. `FoldedStep` has the arithmetic that uses it. Training
folds once per batch; `Glow.frozen` folds once for good.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Stability:
    """What keeps a flow invertible in float32, each with its source.

    The defaults make every test image recoverable. `Stability.paper()` has the formulas of the
    paper's 64px networks, where nothing bounds the inverse.

    Args:
        min_scale: couplings scale by min_scale to 1, so inverses by at most 1/min_scale (Behrmann
            et al. 2021: unbounded affine couplings have exploding inverses).
        actnorm_epsilon: added to every ActNorm scale (paper, section 6.2.1).
        activation_clip: largest |activation| after each step (paper, 6.2.1: 128px only); None for
            any.
    """

    min_scale: float = 0.5
    actnorm_epsilon: float = 1e-4
    activation_clip: float | None = None

    @classmethod
    def paper(cls) -> "Stability":
        return cls(min_scale=0.0, actnorm_epsilon=0.0, activation_clip=None)

    def __post_init__(self) -> None:
        if not 0 <= self.min_scale < 1:
            raise ValueError(f"min_scale must be in [0, 1), got {self.min_scale}")
        if self.actnorm_epsilon < 0:
            raise ValueError(f"actnorm_epsilon must be at least 0, got {self.actnorm_epsilon}")
        if self.activation_clip is not None and self.activation_clip <= 0:
            raise ValueError(f"activation_clip must be positive, got {self.activation_clip}")


class Affine(NamedTuple):
    """A convolution's weight (C_out, C_in, k, k) and bias (C_out,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        if self.weight.shape[-1] == 1 and _few_images(x):
            return self._by_16(x)
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)

    def _by_16(self, x: Tensor) -> Tensor:
        """Convolve each pixel of x (B, C, H, W), channels last, in 16 images of a column."""
        pixels = x.permute(0, 2, 3, 1)
        columns = pixels.reshape(16, -1, 1, x.shape[1]).permute(0, 3, 1, 2)
        y = F.conv2d(columns, self.weight, self.bias)
        return y.permute(0, 2, 3, 1).reshape(*pixels.shape[:3], -1).permute(0, 3, 1, 2)

    def to(self, dtype: torch.dtype) -> "Affine":
        return Affine(self.weight.to(dtype), self.bias.to(dtype))

    def detached(self, layout: torch.memory_format) -> "Affine":
        weight = self.weight.detach().clone(memory_format=layout)
        return Affine(weight, self.bias.detach().clone())


class ActNorm(nn.Module):
    """y = (x + bias) * (exp(log_scale) + epsilon), per channel, set from data once."""

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def scale(self) -> Tensor:
        return self.log_scale.exp() + self.epsilon

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        """Give x (B, C, H, W) zero mean and unit variance; a constant channel keeps its scale."""
        std, mean = torch.std_mean(x.double(), dim=(0, 2, 3), correction=0)
        constant = std < 1e-4  # nothing to normalise: scaling by 1 / std would amplify rounding
        self.bias.copy_(-mean)
        self.log_scale.copy_(torch.where(constant, 1.0, std).log().neg())
        return (x + self.bias.view(-1, 1, 1)) * self.scale().view(-1, 1, 1)


class CouplingNet(nn.Module):
    """conv3x3 -> ActNorm -> ReLU -> conv1x1 -> ActNorm -> ReLU -> conv3x3, output starts at 0."""

    def __init__(self, channels: int, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels // 2, hidden, 3, padding=1)
        self.norm1 = ActNorm(hidden, epsilon)
        self.conv2 = nn.Conv2d(hidden, hidden, 1)
        self.norm2 = ActNorm(hidden, epsilon)
        self.conv3 = nn.Conv2d(hidden, channels, 3, padding=1)
        self.log_scale = nn.Parameter(torch.zeros(channels))  # output times exp(3 log_scale)
        for conv, std in ((self.conv1, 0.01), (self.conv2, 0.01), (self.conv3, 0.0)):
            nn.init.normal_(conv.weight, std=std)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def initialize(self, x: Tensor) -> None:
        x = F.relu(self.norm1.initialize(self.conv1(x)))
        self.norm2.initialize(self.conv2(x))


class FlowStep(nn.Module):
    """ActNorm -> invertible 1x1 convolution -> affine coupling: the weights and their folding."""

    def __init__(self, channels: int, hidden: int, stability: Stability) -> None:
        super().__init__()
        self.norm = ActNorm(channels, stability.actnorm_epsilon)
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        self.matrix = nn.Parameter(rotation.contiguous())
        self.net = CouplingNet(channels, hidden, stability.actnorm_epsilon)
        self.stability = stability

    def initialize(self, x: Tensor) -> Tensor:
        """Set the ActNorms from x (B, C, H, W), the step's input; return the step's output."""
        self.norm.initialize(x)
        self.net.initialize(fold([self])[0].mix(x).chunk(2, dim=1)[1])
        return fold([self])[0].forward(x)[0]


@dataclass
class FoldedStep:
    """One flow step's arithmetic. `forward`: x -> (y, log_det of the coupling); `inverse`: y -> x.

    The log-determinant that depends on weights alone is `Glow.log_det`.
    """

    matrix: Tensor  # (C, C), the 1x1 convolution
    scale: Tensor  # (C,), of ActNorm
    bias: Tensor  # (C,), of ActNorm
    net: tuple[Affine, Affine, Affine]
    stability: Stability

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        xa, xb = self.mix(x).chunk(2, dim=1)
        scale, shift = self.coupling(xb)
        y = self.clip(torch.cat([scale * xa + shift, xb], dim=1))
        return y, scale.log().sum(dim=(1, 2, 3))

    def inverse(self, y: Tensor) -> Tensor:
        ya, xb = y.chunk(2, dim=1)
        scale, shift = self.coupling(xb)
        return self.clip(self.unmix(torch.cat([(ya - shift) / scale, xb], dim=1)))

    def coupling(self, xb: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale, in (min_scale, 1), and shift for the other half, each (B, C/2, H, W)."""
        conv1, conv2, conv3 = self.net
        raw = conv3(F.relu(conv2(F.relu(conv1(xb))))).to(xb.dtype)  # may run in bf16 inside
        raw_scale, shift = raw.chunk(2, dim=1)
        low = self.stability.min_scale
        return low + (1 - low) * torch.sigmoid(raw_scale), shift

    def mix(self, x: Tensor) -> Tensor:
        with _full_precision(x):
            return self.forward_mix(x)

    def unmix(self, y: Tensor) -> Tensor:
        with _full_precision(y):
            return self.inverse_mix(y)

    def clip(self, x: Tensor) -> Tensor:
        bound = self.stability.activation_clip
        return x if bound is None else x.clamp(-bound, bound)

    def __post_init__(self) -> None:
        # W ((x + b) s) = (W s) x + W (b s)
        weight = self.matrix * self.scale
        self.forward_mix = Affine(weight[:, :, None, None], weight @ self.bias)

    @cached_property
    def inverse_mix(self) -> Affine:  # (W s)^-1 y - b, the inverse in float64
        weight = (self.matrix.double() * self.scale.double()).inverse().to(self.matrix.dtype)
        return Affine(weight[:, :, None, None], -self.bias)

    def to(self, dtype: torch.dtype) -> "FoldedStep":
        conv1, conv2, conv3 = (conv.to(dtype) for conv in self.net)
        matrix, scale, bias = (t.to(dtype) for t in (self.matrix, self.scale, self.bias))
        return FoldedStep(matrix, scale, bias, (conv1, conv2, conv3), self.stability)

    def detached(self, layout: torch.memory_format) -> "FoldedStep":
        """Copy it without gradients, with all weight-only work done and weights laid out so."""
        conv1, conv2, conv3 = (conv.detached(layout) for conv in self.net)
        matrix, scale, bias = (t.detach().clone() for t in (self.matrix, self.scale, self.bias))
        step = FoldedStep(matrix, scale, bias, (conv1, conv2, conv3), self.stability)
        _ = step.inverse_mix  # now, not in the middle of a search
        return step


class Convolutions(NamedTuple):
    """A convolution of each of S steps: weight (S, C_out, k, k, C_in), channels last, and bias."""

    weight: Tensor
    bias: Tensor  # (S, C_out)

    @classmethod
    def stack(cls, convolutions: Iterable[nn.Conv2d]) -> "Convolutions":
        pairs = [(conv.weight.permute(0, 2, 3, 1), conv.bias) for conv in convolutions]
        return cls(*(torch.stack(tensors) for tensors in zip(*pairs, strict=True)))

    def scaled(self, scale: Tensor, shift: Tensor | float = 0.0) -> "Convolutions":
        """Merge the convolutions and x -> (x + shift) * scale, per step and channel."""
        weight = self.weight * scale[..., None, None, None]
        return Convolutions(weight, (self.bias + shift) * scale)

    def split(self, dtype: torch.dtype | None) -> list[Affine]:
        """Split into S convolutions, of `dtype` if given."""
        weight = self.weight.permute(0, 1, 4, 2, 3).to(dtype or self.weight.dtype)
        pairs = zip(weight, self.bias.to(weight.dtype), strict=True)
        return [Affine(*pair) for pair in pairs]


def stack_norms(norms: list[ActNorm]) -> tuple[Tensor, Tensor]:
    """Stack ActNorms' scales and biases, each (S, C)."""
    log_scales = torch.stack([norm.log_scale for norm in norms])
    return log_scales.exp() + norms[0].epsilon, torch.stack([norm.bias for norm in norms])


def fold(steps: list[FlowStep], dtype: torch.dtype | None = None) -> list[FoldedStep]:
    """Compute what depends on weights alone: for all steps of a level at once, as a GPU wants it.

    A coupling network becomes three convolutions, of `dtype` if given. The last gives the raw
    scales + 2, then the shifts.
    """
    nets = [step.net for step in steps]
    conv1 = Convolutions.stack(net.conv1 for net in nets)
    conv2 = Convolutions.stack(net.conv2 for net in nets)
    conv3 = Convolutions.stack(net.conv3 for net in nets)
    conv1 = conv1.scaled(*stack_norms([net.norm1 for net in nets]))
    conv2 = conv2.scaled(*stack_norms([net.norm2 for net in nets]))
    conv3 = conv3.scaled((3 * torch.stack([net.log_scale for net in nets])).exp())
    conv3 = Convolutions(
        torch.cat([conv3.weight[:, 0::2], conv3.weight[:, 1::2]], dim=1),
        torch.cat([conv3.bias[:, 0::2] + 2, conv3.bias[:, 1::2]], dim=1),
    )
    coupling = zip(*(conv.split(dtype) for conv in (conv1, conv2, conv3)), strict=True)
    scales, biases = stack_norms([step.norm for step in steps])
    return [
        FoldedStep(step.matrix, scale, bias, net, step.stability)
        for step, scale, bias, net in zip(steps, scales, biases, coupling, strict=True)
    ]


def log_det_of_weights(
    image_shape: tuple[int, int, int], matrices: list[Tensor], scales: list[Tensor]
) -> Tensor:
    """Sum the log-determinants of the levels' 1x1 convolutions (S, C, C) and ActNorms (S, C).

    Of a level's S steps at once, as a GPU wants it. A CUDA graph cannot hold it: `slogdet` waits.
    """
    total = scales[0].new_zeros(())
    for level, (matrix, scale) in enumerate(zip(matrices, scales, strict=True), start=1):
        pixels = (image_shape[1] >> level) * (image_shape[2] >> level)
        per_pixel = torch.linalg.slogdet(matrix).logabsdet.sum() + scale.log().sum()
        total = total + pixels * per_pixel
    return total


class FoldedGlow:
    """The multi-scale arithmetic over folded steps. See `Glow` for shapes and latent order.

    `steps[l]` are the steps of level l. Holds no parameters and, from `Glow.frozen`, no graph.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        steps: list[list[FoldedStep]],
        recompute: bool,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self.image_shape = image_shape
        self.latent_dim = math.prod(image_shape)
        self.steps = steps
        self.recompute = recompute
        self.layout = layout  # of images, as of the weights

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) in [-0.5, 0.5] -> z (B, n), log_det (B,) in nats."""
        z, log_det = self.encode(x)
        with _full_precision(x):
            return z, log_det + self.log_det

    @cached_property
    def log_det(self) -> Tensor:
        """The part of log_det that no image changes, ()."""
        matrices = [torch.stack([step.matrix for step in level]) for level in self.steps]
        scales = [torch.stack([step.scale for step in level]) for level in self.steps]
        return log_det_of_weights(self.image_shape, matrices, scales)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) -> z (B, n), and the part of log_det (B,) that x changes."""
        _check_shape(x, self.image_shape)
        latents, log_det = [], x.new_zeros(len(x))
        for level, steps in enumerate(self.steps):
            x = _squeeze(x, self.layout)
            for step in steps:
                x, step_log_det = self._run(step.forward, x)
                log_det = log_det + step_log_det
            if level < len(self.steps) - 1:
                x, latent = x.chunk(2, dim=1)
                latents.append(latent.flatten(1))
        return torch.cat([*latents, x.flatten(1)], dim=1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """z (B, n) -> x (B, C, H, W)."""
        _check_shape(z, (self.latent_dim,))
        shapes = _latent_shapes(self.image_shape, len(self.steps))
        parts = z.split([math.prod(shape) for shape in shapes], dim=1)
        latents = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        x = latents.pop()
        for level, steps in reversed(list(enumerate(self.steps))):
            if level < len(self.steps) - 1:
                x = torch.cat([x, latents.pop()], dim=1)
            x = x.contiguous(memory_format=self.layout)
            for step in reversed(steps):
                x = self._run(step.inverse, x)
            x = F.pixel_shuffle(x, 2)
        return x

    def to(self, dtype: torch.dtype) -> "FoldedGlow":
        """Convert the weights to another precision, and compute what they determine anew in it."""
        steps = [[step.to(dtype) for step in level] for level in self.steps]
        return FoldedGlow(self.image_shape, steps, self.recompute, self.layout)

    def _run(self, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
        return function(x)


class Glow(nn.Module):
    """Multi-scale Glow with standard normal latents.

    Args:
        image_size: H = W, divisible by 2^levels.
        channels: image channels.
        steps: flow steps on every level but the last.
        levels: squeezes; after each but the last, half of the channels become latent.
        hidden: width of the coupling networks.
        last_level_steps: flow steps on the last level (1 in the authors' code).
        stability: bounds that keep the inverse finite.
        recompute: trade time for memory: keep only each step's input, recompute in backward.

    Latents are flat: level 1's part first, the deepest level last, each flattened C, H, W.

    Raises:
        ValueError: sizes do not fit together.
    """

    takes_bfloat16 = True  # under autocast its coupling networks alone: see `_full_precision`

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        steps: int = 18,
        levels: int = 4,
        hidden: int = 512,
        last_level_steps: int = 1,
        stability: Stability = Stability(),
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if min(image_size, channels, steps, levels, hidden, last_level_steps) < 1:
            raise ValueError("Glow: every size and count must be at least 1")
        if image_size % 2**levels:
            raise ValueError(
                f"Glow: image_size {image_size} is not divisible by 2^levels = {2**levels}; "
                "use fewer levels or another image size"
            )
        self.image_shape = (channels, image_size, image_size)
        self.latent_dim = math.prod(self.image_shape)
        self.recompute = recompute
        counts = [steps] * (levels - 1) + [last_level_steps]
        self.levels = nn.ModuleList(
            nn.ModuleList(
                FlowStep(channels * 2 ** (level + 2), hidden, stability) for _ in range(count)
            )
            for level, count in enumerate(counts)
        )
        self.register_buffer("initialized", torch.tensor(False))
        self.initialized: Tensor
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) in [-0.5, 0.5] -> z (B, n), log_det (B,) in nats."""
        return self.fold().forward(x)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) -> z (B, n), and the part of log_det (B,) that x changes."""
        return self.fold().encode(x)

    def log_det(self) -> Tensor:
        """The part of log_det that no image changes, ()."""
        with _full_precision(self.initialized):
            levels = list(self._levels())
            matrices = [torch.stack([step.matrix for step in level]) for level in levels]
            scales = [stack_norms([step.norm for step in level])[0] for level in levels]
            return log_det_of_weights(self.image_shape, matrices, scales)

    def inverse(self, z: Tensor) -> Tensor:
        """z (B, n) -> x (B, C, H, W)."""
        return self.fold().inverse(z)

    def fold(self) -> FoldedGlow:
        device = self.initialized.device.type
        half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with _full_precision(self.initialized):
            steps = [fold(level, half) for level in self._levels()]
        return FoldedGlow(self.image_shape, steps, self.recompute)

    @torch.no_grad()
    def frozen(self) -> FoldedGlow:
        """Take a snapshot for recovery: no gradients to the weights, all weight-only work done.

        Of images and weights with planes apart for float32 on a GPU, whose convolutions are faster
        so (docs/gpu.md); channels last on a CPU and for 16 bits, under autocast.
        """
        apart = self.initialized.is_cuda and not torch.is_autocast_enabled("cuda")
        layout = torch.contiguous_format if apart else torch.channels_last
        with _full_precision(self.initialized):
            steps = [[step.detached(layout) for step in level] for level in self.fold().steps]
            folded = FoldedGlow(self.image_shape, steps, self.recompute, layout)
            _ = folded.log_det  # now, not in the middle of a search
        return folded

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Set every ActNorm from images (B, C, H, W) in [-0.5, 0.5]. Call once before training.

        Every rank must pass the same images. Raises RuntimeError when called twice.
        """
        if self.initialized:
            raise RuntimeError("Glow.initialize: already initialised (a trained network?)")
        _check_shape(images, self.image_shape)
        x = images
        for index, level in enumerate(self._levels()):
            x = _squeeze(x, torch.channels_last)
            for step in level:
                x = step.initialize(x)
            if index < len(self.levels) - 1:
                x = x.chunk(2, dim=1)[0]
        self.initialized.fill_(True)

    def _levels(self) -> Iterator[list[FlowStep]]:
        for level in self.levels:
            yield [step for step in level.children() if isinstance(step, FlowStep)]


def _few_images(x: Tensor) -> bool:
    """Return whether a 1x1 convolution is faster on the pixels of x (B, C, H, W) as 16 images.

    On one thread torch leaves one of fewer images to a matrix product, which on AMD's processors
    has half of oneDNN's speed. Small ones do not pay the detour, and without oneDNN none does
    (docs/performance.md).
    """
    batch, _, height, width = x.shape
    return (
        batch < 16
        and x.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and x.dtype == torch.float32
        and torch.get_num_threads() == 1
        and batch * height * width % 16 == 0
        and x.numel() > 2**15
    )


def _squeeze(x: Tensor, layout: torch.memory_format) -> Tensor:
    """Move space to depth: (B, C, H, W) -> (B, 4C, H/2, W/2); output channel 4 c + 2 dy + dx."""
    return F.pixel_unshuffle(x, 2).contiguous(memory_format=layout)


def _latent_shapes(image_shape: tuple[int, int, int], levels: int) -> list[tuple[int, int, int]]:
    """List (C, H, W) of each level's latent: half the squeezed channels, all on the last level."""
    channels, height, width = image_shape
    shapes = [(channels * 2**k, height >> k, width >> k) for k in range(1, levels)]
    return [*shapes, (channels * 2 ** (levels + 1), height >> levels, width >> levels)]


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Turn autocast off: only coupling networks may use bf16; latents and log_det stay float32."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def _check_shape(x: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape[1:]) != shape:
        raise ValueError(f"Glow: expected (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
