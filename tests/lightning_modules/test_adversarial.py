"""Adversarial training as a user runs it: growing, resuming, several processes, refusals."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpoints import newest_checkpoint
from lightning_modules import Adversarial, losses
from networks import dcgan, pggan
from networks.pggan import Growth
from priors import load_prior
from results.rows import read_rows
from tests.conftest import REPOSITORY
from tests.helpers import assert_equal, logged, refused, run, run_killed_at, saved

COMMON = [
    "--config=configs/demo_gan.yaml",
    "--trainer.accelerator=cpu",
    "--run.wandb=disabled",
    "--data.image_size=8",
    "--data.batch_size=8",
    "--data.training_images=70",
    "--data.held_out_images=5",
    "--model.total_images=192",
    "--recovery.during.images=3",
    "--recovery.at_end.problems=[cs-25%,denoise-0.1]",
    "--recovery.at_end.images=5",
    "--samples.count=4",
    "--trainer.log_every_n_steps=1",
    "--recovery.methods={csgm: {class_path: recovery.csgm.Csgm, init_args: {steps: 5}}}",
]
SMALL = [
    "--model.generator.image_size=8",
    "--model.generator.width=4",
    "--model.discriminator.image_size=8",
    "--model.discriminator.width=4",
    "--model.ema_half_life=32",
]
GROWING = [
    "--model.generator=networks.pggan.Generator",
    "--model.generator.image_size=8",
    "--model.generator.latent_dim=6",
    "--model.generator.base=32",
    "--model.generator.growing=true",
    "--model.discriminator=networks.pggan.Discriminator",
    "--model.discriminator.image_size=8",
    "--model.discriminator.base=32",
    "--model.loss=wasserstein",
    "--model.instance_noise=0",
    "--model.ema_half_life=32",
    # 4px to 48 images, a fade to 120, 8px from there
    "--model.growth={stabilise_images: 48, fade_images: 72, minibatch: {8: 4}}",
]
QUIET = ["--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]


@pytest.fixture
def common(tmp_path: Path) -> list[str]:
    return ["fit", *COMMON, f"--run.root={tmp_path / 'runs'}"]


def module(**options: Any) -> Adversarial:
    generator, discriminator = dcgan.Generator(8, 6, width=4), dcgan.Discriminator(8, width=4)
    return Adversarial(generator, discriminator, total_images=100, **options)


# --- a run


@pytest.mark.parametrize("network", [SMALL, GROWING])
def test_a_run_shows_its_health_and_recovers(common: list[str], network: list[str]) -> None:
    directory = run(common, *network)
    rows = read_rows(directory)
    assert sorted(rows["images_seen"].unique()) == [64, 128, 192]
    assert set(rows["method"]) == {"csgm"}
    assert set(rows["distribution"]) == {"in", "out"}
    assert set(rows["prior"]) == {"pggan" if network is GROWING else "resize-gan"}
    assert (directory / "samples/000000192.png").exists()
    for name in (
        "generator_loss",
        "discriminator_loss",
        "accuracy_real",
        "accuracy_fake",
        "fake_deviation",
        *(["gradient_penalty"] if network is GROWING else []),
    ):
        values = logged(directory, f"train/{name}")
        assert max(values) == 192
        assert all(torch.tensor(list(values.values())).isfinite()), name
    assert all(0 <= rate <= 1 for rate in logged(directory, "train/accuracy_real").values())


def test_training_moves_both_networks_and_the_average(common: list[str]) -> None:
    start = saved(run(common, *SMALL, *QUIET, "--run.name=a", "--model.total_images=8"))
    end = saved(run(common, *SMALL, *QUIET, "--run.name=b"))["state_dict"]
    for name, tensor in start["state_dict"].items():
        if tensor.is_floating_point() and name.endswith("weight"):
            assert not torch.equal(tensor, end[name]), name


def test_a_loaded_prior_is_the_trained_one(common: list[str]) -> None:
    for network, images in ((SMALL, 64), (GROWING, 64), (GROWING, 128)):
        name = f"--run.name=run-{len(network)}-{images}"
        directory = run(common, *network, name, f"--model.total_images={images}")
        prior = load_prior(directory)
        at_end = read_rows(directory)
        assert prior.fingerprint in (directory / "configs.jsonl").read_text()
        assert len(at_end) and prior.image_shape == (3, 8, 8)
        latent = prior.initial_latent([1, 2], 1.0)
        images_of = prior.decode(latent)
        assert images_of.shape == (2, 3, 8, 8)
        alone = prior.decode(latent[:1])  # BatchNorm no longer looks at the batch
        assert torch.allclose(images_of[:1], alone, atol=1e-6)


def test_a_discriminator_that_sees_a_shift_learns_it() -> None:
    """One step each way, by hand: the losses do what they say."""
    torch.manual_seed(0)
    ours = module(learning_rate=1e-2)
    real = torch.ones(8, 3, 8, 8)
    fake = -torch.ones(8, 3, 8, 8)
    optimizer = torch.optim.Adam(ours.discriminator.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        losses.logistic_discriminator(ours.judge(real), ours.judge(fake)).backward()
        optimizer.step()
    assert (ours.judge(real) > 0).all()
    assert (ours.judge(fake) < 0).all()


# --- growth


@pytest.mark.parametrize("network", [SMALL, GROWING])
def test_precision_and_logging_change_nothing(common: list[str], network: list[str]) -> None:
    options = [*common, *network, *QUIET, "--model.total_images=64"]
    plain = saved(run(options))
    rough = ["--trainer.precision=bf16-mixed", "--trainer.log_every_n_steps=0"]
    other = saved(run(options, *rough, "--run.name=rough"))
    assert_equal(plain["state_dict"], other["state_dict"])


def test_growing_takes_the_minibatches_of_its_size(common: list[str]) -> None:
    """Steps of 8 images at 4px and of 4 at 8px, whatever the loader's batch."""
    directory = run(common, *GROWING, *QUIET, "--model.total_images=96")
    steps = saved(directory)["optimizer_states"][0]["state"]
    counts = {int(state["step"]) for state in steps.values()}
    assert max(counts) == (96 - 48) // 4  # Adam began afresh at 8px, after 48 images


def test_the_stage_follows_the_clock() -> None:
    ours = Adversarial(
        pggan.Generator(8, 6, base=32, growing=True),
        pggan.Discriminator(8, base=32),
        total_images=1000,
        loss="wasserstein",
        growth=Growth(10, 10),
    )
    assert ours.stage == (0, 1.0) and ours.size == 4
    ours.images_seen = 15
    assert ours.stage == (1, 0.5) and ours.size == 8
    ours.images_seen = 20
    assert ours.stage == (1, 1.0)
    assert ours.prior().image_shape == (3, 8, 8)


def test_growth_needs_both_networks_to_grow() -> None:
    generator = pggan.Generator(8, 6, base=32, growing=True)
    with pytest.raises(ValueError, match="networks that grow"):
        Adversarial(generator, dcgan.Discriminator(8), total_images=8, growth=Growth())


# --- resuming


@pytest.mark.parametrize(
    "network, kills",
    [(SMALL, (32, 64)), (GROWING, (40, 48, 72, 128))],
    # small: in an epoch, at its end; growing: at 4px, as 8px begins, in the fade, after it
)
def test_resumes_bit_for_bit(common: list[str], network: list[str], kills: tuple[int, ...]) -> None:
    options = [*network, *QUIET, "--checkpoints.every_minutes=0", "--data.flip=true"]
    whole = run(common, *options, "--run.name=whole")
    for killed_at in kills:
        run_name = f"--run.name=resumed-{killed_at}"
        run_killed_at(killed_at, common, *options, run_name)
        resumed = run(common, *options, run_name)
        one, other = saved(whole), saved(resumed)
        for part in ("images_seen", "state_dict", "optimizer_states", "optimised_stage"):
            assert_equal(one[part], other[part])
        for name in ("train/generator_loss", "train/discriminator_loss"):
            assert logged(whole, name) == logged(resumed, name)


def test_a_resumed_run_takes_the_learning_rates_of_its_config(common: list[str]) -> None:
    run(common, *SMALL, *QUIET, "--model.total_images=64")
    more = ["--model.total_images=128", "--model.learning_rate=0.05", "--run.accept_changes=true"]
    states = saved(run(common, *SMALL, *QUIET, *more))["optimizer_states"]
    rates = [state["param_groups"][0]["lr"] for state in states]
    assert rates == [0.05, 4e-4]  # the discriminator's own is as before


def test_a_checkpoint_of_other_growth_is_refused(
    common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(common, *GROWING, *QUIET, "--model.total_images=64")
    start = f"--ckpt_path={newest_checkpoint(directory)}"
    later = "--model.growth={stabilise_images: 480, fade_images: 72}"
    said = refused(capsys, [*common, *GROWING, later, *QUIET, start, "--run.name=other"])
    assert "written at growth stage 1 after 64 images" in said and "at 0" in said


# --- several processes and micro-batches


@pytest.mark.parametrize("network", [SMALL, GROWING])
def test_micro_batches_make_one_step(common: list[str], network: list[str]) -> None:
    one = run(common, *network, *QUIET, "--run.name=one", "--model.total_images=8")
    two = ["--run.name=two", "--model.total_images=8", "--model.accumulate=2"]
    other = run(common, *network, *QUIET, *two)
    a, b = (saved(directory) for directory in (one, other))
    assert a["images_seen"] == b["images_seen"] == 8
    for state_a, state_b in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        steps = [{int(s["step"]) for s in state["state"].values()} for state in (state_a, state_b)]
        assert steps == [{1}, {1}]


@pytest.mark.slow
@pytest.mark.parametrize("network", [SMALL, GROWING])
def test_two_processes_equal_one_with_twice_the_batch(
    common: list[str], tmp_path: Path, network: list[str]
) -> None:
    """Same images, latents and averages: two ranks of 8 are one of 16 in two micro-batches."""
    network = [option for option in network if not option.startswith("--model.growth")]
    if "--model.loss=wasserstein" in network:
        network += ["--model.growth={stabilise_images: 48, fade_images: 72}"]
    options = [*network, "--model.total_images=96", "--model.clip_norm=1", "--data.flip=true"]
    alone = ["--run.name=alone", "--data.batch_size=16", "--model.accumulate=2"]
    one = saved(run(common, *options, *QUIET, *alone))
    arguments = [
        *common,
        *options,
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--trainer.callbacks+=tests.helpers.SaveRank",
        f"--trainer.callbacks.folder={tmp_path}",
    ]
    subprocess.run(
        [sys.executable, "train.py", *arguments],
        check=True,
        cwd=REPOSITORY,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, parameter in ranks[0]["final"].items():
        if "running" in name or "num_batches" in name:
            continue  # BatchNorm's own statistics are each rank's; the prior does not use them
        assert torch.equal(parameter, ranks[1]["final"][name]), name
        assert torch.allclose(parameter, one["state_dict"][name], atol=2e-4), name
    rows = read_rows(tmp_path / "runs" / "demo-gan")
    at_end = rows[rows["images_seen"] == 96]
    assert len(at_end) == 2 * 2 * 5  # every image once, though two ranks shared them
    assert at_end["config"].nunique() == 2  # one prior on both ranks


# --- what is refused or stops


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.generator.image_size=12"], "power of two and at least 8, got 12"),
        (["--model.discriminator.image_size=16"], "give both the same image_size"),
        (["--data.image_size=16"], "image_size is 8 and data.image_size is 16"),
        (["--trainer.max_steps=100"], "Set model.total_images instead"),
        (["--trainer.accumulate_grad_batches=2"], "Set model.accumulate instead"),
        (["--trainer.gradient_clip_val=1"], "Set model.clip_norm instead"),
        (["--model.accumulate=3"], "model.accumulate 3 equal parts"),
        (["--model.accumulate=8"], "equal parts of at least 2"),
        (["--model.accumulate=0"], "model.accumulate must be at least 1"),
        (["--model.growth={stabilise_images: 8}"], "networks that grow"),
        (["--model.growth={stabilise_images: 0}"], "stabilise_images must be at least 1"),
        (["--model.learning_rate=1e30"], "not finite after"),
        (["--model.loss=hinge"], "loss"),
    ],
)
def test_bad_values_are_named(
    common: list[str], capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert said in refused(capsys, [*common, *SMALL, *QUIET, *options])


def test_minibatches_must_divide_the_batch(
    common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    growth = "--model.growth={minibatch: {8: 3}}"
    assert "multiple of model.growth.minibatch 3" in refused(
        capsys, [*common, *GROWING, *QUIET, growth]
    )


def test_a_collapsed_generator_stops_at_the_last_good_checkpoint(
    common: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = run(common, *SMALL, *QUIET, "--model.total_images=64")
    before = saved(directory)
    generate = Adversarial.generate
    monkeypatch.setattr(
        Adversarial, "generate", lambda self, z: 0 * generate(self, z) + 0.25 * z.mean()
    )
    said = refused(capsys, [*common, *SMALL, *QUIET])
    assert "collapsed after 64 images" in said
    after = saved(directory)
    assert_equal(before["state_dict"], after["state_dict"])
    assert after["images_seen"] == 64
