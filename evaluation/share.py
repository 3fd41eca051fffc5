"""An evaluation in several processes that a launcher has started: each takes its share.

They do not talk to each other. Which images are whose depends on their rank alone, and their rows
meet on disk.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """This process among those of its launcher: `rank` of `count`, and which one of its machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    def of(self, images: Sequence[int], job: int) -> Sequence[int]:
        """Take this process's images of the plan's job number `job`, in turn.

        Jobs begin with different processes, so that jobs of few images occupy all of them.
        """
        return images[(self.rank - job) % self.count :: self.count]

    def file(self, name: str, suffix: str) -> str:
        """Name this process's own file: rows.csv of the first, rows-rank1.csv of the next."""
        return f"{name}-rank{self.rank}{suffix}" if self.rank else f"{name}{suffix}"


def this_share(environment: Mapping[str, str] = os.environ) -> Share:
    """Find the share of this process, as torchrun or srun tells it; all of it without either.

    Raises ValueError for a rank that is not among the ranks.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not {"RANK", "WORLD_SIZE"} <= environment.keys():
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        # a batch script's own commands, outside srun, have the job's numbers and no step; an
        # interactive shell may have a step of its own
        outside = "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
        if outside or environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
            return Share()
    rank, count, local_rank = (environment.get(name) for name in names)
    if rank is None or count is None:
        return Share()
    try:
        share = Share(int(rank), int(count), int(local_rank or 0))
    except ValueError:
        share = None
    if share is None or not 0 <= share.rank < share.count:
        raise ValueError(
            f"{names[0]}={rank} and {names[1]}={count} in the environment name no process: "
            f"{names[0]} counts from 0 to {names[1]} - 1"
        )
    return share
