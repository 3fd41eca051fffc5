"""Training on a GPU: in both precisions, and from where it stopped."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY, TINY
from tests.helpers import losses, run, saved

ON_GPU = ["--trainer.accelerator=gpu", "--recovery.during.problems=[]"]
ON_GPU += ["--recovery.at_end.problems=[]"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_steps_on_a_gpu_are_finite_and_near_the_cpus(tiny: list[str], precision: str) -> None:
    short = ["--model.total_images=64", *ON_GPU]
    cpu = losses(run(tiny, *short, "--trainer.accelerator=cpu", "--run.name=cpu"))
    gpu = losses(run(tiny, *short, f"--trainer.precision={precision}", "--run.name=gpu"))
    assert gpu.keys() == cpu.keys() and all(map(math.isfinite, gpu.values()))
    assert all(abs(gpu[seen] - cpu[seen]) < 0.05 for seen in cpu)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_a_gpu_resumes_where_it_stopped(tmp_path: Path) -> None:
    def train(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "train.py", "fit", *TINY, *ON_GPU, f"--run.root={tmp_path}"]
        return subprocess.run(
            [*command, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
        )

    stopped = train("--model.total_images=10000000", "--trainer.max_time=00:00:00:02")
    assert stopped.returncode == 3, stopped.stderr
    seen = saved(tmp_path / "demo")["images_seen"]
    assert seen > 0
    resumed = train(f"--model.total_images={seen + 64}")
    assert resumed.returncode == 0, resumed.stderr
    assert re.search("^Resuming from .*last.ckpt", resumed.stdout, re.MULTILINE)
    assert saved(tmp_path / "demo")["images_seen"] == seen + 64
