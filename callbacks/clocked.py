"""What callbacks need of the module in training and of its data."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.image_set import ImageSet
from priors.prior import Prior


class Clocked(Protocol):
    """A module whose time is `images_seen`; see `lightning_modules.clock.ClockedModule`."""

    images_seen: int
    total_images: int

    @property
    def device(self) -> torch.device: ...

    def prior(self) -> Prior: ...

    def samples(self, count: int) -> Tensor: ...


class Faces(Protocol):
    """Training data and held-out sets; see `datamodules.faces.FaceDataModule`."""

    held_out: Mapping[str, ImageSet]
    identities: Mapping[str, dict[str, str]]

    @property
    def validation_names(self) -> list[str]: ...

    def position(self, images_seen: int) -> tuple[int, int]: ...


def clocked(module: pl.LightningModule) -> Clocked:
    return cast(Clocked, module)


def data_of(trainer: pl.Trainer) -> Faces:
    return cast(Faces, cast(Any, trainer).datamodule)
