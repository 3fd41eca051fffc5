"""What every part of `python -m benchmarks gpu` is given, and how much work it makes of it."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Result = dict[str, Any]  # of a part, as its JSON file holds it


@dataclass(frozen=True)
class Sizes:
    """How much work the parts make.

    Attributes:
        product: side of square matrices.
        convolution: images, channels (in and out) and side of a convolution's input.
        networks: by name, arguments of `networks.glow.Glow`.
        batches: of training steps and decodes, increasing.
        seconds: that a case is timed for, at least.
        images: drawn faces to recover.
        evaluations: of a search, for each image.
        batch_size: of training, to begin with.
        first: share of training's time that finds out how long it can be.
        longest: seconds of training, at most.
        reserve: seconds of training's time for its starts and end, and for the export.
        drawn: options of train.py for drawn faces, where there are no prepared sets.
        training: further options of train.py.
        rows: further options of evaluate.py.
    """

    product: int
    convolution: tuple[int, int, int]
    networks: Mapping[str, dict[str, Any]]
    batches: tuple[int, ...]
    seconds: float
    images: int
    evaluations: int
    batch_size: int
    first: float
    longest: float
    reserve: float
    drawn: tuple[str, ...]
    training: tuple[str, ...]
    rows: tuple[str, ...]


FULL = Sizes(
    product=8192,
    convolution=(64, 512, 32),
    networks={
        "64px, 18 steps, hidden 512": {"image_size": 64, "steps": 18, "levels": 4, "hidden": 512},
        "32px, 12 steps, hidden 128": {
            **{"image_size": 32, "steps": 12, "levels": 3},
            **{"hidden": 128, "last_level_steps": 12},
        },
    },
    batches=(1, 4, 16, 64, 256),
    seconds=0.4,
    images=12,
    evaluations=200,
    batch_size=128,
    first=0.15,
    longest=math.inf,
    reserve=50.0,
    drawn=("--data.image_size=64", "--data.training_images=16000"),  # seconds to draw
    training=(
        *("--model.learning_rate=7e-4", "--model.betas=[0.9,0.99]", "--model.clip_norm=20"),
        *("--model.warmup_images=25600", "--model.decay_fraction=0.3", "--data.flip=true"),
        "--data.passes=8",
    ),
    rows=("--trials.images=6",),
)
TOY = Sizes(
    product=64,
    convolution=(1, 8, 8),
    networks={"8px, 1 step, hidden 8": {"image_size": 8, "steps": 1, "levels": 2, "hidden": 8}},
    batches=(1, 2),
    seconds=0.0,
    images=1,
    evaluations=8,
    batch_size=8,
    first=0.5,
    longest=4.0,
    reserve=30.0,
    drawn=("--data.image_size=8", "--data.training_images=32", "--data.held_out_images=4"),
    training=(
        *("--model.network.image_size=8", "--model.network.steps=1", "--model.network.levels=2"),
        *("--model.network.hidden=8", "--model.warmup_images=16"),
        *("--model.ema_half_life=16", "--model.initialization_images=16"),
        *("--trainer.log_every_n_steps=1", "--samples.count=4"),
    ),
    rows=(
        *("--image_size=8", "--trials.images=2", "--pictures=0"),
        "--methods.glow.method.init_args.evaluations=10",
    ),
)


@dataclass(frozen=True)
class Kit:
    """What a part works on, where its results go, and by when.

    Attributes:
        out: folder of all results.
        data: folder of prepared sets, of which the parts want <data>/64px; None for drawn faces.
        weights: the prior that recovers.
        weights64: the prior whose weights training begins from, if any.
        sizes: of the work.
        device: that everything runs on.
        deadline: of the part, by `time.monotonic`; it is killed then.
    """

    out: Path
    data: Path | None
    weights: str
    weights64: str | None
    sizes: Sizes
    device: torch.device
    deadline: float

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def sets(self) -> list[str]:
        """Name the prepared sets of 64px, [] without any."""
        root = self.data / "64px" if self.data else None
        return sorted(path.parent.name for path in root.glob("*/index.json")) if root else []
