"""Every end before total_images keeps what was done, says why, and has a status that tells."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl

from callbacks.checkpoints import newest_checkpoint
from priors.checkpoint import read_checkpoint
from results.rows import read_rows
from tests.conftest import REPOSITORY, TINY
from tests.training.test_resume import prepare_faces, shards

LONG = ["--model.total_images=200000", "--recovery.during.problems=[]"]
BUSY = ["--recovery.at_end.problems=[cs-25%]", "--recovery.at_end.images=5"]
BUSY += ["--recovery.methods={x: {class_path: recovery.csgm.Csgm, init_args: {steps: 1000000}}}"]
TWO = ["--config=configs/cluster.yaml", "--trainer.devices=2"]


def command(root: Path, *options: str) -> list[str]:
    own = any(option.startswith("--data=") for option in options)
    tiny = [option for option in TINY if not (own and option.startswith("--data."))]
    return [sys.executable, "train.py", "fit", *tiny, f"--run.root={root}", *options]


def ended(
    root: Path, ready: Callable[[Path], bool], number: signal.Signals, *options: str
) -> tuple[int, str]:
    """Status and output of train.py, sent a signal once the run is `ready`."""
    return ended_by(lambda process: process.send_signal(number), root, ready, *options)


def ended_by(
    send: Callable[[subprocess.Popen[bytes]], object],
    root: Path,
    ready: Callable[[Path], bool],
    *options: str,
) -> tuple[int, str]:
    with (root / "output").open("w") as output:
        process = subprocess.Popen(
            command(root, *options),
            cwd=REPOSITORY,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a process group of its own, as a terminal gives one
        )
        try:
            for _ in range(600):
                if ready(root / "demo"):
                    break
                assert process.poll() is None, (root / "output").read_text()
                time.sleep(0.2)
            send(process)
            status = process.wait(timeout=60)
        finally:
            process.kill()
    return status, (root / "output").read_text()


def trains(run: Path) -> bool:
    """Three epochs of 64 images have left their samples."""
    return len(list((run / "samples").glob("*.png"))) >= 3


def recovers(run: Path) -> bool:
    return (run / "rows.csv").exists()


@pytest.mark.slow
def test_a_signal_leaves_a_checkpoint_a_line_and_its_status(tmp_path: Path) -> None:
    status, output = ended(tmp_path, trains, signal.SIGUSR1, *LONG)
    assert status == 128 + signal.SIGUSR1, output
    assert "Stopped by SIGUSR1 after " in output and "the same command resumes" in output
    checkpoint = newest_checkpoint(tmp_path / "demo")
    assert checkpoint is not None
    seen = read_checkpoint(checkpoint)["images_seen"]
    assert f"after {seen:,} of 200,000 images" in output and seen % 8 == 0


@pytest.mark.slow
def test_a_signal_while_recovering_is_obeyed_between_evaluations(tmp_path: Path) -> None:
    options = [*BUSY, "--model.total_images=64", "--recovery.during.problems=[]"]
    status, output = ended(tmp_path, recovers, signal.SIGTERM, *options)
    assert status == 143 and "Stopped by SIGTERM after 64 of 64 images" in output
    assert len(read_rows(tmp_path / "demo")) == 0  # the recovery that was due is done on resuming


@pytest.mark.slow
@pytest.mark.parametrize("ready", [trains, recovers])
def test_a_signal_to_one_of_two_processes_stops_both(
    ready: Callable[[Path], bool], tmp_path: Path
) -> None:
    options = [*TWO, *LONG] if ready is trains else [*TWO, *BUSY, "--model.total_images=64"]
    status, output = ended(tmp_path, ready, signal.SIGTERM, *options)
    assert status == 143, output
    assert output.count("Stopped by SIGTERM") == 1
    assert newest_checkpoint(tmp_path / "demo") is not None
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert left.stdout.split() in ([], [str(os.getpid())])


@pytest.mark.slow
def test_each_start_has_its_own_max_time_and_says_that_it_did_not_finish(tmp_path: Path) -> None:
    options = [*LONG, "--trainer.max_time=00:00:00:02", "--recovery.at_end.problems=[]"]
    seen = []
    for _ in range(2):
        done = subprocess.run(
            command(tmp_path, *options), cwd=REPOSITORY, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 3, done.stderr
        checkpoint = newest_checkpoint(tmp_path / "demo")
        assert checkpoint is not None
        seen.append(read_checkpoint(checkpoint)["images_seen"])
        assert f"Training stopped after {seen[-1]:,} of 200,000 images" in done.stderr
    assert 0 < seen[0] < seen[1]  # the second start resumed, and had a max_time of its own


def test_a_flipped_bit_in_a_checkpoint_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    whole = (REPOSITORY / "tests/saved/run/checkpoints/last.ckpt").read_bytes()
    (folder / "best.ckpt").write_bytes(whole)
    for place in range(20_000, len(whole) - 20_000, 9_973):
        bytes_ = bytearray(whole)
        bytes_[place] ^= 1
        (folder / "last.ckpt").write_bytes(bytes_)
        try:
            same = read_checkpoint(folder / "last.ckpt")
        except ValueError:
            with pytest.warns(UserWarning, match=r"last\.ckpt is damaged"):
                assert newest_checkpoint(tmp_path) == folder / "best.ckpt"
        else:  # a bit of padding or of the directory, which holds no weight
            assert str(same) == str(read_checkpoint(folder / "best.ckpt"))


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_every_process_and_counts_once(tmp_path: Path) -> None:
    interrupt = lambda process: os.killpg(process.pid, signal.SIGINT)  # noqa: E731
    status, said = ended_by(interrupt, tmp_path, trains, *TWO, *LONG)
    assert status == 130 and "Stopped by SIGINT after " in said, said


def in_its_first_epoch(run: Path) -> bool:
    path = run / "metrics.jsonl"
    return path.exists() and len(path.read_bytes().splitlines()) > 5


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_the_workers_too_leaves_a_checkpoint(
    number: signal.Signals, tmp_path: Path
) -> None:
    """As Slurm and a terminal send it. An epoch of many passes: its workers began with the run."""
    prepare_faces(tmp_path, "a", range(70))
    prepare_faces(tmp_path, "b", range(100, 105))
    prepare_faces(tmp_path, "c", range(5), "out")
    options = [*LONG, *shards(tmp_path), "--data.num_workers=2", "--data.passes=1000"]

    def to_all(process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, number)

    status, output = ended_by(to_all, tmp_path, in_its_first_epoch, *options)
    assert status == 128 + number, output
    assert f"Stopped by {number.name} after " in output
    assert newest_checkpoint(tmp_path / "demo") is not None


class SlowEnd(pl.Callback):
    """Rank 0 has much to do once training has ended."""

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            time.sleep(12)


@pytest.mark.slow
def test_rank_0_outlives_the_end_of_the_others(tmp_path: Path) -> None:
    """Lightning kills it within 5 s of a child that ends with a status of its own."""
    slow = "--trainer.callbacks+=tests.training.test_stopping.SlowEnd"
    done = subprocess.run(
        command(tmp_path, *TWO, *LONG, slow, "--trainer.max_time=00:00:00:03"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 3, (done.returncode, done.stderr[-2000:])
    assert done.stderr.count("Training stopped after") == 1
