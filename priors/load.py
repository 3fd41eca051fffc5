"""A trained prior in one call: from a run of train.py, one of its checkpoints, or an export."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from core.precision import require_full_precision
from priors.format import RECORD, WEIGHTS, make_prior, read_network
from priors.prior import FlowPrior, GanPrior
from priors.run import load_run


class TrainedNetwork(NamedTuple):
    """The network of a prior on the CPU, and its training."""

    network: nn.Module
    images_seen: int
    begun_from: str | None  # the prior whose weights training began from
    fingerprint: str | None  # as its export states it


def load_prior(path: str | Path, device: str | torch.device = "cpu") -> FlowPrior | GanPrior:
    """Load a prior, frozen, onto `device`; its `images_seen` says how long its run trained it.

    Convolutions of this process run in full float32 from then on, without TF32.

    Args:
        path: a run of `train.py` (its last checkpoint counts), a checkpoint of a run
            (`runs/NAME/checkpoints/best.ckpt`), or a folder made by `priors.export`.
            Neither runs code from outside `networks/`, unless the environment variable
            INVERTIBLE_PRIORS_NETWORKS names modules (separated by commas) whose networks runs may
            have too.
        device: of the prior, and so of the latents and measurements you use it with.

    Raises:
        OSError: a file is missing or cannot be read; names it.
        ValueError: a file is damaged, or does not fit the others; see `read_network`.
    """
    require_full_precision()
    network, images_seen, _, weights = load_network(path)
    network = network.to(device)  # made on the CPU: the same weights on any device
    return make_prior(network, images_seen, weights)


def load_network(path: str | Path) -> TrainedNetwork:
    """Load the network behind `load_prior(path)` onto the CPU; raises the same errors."""
    path = Path(path).expanduser()
    if (path / RECORD).exists() or (path / WEIGHTS).exists():
        network, record = read_network(path)
        begun_from = record.get("begun_from")
        return TrainedNetwork(network, record["images_seen"], begun_from, record["fingerprint"])
    run = load_run(path)
    return TrainedNetwork(run.network, run.images_seen, run.begun_from, None)
