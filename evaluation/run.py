"""Runs an evaluation: recovers what has no row yet, makes the studies, writes the report."""

import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.status import Status

from core.lock import alone_in
from core.memory import keep_freed_memory
from core.precision import require_full_precision
from core.progress import image_bar
from core.threads import leave_busy_cores
from datamodules.image_set import ImageSet
from evaluation.config import (
    ATTRIBUTES_VARIABLE,
    Evaluation,
    Priors,
    Sets,
    attribute_table,
    evaluation_of,
)
from evaluation.outcome import (
    details,
    remember_machine,
    require_login,
    sample_sheets,
    study_section,
    study_tables,
    to_wandb,
)
from evaluation.plan import Bench, Task, current, plan, require_defined, tasks_of
from evaluation.pool import perform_all
from evaluation.time_left import TimeLeft
from report.experiments import recovery_section
from report.page import Section, save_figures, write_markdown, write_page
from report.published import read_published
from results.identity import ConfigTexts
from results.rows import COLUMNS, RowFile, read_rows
from results.trial import Job
from studies.bias import balanced, require_known
from studies.study import Given, Tables, names_in

# tqdm's own estimate takes every image to be equally slow; TimeLeft does not
SECONDS_IN_A_LOG = 30.0  # between two lines of what a study is doing
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def make_bench(evaluation: Evaluation, device: torch.device) -> Bench:
    require_full_precision()  # for untrained networks too
    return Bench(
        evaluation.problems,
        evaluation.methods,
        Priors(evaluation.priors, evaluation.image_shape, device),
        Sets(evaluation),
        evaluation.image_shape,
        device,
    )


def bench_of_text(text: str, device: torch.device) -> Bench:
    """Make a process its own bench, from the text of the config."""
    return make_bench(evaluation_of(text), device)


def chosen_images(
    evaluation: Evaluation, sets: Mapping[str, ImageSet], attributes: pd.DataFrame | None
) -> dict[str, list[int]]:
    """Choose which images of every set to recover, by position."""
    trials = evaluation.trials
    if trials.balance and attributes is None:
        raise ValueError(
            "trials.balance needs the attribute table: set attributes or the environment variable "
            f"{ATTRIBUTES_VARIABLE} to its CSV file"
        )
    chosen = {}
    for name in trials.sets:
        names = sets[name].image_names
        chosen[name] = list(range(min(trials.images, len(names))))
        if trials.balance and attributes is not None:
            chosen[name] = (
                balanced(names, attributes, trials.balance, trials.per_group) or chosen[name]
            )
            unknown = [image for image in names if image not in attributes.index]
            if 0 < len(unknown) < len(names):
                said = f"{len(unknown)} of its {len(names)} images, such as {unknown[0]}"
                print(f"{name}: the attribute table lacks {said}: left out", file=sys.stderr)
    if trials.balance and attributes is not None:
        require_known(attributes, [name for s in chosen for name in sets[s].image_names])
    return chosen


@dataclass(frozen=True)
class Recovered:
    """The rows of an evaluation, and how this process left it.

    Args:
        rows: of all processes.
        missing: images that have no row yet, whoever's they are.
        worked: this process had images to recover.
        failures: its own, a line each.
    """

    rows: pd.DataFrame
    missing: int = 0
    worked: bool = False
    failures: list[str] = field(default_factory=list)


def recover(evaluation: Evaluation, text: str, bench: Bench) -> Recovered:
    """Recover this process's share of what has no row yet."""
    trials, folder, share = evaluation.trials, evaluation.folder, evaluation.share
    require_defined(trials, bench)
    if not trials.problems:
        return Recovered(pd.DataFrame(columns=COLUMNS))
    chosen = chosen_images(evaluation, bench.sets, attribute_table(evaluation))
    texts = ConfigTexts(folder / share.file("configs", ".jsonl"))
    jobs: list[tuple[Job, Sequence[int]]] = []
    RowFile(folder / share.file("rows", ".csv"))  # so that there is a file to read
    earlier = read_rows(folder, every=True)
    for job in plan(trials, bench, evaluation.name, texts):
        most = bench.methods[job.template.method].images
        jobs.append((job.take_up(earlier, texts), chosen[job.images.name][:most]))
    own = [(job, share.of(images, number)) for number, (job, images) in enumerate(jobs)]
    tasks = [
        task
        for job, images in own
        for task in tasks_of(
            job,
            earlier,
            images,
            evaluation.batch_size,
            evaluation.pictured(job.template.seed),
        )
    ]
    total = sum(len(images) for _, images in own)
    failures: list[str] = []
    if tasks:
        remember_machine(folder, evaluation.devices(), share)
        failures = perform(evaluation, text, bench, tasks, total, earlier)
    rows = read_rows(folder, every=True)
    missing = sum(len(set(images) & set(job.missing(rows))) for job, images in jobs)
    return Recovered(current(rows, jobs), missing, bool(tasks), failures)


def perform(
    evaluation: Evaluation,
    text: str,
    bench: Bench,
    tasks: Sequence[Task],
    total: int,
    earlier: pd.DataFrame,
) -> list[str]:
    """Perform the tasks with a bar that shows the time left; return what failed."""
    devices = evaluation.devices()
    make = partial(bench_of_text, text) if len(devices) > 1 else lambda device: bench
    share = evaluation.share
    left = TimeLeft(tasks, earlier, len(devices))
    failures: Counter[str] = Counter()  # each failure once, with the images it cost
    missing = sum(len(task.images) for task in tasks)
    with image_bar(
        "Recovering", total, initial=total - missing, bar_format=BAR, disable=share.rank > 0
    ) as bar:

        def show(evaluation: int, active: int) -> None:
            bar.set_postfix_str(f"{left}, evaluation {evaluation}", refresh=False)
            bar.update(0)

        for done in perform_all(tasks, make, devices, evaluation.folder, share, show):
            left.count(done)
            bar.set_postfix_str(str(left), refresh=False)
            bar.update(len(done.task.images))
            if done.failure:
                task = done.task
                where = f"{task.method} on {task.problem}, {task.dataset}"
                failures[f"{where}: {done.failure}"] += len(task.images)
    return [f"{failure} ({images} images)" for failure, images in failures.items()]


def givens(evaluation: Evaluation, bench: Bench, rows: pd.DataFrame) -> dict[str, Given]:
    """Collect what each study works on."""
    attributes = attribute_table(evaluation)
    pictures = evaluation.folder / "pictures-of-studies"
    return {
        name: Given(bench.priors, bench.sets, rows, bench.device, pictures / name, attributes)
        for name in evaluation.studies
    }


class Doing:
    """Says what a study is doing: in place on a terminal, a line twice a minute in a log."""

    def __init__(self, name: str, console: Console, status: Status) -> None:
        self.name, self.console, self.status = name, console, status
        self._said = time.monotonic()

    def __call__(self, text: str) -> None:
        line = f"{self.name}: {text}"
        self.status.update(line)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._said >= SECONDS_IN_A_LOG:
            self._said = now
            self.console.print(line)


def run_studies(
    evaluation: Evaluation, bench: Bench, rows: pd.DataFrame
) -> tuple[list[Section], dict[str, Tables], list[str]]:
    """Run the studies whose tables on disk are out of date; return sections, tables, failures."""
    sections: list[Section] = []
    tables: dict[str, Tables] = {}
    failures: list[str] = []
    for name, given in givens(evaluation, bench, rows).items():
        study = evaluation.studies[name]
        given.folder.mkdir(parents=True, exist_ok=True)
        used = {p: bench.priors[p].fingerprint for p in names_in(study, evaluation.priors)}
        folder = evaluation.folder / "studies" / name
        console = Console(stderr=True)
        with console.status(f"{name} ...") as status:
            try:
                show = Doing(name, console, status)
                tables[name] = study_tables(study, given, folder, used, show)
                sections.append(study_section(study, tables[name], given.folder))
            except OSError:
                raise
            except Exception as error:  # the others are worth a report
                failures.append(f"studies.{name}: {type(error).__name__}: {error}")
    return sections, tables, failures


def report(
    evaluation: Evaluation, rows: pd.DataFrame, sections: list[Section], failures: list[str]
) -> Path:
    """Write report.html and report.md, print the summary, and return the page's path."""
    folder = evaluation.folder
    title = evaluation.title or evaluation.name
    title += f", {evaluation.image_size}px" if len(rows) else ""
    if len(rows):
        trials = evaluation.trials
        sheets = {} if trials.gammas is not None else sample_sheets(folder, rows, trials)
        published = read_published() if evaluation.published else read_published()[:0]
        n = math.prod(evaluation.image_shape)
        recovered = recovery_section("Recovery", rows, published, n)
        sections = [replace(recovered, pictures=sheets), *sections]
    summary = [f"Failed: {failure}" for failure in failures]
    if len(sections) == 1:  # the summary has its findings: do not repeat them
        summary += sections[0].sentences
        sections = [replace(sections[0], sentences=())]
    else:
        summary += [said for section in sections for said in section.summary or section.sentences]
    devices, seeds = evaluation.devices(), evaluation.trials.seeds
    about = details(rows, folder, devices, evaluation.share, seeds)
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


def evaluate(evaluation: Evaluation, text: str) -> list[str]:
    """Run an evaluation; return what failed, a line each."""
    if evaluation.devices()[0].type == "cpu":
        keep_freed_memory()
        if len(evaluation.devices()) == 1:
            leave_busy_cores()
    if evaluation.wandb == "online":
        require_login()  # before hours of recoveries
    bench = make_bench(evaluation, evaluation.devices()[0])
    for name, given in givens(evaluation, bench, pd.DataFrame(columns=COLUMNS)).items():
        try:
            evaluation.studies[name].check(given)
        except ValueError as error:
            raise ValueError(f"studies.{name}: {error}") from error
    folder, share = evaluation.folder, evaluation.share
    if share.count == 1:
        with alone_in(folder, "evaluate.py"):
            return finish(evaluation, bench, recover(evaluation, text, bench))
    with (
        alone_in(folder, "evaluate.py", shared=True),
        alone_in(folder, "evaluate.py", f".lock-rank{share.rank}"),
    ):
        return finish_if_last(evaluation, bench, recover(evaluation, text, bench))


def finish_if_last(evaluation: Evaluation, bench: Bench, recovered: Recovered) -> list[str]:
    """Finish an evaluation in several processes if none has anything left to recover.

    The process that writes the last row finds it so. Where none had anything to do, the first
    process finishes.
    """
    share = evaluation.share
    if recovered.missing:
        then = (
            "some of them have failed: run the command once without the launcher for a report of "
            "what there is"
            if recovered.failures
            else "the process that is done last reports. If one has ended before its time, the "
            "same command does the rest"
        )
        print(
            f"Process {share.rank} of {share.count} has done its share. {recovered.missing} "
            f"recoveries have no row yet: {then}"
        )
    elif recovered.worked or share.rank == 0:
        with ExitStack() as reporting:
            try:
                reporting.enter_context(alone_in(evaluation.folder, "evaluate.py", ".lock-report"))
            except ValueError:  # another was done at the same moment
                return recovered.failures
            return finish(evaluation, bench, recovered)
    return recovered.failures


def finish(evaluation: Evaluation, bench: Bench, recovered: Recovered) -> list[str]:
    """Make the studies and the report; return what failed."""
    rows = recovered.rows
    sections, tables, failed = run_studies(evaluation, bench, rows)
    failures = [*recovered.failures, *failed]
    page = report(evaluation, rows, sections, failures)
    if evaluation.wandb != "disabled":
        flat = {f"{n}/{k}": t for n, of in tables.items() for k, t in of.items()}
        name, mode = evaluation.name, evaluation.wandb
        to_wandb(evaluation.project, name, mode, evaluation.folder, rows, page, flat)
    return failures
