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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markdown import Markdown
from rich.status import Status
from torch import Tensor

from callbacks.progress import image_bar
from datamodules.faces import DATA_ROOT_VARIABLE, HELD_OUT_FACES, held_out_faces
from datamodules.shards import ShardIndex, load_images
from evaluation.outcome import (
    Mode,
    details,
    names_in,
    remember_machine,
    sample_sheets,
    study_section,
    study_tables,
    to_wandb,
)
from evaluation.plan import (
    Bench,
    NamedMethod,
    Task,
    Trials,
    current,
    plan,
    require_defined,
    tasks_of,
)
from evaluation.pool import perform_all
from evaluation.time_left import TimeLeft
from lightning_modules import load_prior
from recovery.experiments import read_published, recovery_section
from recovery.page import Section, save_figures, write_markdown, write_page
from recovery.precision import require_full_precision
from recovery.priors import Prior
from recovery.rows import COLUMNS, ConfigTexts, RowFile, read_rows
from recovery.trial import ImageSet, Job, Problem
from studies.bias import balanced, read_attributes, require_known
from studies.study import Given, Study, Tables

DEFAULTS = Path(__file__).parent / "configs" / "evaluate" / "defaults.yaml"
ATTRIBUTES_VARIABLE = "INVERTIBLE_PRIORS_ATTRIBUTES"
DRAWN = 64  # faces in each set of them, as while training
# tqdm's own estimate takes every image for equally slow; TimeLeft does not
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


@dataclass(frozen=True)
class Evaluation:
    """One experiment: what is recovered, which studies are made, and where the report goes.

    Args:
        name: results are in <root>/<name>.
        title: of the report, which adds the size of recovered images.
        image_size: of priors and sets.
        priors: by name, a run of train.py, a checkpoint of one, or an exported prior.
        sets: by name, in or out of the priors' training distribution; prepared at
            <data>/<image_size>px/<name>; faces-val and faces-ood are drawn.
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
    wandb: Mode = "disabled"
    project: str = "invertible-priors"

    def __post_init__(self) -> None:
        for name, least in (("processes", 1), ("batch_size", 1), ("pictures", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def folder(self) -> Path:
        return Path(self.root) / self.name

    def pictured(self, seed: int) -> int:
        """Images of every set to keep pictures of: none where one problem is solved often."""
        first = self.trials.gammas is None and seed == self.trials.seeds[0]
        return self.pictures if first else 0

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
            images, names = self._load(name)
            self.loaded[name] = ImageSet(name, self.evaluation.sets[name], images, names)
        return self.loaded[name]

    def _load(self, name: str) -> tuple[Tensor, list[str]]:
        size = self.evaluation.image_size
        if name in HELD_OUT_FACES:
            drawn = held_out_faces(name, size, DRAWN)
            return drawn.images, drawn.names
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
        return images, names

    def __iter__(self) -> Iterator[str]:
        return iter(self.evaluation.sets)

    def __len__(self) -> int:
        return len(self.evaluation.sets)


def parser() -> ArgumentParser:
    made = ArgumentParser(prog="evaluate.py", default_config_files=[str(DEFAULTS)])
    made.add_argument("--config", action="config", help="YAML files, later ones over earlier ones")
    made.add_class_arguments(Evaluation)
    return made


def read_evaluation(arguments: list[str] | None = None) -> tuple[Evaluation, str]:
    """From the command line: the evaluation, and its whole config as text."""
    made = parser()
    config = made.parse_args(arguments)
    return _instantiated(made, config), made.dump(config, skip_unset=False)


def evaluation_of(text: str) -> Evaluation:
    made = parser()
    return _instantiated(made, made.parse_string(text))


def _instantiated(made: ArgumentParser, config: Namespace) -> Evaluation:
    values = made.instantiate(config).as_dict()
    values.pop("config", None)
    return Evaluation(**values)


def make_bench(evaluation: Evaluation, device: torch.device) -> Bench:
    require_full_precision()  # of untrained networks too
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
    return make_bench(evaluation_of(text), device)


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
            chosen[name] = (
                balanced(names, attributes, trials.balance, trials.per_group) or chosen[name]
            )
    if trials.balance and attributes is not None:
        require_known(attributes, [name for s in chosen for name in sets[s].image_names])
    return chosen


def recover(evaluation: Evaluation, text: str, bench: Bench) -> tuple[pd.DataFrame, list[str]]:
    """Recover what has no row yet. Returns the rows of this evaluation, and what failed."""
    trials, folder = evaluation.trials, evaluation.folder
    require_defined(trials, bench)
    if not trials.problems:
        return pd.DataFrame(columns=COLUMNS), []
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
        for task in tasks_of(
            job,
            earlier,
            images,
            evaluation.batch_size,
            evaluation.pictured(job.template.seed),
        )
    ]
    total = sum(len(images) for _, images in jobs)
    failures: list[str] = []
    if tasks:
        remember_machine(folder, evaluation.devices())
        failures = perform(evaluation, text, bench, tasks, total, earlier)
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
    failures: Counter[str] = Counter()  # each once, with the images it cost
    missing = sum(len(task.images) for task in tasks)
    with image_bar("Recovering", total, initial=total - missing, bar_format=BAR) as bar:

        def show(evaluation: int, active: int) -> None:
            bar.set_postfix_str(f"{left}, evaluation {evaluation}", refresh=False)
            bar.update(0)

        for done in perform_all(tasks, make, devices, evaluation.folder, progress=show):
            left.count(done)
            bar.set_postfix_str(str(left), refresh=False)
            bar.update(len(done.task.images))
            if done.failure:
                task = done.task
                where = f"{task.method} on {task.problem}, {task.dataset}"
                failures[f"{where}: {done.failure}"] += len(task.images)
    return [f"{failure} ({images} images)" for failure, images in failures.items()]


def givens(evaluation: Evaluation, bench: Bench, rows: pd.DataFrame) -> dict[str, Given]:
    """What each study is given."""
    attributes = attribute_table(evaluation)
    pictures = evaluation.folder / "pictures-of-studies"
    return {
        name: Given(bench.priors, bench.sets, rows, bench.device, pictures / name, attributes)
        for name in evaluation.studies
    }


def run_studies(
    evaluation: Evaluation, bench: Bench, rows: pd.DataFrame
) -> tuple[list[Section], dict[str, Tables], list[str]]:
    """Sections and tables of the studies, from disk where these are up to date; what failed."""
    sections: list[Section] = []
    tables: dict[str, Tables] = {}
    failures: list[str] = []
    for name, given in givens(evaluation, bench, rows).items():
        study = evaluation.studies[name]
        given.folder.mkdir(parents=True, exist_ok=True)
        used = {p: bench.priors[p].fingerprint for p in names_in(study, evaluation.priors)}
        folder = evaluation.folder / "studies" / name
        with Console(stderr=True).status(f"{name} ...") as status:

            def show(text: str, name: str = name, status: Status = status) -> None:
                status.update(f"{name}: {text}")

            try:
                tables[name] = study_tables(study, given, folder, used, show)
                sections.append(study_section(study, tables[name], given.folder))
            except OSError:
                raise
            except Exception as error:  # the rest is worth a report
                failures.append(f"studies.{name}: {type(error).__name__}: {error}")
    return sections, tables, failures


def report(
    evaluation: Evaluation, rows: pd.DataFrame, sections: list[Section], failures: list[str]
) -> Path:
    """Write report.html and report.md; print the summary. Returns the page's path."""
    folder = evaluation.folder
    title = evaluation.title or evaluation.name
    title += f", {evaluation.image_size}px" if len(rows) else ""
    if len(rows):
        trials = evaluation.trials
        sheets = {} if trials.gammas is not None else sample_sheets(folder, rows, trials)
        published = read_published() if evaluation.published else read_published()[:0]
        n = 3 * evaluation.image_size**2
        recovered = recovery_section("Recovery", rows, published, n)
        sections = [replace(recovered, pictures=sheets), *sections]
    summary = [f"Failed: {failure}" for failure in failures]
    if len(sections) == 1:  # what it found is said once
        summary += sections[0].sentences
        sections = [replace(sections[0], sentences=())]
    else:
        summary += [said for section in sections for said in section.summary or section.sentences]
    about = details(rows, folder, evaluation.devices(), evaluation.trials.seeds)
    page = folder / "report.html"
    write_page(page, title, summary, sections, about)
    write_markdown(folder / "report.md", title, summary, sections, about)
    save_figures(folder / "figures", sections)
    text, _, _ = (folder / "report.md").read_text().partition("\n## Details")
    Console(width=None if sys.stdout.isatty() else 110).print(Markdown(text))
    for path, what in ((page, "the report"), (folder / "rows.csv", "one row per recovered image")):
        if path.exists():
            print(f"{path}: {what}")
    return page


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Raises ValueError if another evaluation is at work in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another evaluate.py is at work in {folder}: wait for it, or choose another name"
            ) from error
        yield


def evaluate(evaluation: Evaluation, text: str) -> list[str]:
    """Run an evaluation. Returns what failed, a line each."""
    bench = make_bench(evaluation, evaluation.devices()[0])
    for name, given in givens(evaluation, bench, pd.DataFrame(columns=COLUMNS)).items():
        try:
            evaluation.studies[name].check(given)
        except ValueError as error:
            raise ValueError(f"studies.{name}: {error}") from error
    with alone_in(evaluation.folder):
        rows, failures = recover(evaluation, text, bench)
        sections, tables, failed = run_studies(evaluation, bench, rows)
        failures += failed
        page = report(evaluation, rows, sections, failures)
        if evaluation.wandb != "disabled":
            flat = {f"{n}/{k}": t for n, of in tables.items() for k, t in of.items()}
            name, mode = evaluation.name, evaluation.wandb
            to_wandb(evaluation.project, name, mode, evaluation.folder, rows, page, flat)
    return failures


def main(arguments: list[str] | None = None) -> None:
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # of torch
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    if not (sys.argv[1:] if arguments is None else arguments):
        sys.exit(__doc__)
    try:
        failures = evaluate(*read_evaluation(arguments))
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("INVERTIBLE_PRIORS_TRACEBACK"):
            raise
        sys.exit(fail(f"error: {error}"))
    except KeyboardInterrupt:
        sys.exit(fail("interrupted: finished rows are kept, the same command does the rest", 130))
    if failures:
        sys.exit(fail("failed:\n  " + "\n  ".join(failures), 1))


def fail(message: str, status: int = 2) -> int:
    print(message, file=sys.stderr)
    if status == 2:
        print("(INVERTIBLE_PRIORS_TRACEBACK=1 shows where it came from)", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
