"""Training on a GPU: in both precisions, and from where it stopped."""

import gc
import math
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_modules import MaximumLikelihood
from lightning_modules.maximum_likelihood import record_encoding
from networks.realnvp import RealNVP
from tests.conftest import REPOSITORY, TINY
from tests.helpers import losses, refused, run, saved
from tests.made import small

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
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_recorded_step_is_the_step_itself(tiny: list[str], precision: str) -> None:
    def trained(name: str, *options: str) -> dict[int, float]:
        short = ["--model.total_images=160", f"--trainer.precision={precision}", *ON_GPU]
        return losses(run(tiny, *short, f"--run.name={name}", *options))

    launched = trained("launched")
    recorded = trained("recorded", "--model.cuda_graph=true")
    assert recorded.keys() == launched.keys() and len(recorded) > 2
    near = 1e-4 if precision == "32-true" else 0.02  # sums in another order
    assert all(abs(recorded[seen] - launched[seen]) < near for seen in launched)


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
    assert saved(tmp_path / "demo")["optimizer_states"][0]["param_groups"][0]["fused"]
    resumed = train(f"--model.total_images={seen + 64}")
    assert resumed.returncode == 0, resumed.stderr
    assert re.search("^Resuming from .*last.ckpt", resumed.stdout, re.MULTILINE)
    again = saved(tmp_path / "demo")
    assert again["images_seen"] == seen + 64
    assert again["optimizer_states"][0]["param_groups"][0]["fused"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cuda_graph_needs_a_gpu(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, [*tiny, "--model.cuda_graph=true"])
    assert "model.cuda_graph needs a GPU, and this run is on the cpu" in said


def test_a_cuda_graph_is_for_glow() -> None:
    with pytest.raises(ValueError, match=r"model\.cuda_graph is for Glow, not for RealNVP"):
        MaximumLikelihood(RealNVP(latent_dim=6), total_images=1, cuda_graph=True)


def test_what_was_recorded_outlives_its_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    def recording(module: torch.nn.Module, sample: tuple[Tensor, ...]) -> torch.nn.Module:
        kept, encode = weakref.ref(module), module.forward

        def replay(x: Tensor) -> tuple[Tensor, Tensor]:
            assert kept() is not None, "the graphed module has been freed"  # as torch 2.15 says
            return encode(x)  # type: ignore[no-any-return]

        module.forward = replay
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recording)
    network = small()
    x = torch.rand(2, *network.image_shape) - 0.5
    recorded = record_encoding(network, x)
    gc.collect()
    assert torch.equal(recorded(x)[0], network(x)[0])


def test_a_run_resumed_from_an_older_checkpoint_has_fused_adam() -> None:
    group: dict[str, bool | None] = {"fused": None}
    checkpoint = {"images_seen": 0, "optimizer_states": [{"param_groups": [group]}]}
    MaximumLikelihood(small(), total_images=1).on_load_checkpoint(checkpoint)
    assert group["fused"] is True
