"""Linear methods, free of a prior."""

import torch

from core.seeds import generator
from recovery.linear import Adjoint, PseudoInverse, back_project
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing

SHAPE = (3, 8, 8)


def test_the_pseudo_inverse_is_lapacks() -> None:
    operator = GaussianSensing(SHAPE, m=60)
    x = torch.rand(3, *SHAPE, generator=generator("pseudo")).double()
    y = operator.A(x)
    recovery = PseudoInverse(tolerance=1e-10).recover(y, operator)
    matrix = operator.A(torch.eye(192).double().unflatten(1, SHAPE)).T
    expected = (y @ torch.linalg.pinv(matrix).T).unflatten(1, SHAPE)
    assert recovery.status == ("converged",) * 3
    assert torch.allclose(recovery.image, expected, atol=1e-6)
    assert (recovery.residual < 1e-6).all()


def test_the_pseudo_inverse_says_when_it_was_stopped() -> None:
    operator = GaussianSensing(SHAPE, m=180)
    y = operator(torch.rand(2, *SHAPE, generator=generator("stopped")))
    recovery = PseudoInverse(iterations=2).recover(y, operator)
    assert recovery.status == ("budget", "budget") and recovery.steps.tolist() == [2, 2]


def test_the_pseudo_inverse_does_not_depend_on_its_batch() -> None:
    operator = GaussianSensing(SHAPE, m=100)
    y = operator(torch.rand(4, *SHAPE, generator=generator("mates")).double())
    y[1:] += torch.randn(3, 100, generator=generator("harder"))
    together = PseudoInverse(tolerance=0.1).recover(y, operator)
    assert len(set(together.steps.tolist())) > 1
    for row in range(4):
        alone = PseudoInverse(tolerance=0.1).recover(y[row : row + 1], operator)
        assert torch.allclose(alone.image[0], together.image[row], atol=1e-9)


def test_back_projection_is_a_start_and_the_pseudo_inverse_of_what_is_missing() -> None:
    operator = GaussianSensing(SHAPE, m=60)
    x = torch.rand(2, *SHAPE, generator=generator("back"))
    y = operator.A(x)
    nearest = back_project(torch.full_like(x, 0.5), y, operator)
    assert torch.allclose(operator.A(nearest), y, atol=1e-4)
    assert (psnr(nearest, x) > psnr(PseudoInverse().recover(y, operator).image, x)).all()


def test_the_adjoint_of_denoising_is_the_noisy_image() -> None:
    operator = Denoising(SHAPE, sigma=0.1)
    y = operator(torch.rand(2, *SHAPE, generator=generator("adjoint")))
    recovery = Adjoint().recover(y, operator)
    assert torch.equal(recovery.image, y) and recovery.status == ("converged", "converged")
    assert torch.equal(recovery.residual, torch.zeros(2))
