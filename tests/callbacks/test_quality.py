"""FID and KID while training, with a random Inception in the place of the trained one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import train
from callbacks import quality
from callbacks.quality import WEIGHTS_URL, SampleQuality, distances
from datamodules.image_set import ImageSet
from datamodules.procedural import faces
from tests.conftest import REPOSITORY
from training.cli import Train

pytestmark = pytest.mark.filterwarnings("ignore:.*Kernel Inception Distance.*buffer")

CPU = torch.device("cpu")


class Features(nn.Module):
    """8 features of an image uint8, of another kind than Inception's; counts the images."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Conv2d(3, 8, 3, stride=2)
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        self.images += len(images)
        return self.layer(images.float() / 255).flatten(2).mean(dim=2)


@pytest.fixture
def callback() -> SampleQuality:
    made = SampleQuality(images=40, batch_size=16)
    made.inception = Features()
    return made


def fake_trainer(**held_out: ImageSet) -> tuple[Any, list[dict[str, float]]]:
    """A trainer whose epochs are 10 images long, and what is logged through it."""
    logged: list[dict[str, float]] = []
    data = SimpleNamespace(held_out=held_out, position=lambda seen: divmod(seen, 10))
    loggers = [SimpleNamespace(log_metrics=logged.append)]
    return SimpleNamespace(is_global_zero=True, datamodule=data, loggers=loggers), logged


def fake_module(samples: Callable[[int], Tensor], images_seen: int = 10) -> Any:
    return SimpleNamespace(samples=samples, images_seen=images_seen, total_images=35, device=CPU)


def held_out(distribution: Any, count: int = 40) -> ImageSet:
    images = faces(range(count), distribution=distribution, image_size=16)
    return ImageSet("held-out", distribution, images, [str(index) for index in range(count)])


def draw(count: int) -> Tensor:
    return faces(range(100, 100 + count), image_size=16) / 255


# --- the distances ---------------------------------------------------------------------------


def test_distances_are_zero_for_equal_sets_and_grow(callback: SampleQuality) -> None:
    real = callback.features(held_out("in").images, CPU)
    near = callback.features(faces(range(100, 140), image_size=16), CPU)
    far = callback.features(held_out("out").images, CPU)
    of_same, of_near, of_far = (distances(real, other) for other in (real, near, far))
    assert abs(of_same["quality/fid"]) < 1e-3
    assert of_same["quality/fid"] < of_near["quality/fid"] < of_far["quality/fid"]
    assert of_same["quality/kid"] < of_near["quality/kid"] < of_far["quality/kid"]


@pytest.mark.parametrize("real, fake", [(2, 2), (40, 7), (7, 40), (1001, 1001)])
def test_sets_of_any_sizes_give_the_same_numbers_again(real: int, fake: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(count, 4, generator=generator) for count in (real, fake)]
    first = distances(*sets)
    torch.rand(1)
    assert first == distances(*sets)
    assert all(abs(value) < 100 for value in first.values())  # a number: not infinite, not nan


# --- the callback ----------------------------------------------------------------------------


def test_logs_both_against_the_in_distribution_set(callback: SampleQuality) -> None:
    trainer, logged = fake_trainer(unlike=held_out("out"), like=held_out("in"))
    callback.on_fit_start(trainer, fake_module(draw))
    callback.on_train_epoch_end(trainer, fake_module(draw))
    real = callback.features(held_out("in").images, CPU)
    expected = distances(real, callback.features(faces(range(100, 140), image_size=16), CPU))
    assert logged == [{**expected, "images_seen": 10.0}]


def test_real_features_are_computed_once(callback: SampleQuality) -> None:
    trainer, logged = fake_trainer(like=held_out("in", 30))
    for _ in range(3):
        callback.on_train_epoch_end(trainer, fake_module(draw))
    assert callback.inception.images == 30 + 3 * 40  # each sample once for both distances
    assert logged[0] == logged[1] == logged[2]


def test_when_it_is_due(callback: SampleQuality) -> None:
    callback.every_n_epochs = 2
    trainer, logged = fake_trainer(like=held_out("in"))
    for images_seen in (10, 20, 25, 30, 35):
        callback.on_train_epoch_end(trainer, fake_module(draw, images_seen))
    assert [line["images_seen"] for line in logged] == [20, 35]
    trainer.is_global_zero = False
    callback.on_train_epoch_end(trainer, fake_module(draw, 20))
    assert len(logged) == 2


def test_without_weights_it_does_nothing() -> None:
    def refuse(count: int) -> Tensor:
        raise AssertionError("samples were drawn")

    trainer, logged = fake_trainer()
    callback = SampleQuality()
    callback.on_fit_start(trainer, fake_module(refuse))
    callback.on_train_epoch_end(trainer, fake_module(refuse))
    assert not logged


def test_the_global_random_state_is_left_alone(callback: SampleQuality) -> None:
    trainer, logged = fake_trainer(like=held_out("in", 30))  # not 40: KID draws subsets
    before = torch.get_rng_state()
    callback.on_train_epoch_end(trainer, fake_module(draw))
    assert logged
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("sets", [{}, {"unlike": held_out("out")}, {"like": held_out("in", 1)}])
def test_a_missing_held_out_set_is_refused_before_training(
    callback: SampleQuality, sets: dict[str, ImageSet]
) -> None:
    trainer, _ = fake_trainer(**sets)
    with pytest.raises(ValueError, match=r"quality\.inception_weights.*held-out"):
        callback.on_fit_start(trainer, fake_module(draw))


def test_logged_while_training_which_is_left_untouched(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "load_inception", lambda path: Features())
    quiet = ["--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]
    options = ["--run.name=on", "--quality.inception_weights=any.pth", "--quality.images=4"]

    def lines(*more: str) -> list[dict[str, float]]:
        file = Train([*tiny, *quiet, *more]).run.directory / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]

    on, off = lines(*options), lines("--run.name=off")
    logged = [line for line in on if "quality/fid" in line]
    assert [line["images_seen"] for line in logged] == [64, 128, 192]
    assert all("quality/kid" in line for line in logged)
    losses_on, losses_off = (
        [line["train/bits_per_dim"] for line in run if "train/bits_per_dim" in line]
        for run in (on, off)
    )
    assert len(losses_on) == 24
    assert losses_on == losses_off


# --- the weights file ------------------------------------------------------------------------


def test_a_missing_file_is_named_before_training(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.environ.pop("INVERTIBLE_PRIORS_TRACEBACK", None)
    with pytest.raises(SystemExit):
        train.main([*tiny, "--quality.inception_weights=nowhere.pth"])
    said = capsys.readouterr().err
    assert "quality.inception_weights" in said and "nowhere.pth" in said and WEIGHTS_URL in said


def test_a_run_that_asks_for_neither_needs_no_torch_fidelity() -> None:
    missing = (
        "from lightning_utilities.core.imports import RequirementCache as Cache\n"
        "found = Cache.__bool__\n"
        "Cache.__bool__ = lambda self: 'fidelity' not in str(vars(self)) and found(self)\n"
        "import torchmetrics.image, training.cli\n"
        "assert not hasattr(torchmetrics.image, 'FrechetInceptionDistance')\n"
    )
    command = [sys.executable, "-c", missing]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_without_torch_fidelity_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ValueError, match=r"pip install torch-fidelity.*fid"):
        SampleQuality(str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("content", [None, b"<html>", {}, {"weight": torch.zeros(1)}, [1]])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    pytest.importorskip("torch_fidelity")
    path = tmp_path / "weights.pth"
    path.touch()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"weights\.pth is damaged or not the file of"):
        SampleQuality(str(path))


@pytest.mark.slow
def test_torch_fidelity_reads_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    extractor = fidelity.FeatureExtractorInceptionV3
    assert fidelity.URL_INCEPTION_V3 == WEIGHTS_URL
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    with monkeypatch.context() as patch, torch.random.fork_rng():
        patch.setattr(extractor, "load_state_dict", lambda self, state: None)
        network = extractor("inception-v3-compat", ["2048"], str(path))
        torch.manual_seed(0)
        for weight in network.parameters():
            if weight.ndim == 4:
                nn.init.kaiming_normal_(weight)  # lets images through to the features
    torch.save(network.state_dict(), path)
    before = torch.get_rng_state()
    callback = SampleQuality(str(path), images=4, batch_size=4)
    assert torch.equal(before, torch.get_rng_state())
    real, far = (callback.features(held_out(kind, 4).images, CPU) for kind in ("in", "out"))
    assert real.shape == (4, 2048)
    of_same, of_far = distances(real, real), distances(real, far)
    assert abs(of_same["quality/fid"]) < 1e-3 * of_far["quality/fid"]
    assert of_same["quality/kid"] < of_far["quality/kid"]
