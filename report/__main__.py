"""Shows what runs recovered: one table, and a figure.

python -m report runs/demo                  the table, and curves.png in the run directory
python -m report runs/demo runs/demo-gan    one table and comparison.png, of several runs
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from report.curves import comparison_figure, training_curves
from report.terminal import comparison_table, show, summary_table
from results.means import compared
from results.rows import measured, read_rows


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIRECTORY")
    parser.add_argument("--out", type=Path, help="the figure's file (by default next to its rows)")
    options = parser.parse_args(arguments)
    try:
        parts = [rows_of(directory) for directory in options.runs]
        parts = told_apart(options.runs, parts)
        for directory, part in zip(options.runs, parts, strict=True):
            if part.empty:
                raise ValueError(f"{directory} has no recovered image yet")
        if len(parts) == 1:
            table, figure = summary_table(parts[0]), training_curves(options.runs[0])
            out = options.out or options.runs[0] / "curves.png"
        else:
            rows = compared(pd.concat(parts, ignore_index=True))
            table, figure = comparison_table(rows), comparison_figure(rows)
            out = options.out or options.runs[0].parent / "comparison.png"
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    show(table)
    figure.savefig(out, dpi=110)
    print(out)


def told_apart(runs: Sequence[Path], parts: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Name runs by their paths if folders of several have the same last name."""
    names = [name for part in parts for name in part["run"].unique()]
    if len(set(names)) == len(names):
        return list(parts)
    paths = [run.resolve() for run in runs]
    shared = os.path.commonpath(paths)
    told = [path.name if str(path) == shared else os.path.relpath(path, shared) for path in paths]
    return [part.assign(run=name) for name, part in zip(told, parts, strict=True)]


def rows_of(run: Path) -> pd.DataFrame:
    """Read the rows of a run, with what they measure as far as it tells."""
    rows = read_rows(run)
    return rows.join(measured(run if run.is_dir() else run.parent), on="config")


if __name__ == "__main__":
    main(sys.argv[1:])
