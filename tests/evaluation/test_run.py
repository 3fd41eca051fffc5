"""evaluate.py: what is recovered once, and what a rerun computes."""

import io
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from rich.status import Status

from core.lock import alone_in
from datamodules.image_set import ImageSet
from datamodules.prepare import main as prepare
from evaluation.config import Evaluation, read_evaluation
from evaluation.plan import Trials
from evaluation.run import Doing, chosen_images, make_bench
from priors import load_prior
from results.rows import COLUMNS, KEY, read_rows
from tests.evaluation.conftest import Run


@pytest.mark.slow
def test_every_image_is_recovered_once_and_a_rerun_computes_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run()
    rows = read_rows(folder, every=True)
    counts = rows.groupby("method").size().to_dict()
    sets, problems, seeds = 2, 2, 2
    each = sets * problems * seeds
    assert counts == {"glow": 3 * each, "adjoint": 3 * each, "few": each}
    assert not rows.duplicated(KEY).any()
    assert set(rows[rows["method"] == "glow"]["prior"]) == {"glow"}
    assert set(rows[rows["method"] == "glow"]["images_seen"]) == {16}
    # noise depends on the seed, the operator does not
    adjoint = rows[(rows["method"] == "adjoint") & (rows["problem"] == "denoise")]
    assert adjoint.groupby("image")["psnr"].nunique().eq(2).all()
    for file in ("report.html", "report.md"):
        assert "A tiny evaluation" in (folder / file).read_text()
    assert (folder / "sheets" / "cs-50%-faces.png").exists()
    assert (folder / "figures" / "recovery-1.png").exists()
    page, text = (folder / "report.html").read_text(), (folder / "rows.csv").read_bytes()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("recovered again")

    monkeypatch.setattr("evaluation.pool.run_trials", never)
    run()
    assert (folder / "rows.csv").read_bytes() == text
    assert len((folder / "report.html").read_text()) == pytest.approx(len(page), rel=0.05)
    assert "A tiny evaluation" in capsys.readouterr().out


@pytest.mark.slow
def test_a_larger_plan_computes_what_is_new_alone(run: Run) -> None:
    small = run("--trials.methods=[adjoint]", "--trials.images=2", "--trials.seeds=[0]")
    before = (small / "rows.csv").read_text()
    larger = run("--trials.methods=[adjoint, lasso]", "--trials.images=3", "--trials.seeds=[0]")
    after = (larger / "rows.csv").read_text()
    assert after.startswith(before)
    assert len(read_rows(larger, every=True)) == 2 * 2 * 2 * 3
    # and a smaller one shows only its own rows
    run("--trials.methods=[lasso]", "--trials.images=1", "--trials.seeds=[0]")
    assert "adjoint" not in (small / "report.md").read_text()


def test_rows_of_another_set_of_the_same_name_are_not_taken_for_done(
    run: Run, workshop: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(workshop / "data", tmp_path / "data"))
    options = [f"--data={data}", "--trials.problems=[denoise]", "--trials.methods=[adjoint]"]
    options += ["--trials.seeds=[0]", "--trials.sets=[faces]"]
    first = read_rows(run(*options))
    shutil.rmtree(data / "8px" / "faces")
    source = Path(shutil.copytree(workshop / "faces", tmp_path / "faces"))
    shutil.copy(workshop / "others" / "others-0.png", source / "faces-0.png")
    prepare([str(source), str(data / "8px" / "faces"), "--image-size", "8"])
    folder = run(*options)
    rows = read_rows(folder)
    assert len(first) == len(rows) == 3 and len(read_rows(folder, every=True)) == 6
    assert set(rows["config"]).isdisjoint(first["config"])


def test_balance_counts_images_that_the_attribute_table_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trials = Trials(sets=["faces", "others"], images=3, balance=["Hat"])
    names = [f"faces-{i}" for i in range(5)]
    sets = {name: ImageSet(name, "in", torch.zeros(5, 3, 8, 8), names) for name in ("faces",)}
    sets["others"] = ImageSet("others", "out", torch.zeros(1, 3, 8, 8), ["others-0"])
    table = pd.DataFrame({"Hat": [1, 0, 0]}, index=names[::2])
    assert chosen_images(Evaluation("name", trials=trials), sets, table) == {
        "faces": [0, 2, 4],
        "others": [0],
    }
    said = "faces: the attribute table lacks 2 of its 5 images, such as faces-1: left out\n"
    assert capsys.readouterr().err == said


def test_two_at_once_in_one_folder_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone_in(tmp_path / "results" / "tiny", "evaluate.py"), pytest.raises(SystemExit):
        run()
    assert "another evaluate.py is at work" in capsys.readouterr().err


def test_float32_is_not_tf32(
    arguments: list[str],
    workshop: Path,
) -> None:
    torch.backends.cudnn.allow_tf32 = True
    config, _ = read_evaluation(arguments)
    make_bench(config, torch.device("cpu"))
    assert not torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    load_prior(workshop / "runs" / "demo")
    assert not torch.backends.cudnn.allow_tf32


def test_a_cut_row_is_computed_again(run: Run, tmp_path: Path) -> None:
    options = ["--trials.methods=[adjoint]", "--trials.seeds=[0]"]
    folder = run(*options)
    path = folder / "rows.csv"
    text = path.read_bytes()
    path.write_bytes(text[:-20])
    run(*options)
    before, after = text.decode().splitlines(), path.read_text().splitlines()
    psnr = COLUMNS.index("psnr")
    assert [line.split(",")[psnr] for line in after] == [line.split(",")[psnr] for line in before]


def test_what_a_study_does_is_told_in_a_log_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("evaluation.run.time.monotonic", lambda: now[0])
    log = io.StringIO()
    console = Console(file=log, width=80)
    doing = Doing("calibration", console, Status("", console=console))
    for now[0] in (1.0, 29.0, 31.0, 32.0, 62.0):
        doing(f"evaluation {now[0]:g}")
    assert log.getvalue() == "calibration: evaluation 31\ncalibration: evaluation 62\n"
