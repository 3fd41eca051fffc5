"""The figures of `report.experiments`, by caption: a mean and its standard error per mark.

Each function takes the means, and the published values, which it draws dashed and hollow. Both have
the columns dataset, distribution, method, setting (the problem's name in text), x (place on the
axis; NaN for a method without such an axis, a horizontal line) and psnr; the means also sem, ssim,
ssim_sem, psnr_hole and psnr_hole_sem.
"""

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

Styles = dict[str, tuple[str, str]]  # colour and marker by method

SET = ["dataset", "distribution"]
SIDE = {"in": "in distribution", "out": "out of distribution"}
MARKERS = "osD^vPX*<>hdp"
COLOURS = [f"C{index}" for index in range(10)]
SET_MARKERS = "osDv"
M_TICKS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

# A method's colour (in the cycle of `page.style`) and marker, the same in every figure.
STYLES = {
    "glow": ("C0", "o"),
    "glow-map": ("C0", "*"),
    "glow-denoising": ("C0", "o"),
    "glow-denoising-from-y": ("C0", "h"),
    "glow-128": ("C0", "o"),
    "gaussian": ("C6", "D"),
    "dcgan": ("C1", "s"),
    "pggan": ("C1", "P"),
    "ia-dcgan": ("C2", "D"),
    "ia-pggan": ("C2", "d"),
    "deep-decoder": ("C3", "^"),
    "deep-decoder-128": ("C3", "^"),
    "deep-image-prior": ("C7", "v"),
    "lasso-dct": ("C4", "X"),
    "lasso-haar": ("C5", "*"),
    "bm3d": ("C7", "h"),
    "total-variation": ("C8", "<"),
    "pseudo-inverse": ("C9", ">"),
    "adjoint": ("C9", "p"),
}


def best_first(cells: pd.DataFrame) -> pd.DataFrame:
    """Sort lines by method, the one with the highest mean PSNR first."""
    scores = cells.groupby("method")["psnr"].transform("mean")
    return cells.loc[scores.sort_values(ascending=False, kind="stable").index]


def m_figures(means: pd.DataFrame, beside: pd.DataFrame) -> dict[str, Figure]:
    """Draw PSNR and SSIM against m/n, a figure per set."""
    figures, styles = {}, styles_of([*means["method"], *beside["method"]])
    for value, spread, label in (("psnr", "sem", "PSNR (dB)"), ("ssim", "ssim_sem", "SSIM")):
        theirs = beside if value == "psnr" else beside.iloc[:0]
        for (dataset, distribution), part in means.groupby(SET, sort=False):
            other = _of_set(theirs, dataset, distribution)
            figure, axes = _panel()
            _curves(axes, part, other, value, spread, styles)
            axes.set(xlabel="measurements, m/n", ylabel=f"mean {label}", xscale="log")
            axes.set_ylim(_limits(means[value], theirs.get(value)))
            axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:g}%")
            axes.set_xticks([x for x in M_TICKS if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]])
            axes.xaxis.set_minor_locator(NullLocator())
            _legend(figure, axes, not other.empty)
            caption = f"{label.split()[0]} against m/n, {SIDE[distribution]} ({dataset})"
            figures[caption + _dashed(other)] = figure
    return figures


def gamma_figures(means: pd.DataFrame, beside: pd.DataFrame) -> dict[str, Figure]:
    """Draw PSNR against gamma, a figure per noise level and set."""
    figures, styles = {}, styles_of([*means["method"], *beside["method"]])
    everywhere = pd.concat([means["x"], beside["x"]])
    smallest = everywhere[everywhere > 0].min()
    for (setting, dataset, distribution), part in means.groupby(["setting", *SET], sort=False):
        other = _of_set(beside[beside["setting"] == setting], dataset, distribution)
        figure, axes = _panel()
        _curves(axes, part, other, "psnr", "sem", styles)
        axes.set(xlabel="weight of the penalty, γ", ylabel="mean PSNR (dB)")
        axes.set_xscale("symlog", linthresh=smallest, linscale=0.4)  # 0 has its place
        axes.set_xlim(left=-smallest / 4)
        axes.xaxis.set_minor_locator(NullLocator())
        _legend(figure, axes, not other.empty)
        caption = f"PSNR against γ, {setting}, {SIDE[distribution]} ({dataset})"
        figures[caption + _dashed(other)] = figure
    return figures


def method_figures(means: pd.DataFrame, beside: pd.DataFrame) -> dict[str, Figure]:
    """Draw PSNR of every method as dots, inside a hole too where there is one; one per problem."""
    figures, styles = {}, styles_of([*means["method"], *beside["method"]])
    for setting, part in means.groupby("setting", sort=False):
        theirs = beside[beside["setting"] == setting]
        if part["psnr_hole"].notna().any():
            figure = _dots(part, beside.iloc[:0], "psnr_hole", "psnr_hole_sem", styles)
            figures[f"PSNR inside the hole, {setting}"] = figure
        hollow = "; hollow: published at 64px" if not theirs.empty else ""
        figures[f"PSNR, {setting}{hollow}"] = _dots(part, theirs, "psnr", "sem", styles)
    return figures


def _curves(
    axes: Axes,
    means: pd.DataFrame,
    published: pd.DataFrame,
    value: str,
    spread: str,
    styles: Styles,
) -> None:
    """Draw means against x, with standard errors; without x, a horizontal line."""
    for method, part in best_first(means).groupby("method", sort=False):
        colour, marker = styles[method]
        part = part.sort_values("x")
        if part["x"].isna().all():
            axes.axhline(part[value].mean(), color=colour, label=method)
            continue
        axes.errorbar(
            part["x"],
            part[value],
            part[spread].fillna(0),
            fmt=f"{marker}-",
            color=colour,
            markersize=5,
            capsize=2,
            label=method,
        )
    for method, part in published.groupby("method", sort=False):
        colour, marker = styles[method]
        if part["x"].isna().all():
            axes.axhline(part[value].mean(), color=colour, linestyle="--", linewidth=1)
            continue
        part = part.sort_values("x")
        axes.plot(part["x"], part[value], f"{marker}--", color=colour, mfc="none", ms=5, lw=1)


def _dots(
    means: pd.DataFrame, published: pd.DataFrame, value: str, spread: str, styles: Styles
) -> Figure:
    """Draw methods from the best down, a marker per set."""
    order = means.groupby("method")[value].mean().sort_values(na_position="first").index
    height = {method: place for place, method in enumerate(order)}
    figure, axes = _panel(1.5 + 0.36 * len(order))
    sets = list(means.groupby(SET, sort=False))
    handles = []
    for index, ((dataset, distribution), part) in enumerate(sets):
        shift = 0.14 * ((len(sets) - 1) / 2 - index)
        marker = SET_MARKERS[index % len(SET_MARKERS)]
        label = f"{SIDE[distribution]} ({dataset})"
        for filled, values in ((True, part), (False, _of_set(published, dataset, distribution))):
            for _, cell in values.iterrows():
                colour = styles[cell["method"]][0]
                axes.errorbar(
                    cell[value],
                    height[cell["method"]] + shift,
                    xerr=np.nan_to_num(cell[spread]) if filled else None,
                    fmt=marker,
                    color=colour,
                    markerfacecolor=colour if filled else "none",
                    markersize=6,
                    capsize=2,
                )
        handles.append(Line2D([], [], color="C9", marker=marker, linestyle="", label=label))
    if not published.empty:
        label = "published at 64px"
        handles.append(Line2D([], [], color="C9", marker="o", ls="", mfc="none", label=label))
    axes.set_yticks(range(len(order)), order)
    axes.set(xlabel="mean PSNR (dB)", ylim=(-0.6, len(order) - 0.4))
    figure.legend(handles=handles, loc="outside lower left", ncols=1)
    return figure


def styles_of(methods: Iterable[str]) -> Styles:
    """Give each method a colour and a marker; no two methods share both.

    No colour returns before all have been used. Variants, `glow (last)`, share the method's colour
    and differ by marker; where there are only variants of one method, they differ by colour too.
    """
    names = list(dict.fromkeys(methods))
    bases = list(dict.fromkeys(name.split(" (")[0] for name in names))
    wanted = {STYLES[base][0] for base in bases if base in STYLES}
    colours = itertools.chain([c for c in COLOURS if c not in wanted], itertools.cycle(COLOURS))
    known: Styles = {}
    for base in sorted(bases, key=lambda base: base not in STYLES):  # those with a style first
        colour, marker = STYLES[base] if base in STYLES else (next(colours), MARKERS[0])
        taken = set(known.values())
        known[base] = next((colour, m) for m in (marker, *MARKERS) if (colour, m) not in taken)
    styles: Styles = {}
    seen: dict[str, int] = {}
    for name in names:
        base = name.split(" (")[0]
        colour, marker = known[base]
        nth = seen[base] = seen.get(base, -1) + 1
        if nth:
            marker = MARKERS[(MARKERS.index(marker) + nth) % len(MARKERS)]
            colour = f"C{(int(colour[1:]) + nth) % 10}" if len(bases) == 1 else colour
        styles[name] = colour, marker
    return styles


def drawn(means: pd.DataFrame) -> pd.DataFrame:
    """Keep what figures show: of an untrained network only the last iterate, as published."""
    base = means["method"].str.split(" (", regex=False).str[0]
    last = set(base[means["method"].str.endswith(" (last)")])
    return means[~base.isin(last) | means["method"].str.endswith(" (last)")]


def _panel(height: float = 3.3) -> tuple[Figure, Axes]:
    """Make one plot as wide as a phone; a page sets several side by side."""
    figure = Figure(figsize=(4.7, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(True)
    return figure, axes


def _legend(figure: Figure, axes: Axes, published: bool) -> None:
    """Draw the legend below the plot, which keeps its height; in two columns if they fit."""
    handles, _ = axes.get_legend_handles_labels()
    if published:
        label = "published at 64px"
        handles.append(Line2D([], [], color="C9", marker="o", ls="--", mfc="none", label=label))
    for columns in (2, 1):
        for legend in list(figure.legends):  # the one in two columns, which was too wide
            legend.remove()
        figure.legend(handles=handles, loc="outside lower left", ncols=columns)
        figure.set_figheight(3.3 + 0.22 * math.ceil(len(handles) / columns))
        figure.draw_without_rendering()
        if figure.legends[0].get_window_extent().width <= figure.bbox.width:
            break


def _limits(*series: pd.Series | None) -> tuple[float, float]:
    """Choose one range for all sets, so that their figures compare."""
    values = pd.concat([s for s in series if s is not None]).replace(math.inf, math.nan)
    if values.isna().all():
        return 0.0, 1.0
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _of_set(rows: pd.DataFrame, dataset: str, distribution: str) -> pd.DataFrame:
    return rows[rows["dataset"].eq(dataset) & rows["distribution"].eq(distribution)]


def _dashed(published: pd.DataFrame) -> str:
    return "" if published.empty else "; dashed: published at 64px"
