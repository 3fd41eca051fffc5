"""Samples of priors, and their statistics."""

import math

import torch

from studies.samples import Samples, picture, statistics
from studies.study import Given
from tests.studies.conftest import reread


def test_samples_are_the_same_every_time_and_written(given: Given) -> None:
    study = Samples(temperatures=[0.5, 1.0], count=5, batch_size=2)
    study.check(given)
    first = study.compute(given, lambda _: None)["samples"]
    files = sorted(path.name for path in given.folder.glob("*.png"))
    assert files == ["samples-dcgan-1.png", "samples-glow-0.5.png", "samples-glow-1.png"]
    written = (given.folder / files[1]).read_bytes()
    again = Samples(temperatures=[0.5, 1.0], count=5, batch_size=2).compute(given, print)
    assert first.equals(again["samples"])
    assert (given.folder / files[1]).read_bytes() == written
    assert len(study.findings(reread({"samples": first}))) == 3


def test_statistics_of_samples() -> None:
    samples = torch.stack([torch.full((3, 2, 2), value) for value in (0.0, 1.0, 2.0, math.nan)])
    found = statistics(samples)
    assert found["not_finite"] == 1 and found["contrast"] == 0
    assert found["mean"] == found["spread"] == 1
    assert math.isclose(found["outside"], 1 / 3, rel_tol=1e-6)
    assert picture(samples).shape == (3, 6, 6)
    assert picture(samples).min() == 0 and picture(samples).max() == 1
