"""Recovery during training: how well the prior recovers held-out images, epoch after epoch."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor
from tqdm import tqdm

from callbacks.clocked import Clocked, clocked, data_of
from callbacks.pictures import RecoveryPictures
from core.errors import in_a_line, out_of_memory
from core.progress import image_bar
from core.stopping import Stopped, stop_if_asked
from datamodules.image_set import ImageSet
from priors.prior import Prior
from recovery.methods import PriorFree
from recovery.operators import ImageShape
from results.identity import ConfigTexts, describe
from results.means import scalars
from results.rows import KEY, Row, RowFile, read_rows
from results.trial import Job, NamedMethod, Problem, Trial, run_trials


@dataclass(frozen=True)
class Plan:
    """What is recovered at a time.

    Args:
        problems: names, of `problems`.
        images: of every held-out set, the first so many.
        methods: names, of `methods`; by default all.
    """

    problems: list[str] = field(default_factory=list)
    images: int = 8
    methods: list[str] | None = None


class RecoveryDuringTraining(Checkpoint):
    """After every N epochs, and at the end, recovers held-out images through the prior.

    Operators, noise and images are the same every time, so curves compare epochs. Rows go to
    `rows.csv` in the run directory before any logger gets anything, and a resumed run finishes an
    interrupted recovery. Training is the same with it and without: the prior is a frozen float32
    snapshot, and nothing draws from a global random state.

    This is a `Checkpoint` because Lightning runs those last and in the order given: recovery starts
    when the weights are safe on disk (see `callbacks.checkpoints`).

    Args:
        problems: definitions by name.
        methods: recovery methods by name. Some are made from the prior and the problem's gamma.
            Others need no prior (reconstructors of deepinv, say), and recover once in a run. As
            {method, images}, one recovers at most so many images of each set.
        during: what to recover every `every_n_epochs` epochs.
        at_end: what to recover when training has seen all its images.
        every_n_epochs: how often.
        batch_size: images recovered at once; bounds memory, changes no result.
        pictures: images of every held-out set in the picture grids.
        seed: of the measurements' noise.

    Raises:
        ValueError: a plan names a problem or a method that is not defined, or a method a prior.
    """

    def __init__(
        self,
        problems: dict[str, Problem],
        methods: dict[str, NamedMethod],
        during: Plan,
        at_end: Plan,
        every_n_epochs: int = 1,
        batch_size: int = 16,
        pictures: int = 8,
        seed: int = 0,
    ) -> None:
        for plan in (during, at_end):
            _require_defined("problem", plan.problems, problems)
            _require_defined("method", plan.methods or (), methods)
        for name, count in (
            ("every_n_epochs", every_n_epochs),
            ("batch_size", batch_size),
            ("pictures", pictures),
            ("during.images", during.images),
            ("at_end.images", at_end.images),
        ):
            if count < 1:
                raise ValueError(f"recovery.{name} must be at least 1, got {count}")
        self.problems = problems
        self.methods = methods
        for name, method in methods.items():
            if method.prior is not None:
                raise ValueError(
                    f"recovery.methods.{name}: leave out prior: {method.prior}; while training, "
                    "methods go through the prior that is trained"
                )
        self.during = during
        self.at_end = at_end
        self.every_n_epochs = every_n_epochs
        self.batch_size = batch_size
        self.pictures = pictures
        self.seed = seed
        self._last_end = 0.0  # when the last recovery ended
        self._due: int | None = None  # the epoch that ended at the checkpoint this run resumed from

    def check(self, image_shape: ImageShape, prior: Prior | None = None) -> None:
        """Raise ValueError if a planned problem or method cannot be made, or do not fit.

        Checks methods made from a prior only if there is one; it need not be trained.
        """
        for plan in (self.during, self.at_end):
            for problem in plan.problems:
                with naming_problem(f"recovery.problems.{problem}"):
                    operator = self.problems[problem].operator(image_shape)
                    describe(operator)  # as its rows will
                    operator.try_out()
                    for name in self._planned(plan):
                        made = self.methods[name].make
                        if not isinstance(made, PriorFree):
                            if prior is None:
                                continue
                            made = made(prior, self.problems[problem].gamma)
                        made.check(operator)
                        describe(made)

    def _planned(self, plan: Plan) -> list[str]:
        return list(self.methods) if plan.methods is None else plan.methods

    # --- when ----------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_end = time.perf_counter()
        if clocked(pl_module).images_seen > 0:  # resumed: finish the recovery that was due, if any
            self.recover_if_due(trainer, clocked(pl_module), self._due)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.recover_if_due(trainer, clocked(pl_module))

    def recover_if_due(self, trainer: pl.Trainer, module: Clocked, due: int | None = None) -> None:
        """Recover if training has ended, or epoch `due`, by default one that ends here."""
        if due is None:
            due = self.epoch_due(trainer, module)
        if module.images_seen >= module.total_images:
            epoch, _ = data_of(trainer).position(module.images_seen)
            self.recover(trainer, module, self.at_end, epoch)
        elif due is not None:
            self.recover(trainer, module, self.during, due)

    def epoch_due(self, trainer: pl.Trainer, module: Clocked) -> int | None:
        """Return the epoch that has just ended, if recovery follows it."""
        epoch, step = data_of(trainer).position(module.images_seen)
        return epoch if step == 0 and epoch % self.every_n_epochs == 0 else None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # on another number of devices, a resumed run cuts its epochs elsewhere
        checkpoint["recovery_due"] = self.epoch_due(trainer, clocked(pl_module))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._due = checkpoint.get("recovery_due")

    # --- what ----------------------------------------------------------------------------------

    def recover(self, trainer: pl.Trainer, module: Clocked, plan: Plan, epoch: int) -> None:
        """Recover this rank's share of every held-out set, then log the means over all ranks."""
        if not plan.problems:
            return
        began = time.perf_counter()
        folder, rank = Path(trainer.default_root_dir), trainer.global_rank
        file = RowFile(folder / (f"rows-rank{rank}.csv" if rank else "rows.csv"))
        texts = ConfigTexts(folder / (f"configs-rank{rank}.jsonl" if rank else "configs.jsonl"))
        earlier = read_rows(folder, every=True)  # of an interrupted recovery, by whichever rank
        prior = module.prior()
        run = Row(folder.name, prior.name, module.images_seen, epoch, seed=self.seed)
        methods = self._planned(plan)
        sets = {name: self.share(trainer, plan, name) for name in methods}
        total = len(plan.problems) * sum(len(one) for shares in sets.values() for one in shares)
        pictures = RecoveryPictures(folder, module.images_seen, self.pictures)
        silent = rank > 0 or trainer.progress_bar_callback is None
        configs: set[str] = set()
        with (
            torch.autocast(module.device.type, enabled=False),
            image_bar("Recovering", total, leave=False, disable=silent) as bar,
        ):
            for problem in plan.problems:
                for new in self.jobs(problem, sets, prior, run, texts):
                    job = new.take_up(earlier, texts)
                    configs.add(job.template.config)
                    for trial in self.run(job, earlier, module.device, bar):
                        pictures.keep(job, trial)  # first: a row is not recovered again
                        file.append(trial.rows)
                        bar.update(len(trial.truth))
        now = time.perf_counter()
        times = {
            "recovery/seconds": now - began,
            "recovery/share_of_time": (now - began) / (now - self._last_end),
        }
        rows = read_rows(folder, every=True)
        held_out = data_of(trainer).held_out
        rows = rows[rows["config"].isin(configs) & rows["dataset"].isin(held_out)]
        now_or_always = rows["images_seen"].eq(module.images_seen) | rows["prior"].eq("")
        rows = _gather(rows[now_or_always], trainer)
        if trainer.is_global_zero and len(rows):
            grids = pictures.join(plan.problems, held_out.values(), methods)
            self.publish(trainer, module.images_seen, rows, grids, times)
        self._last_end = time.perf_counter()

    def share(self, trainer: pl.Trainer, plan: Plan, method: str) -> list[ImageSet]:
        """This rank's share of what a method recovers of every held-out set."""
        most = self.methods[method].images or plan.images
        sets = [
            held.subset(range(min(plan.images, most, len(held))))
            for held in data_of(trainer).held_out.values()
        ]
        return [s.subset(range(trainer.global_rank, len(s), trainer.world_size)) for s in sets]

    def jobs(
        self,
        problem: str,
        sets: Mapping[str, list[ImageSet]],
        prior: Prior,
        run: Row,
        texts: ConfigTexts,
    ) -> list[Job]:
        """A problem's jobs, of methods and the sets that each recovers.

        All are made before the first is run: a foreign operator may change as it is used, and with
        it its description.
        """
        with naming_problem(f"recovery.problems.{problem}"):
            operator = self.problems[problem].operator(prior.image_shape)
            return [
                Job.of(
                    self.problems[problem],
                    operator,
                    self.methods[name].make,
                    prior,
                    images,
                    replace(run, problem=problem, method=name),
                    texts,
                )
                for name, shares in sets.items()
                for images in shares
            ]

    def run(
        self, job: Job, rows: pd.DataFrame, device: torch.device, bar: "tqdm[None]"
    ) -> Iterator[Trial]:
        """Run the trials of a job that have no row yet."""
        row, images = job.template, job.images
        missing = job.missing(rows)
        bar.update(len(images.images) - len(missing))

        def show(evaluation: int, active: int) -> None:
            stop_if_asked()  # finished rows are on disk: the rest is recovered on resuming
            text = f"{row.problem} on {images.name}, evaluation {evaluation}, {active} active"
            bar.set_postfix_str(text, refresh=False)
            bar.update(0)

        with naming_problem(f"recovery of {row.problem} by {row.method}"):
            yield from run_trials(
                images.subset(missing),
                job.operator.to(device),
                job.method,
                row,
                device=device,
                batch_size=self.batch_size,
                progress=show,
            )

    # --- what is shown -------------------------------------------------------------------------

    def publish(
        self,
        trainer: pl.Trainer,
        images_seen: int,
        rows: pd.DataFrame,
        grids: dict[str, Tensor],
        times: dict[str, float],
    ) -> None:
        """Send everything to the loggers."""
        watched = rows[self.is_watched(rows, trainer)]
        metrics = {**scalars(watched, "recovery"), **times, "images_seen": float(images_seen)}
        if len(watched) < len(rows):
            metrics |= scalars(rows, "recovery_at_end")
        for logger in trainer.loggers:
            logger.log_metrics(metrics)
            if isinstance(logger, WandbLogger):
                logger.log_table("recovery/rows", dataframe=rows)
                for name, grid in grids.items():
                    logger.log_image(f"recovery/{name}/pictures", [grid])

    def is_watched(self, rows: pd.DataFrame, trainer: pl.Trainer) -> pd.Series:
        """Mark rows of images that every recovery includes: only they make comparable curves."""
        held_out = data_of(trainer).held_out
        watched = {name: set(held_out[name].image_names[: self.during.images]) for name in held_out}
        pairs = zip(rows["dataset"], rows["image"], strict=True)
        return pd.Series([image in watched[dataset] for dataset, image in pairs], rows.index)


@contextmanager
def naming_problem(what: str) -> Iterator[None]:
    """Whatever an operator or a method raises is a ValueError that names its problem."""
    try:
        yield
    except (Stopped, OSError, torch.AcceleratorError):
        raise
    except Exception as error:  # classes of the user's own may raise anything
        if out_of_memory(error):
            raise ValueError(
                f"{what}: out of memory. Lower recovery.batch_size ({in_a_line(error)})"
            ) from error
        raise ValueError(f"{what}: {in_a_line(error)}") from error


def _require_defined(what: str, names: Iterable[str], defined: Collection[str]) -> None:
    for name in names:
        if name not in defined:
            raise ValueError(
                f"recovery: no {what} is named {name!r}; defined are {', '.join(sorted(defined))}"
            )


def _gather(rows: pd.DataFrame, trainer: pl.Trainer) -> pd.DataFrame:
    """Gather all ranks' rows on every rank: the only collective, once each rank has finished."""
    if trainer.world_size == 1:
        return rows.drop_duplicates(KEY, keep="last", ignore_index=True)
    parts: list[pd.DataFrame] = [rows] * trainer.world_size
    stop_if_asked()
    try:
        torch.distributed.all_gather_object(parts, rows)
    except RuntimeError:  # the others have stopped, perhaps at the signal that reached this rank
        stop_if_asked()
        raise
    return pd.concat(parts).drop_duplicates(KEY, keep="last", ignore_index=True)
