"""An evaluation decodes the images it uses, and takes a set for what its config says."""

from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from datamodules import shards
from datamodules.prepare import main as prepare
from evaluation.config import Evaluation, Sets
from evaluation.plan import Trials
from studies.latent_norm import LatentNorm
from studies.study import Study


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "faces").mkdir()
    for index, image in enumerate(torch.rand(6, 3, 8, 8)):
        save_image(image, tmp_path / "faces" / f"face-{index}.png")
    prepare([str(tmp_path / "faces"), str(tmp_path / "data/8px/mine"), "--image-size", "8"])
    return tmp_path / "data"


def decoded(data: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> int:
    """How many images are decoded when the set is used."""
    count = 0
    decode = shards.decode

    def counting(png: bytes, size: int) -> torch.Tensor:
        nonlocal count
        count += 1
        return decode(png, size)

    monkeypatch.setattr(shards, "decode", counting)
    settings = {"image_size": 8, "sets": {"mine": "out"}, "data": str(data), **options}
    assert len(Sets(Evaluation("name", **settings))["mine"]) == count  # type: ignore[arg-type]
    return count


def test_only_the_images_of_the_trials_are_decoded(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decoded(data, monkeypatch, trials=Trials(images=2)) == 2


def test_a_study_has_all_images_of_its_sets(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies: dict[str, Study] = {"norms": LatentNorm(dataset="mine")}
    assert decoded(data, monkeypatch, trials=Trials(images=2), studies=studies) == 6


def test_balance_chooses_among_all_images(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded(data, monkeypatch, trials=Trials(images=2, balance=["Hat"])) == 6


def test_drawn_faces_are_in_or_out_as_the_config_says() -> None:
    for side in ("in", "out"):
        evaluation = Evaluation("name", image_size=8, sets={"faces-val": side})  # type: ignore[dict-item]
        assert Sets(evaluation)["faces-val"].distribution == side


def test_one_picture_is_a_source(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "data/8px/me"
    prepare([str(tmp_path / "faces" / "face-3.png"), str(out), "--image-size", "8"])
    index = shards.ShardIndex.load(out)
    images, names = shards.load_images(index)
    assert names == ["face-3"] and len(index) == 1
    others, all_names = shards.load_images(shards.ShardIndex.load(data / "8px/mine"))
    assert torch.equal(images[0], others[all_names.index("face-3")])
