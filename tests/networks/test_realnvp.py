"""RealNVP: exact inverses, exact log-determinants, densities that integrate to 1."""

import pytest
import torch
from torch import nn

from networks.realnvp import RealNVP
from priors.prior import standard_normal_log_prob
from studies.toy import log_density


def perturbed(std: float, **options: int | float) -> RealNVP:
    """Away from the identity it starts as, in float64."""
    torch.manual_seed(0)
    network = RealNVP(**options).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += std * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("n", [2, 3, 8])
def test_inverse_and_log_det_are_exact(n: int) -> None:
    network = perturbed(0.2, latent_dim=n, hidden=16, couplings=4)
    x = 2 * torch.randn(5, n, dtype=torch.float64)
    z, log_det = network(x)
    assert (z - x).abs().max() > 0.1
    assert torch.allclose(network.inverse(z), x, atol=1e-10)
    for i in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda v: network(v[None])[0][0], x[i])
        assert torch.allclose(torch.linalg.slogdet(jacobian).logabsdet, log_det[i], atol=1e-10)
        assert jacobian.ne(0).all(), "every entry must reach every other"


def test_density_integrates_to_one() -> None:
    network = perturbed(0.15, hidden=16, couplings=4)
    side = torch.linspace(-25, 25, 500, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        density = log_density(network, grid).exp()
    assert abs(density.sum() * (side[1] - side[0]) ** 2 - 1) < 1e-4
    normal = standard_normal_log_prob(grid).exp()
    assert (density - normal).abs().max() > 0.01


def test_starts_as_the_identity() -> None:
    x = torch.randn(4, 6)
    z, log_det = RealNVP(latent_dim=6)(x)
    assert torch.equal(z, x) and torch.equal(log_det, torch.zeros(4))


def test_scales_are_bounded_whatever_the_network_says() -> None:
    network = perturbed(0.0, couplings=1, max_log_scale=0.5)
    last = network.couplings[0].net[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, 100.0)
    assert torch.allclose(network(torch.zeros(1, 2).double())[1], torch.tensor(0.5).double())


@pytest.mark.parametrize(
    "options", [{"latent_dim": 1}, {"couplings": 0}, {"hidden": 0}, {"max_log_scale": 0.0}]
)
def test_bad_sizes_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        RealNVP(**options)  # type: ignore[arg-type]
