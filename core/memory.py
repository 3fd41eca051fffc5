"""How glibc handles the memory of large tensors on the CPU."""

import ctypes
import os

# of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

CHOSEN = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> None:
    """Let freed memory serve the next tensors, instead of going back to the kernel.

    glibc maps every block above 32 MiB anew, and the kernel clears its pages each time, which takes
    up to a quarter of a step of large networks (docs/performance.md). Does nothing where the
    environment has settings for it, or the C library is another.
    """
    if any(name in os.environ for name in CHOSEN):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
