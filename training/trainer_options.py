"""Which of Lightning's options would be ignored here, or obeyed by half, and what serves instead.

Training's length, its data, its checkpoints and its logs follow the clock of images, of which
Lightning's Trainer knows nothing.
"""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.accelerators import MPSAccelerator
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from cli.configs import Mistake

LENGTH = "Set model.total_images instead"
DATA = "Set data.training_images, or prepare fewer images (datamodules.prepare --limit)"
HELD_OUT = "Set data.held_out_images, or prepare a smaller set (datamodules.prepare --limit)"
CLIP = "Set model.clip_norm instead, where the model has it (a flow also has model.clip_value)"

# option -> the values that are obeyed, and what to do instead of giving any other
LIMITED: dict[str, tuple[tuple[Any, ...], str]] = {
    "barebones": ((False,), "Set trainer.enable_progress_bar to false instead"),
    "check_val_every_n_epoch": ((1,), "Validation follows every epoch: keep held-out sets small"),
    "default_root_dir": ((None,), "Set run.root and run.name instead"),
    "enable_autolog_hparams": ((True,), "Set run.wandb to disabled, and nothing is sent"),
    "enable_checkpointing": ((None, True), "Set checkpoints.every_minutes instead"),
    "fast_dev_run": ((False,), "Set a small model.total_images and another run.name instead"),
    "gradient_clip_algorithm": ((None,), CLIP),
    "gradient_clip_val": ((None,), CLIP),
    "limit_predict_batches": ((None, 1.0), "Nothing predicts: leave it out"),
    "limit_test_batches": ((None, 1.0), "Test with evaluate.py"),
    "limit_train_batches": ((None, 1.0), DATA),
    "limit_val_batches": ((None, 1.0), HELD_OUT),
    "logger": ((None,), "metrics.jsonl has every number; set run.wandb to send them to W&B"),
    "max_epochs": ((-1,), LENGTH),
    "max_steps": ((None, -1), LENGTH),
    "min_epochs": ((None,), LENGTH),
    "min_steps": ((None,), LENGTH),
    "model_registry": ((None,), "Export with python -m priors.export"),
    "overfit_batches": ((0.0,), DATA),
    "precision": (
        (None, "32-true", "32", 32, "bf16-mixed", "bf16"),
        "Weights and log-determinants stay in float32: set 32-true or bf16-mixed",
    ),
    "reload_dataloaders_every_n_epochs": ((0,), "Every epoch reads its data anew: leave it out"),
    "sync_batchnorm": ((False,), "BatchNorm sees one process's batch: leave it out"),
    "use_distributed_sampler": ((False,), "Every process has its share already: leave it out"),
}


def require_obeyed(options: Mapping[str, Any]) -> None:
    """Raise Mistake, naming what serves instead, for an option that would not be obeyed."""
    for name, (obeyed, instead) in LIMITED.items():
        value = options[name]
        if not any(value == one and type(value) is type(one) for one in obeyed):  # 1 is no 1.0
            shown = getattr(value, "class_path", value)
            raise Mistake(f"trainer.{name} = {shown} is not supported. {instead}")


def require_supported(trainer: pl.Trainer) -> None:
    """Raise Mistake for a trainer of a kind that no run can have."""
    strategy = trainer.strategy
    started = getattr(strategy, "_start_method", "popen")  # not spawn or fork, of notebooks
    if type(strategy) not in (DDPStrategy, SingleDeviceStrategy) or started != "popen":
        raise Mistake(
            f"trainer.strategy {type(strategy).__name__} ({started}) is not supported: every "
            "device holds the whole network, in a process of its own. Use auto or ddp"
        )
    if isinstance(trainer.accelerator, MPSAccelerator):
        raise Mistake(
            "Apple's MPS has no float64, which inverses and metrics need: "
            "set trainer.accelerator to cpu"
        )


def require_interval(interval: Any, batches: int, accumulate: int) -> None:
    """Raise Mistake unless validation comes every so many of an epoch's batches, or after it.

    Between steps of the optimiser: the best checkpoint is of the weights that were validated.
    """
    every = type(interval) is int and 1 <= interval <= batches
    if not (every or interval is None or interval == 1.0):
        raise Mistake(
            f"trainer.val_check_interval = {interval}: give a number of batches, of which an "
            f"epoch has {batches}"
        )
    if every and interval != batches and interval % accumulate:
        raise Mistake(
            f"trainer.val_check_interval = {interval}: give a multiple of "
            f"trainer.accumulate_grad_batches = {accumulate}, so that validation comes after a "
            "whole step"
        )
