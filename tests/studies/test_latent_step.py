"""Steps from an image's latent: against a linear flow, and as published."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from priors.prior import FlowPrior
from studies.latent_norm import LatentNorm
from studies.latent_step import LENGTHS, PUBLISHED, LatentStep, five_bits
from studies.study import Given
from tests.studies.conftest import LinearFlow, image_set, reread


def test_latent_step_of_a_linear_flow(given: Given) -> None:
    # x = z / 2 moves every direction by half a step
    prior = FlowPrior(LinearFlow(2 * torch.eye(192), (3, 8, 8)), "linear")
    study = LatentStep(images=4, directions=2, lengths=[0.1, 0.8], batch_size=3)
    linear = Given({"glow": prior}, given.sets, given.rows, given.device, given.folder)
    steps = study.compute(linear, lambda _: None)["steps"]
    assert len(steps) == 6 and (steps["n_rows"] == 4).all()
    assert ((steps["dx_mean"] / steps["dz_norm"] - 0.5).abs() < 1e-4).all()
    assert "0.500 ± 0.000 (natural)" in study.findings(reread({"steps": steps}))[0]
    assert "published means give 1.44 (0.572 and 0.398" in study.findings({"steps": steps})[1]


def test_each_kind_of_step_goes_its_own_way(given: Given) -> None:
    """Through x = M z with M = 1 1^T / n + 0.01 I, which keeps little but the mean of a latent."""
    n = 192
    matrix = torch.full((n, n), 1 / n) + 0.01 * torch.eye(n)
    prior = FlowPrior(LinearFlow(matrix.inverse(), (3, 8, 8)), "linear")
    images = image_set("celeba-val", 6)

    def changes(order: list[int]) -> dict[str, float]:
        sets = {"celeba-val": images.subset(order)}
        linear = replace(given, priors={"glow": prior}, sets=sets)
        study = LatentStep(images=6, directions=4, lengths=[1.0])
        steps = study.compute(linear, lambda _: None)["steps"]
        return dict(zip(steps["direction"], steps["dx_mean"], strict=True))

    found = changes([0, 1, 2, 3, 4, 5])
    z, _ = prior.encode(five_bits(images))
    away = z - z.roll(1, dims=0)  # from the image before it
    natural = (away @ matrix).norm(dim=1) / away.norm(dim=1)
    assert found["natural"] == pytest.approx(natural.mean().item(), rel=1e-3)
    # the cosine of a direction and the mean's: of entries U[0, 1) sqrt(3)/2, of N(0, 1) near 0
    assert found["uniform"] == pytest.approx(3**0.5 / 2, abs=0.03)
    assert found["gaussian"] < 0.15
    turned = changes([5, 4, 3, 2, 1, 0])  # random directions are the image's, not its place's
    assert turned["uniform"] == pytest.approx(found["uniform"], rel=1e-4)
    assert turned["gaussian"] == pytest.approx(found["gaussian"], rel=1e-4)


def test_images_that_do_not_encode_are_counted() -> None:
    norms = {"dataset": "a", "sigma": 0.0, "n": 4, "norm": [1.0, 3.0, math.inf]}
    table = pd.DataFrame({**norms, "log_likelihood": [4.0, 8.0, math.nan]})
    (said,) = LatentNorm().findings(reread({"norms": table}))
    assert "a 2.0 ± 1.0 (1.50 nats per dimension, 3 images, 1 not finite)" in said


def test_published_steps_are_those_of_the_defaults() -> None:
    published = pd.read_csv(PUBLISHED)
    assert sorted(published["dz_norm"].unique()) == sorted(LENGTHS)


def test_five_bits_keep_the_level_of_each_pixel() -> None:
    images = image_set("celeba-val", 2)
    x = five_bits(images)
    assert torch.equal((32 * x).floor(), images.images.div(8, rounding_mode="floor").float())
    assert torch.equal(five_bits(images.subset([1])), x[1:])
