"""Priors: decoding, encoding, densities, and what identifies their weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.seeds import generator
from networks import dcgan, resize_gan
from networks.glow import Glow
from priors.prior import FlowPrior, GanPrior, calibrate, decode_in_parts, standard_normal_log_prob
from priors.weights import fingerprint
from recovery.starts import require_encoder
from tests.made import flow_prior, glow, held_out


def test_decoding_inverts_encoding() -> None:
    z = 0.7 * torch.randn(4, 192, generator=generator("z"))
    latent, _ = flow_prior().encode(flow_prior().decode(z))
    assert torch.allclose(latent, z, atol=1e-4)
    image = flow_prior().decode(flow_prior().encode(held_out())[0])
    assert torch.allclose(image, held_out(), atol=1e-5)


def test_log_likelihood_is_the_change_of_variables() -> None:
    torch.manual_seed(0)
    network = Glow(8, steps=2, levels=2, hidden=8)
    network.load_state_dict(glow().state_dict())
    prior = FlowPrior(network.double().frozen(), "glow")
    x = held_out()[:1].double()
    z, log_likelihood = prior.encode(x)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: prior.encode(v.view(x.shape))[0][0], x.flatten()
    )
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    expected = log_prior + torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(log_likelihood, expected, rtol=1e-9)


def test_many_images_are_decoded_in_parts() -> None:
    counts = []

    class Brightness:
        def decode(self, latent: Tensor) -> Tensor:
            counts.append(len(latent))
            return latent[:, :, None, None]

    latents = torch.linspace(-1, 2, 150)[:, None]
    images = decode_in_parts(Brightness(), latents)  # type: ignore[arg-type]
    assert counts == [64, 64, 22]
    assert torch.equal(images.flatten(), latents.flatten().clamp(0, 1))


def test_standard_normal_log_prob_is_that_of_torch() -> None:
    z = torch.randn(3, 5, generator=generator("z")).double()
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    assert torch.allclose(standard_normal_log_prob(z), expected, rtol=1e-12)


def test_a_flow_priors_start_is_zero_or_normal_by_image() -> None:
    prior = flow_prior()
    assert torch.equal(prior.initial_latent([1, 2], 0.0), torch.zeros(2, 192))
    drawn = prior.initial_latent([1, 2], 0.5)
    assert torch.equal(prior.initial_latent([2], 0.5)[0], drawn[1])
    assert 0.4 < drawn.std() < 0.6


def test_a_fingerprint_is_of_names_and_values() -> None:
    a, b = torch.arange(3.0), torch.ones(2, 2)
    mark = fingerprint({"a": a, "b": b})
    assert fingerprint({"b": b.clone(), "a": a.clone()}) == mark
    assert fingerprint({"a": a, "c": b}) != mark
    assert fingerprint({"a": a + 1e-6, "b": b}) != mark


@pytest.fixture(scope="module")
def prior() -> GanPrior:
    """An untrained generator of 8px images, with BatchNorm as in evaluation."""
    torch.manual_seed(0)
    network = resize_gan.Generator(8, latent_dim=5, width=6)
    network.train()
    for _ in range(20):
        network(torch.randn(64, 5))
    return GanPrior(network.eval().requires_grad_(False), "resize-gan", "abc")


def test_a_gan_has_no_encoder(prior: GanPrior) -> None:
    assert not hasattr(prior, "encode")
    with pytest.raises(ValueError, match="needs an invertible prior, and resize-gan is not one"):
        require_encoder("a start", prior)


def test_decode_maps_to_zero_one(prior: GanPrior) -> None:
    z = prior.initial_latent([0, 1], 1.0)
    assert torch.equal(prior.decode(z), prior.network(z) / 2 + 0.5)
    assert torch.equal(prior.initial_latent([1], 1.0)[0], z[1])
    assert prior.initial_latent([1], 0.0).abs().max() == 0


@pytest.mark.parametrize("generator", [dcgan.Generator, resize_gan.Generator])
def test_every_image_through_its_own_weights(generator: type[Any]) -> None:
    torch.manual_seed(0)
    network = generator(8, latent_dim=5, width=4).eval().requires_grad_(False)
    prior = GanPrior(network, "any")
    z = torch.randn(3, 5)
    stacked = {name: w.expand(3, *w.shape) for name, w in prior.weights().items()}
    assert torch.allclose(prior.decode_with(stacked, z), prior.decode(z), atol=1e-6)
    changed = {name: w + 0.1 * torch.randn_like(w) for name, w in stacked.items()}
    for i in range(3):
        own = copy.deepcopy(network)
        own.load_state_dict({**own.state_dict(), **{name: w[i] for name, w in changed.items()}})
        alone = GanPrior(own, "any").decode(z[i : i + 1])
        assert torch.allclose(prior.decode_with(changed, z)[i : i + 1], alone, atol=1e-6)


def test_calibration_ignores_what_the_running_statistics_were() -> None:
    torch.manual_seed(0)
    generator = dcgan.Generator(8, 6, width=4)
    latents = torch.randn(256, 6)
    with torch.no_grad():
        calibrate(generator, latents)
        expected = generator.eval()(latents[:8])
        for norm in (m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean += 3.0
        calibrate(generator, latents)
        assert torch.equal(generator.eval()(latents[:8]), expected)
    first = next(m for m in generator.modules() if isinstance(m, nn.BatchNorm2d))
    features = generator.layers[0](latents[:, :, None, None])
    assert torch.allclose(first.running_mean, features.mean(dim=(0, 2, 3)), atol=1e-5)
