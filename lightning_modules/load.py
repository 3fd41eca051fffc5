"""A trained prior from its run directory, in one call."""

from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_modules.clock import ClockedModule
from recovery.priors import Prior


def load_prior(
    run_directory: str | Path, checkpoint: str = "last", device: str | torch.device = "cpu"
) -> Prior:
    """The prior of a run: the moving average where there is one, frozen, on `device`.

    Args:
        run_directory: a run of `train.py`.
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
    parser.add_subclass_arguments(ClockedModule, "model")
    module = parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model
    saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    module.load_state_dict(saved["state_dict"])
    module.on_load_checkpoint(saved)
    return module.to(device).prior()
