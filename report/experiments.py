"""From rows to the sections of the page: findings, tables and figures, as the paper lays them out.

Averages are over images, each first averaged over its seeds. A difference between two methods is
the mean of the differences on the images both recovered. Who leads is the method whose smallest
difference to another is the largest: where all have the same images, the one with the highest mean.
The lead is claimed only if that difference is of at least FEW images and exceeds its standard error
times the two-sided 95% quantile of Student's t. Pairs with fewer images in common stand back: a
slow method that was given few images decides nothing about the others.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from report.page import Section
from report.plots import SET, SIDE, best_first, gamma_figures, m_figures, method_figures
from results.means import GROUP, image_means, per_image

Layout = Literal["m", "gamma", "methods"]

UNSQUARED = "v1-2019"  # penalised ||z||: its gamma means the same as ours at 0 alone
SAME_M = 0.02  # relative: m/n of other image sizes counts as the same problem's
FEW = 8  # images: a difference on fewer is given, and is no lead
# Methods that have seen the truth: shown, never compared. Their rows say so in the variant (see
# `recovery.diagnostic`), those of version 0.1 by the name alone.
SEES_THE_TRUTH = " (sees the truth)"
DIAGNOSTICS = {"start-null-space"}

# What the published rows call methods and problems that have other names here.
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
    """The numbers published with the paper, of 64px images.

    Columns: figure, dataset, distribution, method, problem (cs, denoise, inpaint or
    initialisation), m, n, sigma, gamma, psnr (mean, dB), accuracy (dB), source. `figure` is
    icml-2020 (read off the plots of the ICML paper; gamma weighs ||z||^2), v1-2019 (tables of the
    first version, with other networks; gamma weighs ||z||) or v1-2019-squared (such a table with
    ||z||^2). gamma is empty for methods without that penalty.
    """
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def recovery_section(title: str, rows: pd.DataFrame, published: pd.DataFrame, n: int) -> Section:
    """One experiment. Its layout follows from what varies.

    gamma at fixed m and sigma: PSNR against gamma, one figure per noise level and set. m of
    compressive sensing: PSNR and SSIM against m/n, one figure per set. Else, per problem, one dot
    plot of methods, inside the hole too where there is one.

    Args:
        rows: columns of `results.rows.Row`, one time (`images_seen`) per method; `method` is
            the name to show.
        published: as from `read_published`; where several figures have a kind of problem, the
            first by name is drawn beside ours.
        n: values of one image, C H W.

    Raises:
        ValueError: there are no rows.
    """
    if rows.empty:
        raise ValueError(f"{title}: no image has been recovered")
    layout, images = _laid_out(per_image(rows, [*GROUP, "sigma", "gamma"]), n)
    means = image_means(images, CELL)
    beside = _beside(published, means, layout)
    draw = {"m": m_figures, "gamma": gamma_figures, "methods": method_figures}[layout]
    leads, meaning = _leads(images, layout)
    failures = _failures(means)
    sentences = [*leads, *meaning, *_uneven(means), *_diagnostics(means), *failures]
    if not beside.empty:
        sizes = "" if n == beside["n"].iloc[0] else f" Ours have n = {n:,}."
        sentences.append(
            "Dashed lines and hollow markers are published values, of other networks, test images "
            f"and noise, at 64px (n = {beside['n'].iloc[0]:,} values).{sizes}"
        )
    tables = _tables(means, layout) | _published_tables(beside, layout)
    summary = [*leads, *failures]
    return Section(title, sentences, tables, lambda: draw(means, beside), summary=summary)


# --- what varies ---------------------------------------------------------------------------------

# One mean: `setting` is what text calls its problem, x its place on the axis (m/n or gamma; NaN of
# a method without a penalty: a horizontal line), fraction is m/n.
CELL = [*GROUP, "sigma", "gamma", "fraction", "setting", "x"]


def _laid_out(images: pd.DataFrame, n: int) -> tuple[Layout, pd.DataFrame]:
    """The layout, and the images with fraction, setting and x, in the order of the axis."""
    images = images.assign(fraction=images["m"] / n, setting=images["problem"], x=math.nan)
    gammas = images.groupby(["m", "sigma", *SET, "method"])["gamma"].transform("nunique")
    if (gammas > 1).any():
        names = images.groupby(["m", "sigma"])["problem"].transform("nunique")
        level = _kind(images) + ", σ = " + images["sigma"].map("{:g}".format)
        images["setting"] = images["problem"].where(names == 1, level)
        images["x"] = images["gamma"].where(gammas > 1)
        return "gamma", images.sort_values(["sigma", "m", "x"], kind="stable", na_position="first")
    if _kind(images).eq("cs").all() and images["m"].nunique() > 1:
        images["setting"] = _percent(images["fraction"])
        images["x"] = images["fraction"]
        return "m", images.sort_values("m", kind="stable")
    return "methods", images


def _kind(rows: pd.DataFrame) -> pd.Series:
    """cs, denoise or inpaint of cs-10%, denoise-0.1, inpaint-centre."""
    return rows["problem"].str.split("-").str[0]


def _percent(fractions: pd.Series) -> pd.Series:
    """5%, 10%: two digits where these tell the fractions apart, else more."""
    for digits in (2, 3, 4):
        text = (100 * fractions).map(lambda x, d=digits: f"{float(f'{x:.{d}g}'):g}%")
        if text.nunique() == fractions.nunique():
            break
    return text


def _beside(published: pd.DataFrame, means: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """The published values of the same kind of problem, set and method as `means`.

    Columns: SET, method (our name of it), setting, x, psnr, figure, accuracy.
    """
    shared = {"m": [], "gamma": ["fraction"], "methods": ["fraction", "gamma"]}[layout]
    told_by = ["kind", *SET, "method", *shared, *(["setting", "sigma"] if shared else [])]
    ours = means.assign(kind=_kind(means))[told_by].drop_duplicates()
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
        found = found.assign(setting=_percent(found["share"]), x=found["share"])
        return found.sort_values("x", kind="stable")
    return found.assign(x=found["weight"] if layout == "gamma" else math.nan)


def _published_names(methods: pd.Series) -> pd.Series:
    """What the published rows call our methods. Beside radii, 0 is that study's own norm 0.

    Of an untrained network the last iterate was published.
    """
    names = methods.str.removesuffix(" (last)").str.removesuffix(SEES_THE_TRUTH)
    names = names.replace(PUBLISHED_METHODS)
    if methods.str.startswith("radius-").any():
        names = names.mask(methods.eq("start-0"), "glow (init norm 0)")
    return names


# --- findings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lead:
    """By how much `best` is above `next` on the images both recovered: mean and standard error."""

    best: str
    next: str
    mean: float
    sem: float
    images: int
    circular: bool = False  # `best` is itself below another method, on images of theirs

    @property
    def few(self) -> bool:
        return self.images < FEW

    @property
    def clear(self) -> bool:
        """Whether the difference is no chance of the images: a t-test, on FEW images or more."""
        known = not self.few and not self.circular
        return known and self.mean > stdtrit(self.images - 1, 0.975) * self.sem

    def __str__(self) -> str:
        spread = "" if math.isnan(self.sem) else f" ± {self.sem:.2f}"
        return f"{self.mean:.2f}{spread} dB (n = {self.images})"


def lead(scores: pd.DataFrame) -> Lead | None:
    """Of one column per method and one line per image, PSNR in dB: who leads, by how much.

    Each pair of methods on the images both recovered; pairs with FEW of them or more, if there are
    any. None where no two methods have an image in common.
    """
    pairs = _pairs(scores)
    pairs = [pair for pair in pairs if not pair.few] or pairs
    smallest: dict[str, Lead] = {}  # of each method to another
    for pair in sorted(pairs, key=lambda pair: pair.mean):
        smallest.setdefault(pair.best, pair)
    found = max(smallest.values(), key=lambda pair: pair.mean, default=None)
    if found is not None and found.mean < 0:  # a above b above c above a, on other images each
        return Lead(found.next, found.best, -found.mean, found.sem, found.images, circular=True)
    return found


def _pairs(scores: pd.DataFrame) -> list[Lead]:
    """Each method's mean difference to each other one with which it has images in common."""
    pairs = []
    for a, b in itertools.permutations(scores.columns, 2):
        difference = (scores[a] - scores[b]).dropna()
        if len(difference):
            pairs.append(Lead(a, b, difference.mean(), difference.sem(), len(difference)))
    return pairs


def _leads(images: pd.DataFrame, layout: Layout) -> tuple[list[str], list[str]]:
    """Who wins where and by how much: a sentence per set; and what the words mean."""
    images = images[~_sees_the_truth(images["method"])]
    # What a hole hides is what inpainting is about.
    images = images.assign(score=images["psnr_hole"].fillna(images["psnr"]))
    if layout == "gamma" and not images.empty:
        images = _at_best_gamma(images)
    sentences = []
    compared = False
    for (dataset, distribution), of_set in images.groupby(SET, sort=False):
        found: list[tuple[str, Lead]] = []
        above: list[str] = []
        short: dict[str, None] = {}  # methods, in order
        apart: list[str] = []
        for setting, part in of_set.groupby("setting", sort=False):
            scores = part.pivot_table(index="image", columns="method", values="score")
            best = lead(scores)
            if best is not None:
                found.append((setting, best))
                for pair in [] if best.few else _pairs(scores):
                    if pair.few and pair.next == best.best:
                        short[pair.best] = None
                        if pair.mean > 0:
                            where = _where([setting], layout)
                            above.append(f"{pair.best} is above {best.best} by {pair} {where}")
            elif part["method"].nunique() > 1:
                apart.append(setting)
        runs = itertools.groupby(found, lambda f: (f[1].clear and f[1].best, f[1].few))
        clauses = [_clause(list(run), layout) for _, run in runs]
        if short:
            clauses.append(f"not counted, of fewer than {FEW} images: {', '.join(short)}")
        if above:
            clauses.append(f"on few images, no lead: {', '.join(above)}")
        if apart:
            clauses.append(f"not compared {_where(apart, layout)}: no image that two recovered")
        if clauses:
            where = SIDE[distribution].capitalize()
            sentences.append(f"{where} ({dataset}): {'; '.join(clauses)}.")
        compared |= bool(found)
    if not compared:
        return sentences, []
    inside = ", inside the hole where there is one" if images["psnr_hole"].notna().any() else ""
    chosen = "; γ is each method's best on these images" if layout == "gamma" else ""
    meaning = (
        "Two methods are compared on the n images that both recovered: mean difference in PSNR "
        f"± its standard error{inside}{chosen}. A method leads where its smallest difference to "
        f"another, of at least {FEW} images, exceeds the standard error times the 95% quantile "
        "(two-sided) of Student's t; of fewer no lead is claimed."
    )
    return sentences, [meaning]


def _sees_the_truth(methods: pd.Series) -> pd.Series:
    return methods.str.endswith(SEES_THE_TRUTH) | methods.isin(DIAGNOSTICS)


def _diagnostics(means: pd.DataFrame) -> list[str]:
    """Which methods shown are none to compare others with."""
    methods = means["method"][_sees_the_truth(means["method"])]
    named = methods.str.removesuffix(SEES_THE_TRUTH).unique()
    return [f"{name} starts from the truth: a diagnostic, not compared." for name in named]


def _uneven(means: pd.DataFrame) -> list[str]:
    """Which methods' means are of fewer images than others' of the same problem and set."""
    most = means.groupby([*SET, "setting"])["images"].transform("max")
    short = means[means["images"] < most]
    if short.empty:
        return []
    counts = [
        f"{method}'s of {_range(part['images'])}"
        for method, part in short.groupby("method", sort=False)
    ]
    return [
        f"Not all means are of the same images: {', '.join(counts)}, where others are of "
        f"{_range(most[short.index])} (column images). Such means do not compare; differences do."
    ]


def _at_best_gamma(images: pd.DataFrame) -> pd.DataFrame:
    """Of each method, problem and set the images at the gamma with the best mean, told by name."""
    parts = []
    for _, part in images.groupby([*SET, "setting", "method"], sort=False):
        means = part.groupby("gamma")["score"].mean().fillna(-math.inf)
        parts.append(part[part["gamma"] == means.idxmax()])
    best = pd.concat(parts)
    named = best["method"] + " at γ = " + best["x"].map("{:g}".format)
    return best.assign(method=best["method"].where(best["x"].isna(), named))


def _clause(found: list[tuple[str, Lead]], layout: Layout) -> str:
    """What is to be said of successive problems with one winner, or with none."""
    where = _where([setting for setting, _ in found], layout)
    (_, first), *others = found
    if first.few:
        each = [f"{best.best} over {best.next} by {best}" for _, best in found]
        return f"too few images for a lead {where}: {', '.join(each)}"
    if not first.clear:
        each = [f"{best} between {best.best} and {best.next}" for _, best in found]
        return f"no clear lead {where}: {', '.join(each)}"
    if not others:
        return f"{first.best} leads {first.next} by {first} {where}"
    ends = sorted(found, key=lambda f: f[1].mean)
    at = "at" if layout == "m" else "on"
    least, most = (f"{best} over {best.next} {at} {on}" for on, best in (ends[0], ends[-1]))
    return f"{first.best} leads {where}, by {least} to {most}"


def _where(settings: Sequence[str], layout: Layout) -> str:
    if layout == "m" and len(settings) > 1:
        return f"from m/n = {settings[0]} to {settings[-1]}"
    listed = " and ".join(filter(None, [", ".join(settings[:-1]), settings[-1]]))
    return f"at m/n = {listed}" if layout == "m" else f"on {listed}"


def _failures(means: pd.DataFrame) -> list[str]:
    """How many recoveries diverged, and where most; how many did not converge; by method."""
    if not means["not_converged"].any():
        return ["Every recovery converged."]
    diverged, slow = [], []
    for method, part in means.groupby("method", sort=False):
        count = part[["diverged", "not_converged", "tried"]].sum()
        if count["diverged"]:
            worst = part.loc[part["diverged"].idxmax()]
            where = f"{worst['setting']}, {SIDE[worst['distribution']]}"
            most = f"most at {where}: {worst['diverged']} of {worst['tried']}"
            diverged.append(f"{method} {count['diverged']} of {count['tried']} recoveries ({most})")
        if count["not_converged"]:
            slow.append(f"{method} {count['not_converged']} of {count['tried']}")
    return [
        f"Diverged: {'; '.join(diverged)}." if diverged else "No recovery diverged.",
        f"Not converged{', diverged ones included' if diverged else ''}: {', '.join(slow)}.",
    ]


# --- tables --------------------------------------------------------------------------------------


def _tables(means: pd.DataFrame, layout: Layout) -> dict[str, pd.DataFrame]:
    """Per set a line for each method (and noise level), a column for each problem or gamma."""
    tables = {}
    for (dataset, distribution), part in means.groupby(SET, sort=False):
        lines = []
        for names, cells in _ordered(part, layout).groupby(_lines(layout), sort=False):
            line = dict(zip(_lines(layout), names, strict=True))
            for _, cell in cells.iterrows():
                column = _column(cell, layout)
                if not math.isnan(cell["psnr_hole"]):
                    line[f"{column}, hole"] = _mean(cell["psnr_hole"], cell["psnr_hole_sem"])
                structural = "" if math.isnan(cell["ssim"]) else f" ({cell['ssim']:.3f})"
                line[column] = _mean(cell["psnr"], cell["sem"]) + structural
            lines.append(line | _counts(cells))
        where = SIDE[distribution].capitalize()
        caption = f"{where} ({dataset}): mean PSNR in dB ± standard error (SSIM)"
        tables[caption] = _table(lines, part, layout)
    return tables


def _published_tables(beside: pd.DataFrame, layout: Layout) -> dict[str, pd.DataFrame]:
    tables = {}
    for (dataset, distribution, figure, name), part in beside.groupby(
        [*SET, "figure", "name"], sort=False
    ):
        lines = []
        for names, cells in _ordered(part, layout).groupby(_lines(layout), sort=False):
            line = dict(zip(_lines(layout), names, strict=True))
            line["method"] += ", published"
            for _, cell in cells.iterrows():
                about = "~" if cell["accuracy"] > 0.2 else ""
                line[_column(cell, layout)] = f"{about}{cell['psnr']:.2f}"
            lines.append(line)
        caption = (
            f"Published beside {dataset} ({figure}, {name} at 64px, {SIDE[distribution]}): "
            "mean PSNR in dB"
        )
        tables[caption] = _table(lines, part, layout)
    return tables


def _ordered(cells: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Best method first; by noise level first where there are several."""
    return cells if layout == "gamma" else best_first(cells)


def _lines(layout: Layout) -> list[str]:
    """What tells a table's lines apart."""
    return ["setting", "method"] if layout == "gamma" else ["method"]


def _column(cell: pd.Series, layout: Layout) -> str:
    if layout == "gamma":
        return "γ not varied" if math.isnan(cell["x"]) else f"γ = {cell['x']:g}"
    return f"m/n = {cell['setting']}" if layout == "m" else str(cell["setting"])


def _table(lines: list[dict[str, str]], cells: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """The lines, columns in the order of the axis."""
    ordered = cells.sort_values("x", kind="stable", na_position="first")
    columns = [_column(cell, layout) for _, cell in ordered.iterrows()]
    wanted = [*_lines(layout), *(c for column in columns for c in (f"{column}, hole", column))]
    known = list(dict.fromkeys(key for line in lines for key in line))
    wanted = [c for c in dict.fromkeys(wanted) if c in known]
    table = pd.DataFrame(lines, columns=[*wanted, *(c for c in known if c not in wanted)])
    return table.fillna("").rename(columns={"setting": "problem"})


def _counts(cells: pd.DataFrame) -> dict[str, str]:
    """Images of each mean; of all recoveries on the line, those that failed; the mean time."""
    tried = cells["tried"].sum()
    seconds = cells["seconds"].mean()
    return {
        "images": _range(cells["images"]),
        "not converged": f"{cells['not_converged'].sum()} of {tried}",
        "diverged": f"{cells['diverged'].sum()} of {tried}",
        "s per image": "" if math.isnan(seconds) else f"{seconds:.3g}",
    }


def _range(counts: pd.Series) -> str:
    least, most = counts.min(), counts.max()
    return str(least) if least == most else f"{least} to {most}"


def _mean(value: float, sem: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.2f}" if math.isnan(sem) else f"{value:.2f} ± {sem:.2f}"
