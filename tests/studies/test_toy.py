"""Densities in the plane: the true ones, and those that are learnt."""

import pandas as pd
import pytest
import torch

from core.seeds import generator
from studies.study import Given
from studies.toy import PointSet, RealNVPToy, moons, plane, ring
from tests.studies.conftest import reread


@pytest.mark.parametrize("make", [moons, ring])
def test_true_density_is_that_of_the_points(make: type[PointSet]) -> None:
    points = make()
    grid = plane(points, 120)
    cell = (grid[1, 0] - grid[0, 0]) ** 2
    density = points.log_prob(grid).exp()
    assert abs(density.sum() * cell - 1) < 1e-3
    sampled = points.sample(20_000, generator("points"))
    mean = (density * grid[:, 0].square()).sum() * cell
    assert abs(sampled[:, 0].square().mean() / mean - 1) < 0.03
    assert points.far(sampled).float().mean() < 1e-3
    assert points.far(torch.zeros(1, 2))


@pytest.mark.slow
def test_toy_learns_the_density(given: Given) -> None:
    study = RealNVPToy(steps=600, batch_size=256, points=4000, grid=60)
    tables = reread(study.compute(given, print))
    scores = tables["scores"]
    assert (scores["log_likelihood"] > scores["true_log_likelihood"] - 0.8).all()
    assert (scores["log_likelihood"] < scores["true_log_likelihood"] + 3 * scores["sem"]).all()
    assert len(study.findings(tables)) == 6


def test_findings_where_no_small_norm_lies_between_the_modes() -> None:
    grid = {"points": "a", "log_density": [0.0, -9.0], "latent_norm": [1.0, 3.0], "far": [0, 1]}
    score = {"points": "a", "held_out": 9, "true_log_likelihood": -1.0, "log_likelihood": -1.5}
    score |= {"sem": 0.1, "norm": 2.0, "samples": 9, "far_samples": 0.0, "far_truth": 0.0}
    tables = {"grid": pd.DataFrame(grid), "scores": pd.DataFrame([score])}
    said = RealNVPToy().findings(tables)
    assert "0.500 ± 0.100 below the true density" in said[0]
    assert "0% is more than 4 standard deviations from every mode." in said[1]
    tables["grid"].loc[1, "latent_norm"] = 1.5
    assert "50% is" in RealNVPToy().findings(tables)[1]
    assert "exp(-9.0)" in RealNVPToy().findings(tables)[1]
