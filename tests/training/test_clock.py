"""The clock of training is exact however many images have been seen."""

import json
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import train
from core.stopping import Unfinished
from priors.export import validation_bits
from tests.conftest import REPOSITORY, TINY
from tests.helpers import losses, run
from training.metrics_file import MetricsFile

SEEN = 40_000_002  # float32 holds multiples of 4 alone from 2^25 on


def test_the_logged_clock_is_exact_past_what_float32_counts(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    shutil.copytree(REPOSITORY / "tests" / "saved" / "run", directory)
    checkpoint = directory / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    torch.save({**saved, "images_seen": SEEN}, checkpoint)
    quiet = ["--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]
    options = [f"--run.root={tmp_path}", "--run.name=demo", f"--model.total_images={SEEN + 40}"]
    train.main(["fit", *TINY, *quiet, *options])
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    trained = [
        m["images_seen"] for m in lines if "train/bits_per_dim" in m and m["images_seen"] > SEEN
    ]
    assert trained == [SEEN + 8 * step for step in range(1, 6)]
    assert validation_bits(directory / "metrics.jsonl", SEEN + 40).keys() == {
        "faces-val",
        "faces-ood",
    }


class OutOfTime(pl.Callback):
    """Asks training to stop, once, after the third batch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        trainer.should_stop |= trainer.lightning_module.images_seen == 24


def test_what_ends_training_early_waits_for_a_whole_step(tiny: list[str]) -> None:
    """Two batches a step: after three, gradients of the third have reached no weight."""
    options = ["--trainer.accumulate_grad_batches=2", "--recovery.at_end.problems=[]"]
    options.append("--trainer.callbacks+=tests.training.test_clock.OutOfTime")
    with pytest.raises(Unfinished, match="after 32 of 192 images"):
        run(tiny, *options)


def test_a_second_process_leaves_the_metrics_file_alone_until_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"images_seen": 8}\n{"images_se')
    metrics = MetricsFile(path)
    assert path.read_text().endswith("images_se")
    metrics.log_metrics({"images_seen": 16})
    assert path.read_text() == '{"images_seen": 8}\n{"images_seen": 16}\n'


def test_a_flow_that_takes_no_bfloat16_trains_in_float32_whatever_is_asked(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("networks.glow.Glow.takes_bfloat16", False)  # as a flow of one's own
    options = ["--model.total_images=64", "--recovery.during.problems=[]"]
    options.append("--recovery.at_end.problems=[]")
    found = [
        losses(run(tiny, *options, f"--run.name={name}", f"--trainer.precision={precision}"))
        for name, precision in (("full", "32-true"), ("half", "bf16-mixed"))
    ]
    assert found[0] and found[0] == found[1]
