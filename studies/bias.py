"""Does a prior recover some people worse than others? (the paper's dataset bias, as numbers)"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from results.means import named
from studies.study import Given, Study, Tables

SMALL = 50  # in a group of fewer images the mean is not reliable
DRAWS = 2000  # of the bootstrap


def require_attributes(table: pd.DataFrame, attributes: Sequence[str]) -> None:
    """Raise ValueError naming an attribute that the table lacks, or that has other values."""
    for attribute in attributes:
        if attribute not in table:
            raise ValueError(
                f"there is no attribute {attribute!r} in the table; it has "
                f"{', '.join(map(str, table.columns))}"
            )
        others = table[attribute][~table[attribute].isin((0, 1))]
        if len(others):
            raise ValueError(
                f"the attribute {attribute!r} of {others.index[0]} is {others.iloc[0]!r}: "
                "attributes are 0 or 1 (or -1 and 1)"
            )


def require_known(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise ValueError if the table names none of the images."""
    if not any(name in table.index for name in names):
        raise ValueError(
            f"the attribute table names none of the {len(names)} images ({names[0]}, ...); it "
            f"names {', '.join(map(str, table.index[:2]))}, ..."
        )


def balanced(
    names: Sequence[str], table: pd.DataFrame, attributes: Sequence[str], per_group: int
) -> list[int]:
    """Find the first images that give each attribute `per_group` with it and without, by position.

    Fewer if there are not so many: none if the table knows none of the images. Raises ValueError
    if it has no such attribute.
    """
    require_attributes(table, attributes)
    known = [index for index, name in enumerate(names) if name in table.index]
    values = table.loc[[names[index] for index in known], list(attributes)].to_numpy()
    chosen = set()
    for column in values.T:
        for value in (0, 1):
            chosen |= {known[i] for i in np.flatnonzero(column == value)[:per_group]}
    return sorted(chosen)


class Bias(Study):
    """PSNR of images with an attribute minus PSNR of those without it, per method and problem.

    A prior without bias has differences like those of methods that were trained on nothing. Where
    such a method has a difference too, these images are harder, and the prior is not unfair to
    them. So the table also gives each difference relative to a reference method's on the same
    images. Intervals come from a bootstrap over images, within groups (Efron & Tibshirani 1993,
    chapter 13).

    Args:
        attributes: columns of the attribute table, as `Eyeglasses`; `not No_Beard` reverses one.
        reference: a method that needs no training.
        dataset: the set whose images the table knows.
    """

    title = "Recovery of images with and without an attribute"
    reads_rows = True

    def __init__(
        self, attributes: list[str], reference: str = "lasso-dct", dataset: str = "celeba-val"
    ) -> None:
        self.attributes = attributes
        self.reference = reference
        self.dataset = dataset

    def check(self, given: Given) -> None:
        if given.attributes is None:
            raise ValueError("the study of bias needs an attribute table: set attributes")
        require_attributes(given.attributes, [column(a) for a in self.attributes])

    def compute(self, given: Given, progress: Callable[[str], None]) -> Tables:
        assert given.attributes is not None
        rows_of_set = named(given.rows[given.rows["dataset"] == self.dataset])
        self._require_reference(rows_of_set)
        groups = rows_of_set.groupby(["problem", "method", "image"], sort=False)["psnr"]
        psnr = groups.mean().unstack("image")
        require_known(given.attributes, list(psnr.columns))
        unknown = int((~psnr.columns.isin(given.attributes.index)).sum())
        psnr = psnr.loc[:, psnr.columns.isin(given.attributes.index)]
        rows = []
        for attribute in self.attributes:
            shown = given.attributes.loc[psnr.columns, column(attribute)].to_numpy() == 1
            if attribute.startswith("not "):
                shown = ~shown
            for problem in psnr.index.unique("problem"):
                progress(f"{attribute}, {problem}")
                of_problem = psnr.loc[problem]
                for method, values in of_problem.iterrows():
                    own = compare(values.to_numpy(), shown)
                    relative = values - of_problem.loc[self.reference]
                    versus = compare(relative.to_numpy(), shown)
                    rows.append(
                        {
                            "attribute": attribute,
                            "problem": problem,
                            "method": method,
                            "unknown": unknown,
                            **own,
                            **{f"relative_{key}": value for key, value in versus.items()},
                        }
                    )
        return {"bias": pd.DataFrame(rows)}

    def _require_reference(self, rows: pd.DataFrame) -> None:
        if rows.empty:
            raise ValueError(f"no image of {self.dataset} was recovered")
        for problem, group in rows.groupby("problem", sort=False):
            methods = list(dict.fromkeys(group["method"]))
            if self.reference not in methods:
                raise ValueError(
                    f"{problem}: no image of {self.dataset} was recovered by the reference "
                    f"{self.reference!r}, only by {', '.join(methods)}"
                )

    def findings(self, tables: Tables) -> list[str]:
        table = tables["bias"]
        sentences = []
        for method, group in table[table["method"] != self.reference].groupby("method", sort=False):
            group = group[~group["relative_small"]]
            worse = group[group["relative_high"] < 0]
            better = group[group["relative_low"] > 0]
            mean = group["relative_difference"].mean()
            spread = group["relative_difference"].abs().mean()
            if np.isnan(mean):
                continue
            sentences.append(
                f"{method}: relative to {self.reference} on the same images, PSNR with the "
                f"attribute minus without is {mean:+.2f} dB on average (size {spread:.2f} dB) over "
                f"{len(group)} pairs of attribute and problem; significantly below 0 in "
                f"{len(worse)}, above in {len(better)} (95% bootstrap intervals)."
            )
        small = table[table["small"]]
        for attribute, group in small.groupby("attribute", sort=False):
            count = int(group[["with", "without"]].to_numpy().min())
            sentences.append(f"{attribute}: a group of only {count} images, too small to rely on.")
        unknown = table["unknown"].max() if "unknown" in table else 0  # earlier ones lack it
        if unknown:
            sentences.append(
                f"Left out: {unknown} images of {self.dataset} that the attribute table lacks."
            )
        return sentences

    def figures(self, tables: Tables) -> dict[str, Figure]:
        table = tables["bias"]
        problems = list(dict.fromkeys(table["problem"]))
        methods = list(dict.fromkeys(table["method"]))
        figure = Figure(
            figsize=(4.4 * len(problems), 0.9 + 0.16 * len(methods) * (len(self.attributes) + 1)),
            layout="constrained",
        )
        panels = figure.subplots(1, len(problems), squeeze=False, sharey=True)[0]
        for axes, problem in zip(panels, problems, strict=True):
            axes.axvline(0, linewidth=0.8, color="grey")
            for index, method in enumerate(methods):
                rows = table[(table["problem"] == problem) & (table["method"] == method)]
                heights = np.arange(len(rows)) + 0.8 * (index / max(1, len(methods)) - 0.5)
                middle = rows["difference"]
                axes.errorbar(
                    middle,
                    heights,
                    xerr=[middle - rows["low"], rows["high"] - middle],
                    fmt="o",
                    markersize=3,
                    capsize=2,
                    color=f"C{index}",
                    label=method,
                )
            axes.set(title=problem, xlabel="PSNR with minus without (dB)")
            axes.set_yticks(range(len(self.attributes)), self.attributes)
            axes.invert_yaxis()
            axes.grid(alpha=0.3)
        panels[0].legend(fontsize=7)
        return {
            "Mean PSNR of images with the attribute minus without; bars are 95% intervals": figure
        }


def column(attribute: str) -> str:
    return attribute.removeprefix("not ")


def compare(values: np.ndarray, shown: np.ndarray) -> dict[str, float | int | bool]:
    """Subtract the mean of images without an attribute from that of images with it.

    Args:
        values: (N,) of images; NaN where there is none.
        shown: (N,) bool, whether an image shows the attribute.

    Returns:
        The counts with and without, whether either is small, the difference and its 95% interval.
    """
    known = ~np.isnan(values)
    having, lacking = values[known & shown], values[known & ~shown]
    found: dict[str, float | int | bool] = {
        "with": len(having),
        "without": len(lacking),
        "small": min(len(having), len(lacking)) < SMALL,
        **dict.fromkeys(("difference", "low", "high"), np.nan),
    }
    if not len(having) or not len(lacking):
        return found
    random = np.random.default_rng(0)
    draws = [
        group[random.integers(len(group), size=(DRAWS, len(group)))].mean(axis=1)
        for group in (having, lacking)
    ]
    low, high = np.quantile(draws[0] - draws[1], [0.025, 0.975])
    difference = having.mean() - lacking.mean()
    return {**found, "difference": difference, "low": float(low), "high": float(high)}
