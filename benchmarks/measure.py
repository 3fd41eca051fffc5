"""Timing two things alternately, and the Markdown tables the benchmarks print."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Ratio(NamedTuple):
    """How many times as long one takes as another: median and quartiles over the repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, slow: Sequence[float], fast: Sequence[float]) -> "Ratio":
        """Take the ratios of neighbouring repetitions' seconds."""
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        if len(ratios) == 1:
            return cls(*ratios * 3)
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def alternate(
    *contestants: Callable[[], object], repetitions: int, warm_up: int = 1
) -> list[list[float]]:
    """Time each contestant's repetitions, in seconds, in turn; first `warm_up` times untimed."""
    for _ in range(warm_up):
        for run in contestants:
            run()
    rounds = [[seconds(run) for run in contestants] for _ in range(repetitions)]
    return [list(times) for times in zip(*rounds, strict=True)]


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    """Print one Markdown table, with the note and the machine below it."""
    print(markdown(header, rows))
    print(f"\n{note} {machine()}".replace("\n ", "\n"))


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write one Markdown table."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = (str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> str:
    threads = torch.get_num_threads()
    return (
        f"Machine: {processor()}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}, "
        f"torch {torch.__version__}."
    )


def processor() -> str:
    """Name the processor, if the system does."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.machine()
