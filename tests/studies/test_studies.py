"""All studies: tables survive being saved, what is missing is named."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from torch import Tensor

from evaluation.outcome import study_tables
from priors.prior import FlowPrior
from studies.jacobian import (
    Jacobian,
)
from studies.latent_norm import LatentNorm
from studies.latent_step import LatentStep
from studies.samples import Samples
from studies.study import Given, Study, read_table
from studies.theorem1 import Theorem1
from studies.toy import RealNVPToy
from tests.studies.conftest import reread


def all_studies() -> list[Study]:
    return [
        Theorem1(percent=[20, 60], n=20, draws=2),
        Jacobian(dataset="celeba-val", images=2),
        LatentStep(images=3, directions=1, lengths=[0.1, 0.8]),
        LatentNorm(images=3),
        RealNVPToy(steps=2, batch_size=16, points=50, grid=20),
    ]


@pytest.mark.parametrize("study", all_studies(), ids=lambda study: type(study).__name__)
def test_saved_tables_are_enough_to_draw(study: Study, given: Given) -> None:
    study.check(given)
    tables = reread(study.compute(given, lambda _: None))
    assert study.title and study.findings(tables)
    for style in ("default", "dark_background"):
        with plt.style.context(style):
            for caption, figure in study.figures(tables).items():
                assert caption.endswith(".")
                figure.draw_without_rendering()


def test_images_of_any_name_are_read_again(tmp_path: Path) -> None:
    names = ["NA", "nan", "0000083", "None"]
    table = pd.DataFrame({"image": names, "value": [1.5, math.nan, 2.0, 3.0]})
    table.to_csv(tmp_path / "table.csv", index=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.csv"), table, check_dtype=False)


def test_an_interrupted_study_goes_on_after_its_last_part(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    of_an_image = Jacobian.spectrum

    def spectrum(study: Jacobian, prior: FlowPrior, name: str, z: Tensor) -> pd.DataFrame:
        made.append(name)
        if len(made) == 2:
            raise KeyboardInterrupt
        return of_an_image(study, prior, name, z)

    monkeypatch.setattr(Jacobian, "spectrum", spectrum)
    study, folder = Jacobian(dataset="celeba-val", images=3, rank=2), given.folder / "study"
    with pytest.raises(KeyboardInterrupt):
        study_tables(study, given, folder, {}, lambda _: None)
    tables = study_tables(study, given, folder, {}, lambda _: None)
    first, second, third = given.sets["celeba-val"].image_names[:3]
    assert made == [first, second, second, third]
    whole = reread(study.compute(given, lambda _: None))
    pd.testing.assert_frame_equal(tables["singular_values"], whole["singular_values"])
    assert not list(folder.glob("parts*"))


def test_a_study_with_other_options_shares_no_part(given: Given) -> None:
    folder = given.folder / "study"

    def stop(doing: str) -> None:
        if doing == "Jacobian at image 2 of 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study_tables(Jacobian(dataset="celeba-val", images=2, rank=2), given, folder, {}, stop)
    other = Jacobian(dataset="celeba-val", images=2, rank=3)
    table = study_tables(other, given, folder, {}, lambda _: None)["singular_values"]
    assert (table.groupby("image").size() == 3).all()


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (Jacobian(prior="pggan"), "no prior named 'pggan': there are glow, dcgan"),
        (Jacobian(prior="dcgan"), "'dcgan' must be a flow"),
        (Jacobian(dataset="mars"), "no set of images named 'mars'"),
        (Theorem1(prior="glow", dataset="mars"), "mars"),
        (LatentStep(prior="dcgan"), "must be a flow"),
        (LatentNorm(others=["mars"]), "mars"),
        (Samples(priors=["pggan"]), "pggan"),
    ],
)
def test_what_is_missing_is_named(study: Study, said: str, given: Given) -> None:
    with pytest.raises(ValueError, match=said):
        study.check(given)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Theorem1, {"percent": [3]}),
        (Theorem1, {"percent": [100]}),
        (Theorem1, {"draws": 1}),
        (Jacobian, {"rank": 0}),
        (LatentStep, {"images": 1}),
        (LatentStep, {"lengths": [0.0]}),
        (LatentNorm, {"sigmas": [0.0]}),
        (Samples, {"count": 1}),
        (RealNVPToy, {"points": 10}),
    ],
)
def test_bad_options_are_refused(make: type[Study], options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=make.__name__):
        make(**options)
