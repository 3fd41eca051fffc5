"""The clock of training is exact however many images have been seen."""

import json
import shutil
from pathlib import Path

import torch

import train
from priors.export import validation_bits
from tests.conftest import REPOSITORY, TINY

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
