"""Two processes train one latent convolutional model, each with the latents of its own images."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY
from tests.helpers import assert_equal
from tests.lightning_modules.test_latent_optimization import LCM, latents


def train(root: Path, name: str, *options: str) -> Path:
    folder = root / "ranks"
    folder.mkdir(exist_ok=True)
    arguments = [
        *LCM,
        "--trainer.devices=2",
        "--data.batch_size=4",
        "--trainer.callbacks+=tests.helpers.SaveRank",
        f"--trainer.callbacks.folder={folder}",
        f"--run.root={root}",
        f"--run.name={name}",
        "--recovery.during.problems=[]",
        "--recovery.at_end.problems=[]",
        *options,
    ]
    subprocess.run(
        [sys.executable, "train.py", "fit", *arguments],
        check=True,
        cwd=REPOSITORY,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    return root / name


@pytest.mark.slow
def test_ranks_share_weights_and_table_and_resume_as_if_they_had_never_stopped(
    tmp_path: Path,
) -> None:
    constant = "--model.decay_fraction=0"  # which knows where training ends
    whole = train(tmp_path, "whole", constant)
    ranks = [torch.load(tmp_path / "ranks" / f"rank{rank}.pt") for rank in (0, 1)]
    assert_equal(ranks[0]["final"], ranks[1]["final"])  # BatchNorm's statistics too
    assert ranks[0]["steps"] == 16 and not ranks[0]["indices"] & ranks[1]["indices"]
    assert (np.abs(latents(whole)).max(axis=1) > 0).sum() >= 64  # of those of an epoch
    train(tmp_path, "cut", constant, "--model.total_images=96")  # within the second epoch
    assert np.array_equal(latents(whole), latents(train(tmp_path, "cut", constant)))
