"""Processes that end with the one that started them."""

import ctypes
import signal
import sys


def end_with_parent() -> None:
    """Have the system kill this process once its parent has ended, however that came (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
