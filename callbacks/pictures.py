"""Pictures of a recovery: truth | measurement | a recovery by each method."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.utils import make_grid, save_image

from core.files import whole_file
from results.trial import Job, Trial, measurement_as_image

COLUMNS = ("truth", "measurement")


class RecoveryPictures:
    """The pictures of one recovery, kept as a file per image and column until it has ended.

    A recovery that was stopped loses none: an image's files are whole before its row is written.

    Args:
        run_directory: pictures/<problem>/<set>/<images_seen>.png will be in it.
        images_seen: when the recovery was made.
        images: of every set, the first so many.
    """

    def __init__(self, run_directory: Path, images_seen: int, images: int) -> None:
        self.folder = run_directory / "pictures"
        self.parts = self.folder / ".parts" / f"{images_seen:09d}"
        self.images_seen = images_seen
        self.images = images

    def keep(self, job: Job, trial: Trial) -> None:
        """Keep what was recovered of the first images of a set."""
        seen = measurement_as_image(trial.y, job.operator)
        if seen is None:
            seen = torch.ones_like(trial.truth)  # blank: there is nothing to show
        method = job.template.method
        columns = {"truth": trial.truth, "measurement": seen, method: trial.recovery.image}
        shown = set(job.images.image_names[: self.images])
        for i, row in enumerate(trial.rows[-len(trial.y) :]):
            if row.image in shown:
                for column, images in columns.items():
                    folder = self.parts / row.problem / row.dataset / row.image
                    with whole_file(folder / f"{column}.png") as file:
                        save_image(images[i].clamp(0, 1), file, format="png")

    def join(
        self, problems: Sequence[str], sets: Sequence[str], methods: Sequence[str]
    ) -> dict[str, Tensor]:
        """Write the grids, a row an image, and forget the parts.

        Returns the grids (3, H, W) in [0, 1] by <problem>/<set>.
        """
        grids = {}
        for name in (f"{problem}/{held_out}" for problem in problems for held_out in sets):
            images = sorted((self.parts / name).glob("*"))
            kept = [
                {c: i / f"{c}.png" for c in (*COLUMNS, *methods) if (i / f"{c}.png").exists()}
                for i in images[: self.images]
            ]
            # a method free of a prior was recovered at an earlier time, and has no picture now
            most = max(map(len, kept), default=0)
            cells = [
                decode_image(str(path), ImageReadMode.RGB)
                for files in kept
                if len(files) == most
                for path in files.values()
            ]
            if cells:
                grid = make_grid(torch.stack(cells), nrow=most, padding=1, pad_value=255) / 255
                with whole_file(self.folder / name / f"{self.images_seen:09d}.png") as file:
                    save_image(grid, file, format="png")
                grids[name] = grid
        shutil.rmtree(self.parts.parent, ignore_errors=True)
        return grids
