"""Configs: each can be made, overlays change what they name, bad values are refused."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy

from callbacks.checkpoints import WholeFiles
from callbacks.recovery import RecoveryDuringTraining
from lightning_modules import Adversarial
from priors.prior import GanPrior
from recovery.operators import Denoising
from tests.conftest import REPOSITORY
from tests.helpers import losses, refused, run
from training.cli import Train, plugins_with
from training.run import flatten

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
OVERLAYS = {
    *("defaults.yaml", "baselines.yaml", "cluster.yaml", "paper_parity.yaml"),
    *("glow_celeba32_deep.yaml", "image_search.yaml"),
}
EXPERIMENTS = [path for path in CONFIGS if path.name not in OVERLAYS]


def test_slurm_requeues_to_the_runs_own_checkpoint(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("NTASKS", "1"), ("PROCID", "0"), ("LOCALID", "0"), ("NODEID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_NAME", "glow")

    def check(cli: Train) -> None:
        assert isinstance(cli.trainer.strategy.checkpoint_io, WholeFiles)

    configured(monkeypatch, [*tiny[1:], "--trainer.devices=1"], check)
    (environment,) = (p for p in plugins_with(None) if isinstance(p, SLURMEnvironment))
    assert not environment.auto_requeue
    named = LightningEnvironment()  # a config's own choice stands
    assert [type(plugin) for plugin in plugins_with(named)] == [type(named), WholeFiles]


def test_precision_is_chosen_by_the_machine(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(by_cpu: bool, *options: str) -> tuple[str | None, str]:
        monkeypatch.setattr("core.precision.has_bfloat16", lambda: by_cpu)
        monkeypatch.setattr("training.cli.has_bfloat16", lambda: by_cpu)
        found = []

        def check(cli: Train) -> None:
            found.append(cli.config_shown()["trainer"]["precision"])
            assert cli.trainer.precision == (found[0] or "32-true")

        configured(monkeypatch, [*tiny[1:], *options], check)
        return found[0], capsys.readouterr().out

    unnamed = "--trainer.precision=null"
    precision, said = chosen(True, unnamed)
    assert precision == "bf16-mixed" and "Training in bf16-mixed" in said
    assert chosen(False, unnamed) == (None, "")
    assert chosen(True, "--trainer.precision=32-true") == ("32-true", "")
    precision, said = chosen(False, "--trainer.precision=bf16-mixed")
    assert precision == "bf16-mixed" and "32-true may be faster" in said
    monkeypatch.setattr("networks.glow.Glow.takes_bfloat16", False)  # as a flow of one's own
    assert chosen(True, unnamed) == (None, "")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.learning_rat=1", "learning_rat"),
        ("--model.learning_rate=fast", "learning_rate"),
        ("--model.bits=9", "model.bits must be in 1..8, got 9"),
        ("--recovery.during.problems=[cs-11%]", "no problem is named 'cs-11%'"),
        ("--trainer.max_epochs=3", "Set model.total_images instead"),
        ("--trainer.precision=bf16-true", "= bf16-true is not supported"),
        ("--data.image_size=16", "image_size is 8 and data.image_size is 16"),
        ("--data.batch_size=100", "70 training images are fewer than one global batch of 100"),
        ("--model.learning_rate=1e30", "not finite after"),
        ("--samples.count=0", "samples.count must be at least 1"),
        ("--recovery.pictures=0", "recovery.pictures must be at least 1"),
        ("--recovery.batch_size=0", "recovery.batch_size must be at least 1"),
        ("--recovery.during.images=-1", "recovery.during.images must be at least 1"),
        ("--model.ema_half_life=0", "model.ema_half_life must be at least 1"),
        ("--optimizer=SGD", "optimizer"),
    ],
)
def test_bad_values_are_named(
    tiny: list[str], capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    assert said in refused(capsys, [*tiny, option])


def test_missing_data_is_named(
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_DATA", raising=False)
    arguments = ["fit", "--config=configs/glow_celeba32.yaml", f"--run.root={tmp_path}"]
    arguments += ["--run.wandb=disabled", "--trainer.accelerator=cpu"]
    assert "INVERTIBLE_PRIORS_DATA" in refused(capsys, arguments)
    assert "INVERTIBLE_PRIORS_DATA" in refused(capsys, [*arguments, "--run.wandb=offline"])
    assert not list(tmp_path.iterdir())  # nor did W&B hear of it
    said = refused(capsys, [*arguments, f"--data.root={tmp_path / 'nowhere'}"])
    assert "nowhere/32px/celeba-train" in said and "datamodules.prepare" in said


def test_a_changed_config_is_shown_and_refused_or_accepted(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(tiny, "--model.total_images=64")
    said = refused(capsys, [*tiny, "--model.total_images=64", "--model.network.hidden=16"])
    assert "network.init_args.hidden: 8 -> 16" in said and "--run.accept_changes" in said
    said = refused(capsys, [*tiny, "--model.network.hidden=16", "--run.accept_changes=true"])
    assert "another architecture" in said and "conv1.weight" in said
    assert max(losses(directory)) == 64
    run(tiny, "--model.total_images=128")  # a length may change
    assert max(losses(directory)) == 128


def configured(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], check: Callable[[Train], None]
) -> None:
    """Instantiate everything a command names, without data and training."""
    monkeypatch.setattr(Train, "fit", lambda self, model, **kwargs: None)
    monkeypatch.setattr(Train, "after_fit", lambda self: None)
    check(Train(["fit", *arguments, "--run.wandb=disabled", "--trainer.accelerator=cpu"]))


def recovery_of(cli: Train) -> RecoveryDuringTraining:
    (recovery,) = (c for c in cli.trainer.callbacks if isinstance(c, RecoveryDuringTraining))
    return recovery


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_config_instantiates(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def check(cli: Train) -> None:
        assert cli.model.image_shape[-1] == cli.datamodule.image_size
        assert cli.run.name == path.stem.replace("_", "-")
        assert cli.model.takes_bfloat16 or cli.trainer.precision == "32-true"
        if isinstance(cli.model, Adversarial):
            prior = GanPrior(cli.model.generator, "gan")
            recovery = recovery_of(cli)
            operator = Denoising(cli.model.image_shape, 0.1)
            for named in recovery.methods.values():  # those that no plan names, too
                named.make(prior, 0.0).check(operator)

    configured(monkeypatch, [f"--config={path}", f"--run.root={tmp_path}"], check)


def test_an_overlay_does_not_drop_callbacks(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kinds: list[list[str]] = []

    def check(cli: Train) -> None:
        kinds.append([type(callback).__name__ for callback in cli.trainer.callbacks])
        assert "cs-10%" in recovery_of(cli).problems

    plain = ["--config=configs/demo.yaml", f"--run.root={tmp_path}"]
    configured(monkeypatch, plain, check)
    overlay = ["--config=configs/cluster.yaml", "--trainer.devices=1", "--trainer.strategy=auto"]
    configured(monkeypatch, [*plain, *overlay, "--run.accept_changes=true"], check)
    assert kinds[0] == kinds[1]
    assert {"ImageProgress", "Samples", "Checkpoints", "RecoveryDuringTraining"} <= set(kinds[0])
    assert kinds[0].index("Checkpoints") < kinds[0].index("RecoveryDuringTraining")


def test_a_cluster_waits_for_the_recoveries_of_others(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(cli: Train) -> None:
        assert isinstance(cli.trainer.strategy, DDPStrategy)
        assert cli.config.fit.trainer.strategy.init_args.timeout == timedelta(hours=6)

    overlay = ["--config=configs/cluster.yaml", "--trainer.devices=1"]
    configured(monkeypatch, [*tiny[1:], *overlay], check)


def test_the_deep_overlay_changes_depth_and_schedule_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = ["--config=configs/glow_celeba32.yaml", f"--run.root={tmp_path}"]
    texts: list[dict[str, Any]] = []

    def check(cli: Train) -> None:
        assert {len(level) for level in cli.model.network.levels} == {(8, 12)[len(texts)]}
        texts.append(flatten(cli.config_shown()))

    configured(monkeypatch, plain, check)
    configured(monkeypatch, [*plain, "--config=configs/glow_celeba32_deep.yaml"], check)
    changed = {key: (texts[0][key], texts[1][key]) for key in texts[0]}
    assert {key: values for key, values in changed.items() if values[0] != values[1]} == {
        "run.name": ("glow-celeba32", "glow-celeba32-deep"),
        "model.init_args.network.init_args.steps": (8, 12),
        "model.init_args.network.init_args.last_level_steps": (8, 12),
        "model.init_args.total_images": (580_000, 400_000),
        "model.init_args.warmup_images": (3200, 12_800),
    }


def test_configs_are_named_for_their_runs() -> None:
    for path in EXPERIMENTS:
        assert yaml.safe_load(path.read_text())["run"]["name"] == path.stem.replace("_", "-")
