"""Calibration: a right sampler and prior pass, a wrong one of either is caught."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from datamodules.image_set import ImageSet
from networks.linear_flow import LinearFlow
from priors.prior import FlowPrior, flow_prior
from studies.calibration import (
    DRAWN,
    Calibration,
    conformal_factor,
    coverage,
    uniformity,
)
from studies.study import Given
from tests.studies.conftest import reread


def gaussian(width: float = 1.0) -> FlowPrior:
    """Of 4px images around grey, which hardly leave [0, 1]."""
    mix = torch.randn(48, 48, generator=torch.Generator().manual_seed(0)).double() / 80
    network = LinearFlow(4)
    network.fit(torch.zeros(48), width**2 * (mix @ mix.T + 2e-3 * torch.eye(48).double()))
    return flow_prior(network, images_seen=1)


def calibrated(
    prior: FlowPrior,
    folder: Path,
    count: int = 100,
    parts: Path | None = None,
    **options: object,
) -> tuple[Calibration, pd.DataFrame]:
    """The study of images that the Gaussian of width 1 draws, under another name."""
    seeds = [1000 + index for index in range(count)]
    truth = gaussian().decode(gaussian().initial_latent(seeds, 1.0))
    images = (truth.clamp(0, 1) * 255).round().to(torch.uint8)
    held_out = ImageSet("held-out", "in", images, [f"face-{seed}" for seed in seeds])
    device, sets = torch.device("cpu"), {"held-out": held_out}
    given = Given({"g": prior}, sets, pd.DataFrame(), device, folder, parts=parts)
    settings = {"prior": "g", "datasets": ["held-out"], "chosen_on": "held-out", "perturb": True}
    settings |= {"fractions": [0.4], "images": count, "evaluations": 150, **options}
    study = Calibration(**settings)  # type: ignore[arg-type]
    study.check(given)
    told: list[str] = []
    tables = reread(study.compute(given, told.append))
    assert told or parts
    if told:
        assert any(text.endswith(f"of {count}, evaluation 5") for text in told)
    return study, tables["scalars"]


def test_a_linear_flow_is_calibrated(tmp_path: Path) -> None:
    study, scalars = calibrated(gaussian(), tmp_path)
    assert scalars.groupby("source").size().to_dict() == {DRAWN: 100 * 32, "held-out": 100 * 32}
    drawn = scalars[scalars["source"] == DRAWN]
    assert uniformity(drawn) > 0.01
    for level in (0.5, 0.9):
        assert abs(coverage(drawn, level) - level) < 0.02
    held_out = scalars[scalars["source"] == "held-out"]
    assert abs(coverage(held_out, 0.9) - 0.9) < 0.03
    assert abs(conformal_factor(held_out) - 1) < 0.1
    said = " ".join(study.findings({"scalars": scalars}))
    assert "ranks of 100 images drawn from the prior are uniform" in said
    assert "At 40.0% of n, 90% intervals hold: x = G(z) " in said
    assert len(study.figures({"scalars": scalars})) == 2


def test_parts_that_an_interrupted_run_has_left_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images are sampled at once; they keep their numbers."""
    _, whole = calibrated(gaussian(), tmp_path, 5)
    _, parted = calibrated(gaussian(), tmp_path, 5, parts=tmp_path / "parts")
    monkeypatch.setattr(Calibration, "sampled", lambda *_: pytest.fail("sampled again"))
    _, again = calibrated(gaussian(), tmp_path, 5, parts=tmp_path / "parts")
    pd.testing.assert_frame_equal(whole, parted)
    pd.testing.assert_frame_equal(whole, again)
    assert whole["image"].unique().tolist() == list(range(5))
    assert len(list((tmp_path / "parts").iterdir())) == 2 * 3


def test_a_prior_that_is_too_narrow_is_caught_and_a_factor_mends_it(tmp_path: Path) -> None:
    """Its sampler is right, so ranks of its own images say nothing against it."""
    _, scalars = calibrated(gaussian(width=0.5), tmp_path)
    assert uniformity(scalars[scalars["source"] == DRAWN]) > 0.01
    held_out = scalars[scalars["source"] == "held-out"]
    assert coverage(held_out, 0.9) < 0.8
    factor = conformal_factor(held_out)
    assert factor > 1.3 and abs(coverage(held_out, 0.9, factor) - 0.9) < 0.01


def test_a_sampler_that_is_wrong_is_caught(tmp_path: Path) -> None:
    _, scalars = calibrated(gaussian(), tmp_path, tau=0.3, perturb=False)
    drawn = scalars[scalars["source"] == DRAWN]
    assert uniformity(drawn) < 1e-4 and coverage(drawn, 0.9) < 0.6


def test_chains_mend_a_sampler_that_is_wrong_and_tell_of_their_mixing(tmp_path: Path) -> None:
    study, scalars = calibrated(gaussian(), tmp_path, 24, tau=0.3, perturb=False, chain_steps=24)
    drawn = scalars[scalars["source"] == DRAWN]
    assert abs(coverage(drawn, 0.9) - 0.9) < 0.04
    assert (drawn.groupby("image")[["r_hat", "step"]].nunique() == 1).all(axis=None)
    said = " ".join(study.findings({"scalars": scalars}))
    mixed = (scalars.groupby(["source", "image"])["r_hat"].first() < 1.1).sum()
    assert f"chains mixed (R-hat below 1.1) on {mixed} of 48 images; medians: R-hat 1." in said


def test_options_that_fit_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chosen_on 'other' is none of held-out"):
        calibrated(gaussian(), tmp_path, chosen_on="other")
    with pytest.raises(ValueError, match="must not be empty"):
        calibrated(gaussian(), tmp_path, fractions=[])
    with pytest.raises(ValueError, match="an even number"):
        calibrated(gaussian(), tmp_path, samples=3)
