"""The command line of train.py: LightningCLI with run directories, resuming, and every callback."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentError
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
)
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from callbacks.checkpoints import Checkpoints, WholeFiles, newest_checkpoint
from callbacks.progress import ImageProgress
from callbacks.quality import SampleQuality
from callbacks.recovery import RecoveryDuringTraining
from callbacks.samples import Samples
from callbacks.throughput import Throughput
from cli.configs import Mistake, as_read, merge, read_command, read_config, written
from cli.help import show_help
from cli.parse import Strict, parse, said_by_us, with_home
from cli.types import register_types
from core.errors import in_a_line, out_of_memory
from core.files import write_whole
from core.lock import alone_in
from core.memory import keep_freed_memory
from core.parent import end_with_parent
from core.precision import has_bfloat16, precision_of_training, require_full_precision
from core.secrets import without_secrets
from core.stopping import Stopped, Unfinished
from core.threads import leave_busy_cores
from datamodules.faces import FaceDataModule
from lightning_modules.clock import ClockedModule
from priors.checkpoint import read_checkpoint
from priors.load import load_network
from priors.weights import fingerprint, require_same_architecture
from training.help import page
from training.lost import raise_if_lost
from training.metrics_file import MetricsFile
from training.rendezvous import meet_apart_from_the_dead
from training.run import (
    Run,
    changes,
    classes_in,
    earlier_sets,
    flatten,
    require_same_batch,
    require_whole_rows,
    show_results,
)
from training.trainer_options import require_interval, require_obeyed, require_supported
from training.wandb import wandb_logger

DEFAULTS = Path(__file__).parent.parent / "configs" / "defaults.yaml"
METHODS = "recovery.methods"  # the key of them
BFLOAT16 = ("bf16-mixed", "bf16")
SETS = "sets.json"  # which prepared sets a run has used


class Parser(Strict, LightningArgumentParser):
    """LightningCLI's parser, strict."""


class Train(LightningCLI):
    """Trains, from the newest checkpoint of the run where there is one.

    Args:
        arguments: of the command line, `fit` first; by default the process's own.

    Raises:
        ValueError: naming the key, before the run leaves a trace.
    """

    def __init__(self, arguments: Sequence[str] | None = None) -> None:
        register_types()
        with said_in_a_line():
            super().__init__(
                ClockedModule,
                FaceDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,
                auto_configure_optimizers=False,
                trainer_defaults={"callbacks": [Throughput(), ImageProgress()]},
                parser_class=Parser,
                args=list(sys.argv[1:] if arguments is None else arguments),
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

    def parse_arguments(self, parser: Any, args: Any) -> None:
        show_help(args, lambda: page(self._parser("fit"), read_config(DEFAULTS)))
        command = read_command(args, DEFAULTS, METHODS)
        if command.rest[:1] != ["fit"]:
            given = "".join(f", not {word!r}" for word in command.rest[:1])
            raise Mistake(f"the command is train.py fit --config FILE{given}")
        self.config = parse(parser, command, self._parser("fit"))

    def before_instantiate_classes(self) -> None:
        options = self.config.fit.trainer
        require_obeyed(options)
        if options.enable_progress_bar is False:
            self.trainer_defaults["callbacks"] = [Throughput()]
        require_full_precision()

    def instantiate_classes(self) -> None:
        with said_by_us():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        self.run: Run = self.config_init.fit.run
        self.choose_precision()
        self.check_against_earlier_config()
        self.begin()
        directory = self.run.directory
        plugins = plugins_with(self.config_init.fit.trainer.plugins)
        metrics = MetricsFile(directory / "metrics.jsonl")
        options = {"logger": [metrics], "default_root_dir": str(directory), "plugins": plugins}
        try:
            return super().instantiate_trainer(**options, **kwargs)
        except Exception as error:  # Lightning's own classes of them, and TypeErrors, for a value
            raise ValueError(f"trainer: {' '.join(str(error).split())}") from error

    def choose_precision(self) -> None:
        """Where nobody names one: bfloat16 on a CPU that has it, float32 elsewhere, and say so.

        A resumed run chooses anew, by the machine it is on: its weights are float32 in both.
        """
        options = self.config_init.fit.trainer
        if options.precision is None and self.model.takes_bfloat16:
            options.precision = precision_of_training(options.accelerator)
            self.config.fit.trainer.precision = options.precision
            if options.precision is not None:
                say(
                    f"Training in {options.precision}, which this CPU multiplies faster "
                    "(--trainer.precision 32-true: float32)"
                )
        elif options.precision in BFLOAT16 and options.accelerator == "cpu" and not has_bfloat16():
            say(
                f"trainer.precision = {options.precision}: this CPU has no instructions for "
                "bfloat16, and 32-true may be faster"
            )

    def check_against_earlier_config(self) -> None:
        """Show what differs from the run's earlier config; refuse what changes its meaning."""
        self.earlier: dict[str, Any] = {}
        path = self.run.directory / "config.yaml"
        if not path.exists():
            return
        earlier = self.earlier_config(path)
        self.earlier = flatten(earlier)
        self.accept(earlier, self.config_shown())

    def check_against_earlier_sets(self) -> None:
        """The same for prepared sets that others have replaced under their names."""
        sets = earlier_sets(self.run.directory / SETS)
        if sets is not None:
            self.accept({"data": sets}, {"data": self.datamodule.identities})

    def accept(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Show what differs. Raises ValueError if the run may not change it."""
        lines, refused = changes(before, after)
        if refused and not self.run.accept_changes:
            raise ValueError(
                f"{self.run.directory} holds a run with another config:\n"
                + "\n".join(lines)
                + f"\n{refused[0]} changes what the run is. Choose another run.name, or "
                "pass --run.accept_changes true to continue with the new values."
            )
        if lines:
            say("The config has changed since this run was last started:", *lines)

    def earlier_config(self, path: Path) -> dict[str, Any]:
        """A run's config.yaml as today's parser reads it: options that it lacks at their defaults.

        Where it names a class that is gone, or one of a package that this command does not use,
        which the parser would import: as it stands, and as today's where it lacks an option. What
        differs is shown, and refused or not. Raises ValueError, naming the file, where it holds no
        config.
        """
        parser = self._parser("fit")
        try:
            earlier = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if not isinstance(earlier, dict):
            raise ValueError(f"{path} is damaged: it holds no config")
        earlier = without_secrets(with_home(as_read(earlier, METHODS)))
        as_it_stands = merge(self.config_shown(), earlier)
        if not {path.partition(".")[0] for path in classes_in(earlier)} <= sys.modules.keys():
            return dict(as_it_stands)
        try:
            read = parser.parse_string(written(earlier), _skip_validation=True)
            return dict(yaml.safe_load(parser.dump(read, skip_unset=False, skip_validation=True)))
        except (ArgumentError, TypeError, ValueError):
            return dict(as_it_stands)

    def begin(self) -> None:
        """Give a new run the weights of run.begin_from; one with a checkpoint has had them."""
        path = self.run.begin_from
        if path is None:
            return
        if self.config_init.fit.ckpt_path is not None:
            raise ValueError("--ckpt_path and run.begin_from cannot both be where a run begins")
        if newest_checkpoint(self.run.directory) is None:
            network, images_seen, before, _ = load_network(path)
            self.model.take_weights(network)
            origin = Path(path).resolve()
            name = origin.parent.parent.name if origin.is_file() else origin.name
            weights = fingerprint(network.state_dict())
            said = f"{name} ({images_seen:,} images, fingerprint {weights})"
            self.model.begun_from = f"{said}, begun from {before}" if before else said
            say(f"Beginning from the weights of {self.model.begun_from}")

    def config_shown(self) -> dict[str, Any]:
        """The command's whole config, as it is compared, written and sent."""
        text = self._parser("fit").dump(self.config.fit, skip_unset=False)
        return dict(without_secrets(yaml.safe_load(text)))

    def before_fit(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RecoveryDuringTraining):
                callback.check(self.model.image_shape, self.model.prior())
        channels, _, size = self.model.image_shape
        for key, ours in (("image_size", size), ("channels", channels)):
            if ours != (data := getattr(self.datamodule, key)):
                raise ValueError(
                    f"the model's {key} is {ours} and data.{key} is {data}: set both to the same"
                )
        automatic = self.model.automatic_optimization
        if not automatic and self.trainer.accumulate_grad_batches != 1:
            raise ValueError(
                "trainer.accumulate_grad_batches cannot serve two optimisers. Set "
                "model.accumulate instead."
                if hasattr(self.model, "accumulate")
                else "trainer.accumulate_grad_batches: this model makes its own steps. Omit it."
            )
        require_supported(self.trainer)
        self.model.require_trainer(self.trainer)
        # Once training can start: what fails before leaves no trace, here or in W&B.
        begin = LambdaCallback(on_train_start=lambda *_: self.begin_logs())
        self.trainer.callbacks.insert(0, begin)  # type: ignore[attr-defined]

    def fit(self, model: ClockedModule, **kwargs: Any) -> None:
        """Train from the run's newest checkpoint, else from --ckpt_path, else from the start.

        Raises ValueError while another process trains this run.
        """
        refuse_tasks_without_a_world(self.trainer)
        self.datamodule.trainer = self.trainer
        self.datamodule.setup("fit")  # data that cannot be used leave no trace of the run
        self.check_against_earlier_sets()
        steps = self.datamodule.stream().steps_per_epoch
        interval = self.config_init.fit.trainer.val_check_interval
        require_interval(interval, steps, self.trainer.accumulate_grad_batches)
        first = self.trainer.is_global_zero
        if is_child(self.trainer):
            end_with_parent()
        if self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
            if self.trainer.world_size == 1:
                leave_busy_cores()
        with alone_in(self.run.directory, "train.py") if first else nullcontext():
            require_whole_rows(self.run.directory)
            newest = newest_checkpoint(self.run.directory)  # which has been checked
            checkpoint = newest or kwargs["ckpt_path"]
            if checkpoint is not None:
                say(f"Resuming from {checkpoint}")
                saved = read_checkpoint(checkpoint, check=newest is None)
                require_same_architecture(model.state_dict(), saved["state_dict"])
                if newest is not None and not self.run.accept_changes:
                    self.require_same_step(saved)
            try:
                self.store = meet_apart_from_the_dead()  # which this process serves as it lives
                self.trainer.fit(model, **{**kwargs, "ckpt_path": checkpoint, "weights_only": True})
            except Stopped as stopped:
                say(
                    f"Stopped by {stopped} after {model.images_seen:,} of {model.total_images:,} "
                    f"images: the same command resumes from {self.run.directory / 'checkpoints'}"
                )
                end_child(self.trainer)
                raise
            except RuntimeError as error:
                raise_if_lost(self.trainer, error)
                raise

    def require_same_step(self, saved: Mapping[str, Any]) -> None:
        """Raise ValueError if the run's steps would have another number of images than before."""
        accumulate, processes = self.trainer.accumulate_grad_batches, self.trainer.world_size
        of = self.model.images_per_step
        before = self.earlier.get("data.init_args.batch_size", self.datamodule.batch_size)
        gathered = self.earlier.get("trainer.accumulate_grad_batches", accumulate)
        require_same_batch(
            of(self.datamodule.batch_size, accumulate, processes),
            saved,
            alike=of(before, gathered, processes),
        )

    def begin_logs(self) -> None:
        """Tell W&B of the run, once everything else has been looked at, and write its config."""
        self.trainer.loggers += wandb_logger(self.run)
        self.write_config()

    @rank_zero_only
    def write_config(self) -> None:
        config = self.config_shown()
        write_whole(
            self.run.directory / "config.yaml", yaml.safe_dump(config, sort_keys=False, width=100)
        )
        write_whole(self.run.directory / SETS, json.dumps(self.datamodule.identities) + "\n")
        for logger in self.trainer.loggers:
            logger.log_hyperparams(config)

    def after_fit(self) -> None:
        if self.trainer.is_global_zero:
            show_results(self.run.directory)
        if self.model.images_seen < self.model.total_images:
            end_child(self.trainer)
            raise Unfinished(
                f"Training stopped after {self.model.images_seen:,} of "
                f"{self.model.total_images:,} images, at trainer.max_time or an option like it: "
                "the same command goes on"
            )


@contextmanager
def said_in_a_line() -> Iterator[None]:
    """Errors of Lightning and torch that the user can mend, as ValueErrors that say how."""
    try:
        yield
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ValueError(
            f"out of memory. Lower data.batch_size, and raise trainer.accumulate_grad_batches (a "
            "GAN: model.accumulate alone; a latent convolutional model: neither) so that a step "
            "keeps its images; while validating, lower "
            f"data.validation_batch_size ({in_a_line(error)})"
        ) from error


def end_child(trainer: pl.Trainer) -> None:
    """End a process that Lightning has launched, with status 0.

    It would answer any other by killing rank 0, whose status tells. A launcher of the user's own
    (torchrun, srun) is given every process's status.
    """
    if is_child(trainer):
        sys.exit(0)


def is_child(trainer: pl.Trainer) -> bool:
    """Whether Lightning has launched this process, and no launcher of the user's own."""
    environment = cast(Any, trainer)._accelerator_connector.cluster_environment
    return type(environment) is LightningEnvironment and not trainer.is_global_zero


def refuse_tasks_without_a_world(trainer: pl.Trainer) -> None:
    """Raises ValueError where Slurm has started several tasks that would all train alone."""
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    if SLURMEnvironment.detect() and tasks > 1 and trainer.world_size == 1:
        raise ValueError(
            f"Slurm runs {tasks} tasks, and trainer.devices and num_nodes make one process: each "
            "task would train the same run alone. Set --trainer.devices to the tasks per node "
            "(configs/cluster.yaml), or ask Slurm for one task"
        )


def plugins_with(named: Any) -> list[Any]:
    """The config's plugins of the Trainer, and those that every run has."""
    plugins = [*named] if isinstance(named, list) else [] if named is None else [named]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeFiles())
    if SLURMEnvironment.detect() and not any(isinstance(p, ClusterEnvironment) for p in plugins):
        # a requeued job resumes from its own checkpoint: no further one, in the middle of a step
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


@rank_zero_only
def say(*lines: str) -> None:
    print("\n".join(lines), flush=True)
