"""A process of several that dies is named, and a launcher of the user's own starts them again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks.checkpoints import newest_checkpoint
from core.stopping import ProcessLost
from priors.checkpoint import read_checkpoint
from results.rows import KEY, read_rows
from tests.conftest import REPOSITORY, TINY
from training.lost import raise_if_lost

GLOO = RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error: reset by peer")


def test_the_process_that_died_is_named() -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", code])
        for code in ("import time; time.sleep(60)", "exit(1)", "import time; time.sleep(60)")
    ]
    launched: Any = SimpleNamespace(
        global_rank=0, strategy=SimpleNamespace(launcher=SimpleNamespace(procs=children))
    )
    try:
        children[1].wait()
        children[2].kill()  # rank 3, which rank 2 could not do without
        children[2].wait()
        with pytest.raises(
            ProcessLost, match=r"rank 3 \(killed by SIGKILL, process \d+\) has ended"
        ):
            raise_if_lost(launched, GLOO)
    finally:
        children[0].kill()
    elsewhere: Any = SimpleNamespace(global_rank=1, strategy=SimpleNamespace(launcher=None))
    with pytest.raises(ProcessLost, match="the connection to another process broke, and rank 1"):
        raise_if_lost(elsewhere, GLOO)
    raise_if_lost(elsewhere, RuntimeError("shapes do not match"))


@pytest.mark.slow
def test_torchrun_survives_a_kill_of_one_process(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=3"]
    options = [
        "--config=configs/cluster.yaml",
        "--trainer.devices=2",
        "--checkpoints.every_minutes=0",
    ]
    options += ["--model.total_images=1024", "--recovery.during.problems=[]"]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                *torchrun,
                "train.py",
                "fit",
                *TINY,
                *options,
                f"--run.root={tmp_path}",
            ],
            cwd=REPOSITORY,
            stdout=output,
            stderr=output,
        )
    try:
        while not list((tmp_path / "demo" / "samples").glob("*.png")):  # after an epoch
            assert process.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.1)
        workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
        os.kill(int(workers.stdout.split()[-1]), signal.SIGKILL)
        status = process.wait(timeout=150)
    finally:
        process.terminate()
    said = (tmp_path / "output").read_text()
    assert status == 0 and "Resuming from" in said and "process broke, and rank" in said, said
    newest = newest_checkpoint(tmp_path / "demo")
    assert newest is not None and read_checkpoint(newest)["images_seen"] == 1024
    rows = read_rows(tmp_path / "demo", every=True)
    assert len(rows) == 3 * 2 * 5 and not rows.duplicated(KEY).any()
