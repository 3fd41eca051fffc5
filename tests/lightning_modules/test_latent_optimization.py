"""Training a generator with a latent of every image: its losses, its table, resuming, ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from core.pyramid import laplacian_pyramid
from lightning_modules.latent_optimization import remember_batch, statistics_of
from lightning_modules.losses import reconstruction
from networks.latent_convolutional import LatentConvolutional
from priors.export import export_prior
from priors.load import load_prior
from results.rows import read_rows
from tests.conftest import TINY
from tests.helpers import (
    assert_same_checkpoint,
    logged,
    newest,
    refused,
    run,
    run_killed_at,
    saved,
    without_recovery,
)

LCM = [
    "--config=configs/lcm_celeba32.yaml",
    "--data=datamodules.faces.ProceduralFaces",
    *(option for option in TINY if option.startswith(("--data.", "--trainer.", "--run."))),
    "--data.image_size=16",
    "--data.training_images=70",  # an epoch leaves 6 of them out
    "--model.network.image_size=16",
    "--model.network.width=8",
    "--model.network.latent_widths=[2,2,4,8]",
    "--model.steps_per_batch=3",
    "--model.total_images=128",
    "--samples.count=4",
    "--recovery.methods.adam.steps=20",
    "--recovery.during.images=2",
    "--recovery.at_end.problems=[cs-25%,denoise-0.1]",
    "--recovery.at_end.images=3",
]


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    return ["fit", *LCM, f"--run.root={tmp_path / 'runs'}"]


def latents(directory: Path, half: type = np.float32) -> np.ndarray:
    """The newest latent of every image of a finished run, (70, 448)."""
    times = np.fromfile(directory / "latents.bin", dtype=np.int64, count=140).reshape(2, 70)
    rows = np.fromfile(directory / "latents.bin", dtype=half, offset=times.nbytes)
    return rows.reshape(2, 70, -1)[times.argmax(axis=0), np.arange(70)]


# --- the loss


def test_a_pyramid_takes_binomial_blurs_away() -> None:
    image = torch.zeros(1, 2, 16, 16)
    image[0, 1, 8, 8] = 256.0
    binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    expected = image.clone()
    expected[0, 1, 6:11, 6:11] -= binomial.outer(binomial)
    levels = laplacian_pyramid(image)
    assert torch.allclose(levels[0], expected)
    assert [level.shape[-1] for level in levels] == [16, 8, 4, 2]
    assert torch.isclose(levels[3].mean(), image.mean(), rtol=0.2)  # of a blur of blurs
    *details, rest = laplacian_pyramid(torch.full((1, 3, 16, 16), 0.3))
    assert all(level.abs().max() < 1e-6 for level in details)
    assert torch.allclose(rest, torch.tensor(0.3))


def test_the_loss_is_that_of_its_formula() -> None:
    image, truth = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    levels = laplacian_pyramid(image), laplacian_pyramid(truth)
    for row in range(2):
        expected = (image[row] - truth[row]).square().mean()
        for weight, ours, theirs in zip((1, 1 / 4, 1 / 16, 1 / 64), *levels, strict=True):
            expected += weight * (ours[row] - theirs[row]).abs().mean()
        assert torch.isclose(reconstruction(image, truth)[row], expected, atol=1e-6)


# --- training


def test_it_learns_and_hands_out_a_prior_like_any_other(tiny: list[str]) -> None:
    directory = run(tiny, "--model.total_images=320")
    before, after = logged(directory, "train/loss_before"), logged(directory, "train/loss")
    assert all(after[seen] < before[seen] for seen in after)
    assert np.mean(list(after.values())[-8:]) < 0.8 * np.mean(list(after.values())[:8])
    prior = load_prior(directory)
    assert prior.name == "latent-convolutional" and prior.images_seen == 320
    assert prior.decode(prior.initial_latent([0], 0.0)).shape == (1, 3, 16, 16)
    rows = read_rows(directory)
    assert set(rows["prior"]) == {"latent-convolutional"} and rows["psnr"].gt(8).all()
    assert list((directory / "samples").iterdir()) and (directory / "curves.png").exists()


def test_every_images_latent_is_in_the_table(tiny: list[str]) -> None:
    directory = run(tiny, "--model.total_images=192")  # three epochs, which leave other images out
    found = torch.from_numpy(latents(directory))
    assert (found.abs().amax(dim=1) > 0).all()
    network = load_prior(directory).network
    within = found.clone()
    network.bound(within)  # type: ignore[operator]
    assert torch.equal(found, within)


@pytest.mark.parametrize(
    ("optimizer", "killed", "often"),
    [
        ("adam", 24, False),  # before its first checkpoint
        ("adam", 96, False),  # batches after its last
        ("adam", 96, True),  # at one within an epoch
        ("sgd", 96, False),
    ],
)
def test_resumed_it_ends_at_the_same_weights_and_latents(
    tiny: list[str], optimizer: str, killed: int, often: bool
) -> None:
    options = [*without_recovery(tiny), f"--model.optimizer={optimizer}"]
    options += ["--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]
    whole = run(options, "--run.name=whole")
    cut = [*options, "--run.name=cut", f"--checkpoints.every_minutes={0 if often else 10}"]
    run_killed_at(killed, cut)
    directory = run(cut)
    assert_same_checkpoint(whole, directory)
    assert np.array_equal(latents(whole), latents(directory))


def test_half_precision_is_for_the_table_alone(tiny: list[str]) -> None:
    exact = run(tiny, "--run.name=exact")
    directory = run(tiny, "--model.table_precision=float16")
    found = latents(directory, np.float16)
    # they part as rounding grows: by 8 to 13% after these steps, on different processors
    assert np.abs(found - latents(exact)).mean() < 0.2 * np.abs(latents(exact)).mean()
    assert saved(directory)["state_dict"]["network.start"].dtype == torch.float32


def test_a_batch_counts_once_in_the_running_statistics() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1))
    norm = network[0]
    images = torch.full((2, 1, 4, 4), 3.0)
    remember_batch(network, False)
    network(images)
    assert norm.running_mean.item() == 0
    remember_batch(network, True)
    network(images)
    assert norm.running_mean.item() == pytest.approx(0.05 * 3)


def test_it_is_exported_with_a_card_of_its_own(tiny: list[str], tmp_path: Path) -> None:
    directory = run(tiny)
    record = export_prior(directory, tmp_path / "out", half=True)
    assert record["kind"] == "latent-convolutional" and record["latent_dim"] == 448
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A latent convolutional model on images" in card
    assert "none: a latent convolutional model has no likelihood" in card
    assert "448 values, the weights of a latent network; they have no distribution" in card
    prior, exact = load_prior(tmp_path / "out"), load_prior(directory)
    z = prior.initial_latent([0, 1], 1.0)
    assert torch.allclose(prior.decode(z), exact.decode(z), atol=1e-2)


def test_another_run_begins_from_its_weights(tiny: list[str]) -> None:
    first = run(tiny)
    still = ["--model.total_images=8", "--model.learning_rate=0"]
    again = run(tiny, "--run.name=again", f"--run.begin_from={first}", *still)
    assert saved(again)["begun_from"].startswith("lcm-celeba32 (128 images")
    for name, weight in load_prior(first).network.named_parameters():
        assert torch.equal(weight, load_prior(again).network.get_parameter(name)), name


def test_constants_are_left_alone_and_statistics_shared() -> None:
    network = LatentConvolutional(16, width=8, latent_widths=(2, 2, 4, 8))
    shared = {id(tensor) for tensor in statistics_of(network)}
    named = {name for name, buffer in network.named_buffers() if id(buffer) in shared}
    assert named == {n for n, _ in network.named_buffers() if n.endswith(("_mean", "_var"))}


# --- what it refuses


def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, said in (
        ("--data.flip=true", "data.flip must be false: every image has a latent"),
        ("--data.passes=2", "data.passes must be 1: a run goes on from the latents of its last"),
        ("--model.steps_per_batch=0", "model.steps_per_batch must be at least 1, got 0"),
        ("--model.decay_fraction=2", "model.decay_fraction must be in [0, 1]"),
        ("--model.table_precision=int8", "table_precision"),
        ("--trainer.gradient_clip_val=1", "Set model.clip_norm instead, where the model has it"),
        ("--trainer.accumulate_grad_batches=2", "this model makes its own steps. Omit it"),
    ):
        assert said in refused(capsys, [*tiny, option])
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/latents.bin"))


def test_a_run_whose_table_is_gone_says_so(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(tiny)
    (directory / "latents.bin").unlink()
    said = refused(capsys, [*tiny, "--model.total_images=192"])
    assert "latents.bin is missing: without the latents of its images the run cannot go on" in said
    assert newest(directory).exists()
    run(tiny)  # a finished run needs none


def test_a_run_does_not_go_on_with_another_number_of_images(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny)
    accepted = ["--model.total_images=192", "--run.accept_changes=true"]
    said = refused(capsys, [*tiny, *accepted, "--data.training_images=72"])
    assert "latents.bin is the table of another run: its images is 70" in said
    said = refused(capsys, [*tiny, *accepted, "--data.seed=1"])
    assert (
        "latents.bin is the table of another run: its data is {'class': 'ProceduralFaces'" in said
    )
