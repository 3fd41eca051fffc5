"""The training stream: which image comes when is a function of (seed, images_seen) alone.

A pass is a permutation of all images that depends on (seed, pass): of the shards, and of the
images within each window of shards, so that every shard is still read once, from start to end. It
is cut into global batches, of which every rank takes an equal share. A pass leaves out its last,
incomplete global batch (other images every time) and doubles no image. An epoch is one or more
passes: how many changes no batch. The position follows from `images_seen`, never from what a loader
has read: Lightning and the workers read ahead.
"""

import atexit
import multiprocessing.util  # first: what it does at exit then comes after ours
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from core.stopping import leave_signals_to_parent
from datamodules.shards import DataError


class ImageShards(Protocol):
    """Images in shards. `read` yields (global index, encoded image) of the wanted ones only."""

    @property
    def shard_sizes(self) -> Sequence[int]: ...

    def read(self, shard: int, wanted: Collection[int]) -> Iterable[tuple[int, Any]]: ...

    def decode(self, encoded: Any) -> Tensor: ...


def pass_order(
    shard_sizes: Sequence[int], seed: int, pass_index: int, window: int
) -> list[tuple[list[int], NDArray[np.int64]]]:
    """Order a pass, by windows: (shards read together, their images' global indices in order)."""
    rng = np.random.default_rng([seed, pass_index])
    first = np.concatenate([[0], np.cumsum(shard_sizes)])
    shards = rng.permutation(len(shard_sizes)).tolist()
    windows = []
    for start in range(0, len(shards), window):
        group = shards[start : start + window]
        images = np.concatenate([np.arange(first[s], first[s + 1]) for s in group])
        windows.append((group, rng.permutation(images)))
    return windows


class TrainingStream(IterableDataset[dict[str, Tensor]]):
    """This rank's batches from `images_seen` to the end of the epoch.

    Yields `image` uint8 (batch_size, C, H, W) and `index` (batch_size,). Any number of loader
    workers gives the same batches in the same order: worker w makes every w-th one.

    Args:
        images: where the images are.
        batch_size: images per rank and batch.
        seed: of order and flips.
        flip: mirror each image or not, by (seed, pass, index).
        window: shards shuffled together; memory holds their encoded images.
        passes: that make an epoch.

    Raises:
        ValueError: fewer images than one global batch.
    """

    def __init__(
        self,
        images: ImageShards,
        batch_size: int,
        seed: int,
        flip: bool,
        window: int,
        rank: int,
        world_size: int,
        passes: int = 1,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self.window = window
        self.rank = rank
        self.world_size = world_size
        self.global_batch = batch_size * world_size
        self.images_seen = 0
        self.total = sum(images.shard_sizes)
        self.steps_per_pass = self.total // self.global_batch
        self.passes = passes
        self.steps_per_epoch = passes * self.steps_per_pass
        if self.steps_per_pass == 0:
            raise ValueError(
                f"{self.total} training images are fewer than one global batch of "
                f"{self.global_batch} ({world_size} x data.batch_size {batch_size}): use more "
                "images or smaller batches"
            )

    def position(self, images_seen: int) -> tuple[int, int]:
        """Count (epochs completed, steps into the next) at a time of the clock.

        Counts in the present global batches, so that epochs end even in a run whose number of
        devices has changed, and whose clock is at no multiple of its epoch.
        """
        return divmod(images_seen // self.global_batch, self.steps_per_epoch)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        first, step = divmod(self.images_seen // self.global_batch, self.steps_per_pass)
        worker = get_worker_info()
        turn, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for pass_index in range(first, self.passes * (first // self.passes + 1)):
            yield from self.batches(pass_index, range(step + turn, self.steps_per_pass, count))
            turn = (turn - (self.steps_per_pass - step)) % count  # until its next batch
            step = 0

    def batches(self, pass_index: int, steps: range) -> Iterator[dict[str, Tensor]]:
        """Yield this rank's batches of some steps of a pass."""
        windows = pass_order(self.images.shard_sizes, self.seed, pass_index, self.window)
        order = np.concatenate([images for _, images in windows])
        order = order[: self.steps_per_pass * self.global_batch]
        shares = order.reshape(self.steps_per_pass, self.world_size, self.batch_size)
        flips = np.random.default_rng([self.seed, pass_index, 1]).integers(0, 2, self.total)
        pending = deque(shares[steps.start : steps.stop : steps.step, self.rank].tolist())
        encoded: dict[int, Any] = {}
        for shards, images in windows:
            wanted = {index for batch in pending for index in batch} & set(images.tolist())
            for shard in shards if wanted else ():
                encoded.update(self.images.read(shard, wanted))
            while pending and all(index in encoded for index in pending[0]):
                batch = pending.popleft()
                yield self.collate(batch, [encoded.pop(index) for index in batch], flips)

    def collate(
        self, indices: list[int], encoded: list[Any], flips: NDArray[np.int64]
    ) -> dict[str, Tensor]:
        decoded = [self.images.decode(item) for item in encoded]
        if self.flip:
            decoded = [
                image.flip(-1) if flips[index] else image
                for index, image in zip(indices, decoded, strict=True)
            ]
        return {"image": torch.stack(decoded), "index": torch.tensor(indices)}


class StreamLoader:
    """Reads a stream through worker processes, from where the clock stands at each epoch's start.

    It has no length: a resumed epoch is shorter than the others.
    """

    def __init__(
        self, stream: TrainingStream, clock: Callable[[], int], num_workers: int, pin_memory: bool
    ) -> None:
        self.stream = stream
        self.clock = clock
        self.loader = DataLoader(
            stream,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=leave_signals_to_parent,
        )

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.stream.images_seen = self.clock()
        return with_own_errors(iter(self.loader))


@atexit.register  # before multiprocessing's own, which waits for each after a SIGTERM
def end_workers() -> None:
    """End at exit what is left of workers, which ignore that signal."""
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


def with_own_errors(batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Give the batches; of a worker's DataError, raise what it says without its traceback."""
    try:
        yield from batches
    except DataError as error:
        raise DataError(str(error).rpartition(f"{DataError.__name__}: ")[-1].strip()) from None
