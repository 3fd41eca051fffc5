"""The numbers published with the paper, and which of them to show with ours."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from core.variants import SEES_THE_TRUTH
from report.layout import Layout, percent
from report.plots import SET

UNSQUARED = "v1-2019"  # penalised ||z||: its gamma means the same as ours at 0 alone
SAME_M = 0.02  # relative: m/n of other image sizes counts as the same problem's
# The published names of methods and problems that have other names here.
PUBLISHED_METHODS = {
    "glow-denoising": "glow",
    "glow-128": "glow",
    "deep-decoder-128": "deep-decoder",
    "start-0": "glow (init 0)",
    "start-0.1": "glow (init 0.1)",
    "start-0.7": "glow (init 0.7)",
    "start-lasso": "glow (init lasso-wavelet)",
    "start-null-space": "glow (init null-space-pertnorm-5)",
}
PUBLISHED_METHODS |= {  # radius: the norm in units of sqrt(n), n = 12,288
    f"radius-{round(norm / math.sqrt(12_288), 2):g}": f"glow (init norm {norm})"
    for norm in range(10, 121, 10)
}
PUBLISHED_KINDS = {"initialisation": "cs"}


def read_published() -> pd.DataFrame:
    """Read the numbers published with the paper, of 64px images.

    Columns: figure, dataset, distribution, method, problem (cs, denoise, inpaint or
    initialisation), m, n, sigma, gamma, psnr (mean, dB), accuracy (dB), source. `figure` is
    icml-2020 (read off the plots of the ICML paper; gamma weighs ||z||^2), v1-2019 (tables of the
    first version, with other networks; gamma weighs ||z||) or v1-2019-squared (such a table with
    ||z||^2). gamma is empty for methods without that penalty.
    """
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def published_beside(published: pd.DataFrame, means: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Find the published values of the same kind of problem, set and method as `means`.

    Columns: SET, method (our name of it), setting, x, psnr, figure, accuracy.
    """
    shared = {"m": [], "gamma": ["fraction"], "methods": ["fraction", "gamma"]}[layout]
    told_by = ["kind", *SET, "method", *shared, *(["setting", "sigma"] if shared else [])]
    ours = means[told_by].drop_duplicates()
    ours["theirs"] = _published_names(ours["method"])
    names = {"method": "theirs", "dataset": "name", "sigma": "noise", "gamma": "weight"}
    kind, share = published["problem"].replace(PUBLISHED_KINDS), published["m"] / published["n"]
    theirs = published.rename(columns=names).assign(kind=kind, share=share)
    found = ours.merge(theirs, on=["kind", "distribution", "theirs"])
    same = found["weight"].isna() | found["weight"].eq(0) | found["figure"].ne(UNSQUARED)
    both = zip(found["dataset"], found["name"], strict=True)  # celeba-test, celeba
    same &= np.array([dataset.startswith(name) for dataset, name in both], dtype=bool)
    if "fraction" in shared:
        same &= (found["share"] / found["fraction"] - 1).abs() < SAME_M
        same &= found["kind"].ne("denoise") | np.isclose(found["noise"], found["sigma"])
    if "gamma" in shared:
        same &= found["weight"].isna() | np.isclose(found["weight"], found["gamma"])
    found = found[same]
    found = found[found["figure"] == found.groupby("problem")["figure"].transform("min")]
    if layout == "m":
        found = found.assign(setting=percent(found["share"]), x=found["share"])
        return found.sort_values("x", kind="stable")
    return found.assign(x=found["weight"] if layout == "gamma" else math.nan)


def _published_names(methods: pd.Series) -> pd.Series:
    """Give our methods their published names. With radii, 0 is that study's own norm 0.

    For untrained networks the authors published the last iterate.
    """
    names = methods.str.removesuffix(" (last)").str.removesuffix(f" ({SEES_THE_TRUTH})")
    names = names.replace(PUBLISHED_METHODS)
    if methods.str.startswith("radius-").any():
        names = names.mask(methods.eq("start-0"), "glow (init norm 0)")
    return names
