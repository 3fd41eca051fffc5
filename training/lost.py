"""Names the process that has died where others wait for it."""

import signal
import time
from collections.abc import Sequence
from subprocess import Popen

import pytorch_lightning as pl
from torch.distributed import DistError

from core.errors import in_a_line
from core.stopping import ProcessLost

PATIENCE = 2.0  # seconds for a process whose connection broke to be known as dead


def raise_if_lost(trainer: pl.Trainer, error: RuntimeError) -> None:
    """Raise ProcessLost where `error` comes from the connection to another process of the run."""
    if isinstance(error, DistError) or "gloo/transport" in str(error):
        who = first_dead(getattr(trainer.strategy.launcher, "procs", []))
        what = f"{who} has ended" if who else "the connection to another process broke"
        raise ProcessLost(
            f"error: {what}, and rank {trainer.global_rank} cannot train without it "
            f"({in_a_line(error)}). Every checkpoint and row on disk is kept: the same command "
            "resumes"
        ) from error


def first_dead(processes: Sequence["Popen[bytes]"]) -> str:
    """Name the process of these (ranks 1, 2, ...) that was killed or has failed; "" for none."""
    deadline = time.monotonic() + PATIENCE
    while processes and time.monotonic() < deadline:
        codes = {rank: process.poll() for rank, process in enumerate(processes, start=1)}
        failed = {rank: code for rank, code in codes.items() if code}
        if failed:
            rank = min(failed, key=lambda rank: failed[rank])  # signals, below 0, come first:
            code = failed[rank]  # a failure may be what another's death brought about
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"status {code}"
            return f"rank {rank} ({how}, process {processes[rank - 1].pid})"
        time.sleep(0.05)
    return ""
