"""The processes of an evaluation: kills, full disks and failures cost no finished row."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import evaluation.pool
from datamodules.image_set import ImageSet
from evaluation.plan import Task, tasks_of
from results.rows import KEY, Row, RowFile, read_rows
from results.trial import Trial
from tests.conftest import REPOSITORY
from tests.evaluation.conftest import Run


def psnrs(folder: Path) -> pd.Series:
    rows = read_rows(folder)
    return rows.set_index([*KEY[1:]])["psnr"].sort_index()


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
    arguments: list[str], tmp_path: Path, how: signal.Signals
) -> None:
    command = [sys.executable, "evaluate.py", *arguments]
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
    command.append("--processes=1")  # another number, which finds the rows of both
    again = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    rows = read_rows(folder, every=True)
    assert len(rows) == 3 * 2 * 2 * 2 * 3 and not rows.duplicated(KEY).any()
    for path, text in kept.items():
        assert path.read_bytes().startswith(text[: text.rfind(b"\n") + 1])


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
