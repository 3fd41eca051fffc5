"""One W&B run for one run, however often it is resumed."""

import netrc
import os
import secrets
from dataclasses import replace
from urllib.parse import urlparse

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from training.run import Run


def wandb_logger(run: Run) -> list[WandbLogger]:
    """The W&B logger, its run id kept in the run directory; none if disabled.

    Raises ValueError if W&B was asked for online and cannot be reached.
    """
    if run.wandb == "disabled":
        return []
    from wandb.errors import Error as WandbError  # here, as importing wandb takes a while

    offline = run.wandb == "offline" or (run.wandb == "auto" and not has_wandb_key())
    identity = run.directory / "wandb_id"
    if not identity.exists() and first_process():
        run.directory.mkdir(parents=True, exist_ok=True)
        identity.write_text(secrets.token_hex(4))
    logger = WandbLogger(
        project=run.project,
        name=run.name,
        save_dir=str(run.directory),
        id=identity.read_text() if identity.exists() else None,
        resume="allow",
        offline=offline,
    )
    if first_process():
        try:
            logger.experiment.define_metric("*", step_metric="images_seen", step_sync=True)
        except WandbError as error:
            if run.wandb == "online":
                raise ValueError(f"W&B: {error}. --run.wandb offline needs no server") from error
            print(
                f"W&B: {error}. This run is logged offline: `wandb sync` can send it later.",
                flush=True,
            )
            return wandb_logger(replace(run, wandb="offline"))
    return [logger]


def first_process() -> bool:
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def has_wandb_key() -> bool:
    """Whether `wandb login` was run or WANDB_API_KEY is set; asks no server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
