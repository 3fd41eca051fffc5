"""How many threads a computation on the CPU takes."""

import os

import torch


def leave_busy_cores() -> int:
    """Let torch take as many threads as there are idle cores, at least one; returns how many.

    More busy threads than cores slow all of them several times: they wait for each other in a spin.
    OMP_NUM_THREADS decides where it is set.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        idle = (os.cpu_count() or 1) - os.getloadavg()[0]
        torch.set_num_threads(max(1, min(torch.get_num_threads(), round(idle))))
    return torch.get_num_threads()
