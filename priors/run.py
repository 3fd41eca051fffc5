"""The prior of a run of train.py, read from its config and a checkpoint without Lightning."""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import nn

from networks.pggan import Growth
from priors.checkpoint import read_checkpoint
from priors.format import build_network
from priors.prior import generator_of_prior
from priors.weights import require_same_architecture

NETWORKS = ("network", "generator")  # what a run's config may call the network of its prior
MODULES_VARIABLE = "INVERTIBLE_PRIORS_NETWORKS"  # modules of the user's own networks, by commas


class ForeignNetwork(ValueError):
    """A run's config names a class of a module that nobody has allowed: it is not imported."""


class TrainedRun(NamedTuple):
    """A run at one of its checkpoints."""

    network: nn.Module  # of the prior, on the CPU
    images_seen: int
    begun_from: str | None  # the prior whose weights training began from
    config: dict[str, Any]  # config.yaml's
    directory: Path


def load_run(path: Path) -> TrainedRun:
    """Load a run, or one of its checkpoints, onto the CPU.

    The weights are the moving average where there is one. Raises what `load_prior` raises.
    """
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    directory = checkpoint.parent.parent
    for needed in (checkpoint, directory / "config.yaml"):
        if not needed.exists():
            raise FileNotFoundError(
                f"{needed} is missing: {path} is no run of train.py, checkpoint of one or export"
            )
    try:
        config = dict(yaml.safe_load((directory / "config.yaml").read_text()))
        key = trained_key(config)
        arguments = config["model"]["init_args"]
        named = {**arguments[key], "init_args": made(arguments[key].get("init_args") or {})}
        network = build_network(named_class(named["class_path"]), named)
        growth = Growth(**arguments["growth"]) if arguments.get("growth") else None
    except ForeignNetwork as error:
        raise ForeignNetwork(f"{directory / 'config.yaml'}: {error}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{directory / 'config.yaml'} is damaged or of another version: {error}"
        ) from error
    saved = read_checkpoint(checkpoint)
    weights: dict[str, Any] = saved["state_dict"]
    averaged = any(name.startswith("average.") for name in weights)
    prefix = "average." if averaged else f"{key}."
    weights = {k.removeprefix(prefix): t for k, t in weights.items() if k.startswith(prefix)}
    require_same_architecture(network.state_dict(), weights)
    network.load_state_dict(weights)
    if not getattr(network, "initialized", True):
        raise ValueError(
            f"{checkpoint}: its {type(network).__name__} has not been fitted yet; the command that "
            "began the run goes on with it"
        )
    images_seen = int(saved["images_seen"])
    if key == "generator":
        stage = growth.at(images_seen, network.final_stage) if growth else ()  # type: ignore[arg-type]
        network = generator_of_prior(network, stage)
    return TrainedRun(network, images_seen, saved.get("begun_from"), config, directory)


def made(value: Any) -> Any:
    """A value of a run's config with the objects made that it names by class_path."""
    if isinstance(value, Mapping):
        inside = {name: made(one) for name, one in value.items()}
        if "class_path" not in inside:
            return inside
        return named_class(inside["class_path"])(**inside.get("init_args", {}))
    return [made(one) for one in value] if isinstance(value, list) else value


def trained_key(config: Mapping[str, Any]) -> str:
    """Find what a run's config calls the network of its prior. Raises ValueError if it has none."""
    for key in NETWORKS:
        if key in config["model"]["init_args"]:
            return key
    raise ValueError(f"model names no {' or '.join(NETWORKS)}, so it has no prior")


def named_class(class_path: str) -> type[nn.Module]:
    """Find a network of networks/, or of a module that `MODULES_VARIABLE` names.

    Raises ValueError if there is none; nothing of any other module is imported.
    """
    module, _, name = class_path.rpartition(".")
    allowed = ["networks", *filter(None, os.environ.get(MODULES_VARIABLE, "").split(","))]
    if not any(f"{module}.".startswith(f"{one}.") for one in allowed):
        raise ForeignNetwork(
            f"{class_path} is no network of networks/. If you trust it, name its module in the "
            f"environment: {MODULES_VARIABLE}={module}"
        )
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{class_path}: there is no such network ({error})") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"{class_path} is no network")
    return found
