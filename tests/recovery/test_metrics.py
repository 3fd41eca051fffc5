"""PSNR and SSIM, per image, after clamping."""

import math

import numpy as np
import pytest
import torch

from core.seeds import generator
from recovery.metrics import psnr, ssim

SHAPE, N = (3, 12, 12), 432


def test_psnr_is_its_formula_per_image() -> None:
    image, truth = torch.rand(2, 4, *SHAPE, generator=generator("metrics"))
    expected = [
        10 * math.log10(1 / ((a - b) ** 2).mean())
        for a, b in zip(image.double().numpy(), truth.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(psnr(image, truth).numpy(), expected, rtol=1e-6)
    constant = torch.full((1, *SHAPE), 0.5)
    assert psnr(constant, constant + 0.1).item() == pytest.approx(20, abs=1e-4)


def test_psnr_clamps_first() -> None:
    truth = torch.rand(3, *SHAPE, generator=generator("metrics"))
    wild = truth * 4 - 2
    assert torch.equal(psnr(wild, truth), psnr(wild.clamp(0, 1), truth))
    assert psnr(truth, truth).tolist() == [math.inf] * 3
    beyond = torch.ones(1, *SHAPE)
    assert psnr(5 * beyond, beyond).item() == math.inf


def test_psnr_of_a_region_sees_nothing_else() -> None:
    truth = torch.rand(2, *SHAPE, generator=generator("metrics"))
    region = torch.zeros(12, 12, dtype=torch.bool)
    region[3:6, 2:9] = True
    image = torch.where(region, (truth - 0.1).clamp(0, 1), 1 - truth)
    inside = (image - truth)[..., 3:6, 2:9].double().square().mean(dim=(1, 2, 3))
    assert torch.allclose(psnr(image, truth, region), -10 * inside.log10())
    everywhere = torch.ones(12, 12, dtype=torch.bool)
    assert torch.allclose(psnr(image, truth, everywhere), psnr(image, truth))


def test_ssim_of_equal_images_is_one() -> None:
    truth = torch.rand(3, 3, 16, 16, generator=generator("metrics"))
    assert torch.allclose(ssim(truth, truth), torch.ones(3))
    assert torch.allclose(ssim(truth + 9 * (truth - 0.5).sign(), truth.round()), torch.ones(3))
    one = truth.clone()
    one[1] = 1 - one[1]
    values = ssim(one, truth)
    assert values.shape == (3,) and values[1] < 0 and values[[0, 2]].min() > 0.999
    assert ssim(one[1:2], truth[1:2]).shape == (1,)


def test_ssim_of_constant_images_is_its_formula_at_data_range_1() -> None:
    a, b, c1 = 0.02, 0.05, 0.01**2
    found = ssim(torch.full((1, *SHAPE), a), torch.full((1, *SHAPE), b))
    assert found.item() == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1), rel=1e-3)
