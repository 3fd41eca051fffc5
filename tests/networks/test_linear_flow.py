"""The linear flow: exact inverse and log-determinant at any rank, and the likeliest fit."""

import pytest
import torch
from torch import Tensor

from networks.linear_flow import LinearFlow
from priors.prior import flow_prior, standard_normal_log_prob


def data(count: int = 400) -> Tensor:
    """Correlated images (count, 3, 4, 4) in float64."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(48, 48, generator=generator).double() / 10
    white = torch.randn(count, 48, generator=generator).double()
    return (white @ mix + 0.1).unflatten(1, (3, 4, 4))


def fitted(rank: int | None) -> tuple[LinearFlow, Tensor, Tensor]:
    network = LinearFlow(4, rank=rank).double()
    x = data().flatten(1)
    mean, covariance = x.mean(dim=0), torch.cov(x.T, correction=0)
    network.fit(mean, covariance)
    return network, mean, covariance


@pytest.mark.parametrize("rank", [None, 20, 1])
def test_inverse_and_log_det_are_exact(rank: int | None) -> None:
    network, _, _ = fitted(rank)
    x = data(5)
    z, log_det = network(x)
    assert torch.allclose(network.inverse(z), x, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda v: network(v[None])[0][0], x[0])
    expected = torch.linalg.slogdet(jacobian.reshape(48, 48)).logabsdet
    assert torch.allclose(log_det, expected.expand(5), atol=1e-8)


def test_at_full_rank_it_is_the_gaussian_of_its_moments() -> None:
    network, mean, covariance = fitted(None)
    x = data(7)
    z, log_det = network(x)
    gaussian = torch.distributions.MultivariateNormal(mean, covariance)
    expected = gaussian.log_prob(x.flatten(1))
    assert torch.allclose(standard_normal_log_prob(z) + log_det, expected, atol=1e-8)
    assert torch.allclose(network.frozen().covariance(torch.eye(48).double()), covariance)


def test_a_lower_rank_is_the_likeliest_of_its_kind() -> None:
    """Probabilistic PCA: moving any part of it away lowers the likelihood of its data."""
    network, _, _ = fitted(20)

    def likelihood(flow: LinearFlow) -> float:
        with torch.no_grad():
            z, log_det = flow(data())
        return (standard_normal_log_prob(z) + log_det).mean().item()

    best = likelihood(network)
    for name in ("mean", "scales", "rest"):
        for factor in (0.98, 1.02):
            network, _, _ = fitted(20)
            with torch.no_grad():
                getattr(network, name).mul_(factor)
            assert likelihood(network) < best


def test_half_precision_weights_are_nearly_the_same_flow() -> None:
    network, _, _ = fitted(20)
    network.float()
    half = LinearFlow(4, rank=20)
    half.load_state_dict({name: t.half() for name, t in network.state_dict().items()})
    x = data(5).float()
    with torch.no_grad():
        assert (half.inverse(network(x)[0]) - x).abs().max() < 2e-3


def test_its_prior_has_its_name_and_a_float64_copy() -> None:
    network, _, _ = fitted(None)
    prior = flow_prior(network.float(), images_seen=5)
    assert prior.name == "linear-flow" and prior.latent_dim == 48
    x = data(3) + 0.5
    assert torch.allclose(prior.double().decode(prior.double().encode(x)[0]), x, atol=1e-5)
    assert prior.decode(prior.initial_latent([1], 1.0)).dtype == torch.float32


def test_bad_sizes_and_covariances_are_refused() -> None:
    for wrong in ({"rank": 49}, {"rank": 0}, {"channels": 0}):
        with pytest.raises(ValueError, match="rank at most n = "):
            LinearFlow(4, **wrong)
    with pytest.raises(ValueError, match="not positive definite"):
        LinearFlow(4).fit(torch.zeros(48), torch.zeros(48, 48))
    with pytest.raises(ValueError, match=r"expected \(B, \*\(3, 4, 4\)\)"):
        LinearFlow(4)(torch.zeros(2, 3, 8, 8))


def test_at_full_rank_the_covariance_keeps_its_least_variance() -> None:
    """Its vectors are orthonormal to float32 alone, and its least variances as small as that."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(192, 192, generator=generator).double())[0]
    variances = torch.logspace(-8, 2, 192, dtype=torch.float64)
    network = LinearFlow(8)
    network.fit(torch.zeros(192), vectors * variances @ vectors.T)
    covariance = network.fold().to(torch.float64).covariance(torch.eye(192).double())
    least = torch.linalg.eigvalsh((covariance + covariance.T) / 2)[0]
    assert 0.9e-8 < least < 1.1e-8
