"""The Lasso: its bases against PyWavelets and SciPy, its optimum against scikit-learn's."""

import math

import numpy as np
import pytest
import pywt
import scipy.fft
import torch
from sklearn import linear_model
from torch import Tensor

from core.seeds import generator
from recovery.lasso import BASES, Dct, Haar, Lasso, minimise_lasso
from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator

SHAPE = (3, 16, 16)
N = math.prod(SHAPE)


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Smooth images: a few low frequencies."""
    w = torch.zeros(count, *shape, dtype=torch.float64)
    w[..., :4, :4] = torch.randn(count, shape[0], 4, 4, generator=generator("lasso test")).double()
    return 0.5 + Dct().synthesise(w)


# ---- bases


def test_the_haar_basis_is_pywavelets() -> None:
    image = torch.rand(3, 16, 32, generator=generator("haar")).double()[None]
    ours = Haar().analyse(image)
    for channel in range(3):
        coefficients = pywt.wavedec2(image[0, channel].numpy(), "haar", level=4)
        theirs, _ = pywt.coeffs_to_array(coefficients)
        assert np.allclose(ours[0, channel].numpy(), theirs, atol=1e-12)


def test_the_dct_basis_is_scipys() -> None:
    image = torch.rand(2, 3, 16, 12, generator=generator("dct")).double()
    theirs = scipy.fft.dctn(image.numpy(), axes=(-2, -1), norm="ortho")
    assert np.allclose(Dct().analyse(image).numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("basis", BASES)
def test_bases_are_orthonormal(basis: str) -> None:
    image = torch.rand(2, *SHAPE, generator=generator("orthonormal")).double()
    w = BASES[basis].analyse(image)
    assert torch.allclose(BASES[basis].synthesise(w), image, atol=1e-12)
    assert w.square().sum().item() == pytest.approx(image.square().sum().item())


def test_the_haar_basis_needs_powers_of_two() -> None:
    with pytest.raises(ValueError, match="powers of two, got 12 x 16"):
        Lasso("haar").check(Denoising((3, 12, 16), sigma=0.1))


# ---- the optimum


@pytest.mark.parametrize("m", [40, 200, 900])
@pytest.mark.parametrize("weight", [0.01, 1.0])
def test_the_objective_is_scikit_learns(m: int, weight: float) -> None:
    forward = torch.randn(m, 300, generator=generator("forward", m)).double() / math.sqrt(m)
    y = torch.randn(2, m, generator=generator("y", m)).double()
    found = minimise_lasso(
        lambda w: w @ forward.T, lambda r: r @ forward, y, weight, (300,), tolerance=1e-6
    )
    assert found.converged.all()
    for row in range(2):
        # scikit-learn minimises ||y - F w||^2 / (2 m) + alpha ||w||_1
        theirs = linear_model.Lasso(weight / (2 * m), fit_intercept=False, tol=1e-7, max_iter=10**5)
        w = torch.from_numpy(theirs.fit(forward.numpy(), y[row].numpy()).coef_)
        objective = (y[row] - forward @ w).square().sum() + weight * w.abs().sum()
        assert found.objective[row].item() == pytest.approx(objective.item(), rel=1e-5)
        assert found.gap[row] <= 1e-6 * found.objective[row]
        assert torch.allclose(found.w[row], w, atol=2e-2 * w.abs().max().item())


def test_the_gap_bounds_the_error_on_the_way() -> None:
    forward = torch.randn(50, 200, generator=generator("gap")).double()
    y = torch.randn(1, 50, generator=generator("gap y")).double()

    def after(steps: int, tolerance: float = 0.0) -> tuple[float, float]:
        found = minimise_lasso(
            lambda w: w @ forward.T,
            lambda r: r @ forward,
            y,
            0.1,
            (200,),
            steps=steps,
            tolerance=tolerance,
        )
        return found.objective.item(), found.gap.item()

    best, _ = after(20_000, 1e-10)
    for steps in (1, 5, 20, 100):
        objective, gap = after(steps)
        assert 0 <= objective - best <= gap


@pytest.mark.parametrize("basis", ["dct", "haar"])
@pytest.mark.parametrize(
    "operator",
    [
        GaussianSensing(SHAPE, m=0.4),
        Inpainting(SHAPE, mask="random", fraction=0.4),
        Denoising(SHAPE, sigma=0.02),
    ],
    ids=["sensing", "inpainting", "denoising"],
)
def test_any_linear_operator_is_served(operator: Operator, basis: str) -> None:
    x = images(3)
    y = operator(x)
    lasso = Lasso(basis)  # type: ignore[arg-type]
    lasso.check(operator)
    recovery = lasso.recover(y, operator)
    assert recovery.status == ("converged",) * 3
    w = BASES[basis].analyse(recovery.image)
    objective = recovery.residual.square() + 0.01 * w.abs().flatten(1).sum(dim=1)
    assert torch.allclose(recovery.objective, objective, rtol=1e-6)
    baseline = operator.A_adjoint(y) if not operator.denoises else torch.zeros_like(x)
    assert ((recovery.image - x).norm() < (baseline - x).norm()).all()


def test_denoising_has_its_closed_form() -> None:
    """With A the identity the minimum is a soft threshold at half the weight."""
    operator = Denoising(SHAPE, sigma=0.1)
    y = operator(images(2))
    recovery = Lasso("dct", weight=0.2, tolerance=1e-9).recover(y, operator)
    w = Dct().analyse(y)
    expected = Dct().synthesise(w.sign() * (w.abs() - 0.1).clamp_min(0))
    assert torch.allclose(recovery.image, expected, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch() -> None:
    operator = GaussianSensing(SHAPE, m=0.3)
    y = operator(images(4))
    together = Lasso().recover(y, operator)
    apart = Lasso(batch_size=1).recover(y, operator)
    assert torch.allclose(together.image, apart.image, atol=1e-6)
    assert together.steps.tolist() == apart.steps.tolist()
    assert len(set(together.steps.tolist())) > 1


def test_too_few_steps_are_a_status() -> None:
    operator = GaussianSensing(SHAPE, m=0.3)
    recovery = Lasso(steps=3).recover(operator(images(2)), operator)
    assert recovery.status == ("budget", "budget")
    assert recovery.steps.tolist() == [3, 3]


def test_measurements_that_are_not_finite_spoil_their_image_only() -> None:
    operator = GaussianSensing(SHAPE, m=0.3)
    y = operator(images(3))
    alone = Lasso().recover(y[:1], operator)
    y[1, 0] = math.nan
    recovery = Lasso().recover(y, operator)
    assert recovery.status == ("converged", "diverged", "converged")
    assert recovery.steps[1] == 1  # nothing is to be had from more
    assert torch.allclose(recovery.image[0], alone.image[0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": "fourier"}, "basis must be dct or haar, got 'fourier'"),
        ({"weight": 0.0}, "weight must be above 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lasso(**options)  # type: ignore[arg-type]
