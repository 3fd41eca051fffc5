"""Rows as a reader wants them: means with counts and standard errors, curves.

python -m recovery.report runs/demo                  the table, and curves.png in the run directory
python -m recovery.report runs/demo runs/demo-gan    one table and comparison.png, of several runs
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from recovery.rows import KEY, read_rows

GROUP = ["problem", "m", "dataset", "distribution", "method"]
MEASUREMENT = ["problem", "m", "sigma", "seed", "dataset", "image"]  # what two methods share
MARKERS = "osD^vPX*<>hd"


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose method tells the variant too: `deep-decoder (last)`."""
    variant = rows["variant"].where(rows["variant"] == "", " (" + rows["variant"] + ")")
    return rows.assign(method=rows["method"] + variant, variant="")


def per_image(rows: pd.DataFrame, by: Sequence[str] = GROUP) -> pd.DataFrame:
    """One line per image of each group: the means over its seeds.

    Columns: `by`, the rest of KEY but the seed, psnr, psnr_hole, ssim, seconds; not_converged and
    diverged are true where they are of any seed.
    """
    keys = list(dict.fromkeys([*by, *KEY]))
    keys.remove("seed")
    failed = {
        "not_converged": rows["status"] != "converged",
        "diverged": rows["status"] == "diverged",
    }
    scored = dict.fromkeys(("psnr", "psnr_hole", "ssim", "seconds"), float)  # None is NaN
    groups = named(rows).assign(**failed).astype(scored).groupby(keys, sort=False)
    scores = groups[list(scored)].mean()
    return scores.join(groups[list(failed)].any()).reset_index()


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """Per problem, set and method: PSNR mean and standard error, SSIM, counts of images.

    Columns: GROUP, psnr, sem, psnr_hole, ssim, images, not_converged, diverged, seconds.
    Averages over whatever else differs: filter to one `images_seen` first.
    """
    return image_means(per_image(rows), GROUP)


def image_means(images: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The same of what `per_image` returns, per group `by`.

    More columns: psnr_hole_sem, ssim_sem, tried (images with no PSNR among them).
    """
    name = images["image"]  # counted once each, whatever else tells lines apart
    images = images.assign(
        scored=name.where(images["psnr"].notna()),
        slow=name.where(images["not_converged"]),
        failed=name.where(images["diverged"]),
    )
    table = images.groupby(list(by), sort=False, dropna=False).agg(
        psnr=("psnr", "mean"),
        sem=("psnr", "sem"),
        psnr_hole=("psnr_hole", "mean"),
        psnr_hole_sem=("psnr_hole", "sem"),
        ssim=("ssim", "mean"),
        ssim_sem=("ssim", "sem"),
        images=("scored", "nunique"),
        tried=("image", "nunique"),
        not_converged=("slow", "nunique"),
        diverged=("failed", "nunique"),
        seconds=("seconds", "mean"),
    )
    return table.reset_index()


def scalars(rows: pd.DataFrame, prefix: str) -> dict[str, float]:
    """What is charted while training, from the rows of one recovery.

    `<prefix>/<problem>/<dataset>/<method>/psnr` (and ssim, psnr_hole), and the gap between the
    distributions, `<prefix>/<problem>/gap/<method>/psnr`.
    """
    logged: dict[str, float] = {}
    for row in means(rows).itertuples():
        name = f"{prefix}/{row.problem}/{row.dataset}/{row.method}"
        logged[f"{name}/psnr"] = row.psnr
        logged[f"{name}/ssim"] = row.ssim
        if not pd.isna(row.psnr_hole):
            logged[f"{name}/psnr_hole"] = row.psnr_hole
    sides = named(rows).pivot_table(
        index=["problem", "method"], columns="distribution", values="psnr"
    )
    if {"in", "out"} <= set(sides.columns):
        for (problem, method), gap in (sides["in"] - sides["out"]).dropna().items():
            logged[f"{prefix}/{problem}/gap/{method}/psnr"] = gap
    return logged


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of images that every recovery of their problem and set includes.

    A recovery at the end takes in more images than those while training: their means do not
    belong on one curve. One that was interrupted, and has fewer images than most, is left out.
    """
    by = ["problem", "dataset", "method"]
    counts = rows.groupby([*by, "images_seen"], as_index=False)["image"].nunique()
    usual = counts.groupby(by)["image"].transform(lambda c: c.quantile(0.5, interpolation="lower"))
    rows = rows.merge(counts.loc[counts["image"] >= usual, [*by, "images_seen"]])
    times = rows.groupby(by)["images_seen"].transform("nunique")
    seen = rows.groupby([*by, "image"])["images_seen"]
    return rows[seen.transform("nunique") == times]


def latest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last recovery, and those that are the same at any time.

    Of a problem, set and method that were configured anew, as they last were.
    """
    last = rows["images_seen"] == rows.groupby("run")["images_seen"].transform("max")
    rows = rows[last | rows["prior"].eq("")]
    configured = rows.groupby(["run", "dataset", "problem", "method", "seed"])["config"]
    return rows[rows["config"] == configured.transform("last")]


def summary_table(rows: pd.DataFrame) -> Table:
    """The last recovery as a terminal table: mean PSNR ± standard error per problem and set."""
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


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """Each run's last rows of the measurements that all its priors and methods recovered.

    Adds the column `recovery`: prior and method, and the run where these are alike in several.

    Raises:
        ValueError: there is no such measurement.
    """
    rows = named(latest(rows))
    free = rows["prior"].eq("")  # of any prior: the same in every run
    again = rows.duplicated([*MEASUREMENT, "method", "config"], keep="last")
    rows = rows[~(free & again)].copy()
    free = rows["prior"].eq("")
    rows["recovery"] = rows["method"].where(free, rows["prior"] + ", " + rows["method"])
    if (rows[~free].groupby("recovery")["run"].nunique() > 1).any():
        of_run = rows["run"] + ": " + rows["recovery"]
        rows["recovery"] = rows["recovery"].where(free, of_run)
    by = rows.groupby(MEASUREMENT)["recovery"].transform("nunique")
    rows = rows[by == rows["recovery"].nunique()]
    if rows.empty:
        raise ValueError("these runs have no problem, image and noise in common")
    return rows


def comparison_table(rows: pd.DataFrame) -> Table:
    """Mean PSNR ± standard error of several priors or methods, side by side, from `compared`."""
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
    for (problem, m, dataset, distribution), group in rows.groupby(GROUP[:-1], sort=False):
        cells = []
        for name in names:
            (mean,) = means(group[group["recovery"] == name]).itertuples()
            spread = "" if pd.isna(mean.sem) else f" ± {mean.sem:.2f}"
            failed = f" ({mean.not_converged})" if mean.not_converged else ""
            cells.append(f"{mean.psnr:.2f}{spread}{failed}")
        images = str(group["image"].nunique())
        table.add_row(problem, f"{dataset} {distribution}", f"{m:,}", images, *cells)
    return table


def comparison_figure(rows: pd.DataFrame) -> Figure:
    """Compressive sensing: PSNR against m of all priors and methods, in and out of distribution.

    From the rows of `compared`; bars are standard errors.
    """
    sensing = rows[rows["problem"].str.startswith("cs-")]
    sides = [side for side in ("in", "out") if (sensing["distribution"] == side).any()]
    figure = Figure(figsize=(4.2 * max(1, len(sides)), 3.6), layout="constrained")
    panels = figure.subplots(1, max(1, len(sides)), squeeze=False, sharey=True)[0]
    for axes, side in zip(panels, sides, strict=False):
        of_side = sensing[sensing["distribution"] == side]
        for index, name in enumerate(dict.fromkeys(rows["recovery"])):
            points = of_side[of_side["recovery"] == name].groupby("m")["psnr"].agg(["mean", "sem"])
            axes.errorbar(
                points.index,
                points["mean"],
                points["sem"].fillna(0),
                fmt=f"{MARKERS[index % len(MARKERS)]}-",
                markersize=4,
                color=f"C{index % 10}",
                capsize=2,
                label=name,
            )
        sets = ", ".join(dict.fromkeys(of_side["dataset"]))
        title = f"{side} {'of ' if side == 'out' else ''}distribution: {sets}"
        axes.set(title=title, xlabel="measurements m", ylabel="mean PSNR (dB)")
        _finish(axes)
    return figure


def show(table: Table) -> None:
    """Print a table: as wide as the terminal, or 110 columns into a file."""
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _fixed(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def training_curves(directory: Path) -> Figure:
    """Bits per dimension and mean PSNR against images seen, PSNR against m at the end.

    Reads `metrics.jsonl` and the rows of a run directory. In distribution solid, out dashed;
    bars are standard errors.
    """
    rows = named(read_rows(directory))
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(rows["dataset"]))}
    same = comparable(rows)
    watched = [p for p, group in same.groupby("problem") if group["images_seen"].nunique() > 1]
    figure = Figure(figsize=(4.0 * (2 + len(watched)), 3.4), layout="constrained")
    likelihood, *recoveries, measured = figure.subplots(1, 2 + len(watched), squeeze=False)[0]
    _draw_likelihood(likelihood, directory / "metrics.jsonl", colours)
    for axes, problem in zip(recoveries, watched, strict=True):
        _draw_recovery(axes, same[same["problem"] == problem], "images_seen", colours)
        axes.set(title=problem, xlabel="images seen", ylabel="mean PSNR (dB)")
    sensing = latest(rows)
    sensing = sensing[sensing["problem"].str.startswith("cs-")]
    _draw_recovery(measured, sensing, "m", colours)
    title = f"compressive sensing at {rows['images_seen'].max():,} images"
    measured.set(title=title, xlabel="measurements m", ylabel="mean PSNR (dB)")
    return figure


def _draw_recovery(axes: Axes, rows: pd.DataFrame, against: str, colours: dict[str, str]) -> None:
    markers = dict(zip(dict.fromkeys(rows["method"]), itertools.cycle(MARKERS), strict=False))
    for (distribution, dataset, method), group in rows.groupby(
        ["distribution", "dataset", "method"]
    ):
        points = group.groupby(against)["psnr"].agg(["mean", "sem"]).fillna(0)
        axes.errorbar(
            points.index,
            points["mean"],
            points["sem"],
            fmt=markers[method] + {"in": "-", "out": "--"}[distribution],
            markersize=4,
            color=colours[dataset],
            capsize=2,
            label=f"{dataset} ({distribution}), {method}",
        )
    _finish(axes)


def _draw_likelihood(axes: Axes, path: Path, colours: dict[str, str]) -> None:
    curves: dict[str, dict[float, float]] = {}
    for line in path.read_text().splitlines():
        metrics = json.loads(line)
        for name, value in metrics.items():
            if name.startswith("bits_per_dim/"):
                curves.setdefault(name.split("/", 1)[1], {})[metrics["images_seen"]] = value
    for name, points in sorted(curves.items()):
        axes.plot(list(points), list(points.values()), "o-", color=colours.get(name), label=name)
    axes.set(title="likelihood", xlabel="images seen", ylabel="bits per dimension")
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
    if axes.get_xlim()[1] > 10_000:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m recovery.report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIRECTORY")
    parser.add_argument(
        "--out", type=Path, help="the figure's file (by default beside what it is drawn from)"
    )
    options = parser.parse_args(arguments)
    try:
        parts = [read_rows(directory) for directory in options.runs]
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


if __name__ == "__main__":
    main(sys.argv[1:])
