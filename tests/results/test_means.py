"""Means: averaged when read, over images that can be compared."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from results.means import comparable, compared, latest, means, scalars
from tests.made import frame, row, sample, two_runs, written


def test_means_have_counts_and_standard_errors() -> None:
    table = means(sample()).set_index(["problem", "dataset"])
    inside = table.loc[("cs", "faces-val")]
    assert inside["psnr"] == pytest.approx(23.0)
    assert inside["sem"] == pytest.approx(np.std([20, 22, 27], ddof=1) / math.sqrt(3))
    assert inside["ssim"] == pytest.approx(0.7) and inside["seconds"] == pytest.approx(3.0)
    assert (inside["images"], inside["not_converged"], inside["diverged"]) == (3, 2, 1)
    outside = table.loc[("cs", "faces-ood")]
    assert (outside["psnr"], outside["images"], outside["not_converged"]) == (18.5, 2, 0)
    hole = table.loc[("inpaint", "faces-val")]
    assert hole["psnr_hole"] == 15.0 and math.isnan(inside["psnr_hole"])
    assert math.isnan(hole["sem"]) and hole["images"] == 1


def test_means_survive_an_image_without_psnr(tmp_path: Path) -> None:
    rows = written(
        tmp_path / "rows.csv",
        *(row("a", psnr=20.0), row("b", psnr=math.nan, status="diverged")),
    )
    (only,) = means(rows).to_dict("records")
    assert (only["psnr"], only["images"], only["diverged"]) == (20.0, 1, 1)


def test_scalars_are_means_and_gaps() -> None:
    assert scalars(sample(), "recovery") == pytest.approx(
        {
            "recovery/cs/faces-val/search/psnr": 23.0,
            "recovery/cs/faces-val/search/ssim": 0.7,
            "recovery/cs/faces-ood/search/psnr": 18.5,
            "recovery/cs/faces-ood/search/ssim": 0.4,
            "recovery/inpaint/faces-val/search/psnr": 30.0,
            "recovery/inpaint/faces-val/search/ssim": 0.9,
            "recovery/inpaint/faces-val/search/psnr_hole": 15.0,
            "recovery/cs/gap/search/psnr": 4.5,
        }
    )


def test_without_two_distributions_there_is_no_gap() -> None:
    rows = sample()
    assert not any("gap" in name for name in scalars(rows[rows["distribution"] == "in"], "r"))


def test_only_the_last_recovery_of_each_run_is_latest() -> None:
    old, new, other = row("a"), replace(row("a"), images_seen=300), replace(row("a"), run="run-2")
    kept = latest(frame(old, new, other))
    assert kept[["run", "images_seen"]].to_numpy().tolist() == [["run-1", 300], ["run-2", 100]]


def test_curves_compare_images_that_every_recovery_includes() -> None:
    early = [row("a"), row("b")]
    late = [replace(row(name), images_seen=300) for name in "abc"]
    only_late = replace(row("c", problem="inpaint"), images_seen=300)
    kept = comparable(frame(*early, *late, only_late))
    assert kept["image"].tolist() == ["a", "b", "a", "b", "c"]
    assert kept["problem"].tolist() == ["cs"] * 4 + ["inpaint"]
    middle = [replace(row(name), images_seen=200) for name in "ab"]
    cut_short = replace(row("a"), images_seen=250)
    kept = comparable(frame(*early, *middle, cut_short, *late))
    assert kept["images_seen"].tolist() == [100, 100, 200, 200, 300, 300]


def test_runs_are_compared_on_the_images_they_share() -> None:
    rows = compared(two_runs())
    assert set(rows["image"]) == {"a", "b"}
    assert set(rows["images_seen"]) == {100}
    assert set(rows["recovery"]) == {"glow, latent-search", "dcgan, csgm"}
    assert len(rows) == 2 * 2 * 2 * 2
    other = two_runs()
    other.loc[other["run"] == "two", "seed"] = 9  # other noise
    with pytest.raises(ValueError, match="no problem, image and noise in common"):
        compared(other)


def test_measurements_of_one_name_are_the_same_only_if_their_operators_are() -> None:
    rows = two_runs()
    rows["operator"], rows["prepared"] = "this A", "this set"
    assert len(compared(rows)) == 2 * 2 * 2 * 2
    other = rows["run"] == "two"
    rows.loc[other & (rows["problem"] == "cs-50%"), "operator"] = "another A"
    assert set(compared(rows)["problem"]) == {"cs-10%"}
    rows.loc[other, "operator"] = "this A"
    rows.loc[other, "prepared"] = None  # of an earlier version
    assert set(compared(rows)["problem"]) == {"cs-10%", "cs-50%"}
    rows.loc[other, "operator"] = None  # a file of rows alone tells nothing
    assert set(compared(rows)["problem"]) == {"cs-10%", "cs-50%"}
    rows.loc[other, "operator"] = "another A"
    with pytest.raises(ValueError, match="under the names cs-10% and faces-in they have another"):
        compared(rows)


def test_the_comparison_names_the_run_where_priors_are_alike() -> None:
    rows = two_runs()
    rows["prior"], rows["method"] = "glow", "latent-search"
    names = set(compared(rows)["recovery"])
    assert names == {"one: glow, latent-search", "two: glow, latent-search"}
