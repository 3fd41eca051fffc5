"""A trained prior from its run directory, in one call."""

from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn

from recovery.priors import FlowPrior, fingerprint


def load_prior(
    run_directory: str | Path, checkpoint: str = "last", device: str | torch.device = "cpu"
) -> FlowPrior:
    """The prior of a run: the moving average where there is one, frozen, on `device`.

    Args:
        run_directory: a run of `train.py` that trained an invertible network.
        checkpoint: `last` or `best`.
        device: of the prior and the latents and measurements it is used with.

    Raises:
        FileNotFoundError: no such run or checkpoint.
    """
    run_directory = Path(run_directory)
    path = run_directory / "checkpoints" / f"{checkpoint}.ckpt"
    for needed in (run_directory / "config.yaml", path):
        if not needed.exists():
            raise FileNotFoundError(f"{needed} is missing: is {run_directory} a run of train.py?")
    config = yaml.safe_load((run_directory / "config.yaml").read_text())
    parser = ArgumentParser()
    parser.add_argument("--network", type=nn.Module)
    parsed = parser.parse_object({"network": config["model"]["init_args"]["network"]})
    network = parser.instantiate_classes(parsed).network
    saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["state_dict"]
    which = "average." if any(name.startswith("average.") for name in saved) else "network."
    weights = {n.removeprefix(which): t for n, t in saved.items() if n.startswith(which)}
    network.load_state_dict(weights)
    network.to(device)
    return FlowPrior(network.frozen(), type(network).__name__.lower(), fingerprint(weights))
