"""What an evaluation recovers, and what is left of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from core.errors import in_a_line
from datamodules.image_set import ImageSet
from priors.prior import Prior
from recovery.operators import ImageShape, Operator
from results.identity import ConfigTexts
from results.rows import KEY, Row
from results.trial import Job, NamedMethod, Problem


@dataclass(frozen=True)
class Trials:
    """Every problem x method x set x seed, all by name.

    Args:
        problems: names, of `problems`.
        methods: names, of `methods`.
        sets: names, of `sets`.
        images: of each set, the first so many (all where there are fewer).
        seeds: of the measurements' noise and of random starts; the mean over them is reported.
        gammas: solve each problem at each of these weights of the penalty instead of its own,
            by the methods that have one.
        balance: attributes. Of a set that the attribute table knows, take instead the first images
            that make `per_group` with each attribute and as many without it.
        per_group: see `balance`.
    """

    problems: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    images: int = 100
    seeds: list[int] = field(default_factory=lambda: [0])
    gammas: list[float] | None = None
    balance: list[str] = field(default_factory=list)
    per_group: int = 50

    def __post_init__(self) -> None:
        for name in ("images", "per_group"):
            if getattr(self, name) < 1:
                raise ValueError(f"trials.{name} must be at least 1, got {getattr(self, name)}")
        if self.gammas is not None and any(gamma < 0 for gamma in self.gammas):
            raise ValueError(f"trials.gammas must be at least 0, got {self.gammas}")
        if not self.seeds:
            raise ValueError("trials.seeds: name at least one")
        for name in ("problems", "methods", "sets", "seeds", "gammas", "balance"):
            values = getattr(self, name) or []
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f"trials.{name}: {twice[0]!r} is named twice")


@dataclass(frozen=True)
class Task:
    """A few images of one job, which one process recovers at a time."""

    problem: str
    method: str
    dataset: str
    template: Row
    images: tuple[int, ...]
    pictured: int  # the first so many images of the set get pictures


class Bench:
    """Priors, sets, operators and methods by name, on one device, made when first used.

    Args:
        problems, methods: definitions by name.
        priors, sets: by name.
        image_shape: (C, H, W) of all of them.
        device: of the recoveries.
    """

    def __init__(
        self,
        problems: Mapping[str, Problem],
        methods: Mapping[str, NamedMethod],
        priors: Mapping[str, Prior],
        sets: Mapping[str, ImageSet],
        image_shape: ImageShape,
        device: torch.device,
    ) -> None:
        self.problems, self.methods = problems, methods
        self.priors, self.sets = priors, sets
        self.image_shape, self.device = image_shape, device
        self._operator: tuple[str, Operator] | None = None  # only the last: large ones fill memory

    def operator(self, problem: str) -> Operator:
        """Make a problem's operator. Raises ValueError, naming it, for whatever that raises."""
        if self._operator is None or self._operator[0] != problem:
            self._operator = None
            try:
                made = self.problems[problem].operator(self.image_shape)
            except Exception as error:  # classes of the user's own may raise anything
                raise ValueError(f"problems.{problem}: {in_a_line(error)}") from error
            self._operator = (problem, made.to(self.device))
        return self._operator[1]

    def job(self, row: Row, dataset: str, texts: ConfigTexts) -> Job:
        """Make the job of a row that names run, problem, method, seed and, to override it, gamma.

        Raises ValueError, naming problem and method, if the method cannot serve the problem.
        """
        named = self.methods[row.method]
        prior = None if named.prior is None else self.priors[named.prior]
        if prior is not None:
            images_seen = getattr(prior, "images_seen", 0)
            row = replace(row, prior=named.prior or "", images_seen=images_seen)
        problem = replace(self.problems[row.problem], gamma=row.gamma)
        operator = self.operator(row.problem)
        try:
            job = Job.of(problem, operator, named.make, prior, self.sets[dataset], row, texts)
            job.method.check(operator)
        except Exception as error:  # classes of the user's own may raise anything
            raise ValueError(f"{row.method} on {row.problem}: {in_a_line(error)}") from error
        return job


def require_defined(trials: Trials, bench: Bench) -> None:
    """Raise ValueError naming a problem, method, set or prior that is not defined."""
    for what, names, defined in (
        ("problem", trials.problems, bench.problems),
        ("method", trials.methods, bench.methods),
        ("set", trials.sets, bench.sets),
    ):
        for name in names:
            if name not in defined:
                raise ValueError(
                    f"trials.{what}s: no {what} is named {name!r}; "
                    f"defined are {', '.join(sorted(defined))}"
                )


def plan(trials: Trials, bench: Bench, run: str, texts: ConfigTexts) -> Iterator[Job]:
    """Yield all jobs, problem by problem: methods that share one see the same A and noise."""
    for problem in trials.problems:
        for method in trials.methods:
            own = bench.problems[problem].gamma
            gammas: Sequence[float] = [own]
            if trials.gammas is not None:
                row = Row(run, "", 0, 0, problem=problem, method=method, gamma=own)
                job = bench.job(row, trials.sets[0], ConfigTexts(None))
                gammas = trials.gammas if job.method.takes_gamma(job.operator) else gammas
            for gamma in gammas:
                for dataset in trials.sets:
                    for seed in trials.seeds:
                        row = Row(run, "", 0, 0, problem=problem, method=method, seed=seed)
                        yield bench.job(replace(row, gamma=gamma), dataset, texts)


def tasks_of(
    job: Job, rows: pd.DataFrame, images: Sequence[int], size: int, pictured: int
) -> list[Task]:
    """Cut the images of a job that have no row yet into tasks of `size`; `pictured` as in Task."""
    missing = sorted(set(images) & set(job.missing(rows)))
    row = job.template
    return [
        Task(row.problem, row.method, job.images.name, row, tuple(missing[i : i + size]), pictured)
        for i in range(0, len(missing), size)
    ]


def current(rows: pd.DataFrame, jobs: Sequence[tuple[Job, Sequence[int]]]) -> pd.DataFrame:
    """Keep the rows of these jobs and images, each once: none of an earlier config or larger plan.

    A batch whose rows a kill cut short is recovered again, with the rows it had. Of a method that
    takes no gamma, rows of any count as the job's.
    """
    own = {
        job.template.config: job.template.gamma
        for job, _ in jobs
        if not job.method.takes_gamma(job.operator)
    }
    rows = rows.assign(gamma=rows["config"].map(own).fillna(rows["gamma"]))
    columns = ["config", "dataset", "problem", "method", "seed", "image"]
    wanted = {
        (row.config, job.images.name, row.problem, row.method, row.seed, job.images.image_names[i])
        for job, images in jobs
        for row in [job.template]
        for i in images
    }
    keys = rows[columns].itertuples(index=False, name=None)
    keep = np.array([key in wanted for key in keys], dtype=bool)
    return rows[keep].drop_duplicates([*KEY, "config"], keep="last", ignore_index=True)
