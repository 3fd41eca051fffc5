"""The procedural faces: pure, and biased exactly as they say."""

import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
import torch

from datamodules.procedural import (
    BEARDS,
    DARK_SKIN,
    GLASSES,
    HATS,
    LIGHT_SKIN,
    Attributes,
    attributes,
    faces,
    render,
)
from tests.conftest import REPOSITORY


def cheek(image: np.ndarray) -> float:
    """Luminance about the middle of a 32px image, where every face has skin."""
    return float(image[16:20, 12:20].mean())


def test_another_process_draws_the_same_bytes() -> None:
    program = (
        "import sys; from hashlib import sha256; from datamodules.procedural import render\n"
        "for d in ('out', 'in'):\n"
        "    for i in (7, 3): print(sha256(render(i, distribution=d, seed=5)).hexdigest())"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    here = [render(i, distribution=d, seed=5) for d in ("out", "in") for i in (7, 3)]
    assert ran.stdout.split() == [sha256(image.tobytes()).hexdigest() for image in here]


@pytest.mark.parametrize("distribution", ["in", "out"])
def test_order_and_company_do_not_matter(distribution: str) -> None:
    forwards = faces(range(10, 30), distribution=distribution)
    backwards = faces(range(29, 9, -1), distribution=distribution)
    alone = torch.from_numpy(render(15, distribution=distribution)).permute(2, 0, 1)
    assert torch.equal(forwards, backwards.flip(0))
    assert torch.equal(forwards[5], alone)


def test_every_argument_gives_other_faces() -> None:
    images = [render(0), render(1), render(0, seed=1), render(0, distribution="out")]
    assert len({image.tobytes() for image in images}) == 4


def test_no_two_faces_are_alike() -> None:
    pixels = faces(range(200)).flatten(1).float()
    distances = torch.pdist(pixels) / pixels.shape[1] ** 0.5
    assert distances.min() > 10  # of 255


def test_training_faces_have_light_skin_and_nothing_else() -> None:
    for index in range(500):
        labels = attributes(index)
        assert LIGHT_SKIN[0] <= labels.skin <= LIGHT_SKIN[1]
        assert labels == Attributes(skin=labels.skin)


def test_the_other_split_has_all_that_training_lacks() -> None:
    labels = [attributes(index, "out") for index in range(500)]
    dark = [face.skin >= DARK_SKIN[0] for face in labels]
    assert all(face.skin <= LIGHT_SKIN[1] or face.skin >= DARK_SKIN[0] for face in labels)
    assert {face.glasses for face in labels} == {"none", *GLASSES}
    assert {face.beard for face in labels} == {"none", *BEARDS}
    assert {face.hat for face in labels} == {"none", *HATS}
    counts = [
        d + sum(kind != "none" for kind in (face.glasses, face.beard, face.hat))
        for d, face in zip(dark, labels, strict=True)
    ]
    assert min(counts) >= 1
    assert np.mean([count in (2, 3) for count in counts]) > 0.5
    assert 0.6 < np.mean(dark) < 0.85


def test_the_labels_are_what_is_drawn() -> None:
    light, dark = [], []
    for index in range(200):
        labels = attributes(index, "out")
        bare = labels.glasses == "none" and labels.beard == "none"
        if bare:
            (dark if labels.skin >= DARK_SKIN[0] else light).append(
                cheek(render(index, distribution="out"))
            )
    training = [cheek(render(index)) for index in range(100)]
    assert len(light) > 3 and len(dark) > 20
    assert max(dark) < min(training)
    assert abs(np.mean(light) - np.mean(training)) < 15


def test_statistics_have_not_drifted() -> None:
    for distribution, mean, deviation in (("in", 125.5, 40.5), ("out", 104.9, 38.8)):
        images = faces(range(64), distribution=distribution).float()
        assert images.mean().item() == pytest.approx(mean, abs=0.5)
        assert images.std().item() == pytest.approx(deviation, abs=0.5)


@pytest.mark.parametrize("distribution", ["in", "out"])
@pytest.mark.parametrize("image_size", [8, 16, 33, 64])
def test_sizes_show_the_same_face(image_size: int, distribution: str) -> None:
    image = render(4, distribution=distribution, image_size=image_size)
    assert image.shape == (image_size, image_size, 3) and image.dtype == np.uint8
    large = faces(range(12), distribution=distribution, image_size=128).float()
    small = torch.from_numpy(image).permute(2, 0, 1).float()
    shrunk = torch.nn.functional.interpolate(large, image_size, mode="area")
    errors = (shrunk - small).square().mean((1, 2, 3)).sqrt()
    assert errors.argmin() == 4 and errors[4] < 22  # of 255; edges soften with the pixels


def test_faces_is_a_batch_of_bytes() -> None:
    batch = faces([3, 3, 900], image_size=16)
    assert batch.shape == (3, 3, 16, 16) and batch.dtype == torch.uint8 and batch.is_contiguous()
    assert torch.equal(batch[0], batch[1])
    assert faces([]).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"index": -3}, "-3"),
        ({"index": 0, "seed": -1}, "-1"),
        ({"index": 0, "image_size": 7}, "7"),
        ({"index": 0, "distribution": "sideways"}, "sideways"),
    ],
)
def test_bad_input_is_named(arguments: dict, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        render(**arguments)
