"""Shared by all tests: one thread per process, the repository as folder, a tiny training run."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before SciPy is imported: idle threads spin
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

REPOSITORY = Path(__file__).parent.parent

TINY = [
    "--config=configs/demo.yaml",
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",  # the same on every CPU
    "--run.wandb=disabled",
    "--model.network.image_size=8",
    "--model.network.steps=1",
    "--model.network.levels=2",
    "--model.network.hidden=8",
    "--model.network.last_level_steps=1",
    "--model.total_images=192",
    "--model.warmup_images=16",
    "--model.ema_half_life=32",
    "--model.initialization_images=16",
    "--data.image_size=8",
    "--data.batch_size=8",
    "--data.training_images=70",  # an epoch is 64 images: 6 are left out
    "--data.held_out_images=5",
    "--recovery.during.images=3",
    "--recovery.at_end.problems=[cs-25%,denoise-0.1,inpaint-centre]",
    "--recovery.at_end.images=5",
    "--recovery.batch_size=2",
    "--recovery.methods.latent-search.init_args.evaluations=10",
    "--samples.count=4",
    "--trainer.log_every_n_steps=1",
]


@pytest.fixture(scope="session", autouse=True)
def in_repository() -> Iterator[None]:
    """Commands run where a user runs them, and end as they do there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.delenv("INVERTIBLE_PRIORS_TRACEBACK", raising=False)
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Arguments of `train.py` for a run of seconds in tmp_path/runs/demo."""
    return ["fit", *TINY, f"--run.root={tmp_path / 'runs'}"]
