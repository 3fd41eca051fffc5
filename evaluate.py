"""The paper's experiments, each from one command:

    python evaluate.py --config configs/evaluate/cs64.yaml [--config configs/evaluate/small.yaml]

Recovers sets x problems x methods x seeds into rows, runs studies, and writes tables, figures and
one report page. The same command again computes only what is missing. See docs/evaluation.md.
"""

import fcntl
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markdown import Markdown

from callbacks.progress import image_bar
from datamodules.faces import DATA_ROOT_VARIABLE
from datamodules.shards import ShardIndex, load_images
from evaluation.outcome import details, sample_sheets, study_section, study_tables, to_wandb
from evaluation.plan import Bench, NamedMethod, Trials, current, plan, require_defined, tasks_of
from evaluation.pool import Done, Task, perform_all
from lightning_modules import load_prior
from recovery.experiments import recovery_section
from recovery.page import Section, write_markdown, write_page
from recovery.priors import Prior
from recovery.rows import ConfigTexts, RowFile, read_rows
from recovery.trial import ImageSet, Job, Problem
from studies.bias import balanced, read_attributes
from studies.study import Given, Study, Tables

DEFAULTS = Path(__file__).parent / "configs" / "evaluate" / "defaults.yaml"
ATTRIBUTES_VARIABLE = "INVERTIBLE_PRIORS_ATTRIBUTES"


@dataclass(frozen=True)
class Evaluation:
    """One experiment: what is recovered, which studies are made, and where the report goes.

    Args:
        name: results are in <root>/<name>.
        title: of the report.
        image_size: of priors and sets.
        priors: by name, a run of train.py, a checkpoint of one, or an exported prior.
        sets: by name, in or out of the priors' training distribution; prepared at
            <data>/<image_size>px/<name>.
        problems, methods: definitions by name.
        trials: what is recovered.
        studies: by name.
        published: draw the paper's numbers beside ours.
        data: folder of prepared sets; by default the environment variable INVERTIBLE_PRIORS_DATA.
        attributes: CSV of what images show, with a column `name`; by default the environment
            variable INVERTIBLE_PRIORS_ATTRIBUTES.
        root: folder of all evaluations.
        device: auto takes all GPUs, or the CPU.
        processes: per device; each takes a part of the images.
        batch_size: images recovered at once; bounds memory, changes no result.
        pictures: images of every set shown in the report.
        wandb: send the summary to Weights & Biases.
        project: W&B project.
    """

    name: str
    title: str = ""
    image_size: int = 64
    priors: dict[str, str] = field(default_factory=dict)
    sets: dict[str, Literal["in", "out"]] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)
    methods: dict[str, NamedMethod] = field(default_factory=dict)
    trials: Trials = field(default_factory=Trials)
    studies: dict[str, Study] = field(default_factory=dict)
    published: bool = False
    data: str | None = None
    attributes: str | None = None
    root: str = "runs/evaluate"
    device: str = "auto"
    processes: int = 1
    batch_size: int = 16
    pictures: int = 4
    wandb: Literal["online", "offline", "disabled"] = "disabled"
    project: str = "invertible-priors"

    def __post_init__(self) -> None:
        for name in ("processes", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def folder(self) -> Path:
        return Path(self.root) / self.name

    def devices(self) -> list[torch.device]:
        """One entry per process."""
        if self.device != "auto":
            found = [torch.device(self.device)]
        elif torch.cuda.is_available():
            found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        else:
            found = [torch.device("cpu")]
        return [device for device in found for _ in range(self.processes)]


class Priors(Mapping[str, Prior]):
    """Priors by name, loaded when first used. Raises ValueError for one that does not fit."""

    def __init__(self, paths: Mapping[str, str], image_size: int, device: torch.device) -> None:
        self.paths, self.image_size, self.device = paths, image_size, device
        self.loaded: dict[str, Prior] = {}

    def __getitem__(self, name: str) -> Prior:
        if name not in self.paths:
            raise ValueError(
                f"no prior is named {name!r}; priors names {', '.join(self.paths) or 'none'}"
            )
        if name not in self.loaded:
            try:
                prior = load_prior(self.paths[name], device=self.device)
            except (FileNotFoundError, ValueError) as error:
                raise ValueError(f"priors.{name}: {error}") from error
            if prior.image_shape[-1] != self.image_size:
                raise ValueError(
                    f"priors.{name}: {self.paths[name]} is a prior of images of "
                    f"{prior.image_shape[-1]}px, and image_size is {self.image_size}"
                )
            self.loaded[name] = prior
        return self.loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


class Sets(Mapping[str, ImageSet]):
    """Prepared sets by name, loaded when first used. Raises ValueError for one that is missing."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.loaded: dict[str, ImageSet] = {}

    def __getitem__(self, name: str) -> ImageSet:
        if name not in self.evaluation.sets:
            raise ValueError(f"no set is named {name!r}; sets names {', '.join(self) or 'none'}")
        if name not in self.loaded:
            size = self.evaluation.image_size
            root = self.evaluation.data or os.environ.get(DATA_ROOT_VARIABLE)
            if not root:
                raise ValueError(
                    f"where are the prepared images? Set data or the environment variable "
                    f"{DATA_ROOT_VARIABLE} to the folder that holds {size}px/{name} "
                    "(docs/data.md says how to prepare it)"
                )
            path = Path(root) / f"{size}px" / name
            images, names = load_images(ShardIndex.load(path, size))
            if not names:
                raise ValueError(f"sets.{name}: {path} holds no image")
            self.loaded[name] = ImageSet(name, self.evaluation.sets[name], images, names)
        return self.loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.evaluation.sets)

    def __len__(self) -> int:
        return len(self.evaluation.sets)


def parser() -> ArgumentParser:
    made = ArgumentParser(prog="evaluate.py", default_config_files=[str(DEFAULTS)])
    made.add_argument("--config", action="config", help="YAML files, later ones over earlier ones")
    made.add_class_arguments(Evaluation)
    return made


def read_evaluation(arguments: list[str] | None = None, text: str | None = None) -> Evaluation:
    """From the command line, or from a resolved config's text."""
    made = parser()
    config = made.parse_args(arguments) if text is None else made.parse_string(text)
    values = made.instantiate_classes(config).as_dict()
    values.pop("config", None)
    return Evaluation(**values)


def make_bench(evaluation: Evaluation, device: torch.device) -> Bench:
    size = evaluation.image_size
    return Bench(
        evaluation.problems,
        evaluation.methods,
        Priors(evaluation.priors, size, device),
        Sets(evaluation),
        (3, size, size),
        device,
    )


def bench_of_text(text: str, device: torch.device) -> Bench:
    """A process's own bench: it reads the config anew."""
    return make_bench(read_evaluation(text=text), device)


def attribute_table(evaluation: Evaluation) -> pd.DataFrame | None:
    path = evaluation.attributes or os.environ.get(ATTRIBUTES_VARIABLE)
    return None if path is None else read_attributes(Path(path))


def chosen_images(
    evaluation: Evaluation, sets: Mapping[str, ImageSet], attributes: pd.DataFrame | None
) -> dict[str, list[int]]:
    """Positions of the images of every set of the trials that are recovered."""
    trials = evaluation.trials
    if trials.balance and attributes is None:
        raise ValueError(
            "trials.balance needs the attribute table: set attributes or the environment variable "
            f"{ATTRIBUTES_VARIABLE} to its CSV file"
        )
    chosen = {}
    for name in trials.sets or sets:
        names = sets[name].image_names
        chosen[name] = list(range(min(trials.images, len(names))))
        if trials.balance and attributes is not None:
            chosen[name] = balanced(names, attributes, trials.balance, trials.per_group)
    return chosen


def recover(evaluation: Evaluation, text: str, bench: Bench) -> tuple[pd.DataFrame, list[str]]:
    """Recover what has no row yet. Returns the rows of this evaluation, and what failed."""
    trials, folder = evaluation.trials, evaluation.folder
    require_defined(trials, bench)
    if not trials.problems:
        return pd.DataFrame(), []
    chosen = chosen_images(evaluation, bench.sets, attribute_table(evaluation))
    texts = ConfigTexts(folder / "configs.jsonl")
    jobs: list[tuple[Job, Sequence[int]]] = []
    for job in plan(trials, bench, evaluation.name, texts):
        most = evaluation.methods[job.template.method].images
        jobs.append((job, chosen[job.images.name][:most]))
    RowFile(folder / "rows.csv")  # so that there is one to read
    earlier = read_rows(folder, every=True)
    tasks = [
        task
        for job, images in jobs
        for task in tasks_of(job, earlier, images, evaluation.batch_size)
    ]
    total = sum(len(images) for _, images in jobs)
    failures = perform(evaluation, text, bench, tasks, total, earlier) if tasks else []
    return current(read_rows(folder, every=True), jobs), failures


def perform(
    evaluation: Evaluation,
    text: str,
    bench: Bench,
    tasks: Sequence[Task],
    total: int,
    earlier: pd.DataFrame,
) -> list[str]:
    """Perform the tasks with a bar that tells the time left. Returns what failed."""
    devices = evaluation.devices()
    make = partial(bench_of_text, text) if len(devices) > 1 else lambda device: bench
    left = TimeLeft(tasks, earlier, len(devices))
    failures = []
    missing = sum(len(task.images) for task in tasks)
    with image_bar("Recovering", total, initial=total - missing, bar_format=BAR) as bar:

        def show(evaluation: int, active: int) -> None:
            bar.set_postfix_str(f"{left}, evaluation {evaluation}", refresh=False)
            bar.update(0)

        for done in perform_all(
            tasks, make, devices, evaluation.folder, evaluation.pictured, progress=show
        ):
            left.count(done)
            bar.set_postfix_str(str(left), refresh=False)
            bar.update(len(done.task.images))
            if done.failure:
                task = done.task
                failures.append(
                    f"{task.method} on {task.problem}, {task.dataset}: {done.failure}"
                )
    return failures


class TimeLeft:
    """An estimate: methods differ by factors of a thousand, so each by its own seconds per image.

    Args:
        tasks: all that will be done.
        rows: earlier ones, whose seconds count until there are newer.
        processes: that share the tasks.
    """

    def __init__(self, tasks: Sequence[Task], rows: pd.DataFrame, processes: int) -> None:
        self.images: dict[str, int] = {}
        for task in tasks:
            self.images[task.method] = self.images.get(task.method, 0) + len(task.images)
        self.seconds = rows.groupby("method")["seconds"].median().to_dict() if len(rows) else {}
        self.processes = processes
        self.last = tasks[0].method

    def count(self, done: Done) -> None:
        self.last = done.task.method
        self.images[self.last] -= len(done.task.images)
        if not done.failure:
            self.seconds[self.last] = done.seconds

    def __str__(self) -> str:
        waiting = {method for method, images in self.images.items() if images}
        known = sum(self.images[m] * self.seconds[m] for m in waiting & self.seconds.keys())
        unknown = waiting - self.seconds.keys()
        about = f"about {_duration(known / self.processes)} left"
        return about + (f" without {', '.join(sorted(unknown))}" if unknown else "")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run_studies(
    evaluation: Evaluation, bench: Bench, rows: pd.DataFrame
) -> tuple[list[Section], dict[str, Tables]]:
    """Sections of the studies, from tables on disk where these are up to date."""
    sections, tables = [], {}
    attributes = attribute_table(evaluation)
    for name, study in evaluation.studies.items():
        pictures = evaluation.folder / "pictures-of-studies" / name
        pictures.mkdir(parents=True, exist_ok=True)
        given = Given(bench.priors, bench.sets, rows, bench.device, pictures, attributes)
        used = {p: bench.priors[p].fingerprint for p in names_in(study, evaluation.priors)}
        folder = evaluation.folder / "studies" / name
        with Console(stderr=True).status(f"{name} ...") as status:
            tables[name] = study_tables(
                study, given, folder, used, lambda text, n=name: status.update(f"{n}: {text}")
            )
        sections.append(study_section(study, tables[name], pictures))
    return sections, tables
