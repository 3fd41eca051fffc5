"""Signals that ask a process to stop: noted when they come, obeyed where nothing is lost.

SIGTERM and SIGUSR1 (from a scheduler, before it kills) and SIGINT (Ctrl-C; a second one stops at
once).
"""

import signal
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

_received: signal.Signals | None = None


class Stopped(Exception):
    """Raised where a signal is obeyed; `status` is the exit status it asks for."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Unfinished(Exception):
    """Training ended before it had seen all its images; `status` is the exit status it asks for."""

    status = 3


class ProcessLost(Unfinished):
    """One of the processes that train together has died, and training cannot go on without it."""

    status = 1


def note_signals(forward: Callable[[int], object] | None = None) -> None:
    """From now on note signals instead of obeying them; `forward` hands one to child processes."""
    global _received
    _received = None

    def note(number: int, frame: FrameType | None) -> None:
        global _received
        if _received == signal.SIGINT == number:  # Ctrl-C again
            raise KeyboardInterrupt
        if _received is None:
            _received = signal.Signals(number)
        if forward is not None:
            # a terminal sends Ctrl-C to children too, for whom a second one would be the user's
            forward(signal.SIGTERM if number == signal.SIGINT else number)

    for number in SIGNALS:
        signal.signal(number, note)


def leave_signals_to_parent(worker: int = 0) -> None:
    """In a loader's worker: ignore what the process it works for will obey when nothing is lost.

    Slurm and a terminal signal the workers too. Without them there would be no whole step to save.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def received() -> int:
    """The number of the signal that has been noted; 0 for none."""
    return 0 if _received is None else int(_received)


def stop_if_asked() -> None:
    """Raises Stopped if a signal has been noted."""
    if _received is not None:
        raise Stopped(_received)
