"""What an evaluation is: its config, and the priors and sets that it names."""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from jsonargparse import Namespace

from cli.configs import at_home, read_command, read_config
from cli.help import show_help
from cli.parse import Strict, parse, said_by_us
from cli.types import register_types
from cli.wandb import split_project
from datamodules.held_out import DATA_ROOT_VARIABLE, DRAWN_FACES, drawn_faces, prepared_set
from datamodules.image_set import Channels, ImageSet
from datamodules.shards import load_images
from datamodules.tables import read_attributes
from evaluation.help import page
from evaluation.plan import Trials
from evaluation.share import Share, this_share
from priors import load_prior
from priors.prior import Prior
from recovery.operators import ImageShape
from results.trial import NamedMethod, Problem
from studies.study import Study, names_in

DEFAULTS = Path(__file__).parent.parent / "configs" / "evaluate" / "defaults.yaml"
ATTRIBUTES_VARIABLE = "INVERTIBLE_PRIORS_ATTRIBUTES"
Mode = Literal["online", "offline", "disabled"]  # of W&B
METHODS = "methods"  # the key of them
DRAWN = 64  # faces in each set of them, as while training


@dataclass(frozen=True)
class Evaluation:
    """One experiment: what is recovered, which studies are made, and where the report goes.

    Args:
        name: results are in <root>/<name>.
        title: of the report, which adds the size of recovered images.
        image_size: of priors and sets.
        channels: of them: 3 for RGB, 1 for grey.
        priors: by name, a run of train.py, a checkpoint of one, or an exported prior.
        sets: by name, in or out of the priors' training distribution; prepared at
            <data>/<image_size>px/<name>; faces-val and faces-ood are drawn.
        problems: what is measured, by name.
        methods: how images are recovered, by name: a class, or {method, prior, images}.
        trials: what is recovered.
        studies: questions that recovered images alone do not answer, by name.
        published: draw the paper's numbers beside ours.
        data: folder of prepared sets; by default the environment variable INVERTIBLE_PRIORS_DATA.
        attributes: CSV of what images show, or CelebA's list_attr_celeba.txt; by default the
            environment variable INVERTIBLE_PRIORS_ATTRIBUTES.
        name_column: of the images' names in it; by default name, or else image_id.
        root: folder of all evaluations.
        device: auto takes all GPUs, or the CPU; under torchrun or srun, a GPU for each process.
        processes: per device; each takes a part of the images.
        batch_size: images recovered at once; bounds memory, changes no result.
        pictures: images of every set shown in the report.
        wandb: send the summary to Weights & Biases.
        project: W&B project, or entity/project.
    """

    name: str
    title: str = ""
    image_size: int = 64
    channels: Channels = 3
    priors: dict[str, str] = field(default_factory=dict)
    sets: dict[str, Literal["in", "out"]] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)
    methods: dict[str, NamedMethod] = field(default_factory=dict)
    trials: Trials = field(default_factory=Trials)
    studies: dict[str, Study] = field(default_factory=dict)
    published: bool = False
    data: str | None = None
    attributes: str | None = None
    name_column: str | None = None
    root: str = "runs/evaluate"
    device: str = "auto"
    processes: int = 1
    batch_size: int = 16
    pictures: int = 4
    wandb: Mode = "disabled"
    project: str = "invertible-priors"

    def __post_init__(self) -> None:
        split_project("project", self.project)
        for name, least in (("processes", 1), ("batch_size", 1), ("pictures", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.trials.problems and not self.trials.sets:
            raise ValueError(f"trials.sets: name the sets to recover, of {', '.join(self.sets)}")

    @property
    def image_shape(self) -> ImageShape:
        return self.channels, self.image_size, self.image_size

    @property
    def folder(self) -> Path:
        return Path(self.root) / self.name

    def pictured(self, seed: int) -> int:
        """Images of every set to keep pictures of: none where one problem is solved often."""
        first = self.trials.gammas is None and seed == self.trials.seeds[0]
        return self.pictures if first else 0

    def images_used(self, name: str) -> int | None:
        """Of a set, the first so many are used; None for all of them."""
        studied = any(names_in(study, [name]) for study in self.studies.values())
        return None if studied or self.trials.balance else self.trials.images

    @property
    def share(self) -> Share:
        """What this process has of it."""
        return this_share()

    def devices(self) -> list[torch.device]:
        """One entry per process; those of one launcher's process are on one device."""
        if self.device != "auto":
            found = [torch.device(self.device)]
        elif torch.cuda.is_available():
            found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
            if self.share.count > 1:  # some launchers show a process one GPU alone, some all
                found = [found[self.share.local_rank % len(found)]]
        else:
            found = [torch.device("cpu")]
        return [device for device in found for _ in range(self.processes)]


class Priors(Mapping[str, Prior]):
    """Priors by name, loaded when first used. Raises ValueError for one that does not fit."""

    def __init__(
        self, paths: Mapping[str, str], image_shape: ImageShape, device: torch.device
    ) -> None:
        self.paths, self.image_shape, self.device = paths, image_shape, device
        self.loaded: dict[str, Prior] = {}

    def __getitem__(self, name: str) -> Prior:
        if name not in self.paths:
            raise ValueError(
                f"no prior is named {name!r}; priors names {', '.join(self.paths) or 'none'}"
            )
        if name not in self.loaded:
            try:
                prior = load_prior(self.paths[name], device=self.device)
            except (OSError, ValueError) as error:
                raise ValueError(f"priors.{name}: {error}") from error
            (theirs, _, size), (ours, _, wanted) = prior.image_shape, self.image_shape
            for key, there, here in (("image_size", size, wanted), ("channels", theirs, ours)):
                if there != here:
                    raise ValueError(
                        f"priors.{name}: the {key} of {self.paths[name]} is {there}, and {key} is "
                        f"{here}"
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
            self.loaded[name] = self._load(name)
        return self.loaded[name]

    def _load(self, name: str) -> ImageSet:
        size = self.evaluation.image_size
        if name in DRAWN_FACES:
            self._require_drawn(name)
            drawn = drawn_faces(name, size, DRAWN).in_channels(self.evaluation.channels)
            return replace(drawn, distribution=self.evaluation.sets[name])
        index = prepared_set("data", self.evaluation.data, name, size)
        images, names = load_images(index, self.evaluation.images_used(name))
        if not names:
            raise ValueError(f"sets.{name}: {index.root} holds no image")
        found = ImageSet(name, self.evaluation.sets[name], images, names, index.identity)
        return found.in_channels(self.evaluation.channels)

    def _require_drawn(self, name: str) -> None:
        """Raises ValueError where a prepared set has the name of drawn faces."""
        root = self.evaluation.data or os.environ.get(DATA_ROOT_VARIABLE)
        prepared = root and Path(root).expanduser() / f"{self.evaluation.image_size}px" / name
        if prepared and prepared.exists():
            raise ValueError(
                f"sets.{name}: this name means drawn faces, and {prepared} holds a prepared set: "
                "rename its folder"
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self.evaluation.sets)

    def __len__(self) -> int:
        return len(self.evaluation.sets)


def parser() -> Strict:
    register_types()
    made = Strict(prog="evaluate.py")
    made.add_argument("--config", action="config", help="YAML files, later ones over earlier ones")
    made.add_class_arguments(Evaluation)
    return made


def read_evaluation(arguments: list[str] | None = None) -> tuple[Evaluation, str]:
    """From the command line: the evaluation, and its whole config as text."""
    made = parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    show_help(arguments, lambda: page(made, read_config(DEFAULTS)))
    config = parse(made, read_command(arguments, DEFAULTS, METHODS), made)
    return _instantiated(made, config), made.dump(config, skip_unset=False)


def evaluation_of(text: str) -> Evaluation:
    made = parser()
    return _instantiated(made, made.parse_string(text))


def _instantiated(made: Strict, config: Namespace) -> Evaluation:
    with said_by_us():
        values = made.instantiate(config).as_dict()
    values.pop("config", None)
    return Evaluation(**values)


def attribute_table(evaluation: Evaluation) -> pd.DataFrame | None:
    path = evaluation.attributes or os.environ.get(ATTRIBUTES_VARIABLE)
    if path is None:
        return None
    return read_attributes(Path(at_home(path)), evaluation.name_column)
