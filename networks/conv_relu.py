"""relu(convolution + bias) in one operation, for 16-bit training on NVIDIA GPUs.

PyTorch launches a convolution, a sum and a maximum, each of which reads and writes all activations.
cuDNN has them in one: a training step of the paper's 64px Glow is 1.2 times as fast (docs/gpu.md).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ONE, NONE = (1, 1), (0, 0)


def conv_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (B, C_in, H, W) -> (B, C_out, H, W) of the weight's dtype, padded to keep its size.

    On a GPU in 16 bits it has no second derivative and no forward-mode one.
    """
    if fuses(weight):
        return _ConvReLU.apply(x.to(weight.dtype), weight, bias)
    return F.relu(F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2))


def fuses(weight: Tensor) -> bool:
    """Whether cuDNN has the operation for this weight, and has shown it to be faster."""
    return weight.is_cuda and weight.itemsize == 2 and torch.version.hip is None


class _ConvReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = torch.cudnn_convolution_relu(x, weight, bias, ONE, padding(weight), ONE, 1)
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            *(gradient, x, weight, [len(weight)], ONE, padding(weight), ONE, False, NONE, 1),
            ctx.needs_input_grad,
        )
        return gradients


def padding(weight: Tensor) -> tuple[int, int]:
    return (weight.shape[-1] // 2,) * 2
