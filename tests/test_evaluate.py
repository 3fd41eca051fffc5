"""evaluate.py: what is recovered once, what a rerun computes, and what is refused before that."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torchvision.utils import save_image

import evaluate
import evaluation.pool
import train
from datamodules import procedural
from datamodules.image_set import ImageSet
from datamodules.prepare import main as prepare
from evaluation.config import read_evaluation
from evaluation.plan import Task, plan, tasks_of
from evaluation.pool import Done
from evaluation.run import alone_in, make_bench
from evaluation.time_left import TimeLeft
from priors import load_prior
from results.identity import ConfigTexts
from results.rows import COLUMNS, KEY, Row, RowFile, read_rows
from results.trial import Trial
from studies.bias import Bias, read_attributes
from studies.study import Given, Tables
from tests.conftest import TINY

REPOSITORY = Path(__file__).parent.parent
CONFIGS = sorted((REPOSITORY / "configs" / "evaluate").glob("*.yaml"))
EXPERIMENTS = [path for path in CONFIGS if path.stem not in ("defaults", "small")]

CONFIG = """
name: tiny
title: A tiny evaluation
image_size: 8
device: cpu
batch_size: 2
pictures: 1
sets: {faces: in, others: out}
problems:
  cs-50%: {operator: {class_path: recovery.operators.GaussianSensing, init_args: {m: 0.5}}}
  denoise:
    operator: {class_path: recovery.operators.Denoising, init_args: {sigma: 0.1}}
    gamma: 0.01
  hole: {operator: {class_path: recovery.operators.Inpainting}}
methods:
  glow:
    prior: glow
    method: {class_path: recovery.latent_search.LatentSearch, init_args: {evaluations: 4}}
  adjoint: {method: {class_path: recovery.linear.Adjoint}}
  few: {images: 1, method: {class_path: recovery.linear.PseudoInverse}}
  lasso: {method: {class_path: recovery.lasso.Lasso, init_args: {steps: 5}}}
  decoder:
    method:
      class_path: recovery.untrained.Untrained
      init_args:
        network: {class_path: networks.deep_decoder.DeepDecoder, init_args: {width: 8}}
        steps: 3
  bm3d: {method: {class_path: recovery.bm3d.BM3D}}
trials:
  problems: [cs-50%, denoise]
  methods: [glow, adjoint, few]
  sets: [faces, others]
  images: 3
  seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained prior, two prepared sets and an empty one."""
    folder = tmp_path_factory.mktemp("evaluate")
    train.main(["fit", *TINY, f"--run.root={folder / 'runs'}", "--model.total_images=16"])
    for name, kind in (("faces", "in"), ("others", "out")):
        drawn = procedural.faces(range(5), distribution=kind, seed=0, image_size=8)  # type: ignore[arg-type]
        (folder / name).mkdir()
        for index, image in enumerate(drawn):
            save_image(image.float() / 255, folder / name / f"{name}-{index}.png")
        prepare([str(folder / name), str(folder / "data/8px" / name), "--image-size", "8"])
    (folder / "attributes.csv").write_text(
        "name,Hat,Young\n" + "".join(f"faces-{i}.png,{i % 2},{1 if i else -1}\n" for i in range(5))
    )
    return folder


Run = Callable[..., Path]


@pytest.fixture
def run(workshop: Path, tmp_path: Path) -> Run:
    """Runs evaluate.py in-process with options; returns the evaluation's folder."""

    def run(*options: str, name: str = "tiny") -> Path:
        evaluate.main([*arguments(workshop, tmp_path), *options, f"--name={name}"])
        return tmp_path / "results" / name

    return run


def arguments(workshop: Path, folder: Path) -> list[str]:
    (folder / "tiny.yaml").write_text(CONFIG)
    return [
        f"--config={folder / 'tiny.yaml'}",
        f"--data={workshop / 'data'}",
        f"--root={folder / 'results'}",
        f"--priors={{glow: {workshop / 'runs' / 'demo'}}}",
    ]


def psnrs(folder: Path) -> pd.Series:
    rows = read_rows(folder)
    return rows.set_index([*KEY[1:]])["psnr"].sort_index()


# ---- what is recovered


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


@pytest.mark.slow
def test_gammas_replace_the_problems_own_for_methods_with_a_prior(run: Run) -> None:
    folder = run(
        "--trials.problems=[denoise]",
        "--trials.methods=[glow, adjoint]",
        "--trials.gammas=[0, 0.01, 0.1]",
        "--trials.seeds=[0]",
    )
    rows = read_rows(folder)
    assert rows[rows["method"] == "glow"].groupby("gamma").size().to_dict() == {
        0.0: 6,
        0.01: 6,
        0.1: 6,
    }
    assert rows[rows["method"] == "adjoint"].groupby("gamma").size().to_dict() == {0.0: 6}
    penalised = rows[rows["method"] == "glow"].groupby("gamma")["latent_norm"].mean()
    assert penalised.is_monotonic_decreasing


@pytest.mark.slow
def test_processes_share_the_work_and_change_no_result(run: Run) -> None:
    options = ["--trials.seeds=[0]", "--trials.methods=[glow, adjoint]"]
    one = run(*options, name="one")
    two = run(*options, "--processes=2", name="two")
    assert sorted(path.name for path in two.glob("rows*.csv")) == [
        "rows-0.csv",
        "rows-1.csv",
        "rows.csv",
    ]
    assert read_rows(two / "rows.csv").empty
    pd.testing.assert_series_equal(psnrs(one), psnrs(two), atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_evaluation_loses_and_repeats_no_row(
    workshop: Path, tmp_path: Path, how: signal.Signals
) -> None:
    command = [sys.executable, "evaluate.py", *arguments(workshop, tmp_path)]
    command += ["--trials.methods=[adjoint, lasso, glow]", "--processes=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # a suite in the background ignores it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    folder = tmp_path / "results" / "tiny"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(len(path.read_text().splitlines()) > 1 for path in folder.glob("rows-*.csv")):
            break
        time.sleep(0.02)
    process.send_signal(how)
    process.wait(timeout=60)
    if how == signal.SIGKILL:
        time.sleep(1)  # its processes die with it
    kept = {path: path.read_bytes() for path in folder.glob("rows-*.csv")}
    before = read_rows(folder, every=True)
    assert 0 < len(before) < 3 * 2 * 2 * 2 * 3
    time.sleep(1)
    assert {path: path.read_bytes() for path in folder.glob("rows-*.csv")} == kept
    again = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    rows = read_rows(folder, every=True)
    assert len(rows) == 3 * 2 * 2 * 2 * 3 and not rows.duplicated(KEY).any()
    for path, text in kept.items():
        assert path.read_bytes().startswith(text[: text.rfind(b"\n") + 1])


@pytest.mark.slow
def test_a_picture_cut_short_by_a_kill_is_made_anew(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--trials.seeds=[0]", "--trials.problems=[cs-50%]"]

    def cut_short(image: torch.Tensor, path: Path, **rest: Any) -> None:
        save_image(image, path, **rest)
        if path.name.startswith("recovery"):
            path.write_bytes(path.read_bytes()[:40])
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


@pytest.mark.slow
def test_methods_that_share_a_problem_see_the_same_measurements(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[str, str, int], list[torch.Tensor]] = {}
    recover = evaluation.pool.run_trials

    def spy(images: ImageSet, *arguments: Any, **rest: Any) -> Iterator[Trial]:
        for trial in recover(images, *arguments, **rest):
            for row, y in zip(trial.rows, trial.y, strict=True):
                seen.setdefault((row.problem, row.dataset + row.image, row.seed), []).append(y)
            yield trial

    monkeypatch.setattr("evaluation.pool.run_trials", spy)
    run("--trials.methods=[glow, adjoint, lasso]", "--batch_size=3")
    assert len(seen) == 2 * 2 * 3 * 2
    for measured in seen.values():
        assert len(measured) == 3 and all(torch.equal(y, measured[0]) for y in measured)
    image = next(image for problem, image, _ in seen if problem == "denoise")
    one, other = (seen["denoise", image, seed][0] for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_a_batch_cut_by_a_kill_counts_once(run: Run) -> None:
    options = ["--trials.methods=[decoder]", "--trials.seeds=[0]", "--trials.problems=[cs-50%]"]
    folder = run(*options)
    lines = (folder / "rows.csv").read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 2 * 3  # two iterates, two sets, three images
    (folder / "rows.csv").write_text("".join(lines[:4]))  # the first batch has four rows
    run(*options)
    assert len(read_rows(folder, every=True)) > 12  # what was kept of it is on disk twice,
    assert (read_rows(folder).groupby("variant").size() == 6).all()
    assert "recoveries:\n\n    12" in (folder / "report.md").read_text()  # and reported once


def test_methods_that_share_a_problem_see_one_operator(workshop: Path, tmp_path: Path) -> None:
    config, _ = read_evaluation([*arguments(workshop, tmp_path)])
    bench = make_bench(config, torch.device("cpu"))
    texts = ConfigTexts(None)
    jobs = list(plan(config.trials, bench, "tiny", texts))
    assert len(jobs) == 2 * 3 * 2 * 2
    of_problem = {}
    for job in jobs:
        of_problem.setdefault(job.template.problem, set()).add(id(job.operator))
    assert {problem: len(operators) for problem, operators in of_problem.items()} == {
        "cs-50%": 1,
        "denoise": 1,
    }


def test_drawn_faces_need_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_DATA", raising=False)
    options = ["--config=configs/evaluate/demo.yaml", f"--root={tmp_path}", "--trials.images=2"]
    options += ["--trials.methods=[pseudo-inverse]", "--trials.problems=[cs-10%]"]
    evaluate.main(options)
    rows = read_rows(tmp_path / "demo")
    assert rows.groupby(["dataset", "distribution"]).size().to_dict() == {
        ("faces-ood", "out"): 2,
        ("faces-val", "in"): 2,
    }


# ---- what is refused before anything is computed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--priors={glow: nowhere}"], "priors.glow: "),
        (["--image_size=16", "--data=DATA"], "16px"),
        (
            ["--sets={faces: in, absent: out}", "--trials.sets=[absent]"],
            "absent: no set; python -m datamodules.prepare",
        ),
        (["--trials.problems=[cs-1%]"], "no problem is named 'cs-1%'; defined are cs-10%"),
        (["--trials.methods=[blow]"], "no method is named 'blow'"),
        (["--trials.sets=[elsewhere]"], "no set is named 'elsewhere'"),
        (["--priors={}"], "no prior is named 'glow'"),
        (["--trials.problems=[hole]", "--trials.methods=[bm3d]"], "bm3d on hole: BM3D removes"),
        (["--trials.balance=[Hat]"], "trials.balance needs the attribute table"),
        (["--trials.balance=[Hat]", "--attributes=no.csv"], "there is no file no.csv"),
        (["--trials.balance=[Cat]", "--attributes=TABLE"], "no attribute 'Cat' in the table"),
        (["--batch_size=0"], "batch_size must be at least 1"),
        (["--trials.seeds=[0, 0]"], "trials.seeds: 0 is named twice"),
        (["--trials.methods=[lasso, lasso]"], "trials.methods: 'lasso' is named twice"),
        (["--trials.seeds=[]"], "trials.seeds: name at least one"),
    ],
)
def test_bad_input_is_named(
    options: list[str],
    message: str,
    workshop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_TRACEBACK", raising=False)
    monkeypatch.delenv("INVERTIBLE_PRIORS_ATTRIBUTES", raising=False)
    table = workshop / "attributes.csv"
    options = [
        option.replace("DATA", str(workshop / "data")).replace("TABLE", str(table))
        for option in options
    ]
    with pytest.raises(SystemExit) as ended:
        evaluate.main([*arguments(workshop, tmp_path), *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("results/tiny/rows-*.csv"))


def test_an_attribute_table_of_other_images_is_refused(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "others.csv"
    table.write_text("name,Hat\n000001.jpg,1\n")
    options = ["--trials.balance=[Hat]", f"--attributes={table}"]
    with pytest.raises(SystemExit):
        evaluate.main([*arguments(workshop, tmp_path), *options])
    assert "names none of the 10 images" in capsys.readouterr().err


def test_a_name_of_digits_alone_keeps_its_zeros(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("name,Hat\n000083,1\n000084,-1\n")
    table = read_attributes(tmp_path / "table.csv")
    assert table["Hat"].to_dict() == {"000083": 1, "000084": 0}


def test_two_at_once_in_one_folder_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone_in(tmp_path / "results" / "tiny"), pytest.raises(SystemExit):
        run()
    assert "another evaluate.py is at work" in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_computed(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    append, calls = RowFile.append, []

    def full(self: RowFile, rows: list[Row]) -> None:
        calls.append(rows)
        if len(calls) == 3:
            raise OSError(28, "No space left on device", str(self.path))
        append(self, rows)

    monkeypatch.setattr(RowFile, "append", full)
    with pytest.raises(SystemExit) as ended:
        run("--trials.methods=[adjoint]")
    assert ended.value.code == 2
    assert "No space left on device" in capsys.readouterr().err
    kept = read_rows(tmp_path / "results" / "tiny", every=True)
    assert len(kept) == len(calls[0]) + len(calls[1])
    monkeypatch.setattr(RowFile, "append", append)
    assert len(read_rows(run("--trials.methods=[adjoint]"), every=True)) == 2 * 2 * 2 * 3


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError, OSError])  # of its own weights' file, say
def test_a_method_that_fails_is_named_and_stops_no_other(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: type[Exception],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("out of memory")

    monkeypatch.setattr("recovery.lasso.Lasso.recover", fail)
    with pytest.raises(SystemExit) as ended:
        run("--trials.methods=[lasso, adjoint]", "--trials.seeds=[0]")
    assert ended.value.code == 1
    said = f"lasso on cs-50%, faces: {error.__name__}: out of memory"
    assert said in capsys.readouterr().err
    rows = read_rows(tmp_path / "results" / "tiny")
    assert set(rows["method"]) == {"adjoint"} and len(rows) == 2 * 2 * 3
    assert "out of memory" in (tmp_path / "results" / "tiny" / "report.md").read_text()
    with pytest.raises(SystemExit) as ended:  # where nothing succeeds there is a report too
        run("--trials.methods=[lasso]", "--trials.seeds=[0]", name="alone")
    assert ended.value.code == 1
    assert "out of memory" in (tmp_path / "results" / "alone" / "report.md").read_text()


def test_out_of_memory_is_said_once_and_what_helps(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = iter(range(100))

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(f"CUDA out of memory: {next(left)} bytes are free")

    monkeypatch.setattr("recovery.linear.Adjoint.recover", fail)
    options = ["--trials.problems=[denoise]", "--trials.sets=[faces]", "--trials.seeds=[0]"]
    with pytest.raises(SystemExit):
        run("--trials.methods=[adjoint]", *options, "--batch_size=1")
    said = "adjoint on denoise, faces: cpu out of memory at 1 images at once: lower batch_size (3"
    assert said in capsys.readouterr().err


def test_a_failed_device_stops_the_evaluation(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr("recovery.lasso.Lasso.recover", fail)
    with pytest.raises(SystemExit) as ended:
        run("--trials.methods=[adjoint, lasso]", "--trials.seeds=[0]")
    assert ended.value.code == 2
    said = "cpu failed at lasso on cs-50%: an illegal memory access was encountered. Every finished"
    assert said in capsys.readouterr().err
    assert set(read_rows(tmp_path / "results" / "tiny")["method"]) == {"adjoint"}


def test_float32_is_not_tf32(workshop: Path, tmp_path: Path) -> None:
    torch.backends.cudnn.allow_tf32 = True
    config, _ = read_evaluation(arguments(workshop, tmp_path))
    make_bench(config, torch.device("cpu"))
    assert not torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    load_prior(workshop / "runs" / "demo")
    assert not torch.backends.cudnn.allow_tf32


def test_a_page_tells_what_its_rows_were_made_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--trials.methods=[adjoint]", "--trials.seeds=[0]", "--trials.images=1"]
    made = {"versions": "Python 3.11, torch 1", "hardware": "a GPU", "processes": "8"}
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.outcome.this_machine", lambda _: made)
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


def test_what_changes_while_an_evaluation_runs_gets_no_row(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    planned = tasks_of

    def with_other_weights(*arguments: Any) -> list[Task]:
        return [
            replace(task, template=replace(task.template, config="others"))
            for task in planned(*arguments)
        ]

    monkeypatch.setattr("evaluation.run.tasks_of", with_other_weights)
    with pytest.raises(SystemExit) as ended:
        run("--trials.methods=[adjoint]")
    assert ended.value.code == 1
    assert "changed since the evaluation began" in capsys.readouterr().err
    assert read_rows(tmp_path / "results" / "tiny").empty


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


def test_deepinv_is_needed_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recovery.physics.importlib.util.find_spec", lambda name: None)
    found, _ = read_evaluation(["--config=configs/evaluate/denoising64.yaml"])
    operator = found.problems["denoise-0.1"].operator((3, 64, 64))
    with pytest.raises(ValueError, match="BM3D needs deepinv, which is not installed"):
        found.methods["bm3d"].method.check(operator)  # type: ignore[union-attr]


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


# ---- attributes


@pytest.mark.slow
def test_bias_is_studied_on_balanced_images(run: Run, workshop: Path) -> None:
    folder = run(
        "--trials.methods=[glow, adjoint]",
        "--trials.sets=[faces]",
        "--trials.seeds=[0]",
        "--trials.balance=[Hat, Young]",
        "--trials.per_group=2",
        f"--attributes={workshop / 'attributes.csv'}",
        "--studies={bias: {class_path: studies.bias.Bias, init_args: "
        "{attributes: [Hat, not Young], reference: adjoint, dataset: faces}}}",
    )
    table = pd.read_csv(folder / "studies" / "bias" / "bias.csv")
    assert set(table["attribute"]) == {"Hat", "not Young"}
    assert table["small"].all()
    rows = read_rows(folder)
    of = rows[(rows["method"] == "glow") & (rows["problem"] == "denoise")].set_index("image")[
        "psnr"
    ]
    assert len(of) == 5 or len(of) == 4
    hat = [name for name in of.index if int(name[-1]) % 2]
    expected = of[hat].mean() - of.drop(hat).mean()
    row = table.query("attribute == 'Hat' and problem == 'denoise' and method == 'glow'").iloc[0]
    assert row["difference"] == pytest.approx(expected)
    assert row["with"] == len(hat) and row["low"] <= row["difference"] <= row["high"]
    own = table.query("method == 'adjoint'")
    assert (own["relative_difference"].abs() < 1e-12).all()
    assert "too small to rely on" in (folder / "report.md").read_text()


# ---- configs, time left


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", ["full", "small"])
def test_every_config_names_what_is_defined(path: Path, size: str) -> None:
    if size == "small" and "image_size: 32" in path.read_text():
        pytest.skip("has a size of its own")
    small = [f"--config={CONFIGS[0].parent / 'small.yaml'}"] if size == "small" else []
    found, _ = read_evaluation([f"--config={path}", *small])
    assert found.name == path.stem.replace("_", "-")
    trials = found.trials
    for names, defined in (
        (trials.problems, found.problems),
        (trials.methods, found.methods),
        (trials.sets or [], found.sets),
    ):
        assert set(names) <= set(defined)
    for name in trials.methods:
        prior = found.methods[name].prior
        assert prior is None or prior in found.priors
    for problem in trials.problems:
        shape = (3, found.image_size, found.image_size)
        assert found.problems[problem].operator(shape).measurements > 0
    assert trials.problems or found.studies
    assert yaml.safe_load(path.read_text()).keys() >= {"name"}
    if size == "small":
        assert found.image_size == 32


def test_the_time_left_counts_each_method_by_its_own_speed() -> None:
    row = Row("run", "", 0, 0)
    slow, fast = (
        [Task("p", name, "s", row, (0, 1), 0) for _ in range(2)] for name in ("slow", "fast")
    )
    left = TimeLeft([*slow, *fast], pd.DataFrame(), processes=2)
    assert str(left) == "time left not known yet"
    left.count(Done(slow[0], seconds=30.0))
    assert str(left) == "more than 30 s left"
    left.count(Done(fast[0], seconds=1.0))
    assert str(left) == "about 31 s left"
    left.count(Done(slow[1], failure="no"))
    assert str(left) == "about 1 s left"
