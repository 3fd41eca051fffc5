"""Two processes whose kernels round differently train and recover one GAN."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from report.terminal import summary_table
from results.means import latest
from results.rows import read_rows
from tests.conftest import REPOSITORY

HELD_OUT = 5  # images of each of two sets, on two problems


class OtherKernels(pl.Callback):
    """Rank 1 computes without oneDNN, as another processor might."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        torch._C._set_mkldnn_enabled(trainer.global_rank != 1)


def train(root: Path) -> str:
    """What train.py prints; a finished run shows its table again."""
    arguments = [
        "--config=configs/demo_gan.yaml",
        "--config=configs/cluster.yaml",
        "--trainer.accelerator=cpu",
        "--trainer.devices=2",
        "--trainer.callbacks+=tests.training.test_gan_ranks.OtherKernels",
        f"--run.root={root}",
        "--run.wandb=disabled",
        "--data.image_size=8",
        "--data.batch_size=8",
        "--data.training_images=70",
        f"--data.held_out_images={HELD_OUT}",
        *("--model.generator.image_size=8", "--model.generator.width=8"),
        *("--model.discriminator.image_size=8", "--model.discriminator.width=8"),
        "--model.total_images=64",
        "--recovery.during.problems=[]",
        "--recovery.at_end.problems=[cs-25%,denoise-0.1]",
        f"--recovery.at_end.images={HELD_OUT}",
        "--recovery.methods={csgm: {class_path: recovery.csgm.Csgm, init_args: {steps: 5}}}",
        "--samples.count=4",
    ]
    done = subprocess.run(
        [sys.executable, "train.py", "fit", *arguments],
        check=True,
        cwd=REPOSITORY,
        timeout=300,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    return done.stdout


@pytest.mark.slow
def test_a_gan_is_one_prior_on_all_processes(tmp_path: Path) -> None:
    train(tmp_path)
    directory = tmp_path / "demo-gan"
    rows = latest(read_rows(directory))
    assert (directory / "rows-rank1.csv").exists()
    assert rows.groupby(["problem", "dataset"])["config"].nunique().eq(1).all()
    (images,) = [c for c in summary_table(rows).columns if c.header == "images"]
    assert list(images.cells) == [str(HELD_OUT)] * 4  # of both processes
    files = {path.name: path.read_bytes() for path in directory.glob("rows*.csv")}
    shown = train(tmp_path)
    assert shown.count(f" {HELD_OUT} ") >= 4
    assert {path.name: path.read_bytes() for path in directory.glob("rows*.csv")} == files
