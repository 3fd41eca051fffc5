"""Adversarial losses against their textbook forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules import losses


def test_logistic_losses_are_binary_cross_entropy() -> None:
    real, fake = torch.randn(8), torch.randn(8)
    one, zero = torch.ones(8), torch.zeros(8)
    expected = F.binary_cross_entropy(real.sigmoid(), one)
    expected += F.binary_cross_entropy(fake.sigmoid(), zero)
    assert torch.allclose(losses.logistic_discriminator(real, fake), expected, atol=1e-5)
    expected = F.binary_cross_entropy(fake.sigmoid(), one)
    assert torch.allclose(losses.logistic_generator(fake), expected, atol=1e-5)


def test_wasserstein_losses() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.0])
    assert losses.wasserstein_critic(real, fake, 0.1).item() == pytest.approx(-2.5 + 0.5)
    assert losses.wasserstein_generator(fake).item() == pytest.approx(0.5)


def test_the_gradient_penalty_of_a_linear_critic_is_known() -> None:
    """D(x) = <w, x>: the penalty is (||w|| - 1)^2, and its gradient reaches w."""
    critic = nn.Linear(12, 1, bias=False)
    real, fake = torch.rand(5, 3, 2, 2), torch.rand(5, 3, 2, 2)
    mix = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    between = losses.interpolate(real, fake, mix)
    assert torch.equal(between[0], fake[0])
    assert torch.allclose(between[3], 0.75 * real[3] + 0.25 * fake[3])
    penalty = losses.gradient_penalty(critic(between.flatten(1)).squeeze(1), between)
    assert penalty.item() == pytest.approx((critic.weight.norm().item() - 1) ** 2, rel=1e-4)
    penalty.backward()
    weight = critic.weight
    expected = 2 * (weight.norm() - 1) * weight / weight.norm()
    assert torch.allclose(weight.grad, expected, atol=1e-5)
