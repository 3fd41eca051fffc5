"""Grey images: trained on, recovered, exported and evaluated as RGB ones are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
from datamodules.image_set import in_channels
from datamodules.prepare import main as prepare
from datamodules.procedural import faces
from priors import load_prior
from priors.export import export_prior
from results.rows import read_rows
from tests.helpers import refused, run
from tests.priors.test_export import DCGAN, GAN

GREY = ["--data.channels=1", "--model.total_images=64"]
EVALUATION = """
name: grey
image_size: 8
channels: 1
device: cpu
pictures: 1
sets: {faces-val: in, greys: out}
methods:
  glow: {prior: glow}
  tv: {class_path: recovery.deepinv.TotalVariation, init_args: {iterations: 5}}
  decoder:
    class_path: recovery.untrained.Untrained
    init_args:
      network: {class_path: networks.deep_decoder.DeepDecoder, init_args: {width: 8, channels: 1}}
      steps: 3
trials:
  problems: [cs-25%, denoise-0.1]
  methods: [glow, lasso-dct, tv, decoder]
  sets: [faces-val, greys]
  images: 2
"""


def test_grey_is_pillows() -> None:
    rgb = faces(range(3), image_size=8)
    pillows = [np.array(Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")) for x in rgb]
    assert np.array_equal(in_channels(rgb, 1)[:, 0].numpy(), np.stack(pillows))
    assert in_channels(rgb, 3) is rgb


def test_a_grey_glow_trains_recovers_and_is_evaluated(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("deepinv", reason="deepinv is not installed")
    directory = run(tiny, *GREY, "--model.network.channels=1")
    assert read_rows(directory)["psnr"].gt(5).all() and len(read_rows(directory)) == 3 * 2 * 5
    assert (directory / "samples" / "000000064.png").exists()
    export_prior(directory, tmp_path / "export")
    assert load_prior(tmp_path / "export").image_shape == (1, 8, 8)

    (tmp_path / "in").mkdir()
    for index, image in enumerate(in_channels(faces(range(2), image_size=8), 1)):
        Image.fromarray(image[0].numpy()).save(tmp_path / "in" / f"{index}.png")
    assert prepare([str(tmp_path / "in"), str(tmp_path / "8px/greys"), "--image-size=8"]) == 0
    (tmp_path / "grey.yaml").write_text(EVALUATION)
    where = [f"--root={tmp_path}", f"--data={tmp_path}"]
    command = [f"--config={tmp_path / 'grey.yaml'}", *where]
    evaluate.main([*command, f"--priors.glow={tmp_path / 'export'}"])
    rows = read_rows(tmp_path / "grey")
    assert rows.groupby("method")["image"].nunique().to_dict() == {
        "glow": 4,
        "lasso-dct": 4,
        "tv": 4,
        "decoder": 4,
    }
    assert rows["psnr"].gt(3).all()
    fractions = ["--trials.problems=[cs-25%, cs-50%]", "--trials.methods=[glow]"]
    evaluate.main([*command, f"--priors.glow={tmp_path / 'export'}", *fractions])
    assert "m/n = 25%" in (tmp_path / "grey" / "report.md").read_text()
    with pytest.raises(SystemExit):
        evaluate.main([*command, f"--priors.glow={tmp_path / 'export'}", "--channels=3"])
    assert "and channels is 3" in capsys.readouterr().err


def test_a_grey_gan_trains_and_recovers(tiny: list[str], tmp_path: Path) -> None:
    networks = ["--model.generator.channels=1", "--model.discriminator.channels=1"]
    options = [*GAN, *DCGAN, *networks, *GREY, "--recovery.during.images=1"]
    directory = run(["fit", *options, f"--run.root={tmp_path}", "--recovery.at_end.images=1"])
    rows = read_rows(directory)
    assert len(rows) and rows["psnr"].gt(0).all()
    prior = load_prior(directory)
    assert prior.image_shape == (1, 8, 8)
    assert torch.isfinite(prior.decode(prior.initial_latent([1], 1.0))).all()


def test_the_channels_of_model_and_data_must_agree(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, [*tiny, "--model.network.channels=1"])
    assert "the model's channels is 1 and data.channels is 3: set both to the same" in said
