"""A run that begins from the weights of another."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from priors import load_prior
from priors.export import export_prior
from tests.conftest import TINY
from tests.helpers import newest, refused, run, without_recovery

QUIET = ["--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]


@pytest.mark.parametrize("origin", ["run", "checkpoint", "half"])
def test_a_run_begins_from_the_weights_of_a_flow(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], origin: str
) -> None:
    """Of a learning rate of 0 the weights stay those; the clock, the data and noise begin anew."""
    tiny = [*without_recovery(tiny), *QUIET]
    directory = run(tiny, "--model.total_images=64")
    path = {"run": directory, "checkpoint": newest(directory), "half": tmp_path / "half"}[origin]
    if origin == "half":
        export_prior(directory, path, half=True)
    begun = [*tiny, "--run.name=begun", "--model.learning_rate=0", f"--run.begin_from={path}"]
    if origin == "run":
        begun.append("--model.ema_half_life=null")
    again = run(begun, "--model.total_images=16")
    prior, theirs = load_prior(again), load_prior(path)
    assert prior.images_seen == 16
    assert prior.fingerprint == theirs.fingerprint
    name = "half" if origin == "half" else "demo"
    said = f"{name} (64 images, fingerprint {theirs.fingerprint})"
    assert f"Beginning from the weights of {said}" in capsys.readouterr().out
    changed = refused(capsys, begun[:-1] if origin == "half" else [*begun, "--run.begin_from=null"])
    assert "run.begin_from changes what the run is" in changed

    with torch.no_grad():  # where the run has a checkpoint, it goes on from that
        moved = torch.load(newest(again), weights_only=True)
        for name in ("network", "average"):
            if f"{name}.levels.0.0.norm.bias" in moved["state_dict"]:
                moved["state_dict"][f"{name}.levels.0.0.norm.bias"] += 1
        torch.save(moved, newest(again))
    run(begun, "--model.total_images=32")
    assert load_prior(again).images_seen == 32
    assert load_prior(again).fingerprint != theirs.fingerprint
    export_prior(again, card := tmp_path / "card")
    assert f"| 32, begun from the weights of {said} |" in (card / "README.md").read_text()
    assert "and the prior it began from as `--run.begin_from`" in (card / "README.md").read_text()
    assert json.loads((card / "prior.json").read_text())["begun_from"] == said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that others would begin from."""
    root = tmp_path_factory.mktemp("trained")
    return run(["fit", *TINY, f"--run.root={root}", "--model.total_images=16"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.network.hidden=4"], "of another architecture: levels.0.0.net.conv1.weight is"),
        (["--model.network.stability.min_scale=0.499"], "make another flow in this config"),
        (["--model.network.stability.activation_clip=0.1"], "make another flow in this config"),
        (["--model.network.image_size=16", "--data.image_size=16"], "are of images (3, 8, 8)"),
        (["--ckpt_path=some.ckpt"], "--ckpt_path and run.begin_from cannot both"),
        (["--run.begin_from=nowhere"], "nowhere is missing: nowhere is no run of train.py"),
    ],
)
def test_weights_that_a_run_cannot_begin_from_are_refused(
    tiny: list[str],
    tmp_path: Path,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    """Before the run leaves a trace, in its folder or in W&B."""
    begun = ["--run.name=begun", "--run.wandb=offline", f"--run.begin_from={trained}"]
    assert message in refused(capsys, [*tiny, *begun, *options])
    assert not (tmp_path / "runs" / "begun").exists()


def test_a_gan_cannot_begin_from_a_flow(trained: Path, capsys: Any, tmp_path: Path) -> None:
    gan = ["fit", "--config=configs/demo_gan.yaml", f"--run.root={tmp_path}", "--run.name=begun"]
    assert "no discriminator" in refused(capsys, [*gan, f"--run.begin_from={trained}"])
    assert not (tmp_path / "begun").exists()
