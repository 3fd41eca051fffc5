"""FID and KID while training, with a random Inception in the place of the trained one."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import train
from callbacks.quality import SampleQuality, load_inception
from datamodules.procedural import faces


class Features(nn.Module):
    """8 features of an image uint8, of another kind than Inception's."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 8, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.float() / 255).flatten(2).mean(dim=2)


@pytest.fixture
def quality() -> SampleQuality:
    callback = SampleQuality(images=40, batch_size=16)
    callback.inception = Features()
    return callback


def test_distances_are_zero_for_equal_sets_and_grow(quality: SampleQuality) -> None:
    real, others = faces(range(40), image_size=16), faces(range(100, 140), image_size=16)
    far = faces(range(40), distribution="out", image_size=16)
    same, near, out = (
        quality.distances(real, images, torch.device("cpu")) for images in (real, others, far)
    )
    assert abs(same["quality/fid"]) < 1e-3
    assert same["quality/fid"] < near["quality/fid"] < out["quality/fid"]
    assert near["quality/kid"] < out["quality/kid"]


def test_the_global_random_state_is_left_alone(quality: SampleQuality) -> None:
    images = faces(range(40), image_size=16)
    before = torch.get_rng_state()
    quality.distances(images, images, torch.device("cpu"))
    assert torch.equal(before, torch.get_rng_state())


def test_logged_while_training(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pth"
    weights.touch()
    monkeypatch.chdir(Path(__file__).parent.parent)
    monkeypatch.setattr("callbacks.quality.load_inception", lambda path: Features())
    options = [f"--quality.inception_weights={weights}", "--quality.images=5"]
    quiet = ["--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]
    directory = train.Train([*tiny, *options, *quiet]).run.directory
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    logged = {line["images_seen"]: line["quality/fid"] for line in lines if "quality/fid" in line}
    assert sorted(logged) == [64, 128, 192]


def test_a_missing_file_is_named_before_training(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    os.environ.pop("INVERTIBLE_PRIORS_TRACEBACK", None)
    with pytest.raises(SystemExit):
        train.main([*tiny, "--quality.inception_weights=nowhere.pth"])
    said = capsys.readouterr().err
    assert "nowhere.pth" in said and "torch-fidelity" in said


@pytest.mark.slow
def test_torch_fidelity_reads_its_own_file(tmp_path: Path) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    extractor = fidelity.FeatureExtractorInceptionV3
    blank = tmp_path / "weights.pth"
    # a file of random weights in the right format: what the network has, made without loading
    original = torch.nn.Module.load_state_dict
    torch.save({}, blank)
    try:
        torch.nn.Module.load_state_dict = lambda self, *args, **kwargs: None  # type: ignore[assignment, method-assign]
        network = extractor("inception-v3-compat", ["2048"], str(blank))
    finally:
        torch.nn.Module.load_state_dict = original  # type: ignore[method-assign]
    torch.save(network.state_dict(), blank)
    callback = SampleQuality(str(blank), images=4, batch_size=4)
    images = faces(range(4), image_size=16)
    assert load_inception(str(blank))(images).shape == (4, 2048)
    values = callback.distances(images, images, torch.device("cpu"))
    assert all(abs(value) < 1 for value in values.values())
