"""Face data: what trains and what is held out, by name and distribution."""

import itertools
import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import prepare
from datamodules.faces import (
    FaceDataModule,
    ImagesInMemory,
    NamedPNG,
    ProceduralFaces,
    ShardedFaces,
)
from datamodules.held_out import DATA_ROOT_VARIABLE
from datamodules.shards import DataError
from datamodules.stream import TrainingStream

SIZE = 8


def trainer(rank: int = 0, world_size: int = 1, images_seen: int = 0) -> Any:
    return SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        lightning_module=SimpleNamespace(images_seen=images_seen),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


def ready(data: FaceDataModule, rank: int = 0, world_size: int = 1, seen: int = 0) -> Any:
    data.setup()
    data.trainer = trainer(rank, world_size, seen)
    return data


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def prepare_set(folder: Path, root: Path, name: str, seeds: range) -> None:
    source = folder / name
    source.mkdir()
    for seed in seeds:
        Image.fromarray(picture(seed)).save(source / f"{name}-{seed:03d}.png")
    options = f"--image-size {SIZE} --shard-size 4 --workers 1".split()
    assert prepare.main([str(source), str(root / f"{SIZE}px" / name), *options]) == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared sets: train (10 images), celeba-val (5) and ffhq-val (3)."""
    folder = tmp_path_factory.mktemp("faces")
    for name, seeds in [
        ("train", range(10)),
        ("celeba-val", range(100, 105)),
        ("ffhq-val", range(200, 203)),
    ]:
        prepare_set(folder, folder / "prepared", name, seeds)
    return folder / "prepared"


def sharded(root: Path | None, **options: Any) -> ShardedFaces:
    settings = {"image_size": SIZE, "batch_size": 2, "train": "train", "num_workers": 0, **options}
    return ShardedFaces(root=root and str(root), **settings)


def as_array(image: Tensor) -> list[Any]:
    return image.permute(1, 2, 0).tolist()


def test_prepared_images_are_streamed_as_they_are(root: Path) -> None:
    data = ready(sharded(root))
    assert data.position(9) == (0, 4) and data.position(10) == (1, 0)
    streamed = [image for batch in data.train_dataloader() for image in batch["image"]]
    expected = [picture(seed).tolist() for seed in range(10)]
    assert sorted(map(as_array, streamed)) == sorted(expected)


def test_a_damaged_training_image_is_named(root: Path) -> None:
    data = ready(sharded(root))
    damaged = NamedPNG(Path("shard-000003.tar"), "000042", b"no PNG")
    with pytest.raises(DataError, match=r"shard-000003.tar, image 000042: damaged PNG"):
        data.train_images.decode(damaged)


def test_indices_of_prepared_images_are_their_places(root: Path) -> None:
    data = ready(sharded(root))
    stored = data.first_images(10)
    for batch in data.train_dataloader():
        assert torch.equal(batch["image"], stored[batch["index"]])


def test_workers_read_prepared_images_alike(root: Path) -> None:
    alone, helped = (
        list(ready(sharded(root, num_workers=workers, flip=True), seen=4).train_dataloader())
        for workers in (0, 2)
    )
    assert len(alone) == 3
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["index"], b["index"])


def test_held_out_sets_have_names_and_a_distribution(root: Path) -> None:
    data = ready(sharded(root))
    assert data.validation_names == ["celeba-val", "ffhq-val"]
    for name, distribution, seeds in [
        ("celeba-val", "in", range(100, 105)),
        ("ffhq-val", "out", range(200, 203)),
    ]:
        held_out = data.held_out[name]
        assert held_out.distribution == distribution
        assert sorted(held_out.image_names) == [f"{name}-{seed:03d}" for seed in seeds]
        for image, image_name in zip(held_out.images, held_out.image_names, strict=True):
            assert as_array(image) == picture(int(image_name[-3:])).tolist()


def test_the_root_may_come_from_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(root))
    assert len(ready(sharded(None)).first_images(99)) == 10
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "/nowhere")
    assert len(ready(sharded(root)).first_images(99)) == 10  # the config goes first


def test_without_a_root_both_ways_to_name_it_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    with pytest.raises(ValueError, match=rf"data\.root.*{DATA_ROOT_VARIABLE}.*8px/train"):
        sharded(None).setup()


def test_a_missing_set_is_named_with_the_command_that_makes_it(root: Path) -> None:
    for options in ({"train": "absent"}, {"out_of_distribution": ["absent"]}):
        with pytest.raises(DataError, match=r"8px/absent.*datamodules\.prepare"):
            sharded(root, **options).setup()
    with pytest.raises(DataError, match=r"16px/train.*datamodules\.prepare"):
        sharded(root, image_size=16).setup()


def test_held_out_images_that_are_trained_on_are_counted(
    root: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    shutil.copytree(root, tmp_path / "prepared")
    prepare_set(tmp_path, tmp_path / "prepared", "mixed", range(8, 14))  # 2 of 6 are in train
    sharded(tmp_path / "prepared").setup()
    assert not [w for w in recwarn if "images of" in str(w.message)]
    for names, share in (({"in_distribution": ["mixed"]}, 0.3), ({}, 1.0)):
        names = names or {"out_of_distribution": ["mixed"]}
        data = sharded(tmp_path / "prepared", **names, overlap=share)
        if share < 2 / 6:
            with pytest.raises(DataError, match=r"2 of the 6 images of mixed .*data\.overlap"):
                data.setup()
        else:
            with pytest.warns(UserWarning, match="2 of the 6 images of mixed are in train too"):
                data.setup()
    path = tmp_path / "prepared" / f"{SIZE}px" / "train" / "index.json"
    index = json.loads(path.read_text())
    for shard in index["shards"]:
        del shard["pixels"]  # as an earlier version wrote it
    path.write_text(json.dumps(index))
    sharded(tmp_path / "prepared", in_distribution=["mixed"]).setup()
    with pytest.raises(ValueError, match=r"data\.overlap must be from 0 to 1, got 1\.5"):
        sharded(root, overlap=1.5)


def test_a_damaged_training_shard_stops_training_or_is_left_out(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "prepared")
    shard = tmp_path / "prepared" / f"{SIZE}px" / "train" / "shard-00001.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    for workers in (0, 2):  # a worker's error comes without its traceback
        data = ready(sharded(tmp_path / "prepared", num_workers=workers))
        with pytest.raises(DataError, match=r"^\S*shard-00001\.tar: .*not the file that index\.j"):
            list(data.train_dataloader())
    with pytest.warns(UserWarning, match=r"left out 1 damaged shards \(shard-00001.*sees 6 images"):
        data = ready(sharded(tmp_path / "prepared", damaged="skip"))
    batches = list(data.train_dataloader())
    assert sorted(i for batch in batches for i in batch["index"].tolist()) == list(range(6))
    stored = data.first_images(99)
    assert all(torch.equal(batch["image"], stored[batch["index"]]) for batch in batches)
    held_out = tmp_path / "prepared" / f"{SIZE}px" / "celeba-val" / "shard-00000.tar"
    held_out.write_bytes(held_out.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"celeba-val/shard-00000\.tar"):
        sharded(tmp_path / "prepared", damaged="skip").setup()


def test_a_set_of_another_size_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "16px").symlink_to(root / f"{SIZE}px")
    with pytest.raises(DataError, match=r"16px/train.*8px, 16px wanted.*prepare"):
        sharded(tmp_path, image_size=16).setup()


def test_the_first_images_are_the_same_on_every_rank_and_across_shards(root: Path) -> None:
    data = ready(sharded(root))
    stored = data.first_images(10)
    for count in (1, 4, 6, 10, 50):
        other = ready(sharded(root, seed=5, batch_size=1), rank=1, world_size=2)
        assert torch.equal(other.first_images(count), stored[:count])


def test_images_in_memory_are_streamed_too() -> None:
    images = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(-1, 3, 2, 2)
    for batch in TrainingStream(
        ImagesInMemory(images), batch_size=4, seed=0, flip=False, window=2, rank=0, world_size=1
    ):
        assert torch.equal(batch["image"], images[batch["index"]])


procedural = partial(ProceduralFaces, image_size=SIZE, training_images=20, held_out_images=6)


def kinds(data: ProceduralFaces) -> list[set[bytes]]:
    """Training, in- and out-of-distribution images as sets."""
    splits = [data.first_images(99), *(data.held_out[name].images for name in data.held_out)]
    return [{image.numpy().tobytes() for image in split} for split in splits]


def test_procedural_splits_are_disjoint() -> None:
    train, inside, outside = kinds(ready(procedural()))
    assert (len(train), len(inside), len(outside)) == (20, 6, 6)
    assert not (train & inside or train & outside or inside & outside)


def test_procedural_held_out_faces_are_the_same_whatever_is_trained_on() -> None:
    first = ready(procedural())
    other = ready(procedural(seed=7, training_images=30, batch_size=3, flip=True))
    for name, distribution in [("faces-val", "in"), ("faces-ood", "out")]:
        assert first.held_out[name].distribution == distribution
        assert first.held_out[name].image_names == other.held_out[name].image_names
        assert torch.equal(first.held_out[name].images, other.held_out[name].images)
    train, *held_out = kinds(other)
    assert kinds(first)[0] != train
    assert not any(train & split for split in held_out)


def test_more_held_out_faces_keep_the_first_ones() -> None:
    few, many = ready(procedural(held_out_images=3)), ready(procedural(held_out_images=6))
    for name, held_out in few.held_out.items():
        assert torch.equal(many.held_out[name].images[:3], held_out.images)
        assert many.held_out[name].image_names[:3] == held_out.image_names


def test_an_epoch_is_whole_global_batches() -> None:
    data = ready(procedural(batch_size=8))
    assert [data.position(seen) for seen in (0, 8, 15, 16, 40)] == [
        (0, 0),
        (0, 1),
        (0, 1),
        (1, 0),
        (2, 1),
    ]
    assert ready(procedural(batch_size=3), 1, 3).position(18) == (1, 0)


def test_the_training_loader_is_this_ranks_from_the_clock_on() -> None:
    data = ready(procedural(batch_size=3), rank=1, world_size=2, seen=6)
    found = [batch["index"].tolist() for batch in data.train_dataloader()]
    other = ready(procedural(batch_size=3), rank=0, world_size=2, seen=6)
    others = [batch["index"].tolist() for batch in other.train_dataloader()]
    assert len(found) == len(others) == 2
    assert len({*itertools.chain(*found, *others)}) == 12


@pytest.mark.parametrize("world_size", [1, 2, 4, 6])
def test_validation_covers_each_image_once_over_all_ranks(world_size: int) -> None:
    data = procedural(validation_batch_size=2)
    found: dict[str, list[int]] = {"faces-val": [], "faces-ood": []}
    for rank in range(world_size):
        ready(data, rank, world_size)
        for name, loader in zip(data.validation_names, data.val_dataloader(), strict=True):
            for batch in loader:
                found[name] += batch["index"].tolist()
                assert len(batch["index"]) <= 2
                assert torch.equal(batch["image"], data.held_out[name].images[batch["index"]])
    assert all(sorted(indices) == list(range(6)) for indices in found.values())


def test_a_held_out_set_smaller_than_the_world_is_refused() -> None:
    data = ready(procedural(batch_size=1), world_size=7)
    with pytest.raises(ValueError, match="'faces-val' has 6 images for 7 processes"):
        data.val_dataloader()


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size.*0"):
        procedural(batch_size=0)
