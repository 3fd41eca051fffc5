"""What an experiment's rows say, in sentences: who leads by how much, and what failed.

A difference between two methods is the mean of the differences on the images both recovered. The
leader is the method whose smallest difference to another is the largest: where all have the same
images, the one with the highest mean. The report claims the lead only if each of its differences of
at least FEW images exceeds its standard error times the two-sided 95% quantile of Student's t.
Pairs with fewer images in common do not count: a slow method that ran on few images decides
nothing about the others.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.special import stdtrit

from core.variants import SEES_THE_TRUTH
from report.layout import Layout, count_range, mean_text
from report.plots import SET, SIDE

FEW = 8  # images: a difference on fewer is shown, and is no lead


@dataclass(frozen=True)
class Lead:
    """How far `best` is above `next` on the images both recovered: mean and standard error."""

    best: str
    next: str
    mean: float
    sem: float
    images: int
    circular: bool = False  # `best` is itself below another method, on the images those two share

    @property
    def few(self) -> bool:
        return self.images < FEW

    @property
    def clear(self) -> bool:
        """Whether the difference is more than chance: a t-test, on FEW images or more."""
        return not self.few and not self.circular and self.margin > 0

    @property
    def margin(self) -> float:
        """The lower end of the difference's 95% interval."""
        return self.mean - float(stdtrit(self.images - 1, 0.975)) * self.sem

    def __str__(self) -> str:
        spread = "" if math.isnan(self.sem) else f" ± {self.sem:.2f}"
        return f"{self.mean:.2f}{spread} dB (n = {self.images})"


def lead(scores: pd.DataFrame) -> Lead | None:
    """Find who leads, and by how much, from PSNR in dB: a column per method, a line per image.

    Compares each pair of methods on the images both recovered, and only pairs with FEW of them or
    more if there are any. Tells the leader's smallest difference, or, where any may be chance, the
    one that most may. None if no two methods have an image in common.
    """
    pairs = _pairs(scores)
    pairs = [pair for pair in pairs if not pair.few] or pairs
    smallest: dict[str, Lead] = {}  # of each method to another
    for pair in sorted(pairs, key=lambda pair: pair.mean):
        smallest.setdefault(pair.best, pair)
    found = max(smallest.values(), key=lambda pair: pair.mean, default=None)
    if found is not None and found.mean < 0:  # a above b above c above a, on other images each
        return Lead(found.next, found.best, -found.mean, found.sem, found.images, circular=True)
    of_best = [pair for pair in pairs if found is not None and pair.best == found.best]
    doubtful = [pair for pair in of_best if not pair.few and not pair.clear]
    return min(doubtful, key=lambda pair: pair.margin) if doubtful else found


def _pairs(scores: pd.DataFrame) -> list[Lead]:
    """Compare each method with each other one that has images in common with it."""
    pairs = []
    for a, b in itertools.permutations(scores.columns, 2):
        difference = (scores[a] - scores[b]).dropna()
        if len(difference):
            pairs.append(Lead(a, b, difference.mean(), difference.sem(), len(difference)))
    return pairs


def leads(images: pd.DataFrame, layout: Layout) -> tuple[list[str], list[str]]:
    """Say who leads where and by how much, a sentence per set; and what the words mean."""
    images = images[~_sees_the_truth(images["method"])]
    # Inpainting is about what the hole hides.
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
        f"± its standard error{inside}{chosen}. A method leads where its difference to every "
        f"other, of at least {FEW} images, exceeds the standard error times the 95% quantile "
        "(two-sided) of Student's t; of fewer no lead is claimed."
    )
    return sentences, [meaning]


def _sees_the_truth(methods: pd.Series) -> pd.Series:
    return methods.str.endswith(f"({SEES_THE_TRUTH})")


def figures_of_one(means: pd.DataFrame, layout: Layout) -> list[str]:
    """Give the mean PSNR of a lone method, which can lead none: a sentence per set."""
    means = means[~_sees_the_truth(means["method"])]
    if layout == "gamma" or means["method"].nunique() != 1:
        return []
    sentences = []
    for (dataset, distribution), part in means.groupby(SET, sort=False):
        at = [
            f"{mean_text(cell['psnr'], cell['sem'])} dB {_where([cell['setting']], layout)}"
            for _, cell in part.iterrows()
            if not math.isnan(cell["psnr"])
        ]
        if at:
            where = SIDE[distribution].capitalize()
            sentences.append(f"{where} ({dataset}): {part['method'].iloc[0]} {', '.join(at)}.")
    return sentences


def diagnostics(means: pd.DataFrame) -> list[str]:
    """Name the methods on the page that see the truth, and so do not compare."""
    named = means["method"][_sees_the_truth(means["method"])].unique()
    names = [name.removesuffix(f" ({SEES_THE_TRUTH})") for name in named]
    return [f"{name} starts from the truth: a diagnostic, not compared." for name in names]


def uneven(means: pd.DataFrame) -> list[str]:
    """Name the methods whose means are of fewer images than others' of the same problem and set."""
    most = means.groupby([*SET, "setting"])["images"].transform("max")
    short = means[means["images"] < most]
    if short.empty:
        return []
    counts = [
        f"{method}'s of {count_range(part['images'])}"
        for method, part in short.groupby("method", sort=False)
    ]
    return [
        f"Not all means are of the same images: {', '.join(counts)}, where others are of "
        f"{count_range(most[short.index])} (column images). Such means do not compare; "
        "differences do."
    ]


def _at_best_gamma(images: pd.DataFrame) -> pd.DataFrame:
    """Keep each method's images at its best gamma per problem and set; the name gains the gamma."""
    parts = []
    for _, part in images.groupby([*SET, "setting", "method"], sort=False):
        means = part.groupby("gamma")["score"].mean().fillna(-math.inf)
        parts.append(part[part["gamma"] == means.idxmax()])
    best = pd.concat(parts)
    named = best["method"] + " at γ = " + best["x"].map("{:g}".format)
    return best.assign(method=best["method"].where(best["x"].isna(), named))


def _clause(found: list[tuple[str, Lead]], layout: Layout) -> str:
    """Write the clause about successive problems with one leader, or with none."""
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


def failures(means: pd.DataFrame) -> list[str]:
    """Count by method the recoveries that diverged, and where most, and those not converged."""
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
