"""A trained prior in one call: from a run of train.py, one of its checkpoints, or an export."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from lightning_modules.clock import ClockedModule, require_same_architecture
from lightning_modules.exported import PRIORS, RECORD, WEIGHTS, kind_of, read_network
from recovery.precision import require_full_precision
from recovery.priors import FlowPrior, GanPrior


def load_prior(path: str | Path, device: str | torch.device = "cpu") -> FlowPrior | GanPrior:
    """The prior, frozen, on `device`; its `images_seen` says how long its run trained it.

    Args:
        path: a run of `train.py` (its last checkpoint is taken), a checkpoint of a run
            (`runs/NAME/checkpoints/best.ckpt`), or a folder made by `lightning_modules.export`.
            A run names the classes it is made of: load only runs you trust. Of an export, no code
            is run but that of `networks/`.
        device: of the prior and the latents and measurements it is used with. Convolutions of
            this process are in full float32 from then on, without TF32.

    Raises:
        FileNotFoundError: naming the file that is missing.
        ValueError: a file is damaged, or does not fit the others; see `read_network`.
    """
    require_full_precision()
    network, images_seen, _ = load_network(path)
    network = network.to(device)  # made on the CPU: the same weights on any device
    return PRIORS[kind_of(network)](network, images_seen)


class TrainedNetwork(NamedTuple):
    """The network of a prior on the CPU, and what it was trained on."""

    network: nn.Module
    images_seen: int
    begun_from: str | None  # the prior whose weights training began from


def load_network(path: str | Path) -> TrainedNetwork:
    """The network behind `load_prior(path)`, on the CPU, with its errors."""
    path = Path(path)
    if (path / RECORD).exists() or (path / WEIGHTS).exists():
        network, record = read_network(path)
        return TrainedNetwork(network, record["images_seen"], record.get("begun_from"))
    module = load_run(path).module
    return TrainedNetwork(module.prior_network(), module.images_seen, module.begun_from)


class TrainedRun(NamedTuple):
    """A run at one of its checkpoints."""

    module: ClockedModule
    config: dict[str, Any]  # config.yaml's, all defaults of the model resolved
    directory: Path


def load_run(path: Path) -> TrainedRun:
    """A run, or one of its checkpoints, on the CPU. Raises as `load_prior` does."""
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    directory = checkpoint.parent.parent
    for needed in (checkpoint, directory / "config.yaml"):
        if not needed.exists():
            raise FileNotFoundError(
                f"{needed} is missing: {path} is no run of train.py, checkpoint of one or export"
            )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClockedModule, "model")
    try:
        config = dict(yaml.safe_load((directory / "config.yaml").read_text()))
        resolved = parser.parse_object({"model": config["model"]})
        module = parser.instantiate(resolved).model
    except (yaml.YAMLError, ArgumentError, KeyError, TypeError) as error:
        raise ValueError(
            f"{directory / 'config.yaml'} is damaged or of another version: {error}"
        ) from error
    saved = read_checkpoint(checkpoint)
    require_same_architecture(module.state_dict(), saved["state_dict"])
    module.load_state_dict(saved["state_dict"])
    module.on_load_checkpoint(saved)
    return TrainedRun(module, config | {"model": resolved.model.as_dict()}, directory)


def read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (EOFError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"{path} is damaged or no checkpoint of train.py") from error
    if not isinstance(saved, dict) or not {"images_seen", "state_dict"} <= saved.keys():
        raise ValueError(f"{path} is damaged or no checkpoint of train.py")
    return saved
