"""A tiny evaluation: two sets of five images, a Glow of 16 images, six methods."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.utils import save_image

import evaluate
import train
from datamodules import procedural
from datamodules.prepare import main as prepare
from tests.conftest import TINY

Run = Callable[..., Path]

CONFIG = """
name: tiny
title: A tiny evaluation
image_size: 8
device: cpu
batch_size: 2
pictures: 1
sets: {faces: in, others: out}
problems:
  cs-50%: {operator: {class_path: recovery.operators.GaussianSensing, init_args: {m: 0.5}}}
  denoise:
    operator: {class_path: recovery.operators.Denoising, init_args: {sigma: 0.1}}
    gamma: 0.01
  hole: {operator: {class_path: recovery.operators.Inpainting}}
methods:
  glow:
    prior: glow
    method: {class_path: recovery.latent_search.LatentSearch, init_args: {evaluations: 4}}
  adjoint: {method: {class_path: recovery.linear.Adjoint}}
  few: {images: 1, method: {class_path: recovery.linear.PseudoInverse}}
  lasso: {method: {class_path: recovery.lasso.Lasso, init_args: {steps: 5}}}
  decoder:
    method:
      class_path: recovery.untrained.Untrained
      init_args:
        network: {class_path: networks.deep_decoder.DeepDecoder, init_args: {width: 8}}
        steps: 3
  bm3d: {method: {class_path: recovery.bm3d.BM3D}}
trials:
  problems: [cs-50%, denoise]
  methods: [glow, adjoint, few]
  sets: [faces, others]
  images: 3
  seeds: [0, 1]
"""


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained prior, two prepared sets and an empty one."""
    folder = tmp_path_factory.mktemp("evaluate")
    train.main(["fit", *TINY, f"--run.root={folder / 'runs'}", "--model.total_images=16"])
    for name, kind in (("faces", "in"), ("others", "out")):
        drawn = procedural.faces(range(5), distribution=kind, seed=0, image_size=8)  # type: ignore[arg-type]
        (folder / name).mkdir()
        for index, image in enumerate(drawn):
            save_image(image.float() / 255, folder / name / f"{name}-{index}.png")
        prepare([str(folder / name), str(folder / "data/8px" / name), "--image-size", "8"])
    (folder / "attributes.csv").write_text(
        "name,Hat,Young\n" + "".join(f"faces-{i}.png,{i % 2},{1 if i else -1}\n" for i in range(5))
    )
    return folder


@pytest.fixture
def arguments(workshop: Path, tmp_path: Path) -> list[str]:
    """The command line of the tiny evaluation, with results in tmp_path/results."""
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return [
        f"--config={tmp_path / 'tiny.yaml'}",
        f"--data={workshop / 'data'}",
        f"--root={tmp_path / 'results'}",
        f"--priors={{glow: {workshop / 'runs' / 'demo'}}}",
    ]


@pytest.fixture
def run(arguments: list[str], tmp_path: Path) -> Run:
    """Runs evaluate.py in-process with options; returns the evaluation's folder."""

    def run(*options: str, name: str = "tiny") -> Path:
        evaluate.main([*arguments, *options, f"--name={name}"])
        return tmp_path / "results" / name

    return run
