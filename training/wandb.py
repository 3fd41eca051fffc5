"""One W&B run for one run, however often it is resumed.

wandb is imported where it is used: that takes time, and many runs do without.
"""

import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from cli.wandb import split_project
from core.files import write_whole
from training.run import Run

# seconds that a server may take to answer: `auto` soon goes on without it
PATIENCE = {"auto": 15.0, "online": 90.0, "offline": 90.0}


class Wandb(WandbLogger):
    """W&B's logger, without which training goes on once W&B's own process has gone."""

    gone = False

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:  # of tables and pictures too
        self._unless_gone(super().log_metrics, *args, **kwargs)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._unless_gone(super().log_hyperparams, *args, **kwargs)

    def _unless_gone(self, send: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self.gone:
            return
        import wandb
        from wandb.errors import Error as WandbError

        try:
            send(*args, **kwargs)
        except (OSError, WandbError) as error:
            self.gone = True
            with suppress(OSError, WandbError):
                wandb.teardown()  # or it would try again, with a traceback, when the program ends
            print(
                f"W&B: {type(error).__name__}: {error}. Training goes on without it: metrics.jsonl "
                "and rows.csv hold everything",
                file=sys.stderr,
            )


def wandb_logger(run: Run) -> list[WandbLogger]:
    """Make the W&B logger, which keeps its run id in the run directory; none if disabled.

    Raises ValueError if `run.wandb` is online and the server cannot be reached.
    """
    if run.wandb == "disabled":
        return []
    import wandb
    from wandb.errors import Error as WandbError

    if run.wandb == "auto" and first_process() and not wandb.login(prompt=False, verify=False):
        print("W&B: no key found (`wandb login` stores one). This run is logged offline.")
        run = replace(run, wandb="offline")
    identity = run.directory / "wandb_id"
    if not identity.exists() and first_process():
        write_whole(identity, secrets.token_hex(4))
    entity, project = split_project("run.project", run.project)
    logger = Wandb(
        entity=entity,
        project=project,
        name=run.name,
        save_dir=str(run.directory),
        id=identity.read_text() if identity.exists() else None,
        resume="allow",
        offline=run.wandb == "offline",
        settings=wandb.Settings(init_timeout=PATIENCE[run.wandb]),
    )
    if first_process():
        try:
            logger.experiment.define_metric("*", step_metric="images_seen", step_sync=True)
        except WandbError as error:
            wandb.teardown()  # its service would hold the run's id
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
