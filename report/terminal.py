"""Means as tables for a terminal."""

import sys

import pandas as pd
from rich.console import Console
from rich.table import Table

from results.means import latest, means, named


def summary_table(rows: pd.DataFrame) -> Table:
    """Make a table of the last recovery: mean PSNR ± standard error per problem and set."""
    rows = named(latest(rows))
    several = rows["method"].nunique() > 1
    by = "" if several else f" by {rows['method'].iloc[0]}"
    table = Table(
        title=f"Recovery{by} after {rows['images_seen'].max():,} images: mean PSNR in dB",
        title_justify="left",
        caption="budget: images not converged",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for column in ("problem", *(["method"] if several else []), "held-out set"):
        table.add_column(column, no_wrap=True)
    for column in ("m", "PSNR", "hole", "SSIM", "images", "budget"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in means(rows).itertuples():
        table.add_row(
            row.problem,
            *([row.method] if several else []),
            f"{row.dataset} {row.distribution}",
            f"{row.m:,}",
            _fixed(row.psnr, 2) + ("" if pd.isna(row.sem) else f" ± {row.sem:.2f}"),
            _fixed(row.psnr_hole, 2),
            _fixed(row.ssim, 3),
            str(row.images),
            str(row.not_converged) + (f" ({row.diverged} diverged)" if row.diverged else ""),
        )
    return table


def comparison_table(rows: pd.DataFrame) -> Table:
    """Make a table of several priors or methods side by side, from the rows of `compared`."""
    names = list(dict.fromkeys(rows["recovery"]))
    table = Table(
        title="Mean PSNR in dB, of the same images, operators and noise",
        title_justify="left",
        caption="(n): n images not converged",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for column in ("problem", "held-out set"):
        table.add_column(column, no_wrap=True)
    for column in ("m", "images", *names):
        table.add_column(column, justify="right")
    # a set may be in distribution for one prior and out of it for another
    for (problem, m, dataset), group in rows.groupby(["problem", "m", "dataset"], sort=False):
        distribution = "/".join(group["distribution"].unique())
        cells = []
        for name in names:
            own = group[group["recovery"] == name].assign(distribution=distribution)
            (mean,) = means(own).itertuples()
            spread = "" if pd.isna(mean.sem) else f" ± {mean.sem:.2f}"
            failed = f" ({mean.not_converged})" if mean.not_converged else ""
            cells.append(f"{mean.psnr:.2f}{spread}{failed}")
        images = str(group["image"].nunique())
        table.add_row(problem, f"{dataset} {distribution}", f"{m:,}", images, *cells)
    return table


def show(table: Table) -> None:
    """Print a table as wide as the terminal, or 110 columns wide to a file."""
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _fixed(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"
