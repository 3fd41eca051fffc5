"""How an experiment is laid out, which follows from what varies in it."""

import math
from typing import Literal

import pandas as pd

from report.plots import SET
from results.means import GROUP

Layout = Literal["m", "gamma", "methods"]

# The columns of one mean. `setting` is its problem's name in text; `x` its place on the axis (m/n,
# or gamma; NaN for a method without a penalty, a horizontal line); `fraction` is m/n.
CELL = [*GROUP, "kind", "sigma", "gamma", "fraction", "setting", "x"]


def laid_out(images: pd.DataFrame, n: int) -> tuple[Layout, pd.DataFrame]:
    """Choose the layout; add fraction, setting and x to the images, in the order of the axis."""
    images = images.assign(fraction=images["m"] / n, setting=images["problem"], x=math.nan)
    gammas = images.groupby(["m", "sigma", *SET, "method"])["gamma"].transform("nunique")
    if (gammas > 1).any():
        names = images.groupby(["m", "sigma"])["problem"].transform("nunique")
        level = images["kind"] + ", σ = " + images["sigma"].map("{:g}".format)
        images["setting"] = images["problem"].where(names == 1, level)
        images["x"] = images["gamma"].where(gammas > 1)
        return "gamma", images.sort_values(["sigma", "m", "x"], kind="stable", na_position="first")
    told_by_m = images.groupby("m")["problem"].nunique().eq(1).all()
    if images["kind"].eq("cs").all() and images["m"].nunique() > 1 and told_by_m:
        images["setting"] = percent(images["fraction"])
        images["x"] = images["fraction"]
        return "m", images.sort_values("m", kind="stable")
    return "methods", images


def percent(fractions: pd.Series) -> pd.Series:
    """Write 5%, 10%: with two digits if these distinguish the fractions, else with more."""
    for digits in (2, 3, 4):
        text = (100 * fractions).map(lambda x, d=digits: f"{float(f'{x:.{d}g}'):g}%")
        if text.nunique() == fractions.nunique():
            break
    return text


def count_range(counts: pd.Series) -> str:
    """Write 3, or 3 to 8."""
    least, most = counts.min(), counts.max()
    return str(least) if least == most else f"{least} to {most}"


def mean_text(value: float, sem: float) -> str:
    """Write a mean and its standard error, where there is one; "" without a mean."""
    if math.isnan(value):
        return ""
    return f"{value:.2f}" if math.isnan(sem) else f"{value:.2f} ± {sem:.2f}"
