"""What a reader gets of an evaluation: sheets, studies, machines, Weights & Biases."""

import json
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pytest
import torch
from torchvision.utils import save_image

import evaluate
from results.rows import read_rows
from studies.bias import Bias
from studies.study import Given, Tables
from tests.evaluation.conftest import Run


@pytest.mark.slow
def test_a_picture_cut_short_by_a_kill_is_made_anew(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--trials.seeds=[0]", "--trials.problems=[cs-50%]"]

    def cut_short(image: torch.Tensor, file: BinaryIO, **rest: Any) -> None:
        save_image(image, file, **rest)
        if "recovery" in Path(file.name).name:
            file.truncate(40)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evaluation.pool.save_image", cut_short)
        with pytest.raises(SystemExit):
            run("--trials.methods=[adjoint]", *options)
    folder = run("--trials.methods=[adjoint, few]", *options)
    assert (folder / "sheets" / "cs-50%-faces.png").exists()


@pytest.mark.slow
def test_sheets_show_the_seed_of_the_table(run: Run) -> None:
    options = ["--trials.methods=[adjoint]", "--trials.problems=[denoise]"]
    sheets = []
    for seed in (0, 1, 0):
        folder = run(*options, f"--trials.seeds=[{seed}]")
        sheets.append((folder / "sheets" / "denoise-faces.png").read_bytes())
    assert sheets[0] == sheets[2] != sheets[1]


def test_a_page_tells_what_its_rows_were_made_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--trials.methods=[adjoint]", "--trials.seeds=[0]", "--trials.images=1"]
    made = {"versions": "Python 3.11, torch 1", "hardware": "a GPU", "processes": "8"}
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.outcome.this_machine", lambda *_: made)
        run(*options)
    page = run(*options) / "report.md"  # only drawn anew, here
    assert all(f"\n    {value}\n" in page.read_text() for value in made.values())
    run(*options, "--trials.images=2")
    assert "\n    a GPU; " in page.read_text()


def test_every_gamma_has_its_own_mean_in_wandb(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    summary: dict[str, float] = {}

    class Logged:
        def __init__(self) -> None:
            self.summary = summary

        def __enter__(self) -> "Logged":
            return self

        def __exit__(self, *_: object) -> None: ...

        def log(self, values: object) -> None: ...

    monkeypatch.setattr("wandb.init", lambda **_: Logged())
    options = ["--trials.problems=[denoise]", "--trials.sets=[faces]", "--trials.seeds=[0]"]
    options += ["--trials.methods=[glow, adjoint]", "--trials.gammas=[0, 0.1]"]
    folder = run(*options, "--wandb=offline")
    rows = read_rows(folder)
    means = rows.groupby(["method", "gamma"])["psnr"].mean()
    assert summary == {
        "denoise/faces/glow/gamma-0/psnr": pytest.approx(means["glow", 0.0]),
        "denoise/faces/glow/gamma-0.1/psnr": pytest.approx(means["glow", 0.1]),
        "denoise/faces/adjoint/psnr": pytest.approx(means["adjoint", 0.0]),
    }


def test_a_study_without_a_prior_needs_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_DATA", raising=False)
    options = ["--config=configs/evaluate/theorem1.yaml", f"--root={tmp_path}"]
    options.append(
        "--studies={theorem-1: {class_path: studies.theorem1.Theorem1, init_args: "
        "{n: 20, draws: 3, percent: [20, 50]}}}"
    )
    evaluate.main(options)
    table = pd.read_csv(next((tmp_path / "theorem1" / "studies" / "theorem-1").glob("*.csv")))
    assert set(table["m"]) == {4, 10}


STUDY = "--studies={bias: {class_path: studies.bias.Bias, init_args: {attributes: [Hat]"


@pytest.mark.slow
def test_a_study_that_fails_is_named_in_the_report(
    run: Run, workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = f"--attributes={workshop / 'attributes.csv'}"
    with pytest.raises(SystemExit) as ended:
        run("--trials.methods=[adjoint]", table, STUDY + ", dataset: faces}}}")
    assert ended.value.code == 1
    message = (
        "cs-50%: no image of faces was recovered by the reference 'lasso-dct', only by adjoint"
    )
    assert f"studies.bias: ValueError: {message}" in capsys.readouterr().err
    assert "studies.bias: ValueError" in (tmp_path / "results" / "tiny" / "report.md").read_text()


@pytest.mark.slow
def test_a_studys_tables_are_kept_while_nothing_they_depend_on_changes(
    run: Run, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.csv"
    table.write_text((workshop / "attributes.csv").read_text())
    options = ["--trials.methods=[adjoint]", "--trials.seeds=[0]", f"--attributes={table}"]
    options.append(STUDY + ", dataset: faces, reference: adjoint}}}")
    computed: list[str] = []
    compute = Bias.compute

    def counting(self: Bias, *arguments: Any) -> Tables:
        computed.append("")
        return compute(self, *arguments)

    monkeypatch.setattr(Bias, "compute", counting)
    folder = run(*options)
    run(*options)
    assert len(computed) == 1
    table.write_text(table.read_text().replace(",0,", ",1,"))
    run(*options)
    assert len(computed) == 2
    saved = pd.read_csv(folder / "studies" / "bias" / "bias.csv")
    assert (saved["with"] == 3).all()  # all that were recovered
    (folder / "studies" / "bias" / "study.json").write_text("")  # as a full disk leaves it
    run(*options)
    assert len(computed) == 3
    (folder / "studies" / "bias" / "bias.csv").unlink()
    run(*options)
    assert len(computed) == 4

    def killed(self: Bias, given: Given, *_: Any) -> Tables:
        (given.folder / "half.png").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Bias, "compute", killed)
    other = [option.replace("[Hat]", "[Young]") for option in options]
    with pytest.raises(SystemExit):
        run(*other)
    monkeypatch.setattr(Bias, "compute", counting)
    run(*options)
    assert len(computed) == 5 and not list(folder.glob("pictures-of-studies/bias/half.png"))


@pytest.mark.slow
def test_a_studys_tables_are_of_its_prior_and_images(
    run: Run, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--trials.problems=[]"]
    options.append(
        "--studies={norms: {class_path: studies.latent_norm.LatentNorm, init_args: "
        "{prior: glow, dataset: faces, others: [others], sigmas: [0.1], images: 2}}}"
    )
    folder = run(*options)
    identity = json.loads((folder / "studies" / "norms" / "study.json").read_text())["identity"]
    depends = json.loads(identity)
    assert set(depends["priors"]) == {"glow"} and depends["priors"]["glow"]
    assert set(depends["sets"]) == {"faces", "others"}
    assert "recoveries" not in (folder / "report.md").read_text()
