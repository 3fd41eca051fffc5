"""How many threads a computation on the CPU takes."""

import os
import sys

import torch


def leave_busy_cores() -> int:
    """Let torch take as many threads as there are idle cores, at least one; returns how many.

    More busy threads than cores slow all of them several times: they wait for each other in a spin.
    OMP_NUM_THREADS decides where it is set. Says so on stderr where it leaves a core.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        cores, wanted = os.cpu_count() or 1, torch.get_num_threads()
        threads = max(1, min(wanted, round(cores - os.getloadavg()[0])))
        torch.set_num_threads(threads)
        if threads < wanted:
            print(
                f"Computing on {threads} of {cores} cores: the others are busy (OMP_NUM_THREADS "
                "decides)",
                file=sys.stderr,
            )
    return torch.get_num_threads()
