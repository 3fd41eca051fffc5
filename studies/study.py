"""A study: a question about priors that recovered images alone do not answer.

`compute` makes tables; `findings` and `figures` read nothing else, so a report can be drawn again
from the saved CSV files without computing anything.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from core.files import write_whole
from datamodules.image_set import ImageSet
from priors.prior import FlowPrior, Prior

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Given:
    """What an evaluation hands to its studies.

    Args:
        priors: by the name the config gives them; a FlowPrior or a GanPrior.
        sets: held-out images by the name of their set, uint8 (N, C, H, W).
        rows: all recoveries of this evaluation (columns of `results.rows`); may be empty.
        device: of the priors.
        folder: for pictures (PNG); nothing publishes them.
        attributes: what images show, by name (see `datamodules.tables.read_attributes`), if known.
        parts: folder of this study's finished parts; without one, none is kept.
    """

    priors: Mapping[str, Prior]
    sets: Mapping[str, ImageSet]
    rows: pd.DataFrame
    device: torch.device
    folder: Path
    attributes: pd.DataFrame | None = None
    parts: Path | None = None

    def part(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Compute a part of a table, or read it where an interrupted run has left it.

        Raises:
            OSError: it cannot be written.
        """
        if self.parts is None:
            return compute()
        path = self.parts / f"{name}.csv"
        if not path.exists():
            write_whole(path, compute().to_csv(index=False))
        return read_table(path)

    def prior(self, name: str) -> Prior:
        """Return the prior of that name. Raises ValueError if there is none."""
        if name not in self.priors:
            names = ", ".join(self.priors) or "none"
            raise ValueError(f"no prior named {name!r}: there are {names}")
        return self.priors[name]

    def flow(self, name: str) -> FlowPrior:
        """Return the flow of that name. Raises ValueError if there is none, or it is no flow."""
        prior = self.prior(name)
        if not isinstance(prior, FlowPrior):
            raise ValueError(f"the prior {name!r} must be a flow: {prior.name} is not invertible")
        return prior

    def first_images(self, dataset: str, count: int, prior: Prior) -> ImageSet:
        """Return the first `count` images of a set, or all; every study sees the same ones.

        Raises:
            ValueError: there is no such set, or its images do not have the prior's shape.
        """
        if dataset not in self.sets:
            names = ", ".join(self.sets) or "none"
            raise ValueError(f"no set of images named {dataset!r}: there are {names}")
        images = self.sets[dataset]
        shape = tuple(images.images.shape[1:])
        if shape != prior.image_shape:
            raise ValueError(f"{dataset}'s images are {shape}, {prior.name}'s {prior.image_shape}")
        return images.subset(range(min(count, len(images.images))))


class Study(ABC):
    """A question about priors. Its options name priors and sets by their names in `Given`.

    Attributes:
        title: its heading in the report.
        reads_rows: whether it depends on the evaluation's rows.
    """

    title: str
    reads_rows: bool = False

    def check(self, given: Given) -> None:  # noqa: B027 - by default nothing is needed
        """Raise ValueError naming what is missing, before anything slow."""

    @abstractmethod
    def compute(self, given: Given, progress: Callable[[str], None]) -> Tables:
        """Do the slow part. The tables go to disk as CSV, and the rest sees only them.

        What comes in parts (`Given.part`) goes on after the last one when it is run again.
        """

    @abstractmethod
    def findings(self, tables: Tables) -> list[str]:
        """Write plain sentences with the numbers (n, ±), for the report's head."""

    @abstractmethod
    def figures(self, tables: Tables) -> dict[str, Figure]:
        """Draw figures (caption -> figure), in the colours of whatever rcParams are in force."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a study's table, every float as it was written."""
    images = {"image": str}  # 0000083 is a name, and so is NA
    empty = {column: ["", "nan"] for column in pd.read_csv(path, nrows=0) if column != "image"}
    return pd.read_csv(
        path, dtype=images, float_precision="round_trip", keep_default_na=False, na_values=empty
    )


def unit_range(images: Tensor, device: torch.device) -> Tensor:
    """Map uint8 (N, C, H, W) to float32 in [0, 1] on `device`."""
    return images.to(device).float() / 255


def names_in(study: Study, names: Iterable[str]) -> list[str]:
    """Which of these (of priors, of sets) are among the options of a study."""
    text = json.dumps(vars(study), default=str)
    return [name for name in names if json.dumps(name) in text]
