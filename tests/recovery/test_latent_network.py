"""Restoration with a latent convolutional model: as published, and by any search of latents."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.pyramid import laplacian_pyramid
from networks.latent_convolutional import LatentConvolutional
from priors.prior import GanPrior, gan_prior
from recovery.latent_network import LatentNetworkFit
from recovery.latent_search import LatentSearch
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator
from tests.made import gan_prior as plain_gan

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def prior() -> GanPrior:
    torch.manual_seed(0)
    network = LatentConvolutional(16, width=8, latent_widths=(2, 2, 4, 8))
    with torch.no_grad():
        network.generator.to_image[-1].weight *= 20  # images that differ  # type: ignore[operator]
    network.train()
    for seed in range(10):  # statistics of images apart from each other
        z = torch.randn(32, network.latent_dim, generator=torch.Generator().manual_seed(seed))
        network(z)
    return gan_prior(network, images_seen=1)


@pytest.fixture(scope="module")
def truth(prior: GanPrior) -> Tensor:
    return prior.decode(prior.initial_latent([1, 2, 3], 0.5)).detach()


@pytest.mark.parametrize("m", [100, 400])
def test_a_latent_search_serves_it_as_any_other_prior(
    prior: GanPrior, truth: Tensor, m: int
) -> None:
    operator = GaussianSensing(SHAPE, m=m, noise_norm=0.0)
    found = LatentSearch(prior, evaluations=150).recover(operator(truth), operator)
    start = prior.decode(prior.initial_latent([0], 0.0))
    assert (psnr(found.image, truth) > psnr(start.expand_as(truth), truth) + 3).all()
    assert found.latent is not None and found.latent.shape == (3, 448)


@pytest.mark.parametrize(
    "operator",
    [
        GaussianSensing(SHAPE, m=200, noise_norm=0.0),
        Denoising(SHAPE, sigma=0.0),
        Inpainting(SHAPE, mask="centre"),
        Inpainting(SHAPE, mask="random"),
    ],
)
def test_the_published_fit_recovers_from_any_operator(
    prior: GanPrior, truth: Tensor, operator: Operator
) -> None:
    y = operator(truth)
    rate = 1.0 if y.shape == truth.shape else 100.0
    short = LatentNetworkFit(prior, steps=5, learning_rate=rate).recover(y, operator)
    found = LatentNetworkFit(prior, steps=600, learning_rate=rate).recover(y, operator)
    assert (found.objective < 0.7 * short.objective).all()
    assert (psnr(found.image, truth) > psnr(short.image, truth)).all()
    assert found.status == ("budget",) * 3 and found.evaluations.tolist() == [600] * 3
    assert found.latent is not None
    assert torch.allclose(prior.decode(found.latent), found.image, atol=1e-5)
    within = found.latent.clone()
    prior.network.bound(within)  # type: ignore[operator]
    assert torch.equal(within, found.latent)


def test_its_steps_are_plain_gradient_steps_of_the_weights(prior: GanPrior, truth: Tensor) -> None:
    operator = Denoising(SHAPE, sigma=0.0)
    y = operator(truth)
    network = prior.network
    units: Tensor = network.units  # type: ignore[assignment]
    phi = torch.zeros(3, prior.latent_dim)
    method = LatentNetworkFit(prior, steps=3, learning_rate=0.5)
    for _ in range(3):
        phi.requires_grad_()
        value = method.loss(prior.decode(phi / units), y, operator).sum()
        (gradient,) = torch.autograd.grad(value, phi)
        z = (phi.detach() - 0.5 * gradient) / units
        network.bound(z)  # type: ignore[operator]
        phi = z * units
    found = method.recover(y, operator)
    assert torch.allclose(found.image, prior.decode(phi / units), atol=1e-5)


def test_the_loss_is_that_of_its_formula(prior: GanPrior) -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, *SHAPE), torch.rand(2, *SHAPE)
    method = LatentNetworkFit(prior)
    pyramid = torch.zeros(2)
    for level, part in enumerate(laplacian_pyramid(a - b)):
        pyramid += part.abs().mean(dim=(1, 2, 3)) / 4**level
    mse = F.mse_loss(a, b, reduction="none").mean(dim=(1, 2, 3))
    assert torch.allclose(method.loss(a, b, Denoising(SHAPE, 0.1)), mse + pyramid)
    hole = Inpainting(SHAPE, fraction=0.25)  # rows and columns 6 to 9
    weight = torch.ones(16, 16)
    weight[1:15, 1:15] = 5
    weight[6:10, 6:10] = 1
    mse = (weight * (a - b).square()).mean(dim=(1, 2, 3))
    assert torch.allclose(method.loss(a, b, hole), mse + pyramid)
    sensing = GaussianSensing(SHAPE, m=10)
    y, other = torch.rand(2, 10), torch.rand(2, 10)
    expected = (y - other).square().sum(dim=1) / (3 * 16 * 16)
    assert torch.allclose(method.loss(other, y, sensing), expected)


def test_an_image_does_not_depend_on_its_batch(prior: GanPrior, truth: Tensor) -> None:
    operator = GaussianSensing(SHAPE, m=200)
    y = operator(truth)
    together = LatentNetworkFit(prior, steps=50).recover(y, operator)
    alone = LatentNetworkFit(prior, steps=50, batch_size=1).recover(y, operator)
    assert torch.allclose(together.image, alone.image, atol=1e-3)


def test_a_measurement_that_is_not_finite_spoils_no_other(prior: GanPrior, truth: Tensor) -> None:
    operator = GaussianSensing(SHAPE, m=100)
    y = operator(truth)
    y[1] = torch.nan
    found = LatentNetworkFit(prior, steps=20).recover(y, operator)
    assert found.status == ("budget", "diverged", "budget")
    assert found.image.isfinite().all()


def test_what_it_cannot_serve_is_named(prior: GanPrior) -> None:
    with pytest.raises(TypeError, match="weights of a latent network, which resize-gan does not"):
        LatentNetworkFit(plain_gan())
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        LatentNetworkFit(prior, steps=0)
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        LatentNetworkFit(prior, learning_rate=0.0)
