"""An evaluation in several processes of torchrun's or srun's: shares, and who reports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.lock import alone_in
from evaluation.share import Share, this_share
from results.rows import KEY, read_rows
from tests.conftest import REPOSITORY
from tests.evaluation.conftest import Run

OPTIONS = ["--trials.methods=[adjoint, few]", "--trials.seeds=[0]", "--trials.images=5"]
OPTIONS += ["--trials.problems=[denoise]"]


def recovered_once(folder: Path) -> int:
    rows = read_rows(folder, every=True)
    assert not rows.duplicated(KEY).any()
    return len(rows)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_each_image_has_one_process_whatever_has_been_done(count: int) -> None:
    images = [0, 1, 2, 5, 8]
    for job in range(3):
        shares = [Share(rank, count).of(images, job) for rank in range(count)]
        assert sorted(image for share in shares for image in share) == images
    assert {len(Share(rank, 2).of([0], rank)) for rank in (0, 1)} == {1}  # jobs of one image


def test_processes_are_counted_as_their_launcher_says() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    srun = {"SLURM_PROCID": "2", "SLURM_NTASKS": "8", "SLURM_LOCALID": "2"}
    job = {**srun, "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}
    assert this_share(torchrun) == this_share({**srun, **torchrun}) == Share(3, 4, 1)
    shell = {**job, "SLURM_STEP_ID": "4294967290", "SLURM_JOB_NAME": "interactive"}
    assert this_share(shell) == Share()
    assert this_share(srun) == this_share({**job, **srun, "SLURM_STEP_ID": "0"}) == Share(2, 8, 2)
    assert this_share({}) == this_share(job) == Share()  # a batch script's own command is alone
    with pytest.raises(ValueError, match="RANK=4 and WORLD_SIZE=4 in the environment"):
        this_share({**torchrun, "RANK": "4"})


def test_the_last_share_reports_and_a_missing_one_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "3")
    for rank in ("2", "0", "2", "1"):  # 2 comes back, as after a kill: it has nothing to do
        monkeypatch.setenv("SLURM_PROCID", rank)
        folder = run(*OPTIONS)
        assert ("have no row yet" in capsys.readouterr().out) == (rank != "1")
        assert (folder / "report.html").exists() == (rank == "1")
    assert recovered_once(folder) == 2 * (5 + 1)
    files = {path.name for path in folder.glob("rows*.csv")}
    assert files == {"rows.csv", "rows-rank1.csv", "rows-rank2.csv"}
    run(*OPTIONS)  # nothing to do: the first process reports
    assert not capsys.readouterr().out


def test_another_evaluation_is_refused_while_a_share_is_at_work(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with alone_in(tmp_path / "results" / "tiny", "evaluate.py", shared=True):
        with pytest.raises(SystemExit):
            run(*OPTIONS)
        assert "another evaluate.py is at work" in capsys.readouterr().err
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        run(*OPTIONS)
    assert "Process 1 of 2 has done its share" in capsys.readouterr().out


@pytest.mark.slow
def test_torchrun_shares_an_evaluation(arguments: list[str], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "evaluate.py", *arguments, *OPTIONS],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    folder = tmp_path / "results" / "tiny"
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html: the report") == 1
    assert recovered_once(folder) == 2 * (5 + 1)
    assert not read_rows(folder / "rows.csv").empty
    assert not read_rows(folder / "rows-rank1.csv").empty
