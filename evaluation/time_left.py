"""How long an evaluation will still take."""

from collections.abc import Sequence

import pandas as pd

from evaluation.plan import Task
from evaluation.pool import Done


class TimeLeft:
    """Estimates the time left from each method's seconds per image, which differ a thousandfold.

    Args:
        tasks: all that are to do.
        rows: earlier ones; their seconds count until there are newer.
        processes: how many share the tasks.
    """

    def __init__(self, tasks: Sequence[Task], rows: pd.DataFrame, processes: int) -> None:
        self.images: dict[str, int] = {}
        for task in tasks:
            self.images[task.method] = self.images.get(task.method, 0) + len(task.images)
        self.seconds = rows.groupby("method")["seconds"].median().to_dict() if len(rows) else {}
        self.processes = processes

    def count(self, done: Done) -> None:
        method = done.task.method
        self.images[method] -= len(done.task.images)
        if not done.failure:
            self.seconds[method] = done.seconds

    def __str__(self) -> str:
        waiting = {method for method, images in self.images.items() if images}
        timed = waiting & self.seconds.keys()
        if waiting and not timed:
            return "time left not known yet"
        seconds = sum(self.images[m] * self.seconds[m] for m in timed) / self.processes
        return f"{'about' if timed == waiting else 'more than'} {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
