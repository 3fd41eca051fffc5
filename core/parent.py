"""Processes that end with the one that started them."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PARENT = os.getppid()  # when this process began


def end_with_parent(alive: Callable[[], bool] = lambda: os.getppid() == PARENT) -> None:
    """Have the system kill this process once its parent has ended, however that came (Linux).

    Ends the process at once if the parent is no longer `alive`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if not alive():  # it ended while this process started
        os._exit(1)
