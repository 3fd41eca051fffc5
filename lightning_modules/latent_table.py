"""The latents of all training images, in one file of the run that is mapped into memory."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.files import naming, write_whole

Precision = Literal["float32", "float16"]
HEADER = 16  # bytes: two int64, how many epochs had begun when each half was last written


class LatentTable:
    """Two halves, each with a row per image; an epoch reads the one that it does not write.

    So the rows that the epoch before has left stay as they were until the epoch is over, and one
    that is cut short starts again from them, bit for bit, wherever its last checkpoint is. Rows
    that were never written are 0. Processes of one machine, and of machines that share the file,
    write the rows of their own images.

    Args:
        path: of the file; what it holds is told in a JSON file of that name.
        images, latent_dim: how many rows, and how long.
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
        self.images = images
        self.latent_dim = latent_dim
        self.precision = precision
        self.data = dict(data)
        self.epoch: int | None = None  # none is open

    @property
    def contents(self) -> dict[str, Any]:
        """What the JSON file tells."""
        return {
            "images": self.images,
            "latent_dim": self.latent_dim,
            "precision": self.precision,
            "data": self.data,
        }

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return HEADER + 2 * self.images * self.latent_dim * np.dtype(self.precision).itemsize

    # --- making and opening ------------------------------------------------------------------

    def create(self) -> None:
        """Make the file anew, all rows 0, with all the room it will ever need.

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
            what = f"{error.strerror}: the latents of {self.images:,} images need "
            what += f"{self.size / 1e9:.2f} GB. Make room, or lower model.table_precision"
            raise OSError(error.errno, what, str(self.path)) from error
        write_whole(self.path.with_suffix(".json"), json.dumps(self.contents, indent=1))

    def open(self, epoch: int) -> None:
        """Map the file, for the epoch of that number, from 0 on.

        Raises ValueError, naming the file, if it is another table's, or of a later time.
        """
        self.require_same()
        self._epochs = np.memmap(self.path, np.int64, "r+", shape=(2,))
        shape = (2, self.images, self.latent_dim)
        self._rows = np.memmap(self.path, self.precision, "r+", offset=HEADER, shape=shape)
        earlier = int(self._epochs[(epoch + 1) % 2])
        if earlier != epoch:
            raise ValueError(
                f"{self.path} holds latents of epochs {sorted(map(int, self._epochs))}, and the "
                f"checkpoint is in epoch {epoch + 1}: resume from the run's newest checkpoint, or "
                "begin another run with this one's weights (--run.begin_from)"
            )
        self.epoch = epoch

    def require_same(self) -> None:
        """Raise ValueError or OSError, naming the file, unless it is this table's."""
        told = self.path.with_suffix(".json")
        try:
            theirs = json.loads(told.read_text())
            size = self.path.stat().st_size
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error.filename} is missing: without the latents of its images the run cannot go "
                "on. Begin another with its weights (--run.begin_from)"
            ) from error
        except ValueError as error:
            raise ValueError(f"{told} is damaged: {error}") from error
        ours = self.contents
        for key in ours:
            if theirs.get(key) != ours[key]:
                raise ValueError(
                    f"{self.path} is the table of another run: its {key} is {theirs.get(key)}, and "
                    f"this run's {ours[key]}. Use the data and model that it was made with"
                )
        if size != self.size:
            raise ValueError(f"{self.path} is damaged: it has {size:,} bytes, not {self.size:,}")

    def flush(self) -> None:
        """Bring what was written to the disk, if an epoch has begun."""
        if self.epoch is not None:
            with naming(self.path):
                self._rows.flush()
                self._epochs.flush()

    # --- rows --------------------------------------------------------------------------------

    def read(self, indices: Tensor) -> Tensor:
        """Read the latents (B, latent_dim) that the epoch before left, float32 on the CPU."""
        assert self.epoch is not None
        rows = self._rows[(self.epoch + 1) % 2, self.known(indices)]
        return torch.from_numpy(rows.astype(np.float32))

    def write(self, indices: Tensor, latents: Tensor) -> None:
        """Write the latents (B, latent_dim) of this epoch."""
        assert self.epoch is not None
        self._rows[self.epoch % 2, self.known(indices)] = latents.cpu().numpy()
        self._epochs[self.epoch % 2] = self.epoch + 1

    def known(self, indices: Tensor) -> Any:
        """Raise ValueError for an image that the table has no row of; else give the indices."""
        if int(indices.max()) >= self.images:
            raise ValueError(
                f"image {int(indices.max())} is not in {self.path}, which has {self.images:,} rows"
            )
        return indices.cpu().numpy()
