"""The latents of all training images, in one file of the run that is mapped into memory."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.files import naming, write_whole

Precision = Literal["float32", "float16"]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LatentTable:
    """Two rows for every image, each with the time it was written at, in images seen.

    What is read at a time is the newest row of that time or before; what is written takes the place
    of the other. So a row that a checkpoint builds on stays until the image comes again, and a run
    cut short goes on from the latents of its checkpoint, bit for bit. Latents that were never
    written are 0. Processes of one machine write the rows of their own images.

    Args:
        path: of the file; a JSON file of that name tells what it holds.
        images, latent_dim: how many latents, and how long.
        precision: of the rows; they come and go as float32.
        data: what identifies the images.
    """

    def __init__(
        self,
        path: Path,
        images: int,
        latent_dim: int,
        precision: Precision,
        data: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.told = path.with_suffix(".json")
        self.contents = {
            "images": images,
            "latent_dim": latent_dim,
            "precision": precision,
            "data": dict(data),
        }
        self.images = images
        self.shape = (2, images, latent_dim)
        self.precision = precision
        self._times: NDArray[np.int64] | None = None  # (2, images), 0: never

    @property
    def size(self) -> int:
        """Bytes of the file: times, then rows."""
        row = self.shape[2] * np.dtype(self.precision).itemsize
        return 2 * self.images * (np.dtype(np.int64).itemsize + row)

    # --- making and opening ------------------------------------------------------------------

    def create(self) -> None:
        """Make the file anew, all latents 0, with all the room it will ever need.

        Raises OSError, naming it and its size, if the disk has not that much: a full disk would
        kill the process as it writes into mapped memory.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        try:
            with naming(self.path), self.path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.size)
        except OSError as error:
            self.path.unlink(missing_ok=True)
            if error.errno not in FULL:
                raise
            what = f"{error.strerror}: the latents of {self.images:,} images need "
            what += f"{self.size / 1e9:.2f} GB. Make room, or lower model.table_precision"
            raise OSError(error.errno, what, str(self.path)) from error
        write_whole(self.told, json.dumps(self.contents, indent=1))

    def open(self) -> None:
        """Map the file. Raises ValueError or OSError, naming it, if it is not this table's."""
        try:
            theirs = dict(json.loads(self.told.read_text()))
            size = self.path.stat().st_size
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error.filename} is missing: without the latents of its images the run cannot go "
                "on. Begin another with its weights (--run.begin_from)"
            ) from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.told} is damaged: {error}") from error
        for key, ours in self.contents.items():
            if theirs.get(key) != ours:
                raise ValueError(
                    f"{self.path} is the table of another run: its {key} is {theirs.get(key)}, and "
                    f"this run's {ours}. Use the data and model that it was made with"
                )
        if size != self.size:
            raise ValueError(f"{self.path} is damaged: it has {size:,} bytes, not {self.size:,}")
        self._times = np.memmap(self.path, np.int64, "r+", shape=(2, self.images))
        self._rows = np.memmap(
            self.path, self.precision, "r+", offset=self._times.nbytes, shape=self.shape
        )

    def flush(self) -> None:
        """Bring what was written to the disk, once the table is open."""
        if self._times is not None:
            with naming(self.path):
                self._rows.flush()
                self._times.flush()  # type: ignore[attr-defined]

    # --- rows --------------------------------------------------------------------------------

    def read(self, indices: Tensor, now: int) -> Tensor:
        """Read the latents (B, latent_dim) of images as they are after `now` images seen.

        Float32, on the CPU. Raises ValueError for an image that the table does not know, or whose
        latents are all of a later time.
        """
        images = self.known(indices)
        rows = self._rows[self.newest(images, now), images]
        return torch.from_numpy(rows.astype(np.float32))

    def write(self, indices: Tensor, latents: Tensor, now: int, then: int) -> None:
        """Write the latents (B, latent_dim) that those read at `now` have become by `then`."""
        images = self.known(indices)
        other = 1 - self.newest(images, now)
        assert self._times is not None
        self._rows[other, images] = latents.cpu().numpy()
        self._times[other, images] = then

    def newest(self, images: NDArray[np.int64], now: int) -> NDArray[np.int64]:
        """Which of their two rows, 0 or 1, images have had after `now` images seen."""
        assert self._times is not None
        times = self._times[:, images]
        past = np.where(times <= now, times, -1)
        if (past.max(axis=0) < 0).any():
            raise ValueError(
                f"{self.path} holds latents of {times.min():,} images seen and later, and the "
                f"checkpoint has seen {now:,}: resume from the run's newest checkpoint, or begin "
                "another run with this one's weights (--run.begin_from)"
            )
        return past.argmax(axis=0)

    def known(self, indices: Tensor) -> NDArray[np.int64]:
        """Give the indices of images; raise ValueError for one that the table has no rows of."""
        if int(indices.max()) >= self.images:
            raise ValueError(
                f"image {int(indices.max())} is not in {self.path}, which has {self.images:,}"
            )
        images: NDArray[np.int64] = indices.cpu().numpy()
        return images
