"""Rows as a reader wants them: means with counts and standard errors, curves."""

import pandas as pd
from rich.table import Table

GROUP = ["problem", "m", "dataset", "distribution", "method"]


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """Per problem, set and method: PSNR mean and standard error, SSIM, counts.

    Columns: GROUP, psnr, sem, psnr_hole, ssim, images, not_converged, diverged, seconds.
    Averages over whatever else differs: filter to one `images_seen` first.
    """
    groups = rows.groupby(GROUP, sort=False)
    table = groups.agg(
        psnr=("psnr", "mean"),
        sem=("psnr", "sem"),
        psnr_hole=("psnr_hole", "mean"),
        ssim=("ssim", "mean"),
        images=("psnr", "count"),
        not_converged=("status", lambda status: (status != "converged").sum()),
        diverged=("status", lambda status: (status == "diverged").sum()),
        seconds=("seconds", "mean"),
    )
    return table.reset_index()


def scalars(rows: pd.DataFrame) -> dict[str, float]:
    """What is charted while training, from the rows of one recovery.

    `recovery/<problem>/<dataset>/<method>/psnr` (and ssim, psnr_hole), and the gap between the
    distributions, `recovery/<problem>/gap/<method>/psnr`.
    """
    logged: dict[str, float] = {}
    for row in means(rows).itertuples():
        name = f"recovery/{row.problem}/{row.dataset}/{row.method}"
        logged[f"{name}/psnr"] = row.psnr
        logged[f"{name}/ssim"] = row.ssim
        if not pd.isna(row.psnr_hole):
            logged[f"{name}/psnr_hole"] = row.psnr_hole
    sides = rows.pivot_table(index=["problem", "method"], columns="distribution", values="psnr")
    if {"in", "out"} <= set(sides.columns):
        for (problem, method), gap in (sides["in"] - sides["out"]).items():
            logged[f"recovery/{problem}/gap/{method}/psnr"] = gap
    return logged


def latest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last recovery."""
    return rows[rows["images_seen"] == rows.groupby("run")["images_seen"].transform("max")]


def summary_table(rows: pd.DataFrame) -> Table:
    """The last recovery as a terminal table: mean PSNR ± standard error per problem and set."""
    rows = latest(rows)
    title = f"Recovery after {rows['images_seen'].max():,} images, mean PSNR in dB"
    table = Table(title=title, title_justify="left")
    for column in ("problem", "method", "held-out set"):
        table.add_column(column, no_wrap=True)
    for column in ("m", "PSNR", "in hole", "SSIM", "images", "unfinished"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in means(rows).itertuples():
        table.add_row(
            row.problem,
            row.method,
            f"{row.dataset} ({row.distribution})",
            f"{row.m:,}",
            f"{row.psnr:.2f}" + ("" if pd.isna(row.sem) else f" ± {row.sem:.2f}"),
            "" if pd.isna(row.psnr_hole) else f"{row.psnr_hole:.2f}",
            f"{row.ssim:.3f}",
            str(row.images),
            str(row.not_converged) + (f" ({row.diverged} diverged)" if row.diverged else ""),
        )
    table.caption = "in, out: of the training distribution. unfinished: stopped by the budget."
    table.caption_justify = "left"
    return table
