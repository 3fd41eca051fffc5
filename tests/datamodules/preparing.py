"""What tests of `prepare` share: pictures made on the spot, the command, what it has stored."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules import prepare as P
from datamodules.shards import INDEX, ShardIndex, load_images

SIZE = 8


def picture(seed: int = 0, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, **options)
    return path


def run(source: Path, out: Path, *options: object, size: int = SIZE, workers: int = 1) -> int:
    return P.main(
        [
            str(source),
            str(out),
            "--image-size",
            str(size),
            "--workers",
            str(workers),
            *map(str, options),
        ]
    )


def index_of(out: Path) -> dict:
    return json.loads((out / INDEX).read_text())


def stored(out: Path) -> dict[str, torch.Tensor]:
    images, names = load_images(ShardIndex.load(out))
    return dict(zip(names, images, strict=True))


def reasons(out: Path) -> dict[str, str]:
    return {r["name"]: r["reason"] for r in index_of(out)["rejected"]}
