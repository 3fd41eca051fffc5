"""Training images from shards, against torchvision's ImageFolder and a bare read of the tars.

Ours: the training stream (an epoch's permutation, windows of shards, batches of uint8).
ImageFolder: the same PNGs as files, shuffled by torch's DataLoader. Bare: the same shards from
start to end with tarfile and the same decoder, in no order and no batches. One process, no workers;
CPU seconds.
"""

import argparse
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor
from torchvision.utils import save_image

from benchmarks.measure import Ratio, print_table
from datamodules.faces import PreparedShards
from datamodules.prepare import main as prepare
from datamodules.procedural import faces
from datamodules.shards import ShardIndex, decode
from datamodules.stream import TrainingStream

SIZE = 64
BATCH = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--repetitions", type=int, default=7)


def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "images"), Path(folder, "shards")
        for index, face in enumerate(faces(range(options.images), image_size=SIZE)):
            path = source / "all" / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(face.float() / 255, path)
        shards = [f"--shard-size={options.images // 8}", f"--image-size={SIZE}"]
        prepare([str(source), str(out), *shards])
        contestants = {
            "ours": ours(out),
            "ImageFolder": image_folder(source),
            "bare tar": bare_tar(out),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(options.repetitions + 1):  # the first warms the system's cache
            for name, read in contestants.items():
                times[name].append(cpu_seconds(read))
    own = times["ours"][1:]
    rows = [
        [name, f"{options.images / median(taken[1:]):.0f}", Ratio.of(taken[1:], own)]
        for name, taken in times.items()
    ]
    print_table(
        ["reader", "images per CPU second", "times as long as ours"],
        rows,
        f"{options.images} drawn faces of {SIZE}px. Median (quartiles) of alternate repetitions.",
    )


def ours(folder: Path) -> Callable[[], int]:
    shards = PreparedShards(ShardIndex.load(folder))
    stream = TrainingStream(shards, BATCH, seed=0, flip=True, window=8, rank=0, world_size=1)
    return lambda: sum(len(batch["image"]) for batch in stream)


def image_folder(folder: Path) -> Callable[[], int]:
    images = ImageFolder(str(folder), PILToTensor())
    loader = DataLoader(images, BATCH, shuffle=True, drop_last=True)
    return lambda: sum(len(batch) for batch, _ in loader)


def bare_tar(folder: Path) -> Callable[[], int]:
    def read() -> int:
        count = 0
        for shard in sorted(folder.glob("*.tar")):
            with tarfile.open(shard) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    count += file is not None and len(decode(file.read(), SIZE)) == 3
        return count

    return read


def cpu_seconds(read: Callable[[], int]) -> float:
    began = time.process_time()
    read()
    return time.process_time() - began
