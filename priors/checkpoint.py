"""Checkpoints of train.py, read without pickle."""

import zipfile
import zlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch


def read_checkpoint(path: str | Path, check: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, its tensors mapped from the file if the file system can.

    With `check`, compares every byte with the checksums in the file: training would go on from a
    flipped bit.

    Raises:
        OSError: the file is missing, or cannot be read.
        ValueError: the file is damaged, or no checkpoint of train.py.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() if check else None
        if damaged is not None:
            raise ValueError(f"{path} is damaged: {damaged} in it does not have its checksum")
        saved = _read(Path(path))
    except (zipfile.BadZipFile, EOFError, RuntimeError, UnpicklingError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or no checkpoint of train.py") from error
    if not isinstance(saved, dict) or not {"images_seen", "state_dict"} <= saved.keys():
        raise ValueError(f"{path} is damaged or no checkpoint of train.py")
    return saved


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except OSError:  # a file system without mmap
        return torch.load(path, map_location="cpu", weights_only=True)
