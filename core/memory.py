"""How glibc handles the memory of large tensors on the CPU."""

import ctypes
import os

# of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> None:
    """Let freed memory serve the next tensors, instead of going back to the kernel.

    The kernel clears pages before it hands them out again, which takes up to a third of a training
    step of large networks (docs/performance.md). Does nothing where the environment has settings
    for it, or where the C library is not glibc 2.35 or newer.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc." in tunables or any(name in os.environ for name in CHOSEN):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    # older versions refuse so high a threshold, and the other setting alone would make it worse
    if mallopt is not None and mallopt(M_MMAP_THRESHOLD, 2**30):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
