"""Image-adaptive search: a generator's weights adapt to each image alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from networks import pggan
from networks.glow import Glow
from priors.prior import FlowPrior, GanPrior
from recovery.csgm import Csgm
from recovery.image_adaptive import ImageAdaptive, back_project
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing, Inpainting


def sensing(m: int = 96) -> GaussianSensing:
    return GaussianSensing((3, 8, 8), m, noise_norm=0.0)


def adaptive(prior: GanPrior, **options: Any) -> ImageAdaptive:
    def search(prior: Any, gamma: float) -> Csgm:
        return Csgm(prior, gamma, steps=60)

    return ImageAdaptive(prior, search=search, **{"steps": 60, **options})


def test_adaptation_leaves_the_range(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing(160)
    y = operator.A(out_of_range)
    before = {name: w.clone() for name, w in prior.network.state_dict().items()}
    csgm = Csgm(prior, steps=60).recover(y, operator)
    adapted = adaptive(prior, steps=150).recover(y, operator)
    assert (adapted.residual < 0.7 * csgm.residual).all()
    assert psnr(adapted.image, out_of_range).mean() > psnr(csgm.image, out_of_range).mean() + 0.5
    assert adapted.steps.tolist() == [60 + 150] * 4
    assert adapted.evaluations.tolist() == [120 + 150] * 4
    for name, weight in prior.network.state_dict().items():
        assert torch.equal(weight, before[name]), name
        assert not weight.requires_grad


def test_a_grown_generator_adapts(out_of_range: Tensor) -> None:
    """It keeps the RGB layers of the sizes it grew through, which its images no longer use."""
    torch.manual_seed(0)
    grown = pggan.Generator(image_size=8, latent_dim=6, base=32, growing=True)
    prior = GanPrior(grown.eval().requires_grad_(False), "grown")
    assert "to_rgb.0.weight" in prior.weights() and "to_rgb.1.weight" in prior.weights()
    operator = sensing(160)
    y = operator.A(out_of_range)
    adapted = adaptive(prior, weight_learning_rate=1e-2).recover(y, operator)
    assert (adapted.residual < 0.9 * Csgm(prior, steps=60).recover(y, operator).residual).all()


def test_an_adapted_image_does_not_depend_on_its_batch(
    prior: GanPrior, out_of_range: Tensor
) -> None:
    operator = sensing()
    y, seeds = operator.A(out_of_range), [7, 8, 9, 10]
    whole = adaptive(prior).recover(y, operator, seeds=seeds)
    parts = adaptive(prior, batch_size=1).recover(y, operator, seeds=seeds)
    assert psnr(whole.image, parts.image).min() > 60


def test_an_adaptation_that_diverges_falls_back(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y = operator.A(out_of_range)
    healthy = adaptive(prior, steps=10).recover(y, operator)
    y[1, 0] = torch.inf
    hurt = adaptive(prior, steps=10).recover(y, operator)
    assert hurt.status == ("budget", "diverged", "budget", "budget")
    others = [0, 2, 3]
    assert torch.allclose(hurt.image[others], healthy.image[others], atol=1e-4)
    assert hurt.image.isfinite().all()


@pytest.mark.parametrize(
    "operator", [sensing(), Inpainting((3, 8, 8), mask="centre"), Denoising((3, 8, 8), sigma=0.0)]
)
def test_back_projection_fits_the_measurements(operator: Any, out_of_range: Tensor) -> None:
    y = operator.A(out_of_range)
    start = torch.rand_like(out_of_range)
    fitted = back_project(start, y, operator)
    assert (operator.A(fitted) - y).abs().max() < 1e-4
    # the nearest such image: what changed lies in the range of A^T
    change = (fitted - start).flatten(1)
    units = torch.eye(y[0].numel()).view(-1, *y.shape[1:])
    basis = operator.A_adjoint(units).flatten(1)
    within = torch.linalg.lstsq(basis.T, change.T).solution
    assert torch.allclose(basis.T @ within, change.T, atol=1e-3)


def test_back_projection_is_an_option(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y = operator.A(out_of_range)
    fitted = adaptive(prior, steps=20, back_projection=True).recover(y, operator)
    plain = adaptive(prior, steps=20).recover(y, operator)
    assert fitted.residual.max() < 1e-3 < plain.residual.min()


def test_back_projection_needs_a_linear_operator(prior: GanPrior) -> None:
    operator = sensing()
    operator.linear = False
    adaptive(prior, steps=20).check(operator)
    with pytest.raises(ValueError, match="back projection needs a linear operator"):
        adaptive(prior, steps=20, back_projection=True).check(operator)


def test_a_flow_has_no_weights_to_adapt() -> None:
    flow = Glow(image_size=8, steps=1, levels=2, hidden=4)
    prior = FlowPrior(flow.frozen(), "glow")
    with pytest.raises(TypeError, match="which glow does not hand out"):
        ImageAdaptive(prior)


def test_progress_is_told(prior: GanPrior, in_range: Tensor) -> None:
    told: list[tuple[int, int]] = []
    operator = sensing()
    adaptive(prior, steps=3).recover(
        operator.A(in_range), operator, progress=lambda step, active: told.append((step, active))
    )
    assert told[:60] == [(step, 8) for step in range(1, 61)]
    assert told[60:] == [(step, 4) for step in (1, 2, 3)]
