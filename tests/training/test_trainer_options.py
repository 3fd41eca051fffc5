"""Every option of Lightning's Trainer works, or is refused with what to do instead."""

import inspect
from pathlib import Path

import pytest
import pytorch_lightning as pl
import yaml

from callbacks.progress import ImageProgress
from cli.configs import Mistake
from tests.helpers import assert_same_checkpoint, losses, refused, run
from training.trainer_options import LIMITED, require_obeyed

# one of `tests/`, by the test that uses the option; "together": test_options_work_together below
WORKS = {
    "accelerator": "training.test_library_errors",
    "accumulate_grad_batches": "training.test_resume",
    "benchmark": "together",
    "callbacks": "training.test_config",
    "detect_anomaly": "together",
    "deterministic": "together",
    "devices": "training.test_runs",
    "enable_model_summary": "together",
    "enable_progress_bar": "together",
    "inference_mode": "together",
    "log_every_n_steps": "lightning_modules.test_adversarial",
    "max_time": "training.test_stopping",
    "num_nodes": "training.test_library_errors",
    "num_sanity_val_steps": "together",
    "plugins": "training.test_config",
    "profiler": "together",
    "strategy": "training.test_config",
    "val_check_interval": "callbacks.test_checkpoints",
}
TOGETHER = {
    "benchmark": "false",
    "detect_anomaly": "true",
    "deterministic": "true",
    "enable_model_summary": "true",
    "enable_progress_bar": "false",
    "inference_mode": "false",
    "num_sanity_val_steps": "1",
    "profiler": "simple",
}
GIVEN = {  # values that would be ignored, or obeyed by half
    "barebones": "true",
    "check_val_every_n_epoch": "2",
    "default_root_dir": "elsewhere",
    "enable_autolog_hparams": "false",
    "enable_checkpointing": "false",
    "fast_dev_run": "true",
    "gradient_clip_algorithm": "norm",
    "gradient_clip_val": "1.0",
    "limit_predict_batches": "1",
    "limit_test_batches": "0.5",
    "limit_train_batches": "1",
    "limit_val_batches": "0",
    "logger": "true",
    "max_epochs": "3",
    "max_steps": "3",
    "min_epochs": "3",
    "min_steps": "3",
    "model_registry": "glows",
    "overfit_batches": "2",
    "precision": "16-mixed",
    "reload_dataloaders_every_n_epochs": "1",
    "sync_batchnorm": "true",
    "use_distributed_sampler": "true",
}


def test_every_option_of_this_lightning_is_one_or_the_other() -> None:
    """A new option fails here until somebody has tried what it does to a run."""
    options = set(inspect.signature(pl.Trainer).parameters)
    assert options == WORKS.keys() | LIMITED.keys()
    assert not WORKS.keys() & LIMITED.keys()
    assert GIVEN.keys() == LIMITED.keys()
    assert {name for name, where in WORKS.items() if where == "together"} == TOGETHER.keys()
    for name, where in WORKS.items():
        if where != "together":
            path = Path(__file__).parent.parent / f"{where.replace('.', '/')}.py"
            assert name in path.read_text(), (name, path)


@pytest.mark.parametrize("option", GIVEN)
def test_what_would_be_ignored_is_refused(option: str) -> None:
    defaults = {name: values[0] for name, (values, _) in LIMITED.items()}
    require_obeyed(defaults)
    with pytest.raises(Mistake) as said:
        require_obeyed({**defaults, option: yaml.safe_load(GIVEN[option])})
    assert str(said.value).startswith(f"trainer.{option} = ")
    assert str(said.value).endswith(f" is not supported. {LIMITED[option][1]}")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("val_check_interval=0.25", "= 0.25: give a number of batches, of which an epoch has 8"),
        ("val_check_interval=9", "= 9: give a number of batches, of which an epoch has 8"),
        ("strategy=ddp_spawn", "DDPStrategy (spawn) is not supported"),
        ("limit_val_batches=1", "= 1 is not supported. Set data.held_out_images"),
        ("overfit_batches=2", "= 2 is not supported. Set data.training_images"),
        ("logger={class_path: CSVLogger, init_args: {save_dir: x}}", "CSVLogger is not supported."),
    ],
)
def test_half_of_an_option_is_refused(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    assert said in refused(capsys, [*tiny, f"--trainer.{option}"])
    assert not (tmp_path / "runs").exists()


def test_validation_comes_after_whole_steps(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trainer.val_check_interval=3", "--trainer.accumulate_grad_batches=2"]
    assert "= 3: give a multiple of trainer.acc" in refused(capsys, [*tiny, *options])


def test_options_work_together(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And change nothing of what is trained."""
    tiny += ["--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]
    plain = run(tiny, "--run.name=plain")
    capsys.readouterr()
    monkeypatch.setattr(ImageProgress, "on_train_start", lambda *_: pytest.fail("shows a bar"))
    options = [f"--trainer.{name}={value}" for name, value in TOGETHER.items()]
    other = run(tiny, *options, "--run.name=other")
    assert_same_checkpoint(plain, other)
    assert losses(plain) == losses(other)
    assert "Params" in capsys.readouterr().out
