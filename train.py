"""Train a prior and watch its recovery: python train.py fit --config configs/demo.yaml

The same command again resumes: newest checkpoint, same W&B run. See docs/training.md.
"""

import logging
import netrc
import os
import secrets
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import pytorch_lightning as pl
import yaml
from jsonargparse.typing import register_type
from pytorch_lightning.accelerators import MPSAccelerator
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from wandb.errors import Error as WandbError

from callbacks.checkpoints import (
    Checkpoints,
    WholeFiles,
    newest_checkpoint,
    read_checkpoint,
)
from callbacks.metrics_file import MetricsFile
from callbacks.progress import ImageProgress
from callbacks.quality import SampleQuality
from callbacks.recovery import RecoveryDuringTraining
from callbacks.samples import Samples
from datamodules.faces import FaceDataModule
from lightning_modules.clock import ClockedModule, require_same_architecture
from lightning_modules.load import load_network
from recovery.deepinv import Deepinv
from recovery.precision import require_full_precision
from recovery.priors import fingerprint
from recovery.report import show, summary_table, training_curves
from recovery.rows import read_rows

DEFAULTS = Path(__file__).parent / "configs" / "defaults.yaml"

# What a resumed run may change: lengths, logging and the machine it runs on.
CHANGEABLE = (
    "trainer.",
    "run.",
    "recovery.",
    "checkpoints.",
    "samples.",
    "quality.",
    "ckpt_path",
    "weights_only",
    "model.init_args.total_images",
    "data.init_args.root",
    "data.init_args.num_workers",
    "data.init_args.validation_batch_size",
)
PINNED = ("trainer.accumulate_grad_batches", "run.begin_from")  # of these, not to be changed


def as_deepinv(value: Any) -> Deepinv:
    return value if isinstance(value, Deepinv) else Deepinv(value)


# deepinv's objects stay descriptions in a config, so that its type hints are not consulted
register_type(Deepinv, serializer=lambda named: named.spec, deserializer=as_deepinv)


@dataclass
class Run:
    """Where a run lives and reports to.

    Attributes:
        name: its folder is <root>/<name>; a run that exists there is resumed.
        root: folder of all runs.
        wandb: auto is online if a W&B key is set, else offline.
        project: W&B project.
        accept_changes: resume even if architecture, data, optimisation or seed have changed.
        begin_from: a run, a checkpoint or an exported prior whose flow a new run begins from, at
            0 images seen; to go on with a run's optimiser and clock, --ckpt_path.
    """

    name: str
    root: str = "runs"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "invertible-priors"
    accept_changes: bool = False
    begin_from: str | None = None

    @property
    def directory(self) -> Path:
        return Path(self.root) / self.name


class Train(LightningCLI):
    """LightningCLI with a run directory, resuming, and the callbacks every training has."""

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(
            ClockedModule,
            FaceDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            trainer_defaults={"callbacks": [ImageProgress()]},
            parser_kwargs={"fit": {"default_config_files": [str(DEFAULTS)]}},
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Named groups, so that a later --config file changes one key of one callback.
        parser.add_class_arguments(Run, "run")
        parser.add_lightning_class_args(Samples, "samples")
        parser.add_lightning_class_args(SampleQuality, "quality")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_lightning_class_args(RecoveryDuringTraining, "recovery")

    def before_instantiate_classes(self) -> None:
        trainer = self.config.fit.trainer
        for key in ("max_epochs", "max_steps"):
            if trainer[key] not in (-1, None):
                raise ValueError(
                    f"trainer.{key} = {trainer[key]} is not used: batch sizes and the number of "
                    "optimisers change what it means. Set model.total_images instead."
                )
        require_full_precision()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        self.run: Run = self.config_init.fit.run
        self.check_against_earlier_config()
        self.begin()
        directory = self.run.directory
        return super().instantiate_trainer(
            logger=[MetricsFile(directory / "metrics.jsonl")],
            default_root_dir=str(directory),
            plugins=plugins_with(self.config_init.fit.trainer.plugins),
            **kwargs,
        )

    def check_against_earlier_config(self) -> None:
        """Show what differs from the run's earlier config; refuse what changes its meaning."""
        path = self.run.directory / "config.yaml"
        if not path.exists():
            return
        before = flatten(yaml.safe_load(path.read_text()))
        after = flatten(yaml.safe_load(self.config_text()))
        changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        lines = [f"  {key}: {before.get(key)} -> {after.get(key)}" for key in sorted(changed)]
        refused = [key for key in changed if not key.startswith(CHANGEABLE) or key in PINNED]
        if refused and not self.run.accept_changes:
            raise ValueError(
                f"{self.run.directory} holds a run with another config:\n"
                + "\n".join(lines)
                + f"\n{sorted(refused)[0]} changes what the run is. Choose another run.name, or "
                "pass --run.accept_changes true to continue with the new values."
            )
        if lines:
            say("The config has changed since this run was last started:", *lines)

    def begin(self) -> None:
        """Give a new run the weights of run.begin_from; one with a checkpoint has had them."""
        path = self.run.begin_from
        if path is None:
            return
        if self.config_init.fit.ckpt_path is not None:
            raise ValueError("--ckpt_path and run.begin_from cannot both be where a run begins")
        if newest_checkpoint(self.run.directory) is None:
            network, images_seen, before = load_network(path)
            self.model.take_weights(network)
            origin = Path(path).resolve()
            name = origin.parent.parent.name if origin.is_file() else origin.name
            weights = fingerprint(network.state_dict())
            said = f"{name} ({images_seen:,} images, fingerprint {weights})"
            self.model.begun_from = f"{said}, begun from {before}" if before else said
            say(f"Beginning from the weights of {self.model.begun_from}")

    def config_text(self) -> str:
        return str(self._parser("fit").dump(self.config.fit, skip_none=False))

    def before_fit(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RecoveryDuringTraining):
                callback.check(self.model.image_shape, self.model.prior())
        size, data_size = self.model.image_shape[-1], self.datamodule.image_size
        if size != data_size:
            raise ValueError(
                f"the model's image_size is {size} and data.image_size is {data_size}: set both "
                "to the same"
            )
        if not self.model.automatic_optimization:
            for key, instead, unset in (
                ("gradient_clip_val", "clip_norm", (None, 0)),
                ("accumulate_grad_batches", "accumulate", (1,)),
            ):
                if getattr(self.trainer, key) not in unset:
                    raise ValueError(
                        f"trainer.{key} cannot serve two optimisers. Set model.{instead} instead."
                    )
        if isinstance(self.trainer.accelerator, MPSAccelerator):
            raise ValueError(
                "Apple's MPS has no float64, which inverses and metrics need: "
                "set trainer.accelerator to cpu"
            )
        # Written once training can start: a config that fails before leaves no trace.
        write = LambdaCallback(on_train_start=lambda *_: self.write_config())
        self.trainer.callbacks.insert(0, write)  # type: ignore[attr-defined]

    def fit(self, model: ClockedModule, **kwargs: Any) -> None:
        """Train from the run's newest checkpoint, else from --ckpt_path, else from the start.

        W&B hears of the run last, once everything else has been looked at.
        """
        checkpoint = newest_checkpoint(self.run.directory) or kwargs["ckpt_path"]
        if checkpoint is not None:
            say(f"Resuming from {checkpoint}")
            require_same_architecture(model.state_dict(), read_checkpoint(checkpoint))
        self.datamodule.setup("fit")
        self.trainer.loggers += wandb_logger(self.run)
        self.trainer.fit(model, **{**kwargs, "ckpt_path": checkpoint, "weights_only": True})

    @rank_zero_only
    def write_config(self) -> None:
        self.run.directory.mkdir(parents=True, exist_ok=True)
        unfinished = self.run.directory / "config.unfinished"
        unfinished.write_text(self.config_text())
        os.replace(unfinished, self.run.directory / "config.yaml")
        for logger in self.trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.config_text()))

    def after_fit(self) -> None:
        if self.trainer.is_global_zero:
            show_results(self.run.directory)


def plugins_with(named: Any) -> list[Any]:
    """The config's plugins of the Trainer, and those that every run has."""
    plugins = [*named] if isinstance(named, list) else [] if named is None else [named]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeFiles())
    if SLURMEnvironment.detect() and not any(isinstance(p, ClusterEnvironment) for p in plugins):
        # a requeued job resumes from its own checkpoint: no further one, in the middle of a step
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def wandb_logger(run: Run) -> list[WandbLogger]:
    """The W&B logger, its run id kept in the run directory; none if disabled.

    Raises ValueError if W&B was asked for online and cannot be reached.
    """
    if run.wandb == "disabled":
        return []
    offline = run.wandb == "offline" or (run.wandb == "auto" and not has_wandb_key())
    identity = run.directory / "wandb_id"
    if not identity.exists() and rank_zero_only.rank == 0:
        run.directory.mkdir(parents=True, exist_ok=True)
        identity.write_text(secrets.token_hex(4))
    logger = WandbLogger(
        project=run.project,
        name=run.name,
        save_dir=str(run.directory),
        id=identity.read_text() if identity.exists() else None,
        resume="allow",
        offline=offline,
    )
    if rank_zero_only.rank == 0:
        try:
            logger.experiment.define_metric("*", step_metric="images_seen", step_sync=True)
        except WandbError as error:
            if run.wandb == "online":
                raise ValueError(f"W&B: {error}. --run.wandb offline needs no server") from error
            say(f"W&B: {error}. This run is logged offline: `wandb sync` can send it later.")
            return wandb_logger(replace(run, wandb="offline"))
    return [logger]


def has_wandb_key() -> bool:
    """Whether `wandb login` was run or WANDB_API_KEY is set; asks no server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def show_results(directory: Path) -> None:
    """The last recovery as a table, and where everything is."""
    console = Console()
    try:
        rows = read_rows(directory)
        if len(rows):
            show(summary_table(rows))
            training_curves(directory).savefig(directory / "curves.png", dpi=110)
    except FileNotFoundError:
        console.print("No image has been recovered yet.")
    for name, what in (
        ("curves.png", "likelihood and recovery while training"),
        ("rows.csv", "one row per recovered image"),
        ("metrics.jsonl", "every number logged while training"),
        ("pictures", "truth | measurement | recovery"),
        ("samples", "samples from the prior"),
        ("checkpoints", "to resume from and to load the prior from"),
    ):
        if (directory / name).exists():
            console.print(f"{directory / name}: {what}", highlight=False, soft_wrap=True)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as {dotted key: value}."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


@rank_zero_only
def say(*lines: str) -> None:
    print("\n".join(lines), flush=True)


def main(args: list[str] | None = None) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # of torch, inside Lightning
    warnings.filterwarnings("ignore", message=".*have no `validation_step`")  # GANs: no likelihood
    warnings.filterwarnings("ignore", message=".*Kernel Inception Distance.*buffer")
    try:
        Train(args)
    except (ValueError, FileNotFoundError, FloatingPointError, ImportError) as error:
        if os.environ.get("INVERTIBLE_PRIORS_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        print("(INVERTIBLE_PRIORS_TRACEBACK=1 shows where it came from)", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
