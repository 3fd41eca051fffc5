"""The training stream: each image once, in an order that nothing else decides."""

import math
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.stream import StreamLoader, TrainingStream, pass_order
from tests.conftest import REPOSITORY

SIZES = [7, 5, 9, 6, 4, 8]  # 39 images in 6 shards
TOTAL = 39


class FakeShards:
    """`ImageShards` that counts; image i is a row of pixels [i, 255]."""

    def __init__(self, shard_sizes: list[int] = SIZES) -> None:
        self.shard_sizes = shard_sizes
        self.reads: list[int] = []
        self.decoded: list[int] = []

    def read(self, shard: int, wanted: Collection[int]) -> Iterator[tuple[int, int]]:
        self.reads.append(shard)
        first = sum(self.shard_sizes[:shard])
        inside = range(first, first + self.shard_sizes[shard])
        return ((index, index) for index in inside if index in wanted)

    def decode(self, encoded: int) -> Tensor:
        self.decoded.append(encoded)
        return torch.tensor([[[encoded, 255]]], dtype=torch.uint8)


def stream(rank: int = 0, world_size: int = 1, images_seen: int = 0, **options: Any) -> Any:
    settings = {"batch_size": 4, "seed": 0, "flip": False, "window": 2, **options}
    images = settings.pop("images", None) or FakeShards()
    made = TrainingStream(images, rank=rank, world_size=world_size, **settings)
    made.images_seen = images_seen
    return made


def batches(made: TrainingStream) -> list[list[int]]:
    return [batch["index"].tolist() for batch in made]


def epoch_of_ranks(world_size: int, **options: Any) -> list[list[int]]:
    """The global batches of an epoch: all ranks' batches of a step, joined."""
    ranks = [batches(stream(rank, world_size, **options)) for rank in range(world_size)]
    return [flat(list(step)) for step in zip(*ranks, strict=True)]


def flat(parts: list[list[int]]) -> list[int]:
    return [index for part in parts for index in part]


def loaded(made: TrainingStream, workers: int, seen: int = 0) -> list[dict[str, Tensor]]:
    return list(StreamLoader(made, lambda: seen, workers, pin_memory=False))


# --- the order


def test_order_depends_on_seed_and_epoch_only() -> None:
    first = batches(stream())
    np.random.seed(5)
    torch.manual_seed(5)  # global randomness has no say
    assert batches(stream()) == first
    assert batches(stream(flip=True)) == first
    others = [batches(stream(seed=1)), batches(stream(images_seen=36))]
    assert first not in others and others[0] != others[1]
    assert first != sorted(first)


def test_a_passs_order_is_a_permutation_of_all_images() -> None:
    for window in (1, 2, 6, 100):
        windows = pass_order(SIZES, 3, 5, window)
        assert sorted(np.concatenate([images for _, images in windows])) == list(range(TOTAL))
        assert sorted(flat([shards for shards, _ in windows])) == list(range(6))


def test_shards_come_in_another_order_every_epoch() -> None:
    orders = [flat([shards for shards, _ in pass_order(SIZES, 0, e, 1)]) for e in range(3)]
    assert len({tuple(order) for order in [*orders, range(6)]}) == 4


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 4), (2, 4), (3, 2), (4, 1), (1, 39)])
def test_ranks_share_an_epoch_without_doubles(world_size: int, batch_size: int) -> None:
    ranks = [batches(stream(rank, world_size, batch_size=batch_size)) for rank in range(world_size)]
    steps = TOTAL // (world_size * batch_size)
    assert {len(rank) for rank in ranks} == {steps}
    assert {len(batch) for rank in ranks for batch in rank} == {batch_size}
    seen = flat([flat(rank) for rank in ranks])
    assert len(set(seen)) == len(seen) == steps * world_size * batch_size


def test_the_same_global_batch_has_the_same_images_on_any_number_of_ranks() -> None:
    alone = epoch_of_ranks(1, batch_size=8)
    assert epoch_of_ranks(2, batch_size=4) == alone
    assert epoch_of_ranks(4, batch_size=2) == alone
    assert epoch_of_ranks(4, batch_size=2, images_seen=16) == alone[2:]  # resumed on others
    three = FakeShards([13, 13, 13])  # more ranks than shards, and fewer
    assert epoch_of_ranks(2, batch_size=4, images=three) == epoch_of_ranks(
        4, batch_size=2, images=three
    )


def test_other_images_are_left_out_every_epoch() -> None:
    left_out = []
    for epoch in range(4):
        seen = flat(epoch_of_ranks(2, images_seen=32 * epoch))
        assert len(seen) == 32
        left_out.append(frozenset(range(TOTAL)) - frozenset(seen))
    assert len(set(left_out)) == 4


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers_gives_the_same_batches(workers: int) -> None:
    expected = list(stream(flip=True, images_seen=8))
    found = loaded(stream(flip=True), workers, seen=8)
    assert len(found) == len(expected) == 7
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a["index"], b["index"])
        assert torch.equal(a["image"], b["image"])


def test_a_batch_holds_the_images_of_its_indices() -> None:
    for batch in stream():
        assert batch["image"].dtype == torch.uint8
        assert batch["image"].shape == (4, 1, 1, 2)
        assert batch["image"][:, 0, 0, 0].tolist() == batch["index"].tolist()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("seen", [0, 16, 36, 80])
def test_an_epoch_of_several_passes_has_the_batches_of_several_epochs(
    workers: int, seen: int
) -> None:
    epochs = flat([batches(stream(images_seen=36 * epoch)) for epoch in range(6)])  # type: ignore[misc]
    made = stream(passes=3)
    assert made.steps_per_epoch == 27 and made.position(seen) == divmod(seen // 4, 27)
    found = [batch["index"].tolist() for batch in loaded(made, workers, seen)]
    assert found == epochs[seen // 4 : 27]
    assert batches(stream(passes=3, images_seen=108)) == epochs[27:]


# --- the position


@pytest.mark.parametrize("world_size", [1, 2])
def test_any_position_gives_the_tail_and_decodes_nothing_else(world_size: int) -> None:
    whole = batches(stream(world_size=world_size))
    for step in range(len(whole)):
        images = FakeShards()
        made = stream(world_size=world_size, images_seen=step * 4 * world_size, images=images)
        assert batches(made) == whole[step:]
        assert images.decoded == flat(whole[step:])


def test_shards_that_training_has_passed_are_not_read() -> None:
    images = FakeShards()
    batches(stream(images=images, images_seen=32))  # the last of 9 batches
    assert len(images.reads) <= 4 < len(SIZES)


def test_the_next_epoch_follows() -> None:
    second = batches(stream(images_seen=36))
    assert len(second) == 9
    assert second != batches(stream())
    assert batches(stream(images_seen=36 + 12)) == second[3:]
    assert batches(stream(images_seen=72)) != second


def test_iterating_again_gives_the_same_until_the_position_moves() -> None:
    made = stream()
    assert batches(made) == batches(made)
    made.images_seen = 20
    assert len(batches(made)) == 4


def test_a_loader_starts_where_the_clock_stands() -> None:
    seen = 0
    made = stream()
    loader = StreamLoader(made, lambda: seen, num_workers=0, pin_memory=False)
    whole = [batch["index"].tolist() for batch in loader]
    assert whole == batches(stream())
    for seen in (12, 36, 40):
        expected = batches(stream(images_seen=seen))
        assert [batch["index"].tolist() for batch in loader] == expected


def test_reading_ahead_moves_nothing() -> None:
    loader = StreamLoader(stream(), lambda: 8, num_workers=0, pin_memory=False)
    next(iter(loader))
    whole = batches(stream())
    assert [batch["index"].tolist() for batch in loader] == whole[2:]


def flipped(made: TrainingStream) -> dict[int, bool]:
    return {
        index: bool(image[0, 0, 0] == 255)
        for batch in made
        for index, image in zip(batch["index"].tolist(), batch["image"], strict=True)
    }


# --- flips


def test_flips_depend_on_seed_epoch_and_image_only() -> None:
    expected = flipped(stream(flip=True, batch_size=1))
    assert len(expected) == TOTAL
    for rank in range(3):
        some = flipped(stream(rank, 3, flip=True, window=3))
        assert len(some) == 12
        assert some.items() <= expected.items()
    for other in (stream(flip=True, batch_size=1, seed=1), stream(0, 1, 39, flip=True)):
        shared = flipped(other)
        assert any(shared[index] != expected[index] for index in shared)


def test_about_half_of_the_images_are_flipped_and_none_unasked() -> None:
    images = FakeShards([200])
    share = np.mean(list(flipped(stream(flip=True, images=images)).values()))
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 200)
    assert not any(flipped(stream()).values())


# --- windows


@pytest.mark.parametrize("window", [1, 2, 4, 6])
@pytest.mark.parametrize("images_seen", [0, 20])
def test_every_shard_is_read_at_most_once_an_epoch(window: int, images_seen: int) -> None:
    images = FakeShards()
    batches(stream(window=window, images=images, images_seen=images_seen))
    assert len(images.reads) == len(set(images.reads))
    order = flat([shards for shards, _ in pass_order(SIZES, 0, 0, window)])
    assert images.reads == [shard for shard in order if shard in images.reads]


@pytest.mark.parametrize("window", [1, 2, 4])
def test_images_never_leave_their_window(window: int) -> None:
    shard_of = np.repeat(np.arange(6), SIZES)
    start = 0
    seen = flat(batches(stream(window=window, batch_size=1)))
    for shards, images in pass_order(SIZES, 0, 0, window):
        part = seen[start : start + len(images)]
        assert set(shard_of[part]) == set(shards)
        assert len(shards) <= window
        start += len(images)


def test_a_window_is_read_only_when_its_images_are_due() -> None:
    images = FakeShards()
    made = stream(window=2, images=images)
    windows = pass_order(SIZES, 0, 0, 2)
    end_of_window = np.cumsum([len(part) for _, part in windows])
    for step, _ in enumerate(made, 1):
        due = 1 + int(np.searchsorted(end_of_window, 4 * step))
        assert len(images.reads) == 2 * due


def test_images_of_one_window_are_mixed() -> None:
    seen = flat(batches(stream(window=6, batch_size=1)))
    shard_of = np.repeat(np.arange(6), SIZES)[seen]
    assert (np.diff(shard_of) != 0).sum() > 15


def test_fewer_images_than_a_global_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"39 training images.*global batch of 40.*4 x .* 10"):
        stream(world_size=4, batch_size=10)
    assert stream(world_size=3, batch_size=13).steps_per_epoch == 1


# --- the workers


def read_a_batch(pids: Any) -> None:
    """In a process of its own: start workers that are never done, and tell who they are."""
    loader = StreamLoader(stream(batch_size=1), lambda: 0, num_workers=2, pin_memory=False)
    batches = iter(loader)
    next(batches)
    pids.send([child.pid for child in multiprocessing.active_children()])
    time.sleep(600)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who is alive")
@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_workers_end_when_their_parent_is_killed() -> None:
    here, there = multiprocessing.Pipe()
    parent = multiprocessing.get_context("fork").Process(target=read_a_batch, args=(there,))
    parent.start()
    workers = here.recv()
    assert len(workers) == 2 and all(map(alive, workers))
    parent.kill()
    parent.join()
    for _ in range(600):
        if not any(map(alive, workers)):
            return
        time.sleep(0.1)
    pytest.fail("workers outlive their parent by a minute")


HELD = """
from datamodules.stream import StreamLoader
from tests.datamodules.test_stream import stream

held = iter(StreamLoader(stream(), lambda: 0, 2, False))
next(held)
"""


def test_a_process_ends_that_still_holds_its_workers() -> None:
    """They ignore the signal with which multiprocessing would end them."""
    done = subprocess.run([sys.executable, "-c", HELD], cwd=REPOSITORY, timeout=60)
    assert done.returncode == 0
