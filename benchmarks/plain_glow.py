"""Glow written plainly, layer by layer as in the papers: what `networks.glow` is measured against.

Shares a `Glow`'s parameters; folds, caches and lays out nothing for speed.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from networks.glow import ActNorm, CouplingNet, FlowStep, Glow


def plain_forward(glow: Glow, x: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, C, H, W) -> z (B, n), log_det (B,)."""
    x = x.contiguous()
    latents, log_det = [], x.new_zeros(len(x))
    for number, level in enumerate(levels_of(glow)):
        x = F.pixel_unshuffle(x, 2)
        for step in level:
            x, step_log_det = step_forward(step, x)
            log_det = log_det + step_log_det
        if number < len(glow.levels) - 1:
            x, latent = x.chunk(2, dim=1)
            latents.append(latent.flatten(1))
    return torch.cat([*latents, x.flatten(1)], dim=1), log_det


def plain_inverse(glow: Glow, z: Tensor) -> Tensor:
    """z (B, n) -> x (B, C, H, W)."""
    channels, size, _ = glow.image_shape
    count = len(glow.levels)
    shapes = [(channels * 2**k, size >> k, size >> k) for k in range(1, count)]
    shapes.append((channels * 2 ** (count + 1), size >> count, size >> count))
    parts = z.split([math.prod(shape) for shape in shapes], dim=1)
    x = parts[-1].unflatten(1, shapes[-1])
    for number in reversed(range(count)):
        if number < count - 1:
            x = torch.cat([x, parts[number].unflatten(1, shapes[number])], dim=1)
        for step in reversed(levels_of(glow)[number]):
            x = step_inverse(step, x)
        x = F.pixel_shuffle(x, 2)
    return x


def levels_of(glow: Glow) -> Sequence[Sequence[FlowStep]]:
    """The flow steps of each level: a ModuleList does not tell the type of what it holds."""
    return cast(Sequence[Sequence[FlowStep]], glow.levels)


def step_forward(step: FlowStep, x: Tensor) -> tuple[Tensor, Tensor]:
    pixels = x.shape[2] * x.shape[3]
    log_det = pixels * step.norm.scale().log().sum()
    x = actnorm(step.norm, x)
    log_det = log_det + pixels * torch.linalg.slogdet(step.matrix).logabsdet
    x = F.conv2d(x, step.matrix[:, :, None, None])
    xa, xb = x.chunk(2, dim=1)
    scale, shift = coupling(step, xb)
    return torch.cat([scale * xa + shift, xb], 1), log_det + scale.log().flatten(1).sum(1)


def step_inverse(step: FlowStep, y: Tensor) -> Tensor:
    ya, xb = y.chunk(2, dim=1)
    scale, shift = coupling(step, xb)
    x = torch.cat([(ya - shift) / scale, xb], 1)
    inverse = step.matrix.double().inverse().to(step.matrix.dtype)
    x = F.conv2d(x, inverse[:, :, None, None])
    return x / step.norm.scale().view(-1, 1, 1) - step.norm.bias.view(-1, 1, 1)


def actnorm(norm: ActNorm, x: Tensor) -> Tensor:
    return (x + norm.bias.view(-1, 1, 1)) * norm.scale().view(-1, 1, 1)


def coupling(step: FlowStep, xb: Tensor) -> tuple[Tensor, Tensor]:
    net: CouplingNet = step.net
    hidden = F.relu(actnorm(net.norm1, net.conv1(xb)))
    hidden = F.relu(actnorm(net.norm2, net.conv2(hidden)))
    raw = net.conv3(hidden) * (3 * net.log_scale).exp().view(-1, 1, 1)
    low = step.stability.min_scale
    return low + (1 - low) * torch.sigmoid(raw[:, 0::2] + 2), raw[:, 1::2]
