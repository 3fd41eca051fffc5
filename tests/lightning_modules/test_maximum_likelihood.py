"""Maximum likelihood: what never reaches the weights, and which weights are taken."""

import copy

import pytest
import torch

from lightning_modules import MaximumLikelihood
from networks.glow import Glow, Stability


def test_the_same_flow_has_the_same_bounds_even_where_its_inverse_is_not_finite() -> None:
    torch.manual_seed(0)
    network = Glow(8, steps=1, levels=2, hidden=8, stability=Stability.paper())
    network.initialize(torch.rand(16, 3, 8, 8) - 0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
        network.levels[0][0].net.conv3.bias.fill_(-200.0)  # type: ignore[index, union-attr]
    assert not network.inverse(torch.randn(1, 192)).isfinite().all()
    MaximumLikelihood(copy.deepcopy(network), total_images=1).take_weights(network)


def test_infinite_gradients_never_reach_the_weights() -> None:
    network = torch.nn.Linear(2, 1)
    module = MaximumLikelihood(network, total_images=1, clip_value=5.0)
    module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    optimizer = module.configure_optimizers()
    for bad in (torch.inf, torch.nan):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, bad)
        with pytest.raises(FloatingPointError, match=r"not taken.*accept_changes true and a lower"):
            module.on_before_optimizer_step(optimizer)
