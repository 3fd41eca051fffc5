"""What a run's rows and metrics look like: curves over training, and PSNR against m."""

import itertools
import json
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.files import whole_lines
from report.plots import MARKERS
from results.means import comparable, latest, named
from results.rows import read_rows


def comparison_figure(rows: pd.DataFrame) -> Figure:
    """Draw compressive sensing: PSNR against m of all priors and methods, in and out.

    From the rows of `compared`; bars are standard errors.
    """
    sensing = rows[rows["kind"].eq("cs")]
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


def training_curves(directory: Path) -> Figure:
    """Draw likelihood or losses and mean PSNR against images seen, and PSNR against m at the end.

    Reads `metrics.jsonl` and the rows of a run directory. In distribution solid, out dashed;
    bars are standard errors.
    """
    rows = named(read_rows(directory))
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(rows["dataset"]))}
    same = comparable(rows)
    watched = [p for p, group in same.groupby("problem") if group["images_seen"].nunique() > 1]
    figure = Figure(figsize=(4.0 * (2 + len(watched)), 3.4), layout="constrained")
    training, *recoveries, measured = figure.subplots(1, 2 + len(watched), squeeze=False)[0]
    _draw_training(training, directory / "metrics.jsonl", colours)
    for axes, problem in zip(recoveries, watched, strict=True):
        _draw_recovery(axes, same[same["problem"] == problem], "images_seen", colours)
        axes.set(title=problem, xlabel="images seen", ylabel="mean PSNR (dB)")
    sensing = latest(rows)
    sensing = sensing[sensing["kind"].eq("cs")]
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


def _draw_training(axes: Axes, path: Path, colours: dict[str, str]) -> None:
    """Draw bits per dimension of held-out sets; of a prior without a likelihood, its losses."""
    bits: dict[str, dict[float, float]] = {}
    losses: dict[str, dict[float, float]] = {}
    for line in whole_lines(path).splitlines():  # a process may be writing the last one
        metrics = json.loads(line)
        for name, value in metrics.items():
            kind, _, what = name.partition("/")
            if kind == "bits_per_dim":
                bits.setdefault(what, {})[metrics["images_seen"]] = value
            elif kind == "train" and what.endswith("loss"):
                losses.setdefault(what.replace("_", " "), {})[metrics["images_seen"]] = value
    for name, points in sorted((bits or losses).items()):
        style = "o-" if bits else "-"
        axes.plot(list(points), list(points.values()), style, color=colours.get(name), label=name)
    title, ylabel = ("likelihood", "bits per dimension") if bits else ("training", "loss")
    axes.set(title=title, xlabel="images seen", ylabel=ylabel)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
    if axes.get_xlim()[1] > 10_000:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
