"""A linear flow fitted by `train.py`: from one pass, in any number of pieces."""

from pathlib import Path

import pytest
import torch

from datamodules.procedural import faces
from networks.linear_flow import LinearFlow
from priors.load import load_network, load_prior
from results.rows import read_rows
from tests.helpers import assert_same_checkpoint, logged, newest, refused, run, run_killed_at


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    return [
        "fit",
        "--config=configs/demo_gaussian.yaml",
        "--run.wandb=disabled",
        f"--run.root={tmp_path / 'runs'}",
        "--model.network.image_size=8",
        "--model.total_images=64",
        "--data.image_size=8",
        "--data.batch_size=8",
        "--data.training_images=70",
        "--data.held_out_images=5",
        "--recovery.during.images=3",
        "--recovery.at_end.problems=[cs-25%,denoise-0.1]",
        "--recovery.at_end.images=4",
        "--samples.count=4",
    ]


def expected(bits: int = 8) -> LinearFlow:
    """Fitted by hand to all images of an epoch that leaves none out, and their mirror images."""
    x = faces(range(64), image_size=8)
    x = torch.cat([x, x.flip(3)]).div(2 ** (8 - bits), rounding_mode="floor").double()
    x = ((x + 0.5) / 2**bits - 0.5).flatten(1)
    network = LinearFlow(8)
    covariance = torch.cov(x.T, correction=0) + 4.0**-bits / 12 * torch.eye(192).double()
    network.fit(x.mean(dim=0), covariance)
    return network


@pytest.mark.parametrize("bits", [8, 5])
def test_it_has_the_moments_of_its_images_and_their_mirror_images(
    tiny: list[str], bits: int
) -> None:
    directory = run(tiny, "--data.training_images=64", f"--model.bits={bits}")
    network = load_network(directory).network
    x = faces(range(100, 110), image_size=8).float() / 255 - 0.5
    with torch.no_grad():
        for ours, theirs in zip(network(x), expected(bits)(x), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-2, rtol=1e-3)
    rows = read_rows(directory)
    assert set(rows["method"]) == {"wiener"} and set(rows["prior"]) == {"linear-flow"}
    assert len(rows) == 2 * 2 * 4 and rows["psnr"].gt(10).all()
    assert logged(directory, "bits_per_dim/faces-val").keys() == {64}
    assert (directory / "curves.png").exists() and list((directory / "samples").iterdir())


def test_resumed_in_the_middle_it_ends_at_the_same_fit(tiny: list[str]) -> None:
    whole = run(tiny, "--run.name=whole")
    often = [*tiny, "--checkpoints.every_minutes=0", "--run.name=cut"]
    run_killed_at(32, often)
    with pytest.raises(ValueError, match=r"last.ckpt: .* has not been fitted yet"):
        load_prior(whole.parent / "cut")
    assert_same_checkpoint(whole, run(often))
    run([*tiny, "--run.name=whole", "--model.total_images=80"])  # into a second pass
    assert load_prior(whole).images_seen == 80
    prior = torch.load(newest(whole), weights_only=True)
    assert prior["fitted_at"] == 80


def test_a_run_cut_short_for_good_is_fitted_when_it_is_started_again(tiny: list[str]) -> None:
    often = [*tiny, "--checkpoints.every_minutes=0"]
    run_killed_at(32, often)
    directory = run([*often, "--model.total_images=32"])
    assert load_prior(directory).images_seen == 32
    assert read_rows(directory)["psnr"].gt(10).all()


def test_training_that_does_not_fit_the_network_is_refused(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, [*tiny, "--model=MaximumLikelihood"])
    assert "LinearFlow is not trained by gradient; lightning_modules.ClosedForm fits" in said
    said = refused(capsys, [*tiny, "--trainer.gradient_clip_val=1"])
    assert "trainer.gradient_clip_val" in said
