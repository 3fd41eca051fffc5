"""What all methods share: residuals per image, results joined in order."""

import torch

from recovery.latent_search import LatentSearch
from recovery.methods import Recovery, concatenate, residual_energy, residual_norm
from recovery.operators import Denoising
from tests.made import flow_prior, held_out

FACE = (3, 8, 8)
SMALL = (1, 4, 4)
SEEDS = [11, 12, 13, 14, 15]


def rows(recovery: Recovery, indices: list[int]) -> Recovery:
    assert recovery.latent is not None
    return Recovery(
        recovery.image[indices],
        recovery.latent[indices],
        recovery.objective[indices],
        recovery.residual[indices],
        recovery.steps[indices],
        recovery.evaluations[indices],
        tuple(recovery.status[i] for i in indices),
    )


def assert_equal(a: Recovery, b: Recovery) -> None:
    assert a.latent is not None and b.latent is not None
    assert torch.equal(a.latent, b.latent) and torch.equal(a.image, b.image)
    assert torch.equal(a.evaluations, b.evaluations) and a.status == b.status


def test_residuals_are_per_image() -> None:
    y, operator = torch.zeros(2, *SMALL), Denoising(SMALL, 0.0)
    image = torch.stack([torch.ones(SMALL), 2 * torch.ones(SMALL)])
    assert residual_energy(y, image).tolist() == [16, 64]
    assert residual_norm(image, y, operator).tolist() == [4, 8]


def test_recoveries_are_joined_in_order() -> None:
    operator = Denoising(FACE, 0.1)
    y = operator(held_out(), seeds=SEEDS)
    found = LatentSearch(flow_prior(), 0.01, evaluations=3).recover(y, operator)
    parts = [rows(found, [0, 1]), rows(found, [2]), rows(found, [3, 4])]
    assert_equal(concatenate(parts), found)
    assert torch.equal(concatenate(parts).residual, found.residual)
    without = [Recovery(p.image, None, *[p.objective] * 4, p.status) for p in parts]
    assert concatenate(without).latent is None
