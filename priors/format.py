"""The format of an exported prior, and how to read one: weights.safetensors, prior.json, README.md.

Reading uses no pickle and no class from outside `networks/`, so an export of unknown origin runs no
code of its own.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from core.seeds import normal, seed_from
from priors.prior import FlowPrior, GanPrior, flow_prior, gan_prior
from priors.weights import fingerprint, first_difference

FORMAT = 1  # of prior.json; raise it when an older version could no longer read the file
WEIGHTS, RECORD, CARD = "weights.safetensors", "prior.json", "README.md"
SAMPLE_SIDE = 8  # pixels a side of the averaged sample
SAMPLE_TOLERANCE = 1e-3  # of its values, from 0 to 1: kernels of other machines round differently
FIELDS: dict[str, type] = {  # what reading needs in prior.json
    "kind": str,
    "class_path": str,
    "init_args": dict,
    "image_shape": list,
    "latent_dim": int,
    "images_seen": int,
    "fingerprint": str,
    "sha256": str,
    "sample": list,
    "sample_temperature": float,
    "sample_tolerance": float,
}


def read_network(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load the network of an export onto the CPU, check it there, and return it with its record.

    Weights stored in half precision compute in float32, and the fingerprint is that of float32.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: prior.json is damaged, of another format, or names no network in `networks/`;
            the weights are damaged, not those it describes, or of another architecture; or the
            prior does not decode the sample's latent to the sample.
    """
    record = read_record(folder / RECORD)
    tensors = read_weights(folder / WEIGHTS, record["sha256"])
    try:
        network = build_exported(record, tensors)
        require_same_sample(make_prior(network, record["images_seen"]), record)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return network, record


def read_record(path: Path) -> dict[str, Any]:
    """Read prior.json; raise unless it has this format and all that loading needs."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    try:
        record = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of format {record.get('format')}; this version reads format {FORMAT}"
        )
    for name, kind in FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{path} is damaged: {name} is missing or no {kind.__name__}")
    return record


def read_weights(path: Path, expected: str) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file with this sha256, from the very bytes it checked."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    content = path.read_bytes()
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, cut or no safetensors file ({error})") from error
    found = sha256(content).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} is not the file that {RECORD} describes: its sha256 is {found}, "
            f"expected {expected}"
        )
    return tensors


# --- the network -----------------------------------------------------------------------------


def build_exported(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the network of a record with weights by name, in float32."""
    network = build_network(network_class(record["class_path"]), record)
    if not hasattr(network, "latent_dim") or kind_of(network) != record["kind"]:
        raise ValueError(f"{record['class_path']} makes no prior of the kind {record['kind']!r}")
    said = tuple(record["image_shape"]), record["latent_dim"]
    if (network.image_shape, network.latent_dim) != said:
        raise ValueError(
            f"{record['class_path']} has image shape and latent length "
            f"{network.image_shape, network.latent_dim}, and {RECORD} says {said}"
        )
    difference = first_difference(network.state_dict(), tensors)
    if difference is not None:
        name, here, there = difference
        raise ValueError(
            f"{WEIGHTS} is of another architecture than {RECORD}: {name} is {there} in the "
            f"weights and {here} in the network"
        )
    network.load_state_dict(tensors)
    return network


def build_network(cls: type[nn.Module], named: Mapping[str, Any]) -> nn.Module:
    """Build an untrained network from its class and `init_args`; dataclasses come as their fields.

    Raises ValueError for whatever these make the class raise.
    """
    try:
        hints = get_type_hints(cls.__init__)
        return cls(
            **{
                name: hints[name](**value) if is_dataclass(hints.get(name)) else value
                for name, value in (named.get("init_args") or {}).items()
            }
        )
    except Exception as error:  # values from a file may make it raise anything
        raise ValueError(
            f"{named['class_path']} cannot be built from its init_args: {error}"
        ) from error


def network_class(class_path: str) -> type[nn.Module]:
    """Find a class that a file of `networks/` defines. Raises ValueError for others, unimported."""
    named = re.fullmatch(r"(networks\.[a-z][a-z0-9_]*)\.([A-Z][A-Za-z0-9]*)", class_path)
    try:
        found = getattr(import_module(named[1]), named[2], None) if named else None
    except ModuleNotFoundError:
        found = None
    if not (
        named
        and isinstance(found, type)
        and issubclass(found, nn.Module)
        and found.__module__ == named[1]
    ):
        raise ValueError(
            f"{class_path!r} is no network of networks/: no other is exported or loaded"
        )
    return found


def kind_of(network: nn.Module) -> str:
    """Name the kind of prior a network makes: flow, gan, or what it calls itself."""
    return "flow" if hasattr(network, "frozen") else getattr(network, "kind", "gan")


def make_prior(
    network: nn.Module, images_seen: int, weights: str | None = None
) -> FlowPrior | GanPrior:
    """Make the frozen prior of a network, of any kind; `weights` as in `gan_prior`."""
    kind = kind_of(network)
    if kind == "flow":
        return flow_prior(network, images_seen)
    if kind == "latent-convolutional":  # its statistics are not computed from its parameters
        weights = fingerprint(network.state_dict())
    return gan_prior(network, images_seen, weights)


# --- the sample --------------------------------------------------------------------------------


@torch.no_grad()
def decode_samples(prior: FlowPrior | GanPrior, temperature: float, count: int = 1) -> Tensor:
    """Decode (count, C, H, W) on the CPU, from latents that never change."""
    seeds = [seed_from("exported sample", index) for index in range(count)]
    return prior.decode(temperature * normal(seeds, (prior.latent_dim,)))


def pooled(image: Tensor) -> Tensor:
    """Clamp an image (1, C, H, W) and average it to 8 x 8 pixels: (C * 64,)."""
    return F.adaptive_avg_pool2d(image.clamp(0, 1), SAMPLE_SIDE).flatten()


def require_same_sample(prior: FlowPrior | GanPrior, record: Mapping[str, Any]) -> None:
    """Raise ValueError if the sample is not the record's.

    Kernels round differently on other machines, so averages are compared with a tolerance; the
    record's exact hash of the sample is for people to compare.
    """
    ours = pooled(decode_samples(prior, record["sample_temperature"]))
    theirs = torch.tensor(record["sample"])
    error = (ours - theirs).abs().max().item() if ours.shape == theirs.shape else float("nan")
    if not error <= record["sample_tolerance"]:
        raise ValueError(
            f"the sample is another image than when it was exported: off by {error:.2g}, allowed "
            f"{record['sample_tolerance']:g}. Has {record['class_path']} changed since?"
        )
