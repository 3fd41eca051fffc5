"""Deep Decoder and Deep Image Prior: recovery by fitting them."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from core.seeds import generator
from networks.deep_decoder import DeepDecoder
from networks.deep_image_prior import DeepImagePrior
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing, Inpainting
from recovery.untrained import Untrained

SHAPE = (3, 16, 16)
decoder = partial(DeepDecoder, width=16)
image_prior = partial(DeepImagePrior, width=8, input_channels=4)
each_network = pytest.mark.parametrize("network", [decoder, image_prior], ids=["decoder", "dip"])
NetworkFactory = Callable[[int], nn.Module]


def images(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 3, 3, generator=generator("untrained test"))
    return nn.functional.interpolate(coarse, size=16, mode="bilinear", align_corners=True)


# --- the networks


def test_images_the_network_does_not_make_are_refused() -> None:
    with pytest.raises(ValueError, match=r"makes images of shape \(3, 16, 16\), and Denoising"):
        Untrained(decoder).check(Denoising((1, 16, 16), 0.1))


def test_checking_leaves_global_randomness_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Untrained(decoder).check(Denoising(SHAPE, 0.1))
    assert torch.equal(torch.rand(2), expected)


# --- fitting


@each_network
def test_a_batch_of_images_is_fitted(network: NetworkFactory) -> None:
    x = images(3)
    operator = GaussianSensing(SHAPE, m=0.5)
    recovery = Untrained(network, steps=250).recover(operator(x), operator)
    assert (psnr(recovery.image, x) > 20).all()
    assert recovery.latent is None and recovery.status == ("budget",) * 3
    assert torch.allclose(recovery.objective, recovery.residual.square(), rtol=1e-3)


@each_network
def test_an_image_depends_on_its_seed_alone(network: NetworkFactory) -> None:
    x = images(3).double()  # in which rounding, which Adam amplifies, stays small
    operator = Denoising(SHAPE, sigma=0.05)
    y = operator(x, seeds=[7, 8, 9])
    method = Untrained(network, steps=30, input_noise=0.03)
    together = method.recover(y, operator, seeds=[7, 8, 9])
    alone = method.recover(y[1:2], operator, seeds=[8])
    assert torch.allclose(together.image[1], alone.image[0], atol=1e-6)
    other = method.recover(y[1:2], operator, seeds=[5])
    assert not torch.allclose(together.image[1], other.image[0], atol=1e-3)


def test_global_randomness_is_left_alone() -> None:
    operator = Denoising(SHAPE, sigma=0.05)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Untrained(decoder, steps=2).recover(operator(images(1)), operator)
    assert torch.equal(torch.rand(2), expected)


def test_last_and_least_residual_are_told_apart() -> None:
    operator = GaussianSensing(SHAPE, m=0.3)
    y = operator(images(4))
    # a learning rate so large that the last step is rarely the best
    recovery = Untrained(decoder, steps=300, learning_rate=0.1).recover(y, operator)
    least = recovery.alternatives["least-residual"]
    assert (least.residual <= recovery.residual + 1e-5).all()
    assert (least.residual < 0.99 * recovery.residual).any()
    for found in (recovery, least):  # each image is the one its residual is of
        residual = (operator.A(found.image) - y).norm(dim=1)
        assert torch.allclose(residual, found.objective.sqrt(), rtol=1e-3)


def test_more_steps_lead_on_from_fewer() -> None:
    operator = GaussianSensing(SHAPE, m=0.3)
    y = operator(images(1))
    residuals = [
        Untrained(decoder, steps=steps).recover(y, operator).residual.item()
        for steps in (1, 30, 120)
    ]
    assert residuals == sorted(residuals, reverse=True)


def test_fitting_stops_at_the_noise() -> None:
    x = images(3)
    operator = Denoising(SHAPE, sigma=0.1)
    y = operator(x)
    recovery = Untrained(decoder, steps=400, stop_at_noise=True).recover(y, operator)
    assert recovery.status == ("converged",) * 3
    assert (recovery.residual.square() <= operator.noise_energy).all()
    assert (recovery.steps < 400).all() and len(set(recovery.steps.tolist())) > 1
    going_on = Untrained(decoder, steps=400).recover(y, operator)
    assert (going_on.residual < recovery.residual).all()
    exact = Inpainting(SHAPE)  # without noise there is nothing to stop at
    recovery = Untrained(decoder, steps=3, stop_at_noise=True).recover(exact(x), exact)
    assert recovery.status == ("budget",) * 3


def test_an_image_without_a_finite_objective_spoils_no_other() -> None:
    x = images(3)
    operator = GaussianSensing(SHAPE, m=0.3)
    y = operator(x)
    clean = Untrained(decoder, steps=40).recover(y, operator)
    y[1, 0] = torch.nan
    recovery = Untrained(decoder, steps=40).recover(y, operator)
    assert recovery.status == ("budget", "diverged", "budget")
    assert recovery.steps.tolist() == [40, 0, 40] and recovery.evaluations.tolist() == [41, 0, 41]
    assert torch.allclose(recovery.image[[0, 2]], clean.image[[0, 2]], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0"),
        ({"input_noise": -1.0}, "input_noise must be at least 0, got -1"),
    ],
)
def test_bad_options_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Untrained(decoder, **options)  # type: ignore[arg-type]
