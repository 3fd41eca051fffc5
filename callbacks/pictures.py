"""Pictures of a recovery: truth | measurement | a recovery by each method."""

import io
import itertools
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.utils import make_grid, save_image

from core.files import whole_file
from datamodules.image_set import ImageSet
from results.pictures import OF_SAMPLES, measurement_as_image, pictures_of
from results.trial import Job, Trial

COLUMNS = ("truth", "measurement")


class RecoveryPictures:
    """The pictures of one recovery, kept as a file per image and column until it has ended.

    A recovery that was stopped loses none: an image's files are whole before its row is written.

    Args:
        run_directory: pictures/<problem>/<set>/<images_seen>.png will be in it; what is added to a
            recovery that has ended goes to <images_seen>-2.png.
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
        columns = {"truth": trial.truth, "measurement": seen}
        for what, images in pictures_of(trial.recovery).items():
            columns[method if what == "recovery" else f"{method}, {what}"] = images
        shown = set(job.images.image_names[: self.images])
        for i, row in enumerate(trial.rows[-len(trial.y) :]):
            if row.image in shown:
                for column, images in columns.items():
                    folder = self.parts / row.problem / row.dataset / row.image
                    with whole_file(folder / f"{column}.png") as file:
                        save_image(images[i].clamp(0, 1), file, format="png")

    def join(
        self, problems: Sequence[str], sets: Iterable[ImageSet], methods: Sequence[str]
    ) -> dict[str, Tensor]:
        """Write the grids, a row an image in the order of its set, and forget the parts.

        A cell is blank where a method did not recover the image at this time: one that is given
        few images, or free of a prior and done earlier. A method with no cell has no column.

        Returns the grids (3, H, W) in [0, 1] by <problem>/<set>.
        """
        grids = {}
        for problem, held_out in itertools.product(problems, sets):
            name = f"{problem}/{held_out.name}"
            folders = [self.parts / name / image for image in held_out.image_names]
            rows = [folder for folder in folders if folder.exists()][: self.images]
            columns = [
                column
                for column in (*COLUMNS, *every_column_of(methods))
                if any((row / f"{column}.png").exists() for row in rows)
            ]
            if columns:
                cells = self.cells([row / f"{column}.png" for row in rows for column in columns])
                grid = make_grid(cells, nrow=len(columns), padding=1, pad_value=255) / 255
                png = io.BytesIO()
                save_image(grid, png, format="png")
                with whole_file(self.path(name, png.getvalue())) as file:
                    file.write(png.getvalue())
                grids[name] = grid
        shutil.rmtree(self.parts, ignore_errors=True)
        with suppress(OSError):  # the parts of other times stay
            self.parts.parent.rmdir()
        return grids

    def path(self, name: str, png: bytes) -> Path:
        """Name the file of a grid: the first that is free, or that holds it already."""
        path = self.folder / name / f"{self.images_seen:09d}.png"
        numbers = itertools.count(2)
        while path.exists() and path.read_bytes() != png:
            path = path.with_name(f"{self.images_seen:09d}-{next(numbers)}.png")
        return path

    def cells(self, paths: Sequence[Path]) -> Tensor:
        """Read the cells (N, 3, H, W), blank where there is no file."""
        cells = {p: decode_image(str(p), ImageReadMode.RGB) for p in paths if p.exists()}
        blank = torch.full_like(next(iter(cells.values())), 255)
        return torch.stack([cells.get(path, blank) for path in paths])


def every_column_of(methods: Sequence[str]) -> list[str]:
    """List the columns that pictures of these methods may have, in order."""
    return [
        column
        for method in methods
        for column in (method, *(f"{method}, {what}" for what in OF_SAMPLES))
    ]
