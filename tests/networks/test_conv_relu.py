"""The convolution with its bias and ReLU in one operation, which GPUs have in 16 bits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from networks import conv_relu as module
from networks.conv_relu import conv_relu


def inputs(side: int) -> list[Tensor]:
    """Make x, a weight of side x side pixels, and a bias."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, side, side)
    return [t.double().requires_grad_() for t in (x, weight, torch.randn(4))]


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu(F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2))


def close(found: Tensor, wanted: Tensor, within: float) -> bool:
    return bool((found.double() - wanted.double()).norm() <= within * wanted.double().norm())


@pytest.mark.parametrize("side", [1, 3])
def test_in_one_operation_it_has_the_gradients_of_three(
    monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    def of_cudnn(x: Tensor, weight: Tensor, bias: Tensor, *options: object) -> Tensor:
        assert options == ((1, 1), (side // 2,) * 2, (1, 1), 1)  # stride, padding, dilation, groups
        return plain(x, weight, bias)

    given = inputs(side)
    wanted = plain(*given)
    cotangent = torch.randn_like(wanted)
    gradients = torch.autograd.grad(wanted, given, cotangent)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", of_cudnn)
    monkeypatch.setattr(module, "fuses", lambda weight: True)
    found = conv_relu(*given)
    assert torch.equal(found, wanted)
    for ours, theirs in zip(torch.autograd.grad(found, given, cotangent), gradients, strict=True):
        assert close(ours, theirs, 1e-12)


def test_without_gradients_of_weights_it_has_those_of_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, weight, bias = (t.detach() for t in inputs(3))
    x.requires_grad_()
    (wanted,) = torch.autograd.grad(plain(x, weight, bias).sum(), x)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", lambda *given: plain(*given[:3]))
    monkeypatch.setattr(module, "fuses", lambda weight: True)
    (found,) = torch.autograd.grad(conv_relu(x, weight, bias).sum(), x)
    assert close(found, wanted, 1e-12)


def test_off_a_gpu_it_is_three_operations() -> None:
    given = [t.detach().bfloat16() for t in inputs(3)]
    assert torch.equal(conv_relu(*given), plain(*given))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_it_is_as_close_as_three_operations_are(dtype: torch.dtype, side: int) -> None:
    given = inputs(side)
    wanted = plain(*given)
    cotangent = torch.randn_like(wanted)
    gradients = torch.autograd.grad(wanted, given, cotangent)
    halves = [t.detach().to("cuda", dtype).requires_grad_() for t in given]
    found = conv_relu(*halves)
    assert close(found.cpu(), wanted, 0.02)
    ours = torch.autograd.grad(found, halves, cotangent.to(found))
    assert all(close(a.cpu(), b, 0.03) for a, b in zip(ours, gradients, strict=True))
