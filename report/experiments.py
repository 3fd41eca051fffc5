"""From rows to a section of the page: findings, tables and figures, as the paper lays them out.

Means are over images, after averaging each image over its seeds.
"""

import math

import pandas as pd

from report.findings import diagnostics, failures, figures_of_one, leads, uneven
from report.layout import CELL, Layout, count_range, laid_out, mean_text
from report.page import Section
from report.plots import SET, SIDE, best_first, drawn, gamma_figures, m_figures, method_figures
from report.published import published_beside
from results.means import GROUP, image_means, per_image


def recovery_section(title: str, rows: pd.DataFrame, published: pd.DataFrame, n: int) -> Section:
    """Lay out one experiment by what varies in it.

    gamma at fixed m and sigma: PSNR against gamma, one figure per noise level and set. m of
    compressive sensing: PSNR and SSIM against m/n, one figure per set. Else, per problem, one dot
    plot of methods, inside the hole too where there is one.

    Args:
        rows: columns of `results.rows.Row`, one time (`images_seen`) per method; `method` is
            the name to show.
        published: as from `read_published`; where several figures have a kind of problem, it draws
            the first by name with ours.
        n: values of one image, C H W.

    Raises:
        ValueError: there are no rows.
    """
    if rows.empty:
        raise ValueError(f"{title}: no image has been recovered")
    layout, images = laid_out(per_image(rows, [*GROUP, "kind", "sigma", "gamma"]), n)
    means = image_means(images, CELL)
    beside = published_beside(published, means, layout)
    draw = {"m": m_figures, "gamma": gamma_figures, "methods": method_figures}[layout]
    found, meaning = leads(images, layout)
    found = found or figures_of_one(means, layout)
    failed = failures(means)
    sentences = [*found, *meaning, *uneven(means), *diagnostics(means), *failed]
    if not beside.empty:
        sizes = "" if n == beside["n"].iloc[0] else f" Ours have n = {n:,}."
        sentences.append(
            "Dashed lines and hollow markers are published values, of other networks, test images "
            f"and noise, at 64px (n = {beside['n'].iloc[0]:,} values).{sizes}"
        )
    tables = _tables(means, layout) | _published_tables(beside, layout)
    summary = [*found, *failed]
    return Section(
        title, sentences, tables, lambda: draw(drawn(means), drawn(beside)), summary=summary
    )


# --- tables --------------------------------------------------------------------------------------


def _tables(means: pd.DataFrame, layout: Layout) -> dict[str, pd.DataFrame]:
    """Make a table per set: a line per method (and noise level), a column per problem or gamma."""
    tables = {}
    for (dataset, distribution), part in means.groupby(SET, sort=False):
        lines = []
        for names, cells in _ordered(part, layout).groupby(_lines(layout), sort=False):
            line = dict(zip(_lines(layout), names, strict=True))
            for _, cell in cells.iterrows():
                column = _column(cell, layout)
                if not math.isnan(cell["psnr_hole"]):
                    line[f"{column}, hole"] = mean_text(cell["psnr_hole"], cell["psnr_hole_sem"])
                structural = "" if math.isnan(cell["ssim"]) else f" ({cell['ssim']:.3f})"
                line[column] = mean_text(cell["psnr"], cell["sem"]) + structural
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
    """Order cells by noise level where there are several, then the best method first."""
    return cells if layout == "gamma" else best_first(cells)


def _lines(layout: Layout) -> list[str]:
    """Name the columns that identify a table's lines."""
    return ["setting", "method"] if layout == "gamma" else ["method"]


def _column(cell: pd.Series, layout: Layout) -> str:
    if layout == "gamma":
        return "γ not varied" if math.isnan(cell["x"]) else f"γ = {cell['x']:g}"
    return f"m/n = {cell['setting']}" if layout == "m" else str(cell["setting"])


def _table(lines: list[dict[str, str]], cells: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Make the table, its columns in the order of the axis."""
    ordered = cells.sort_values("x", kind="stable", na_position="first")
    columns = [_column(cell, layout) for _, cell in ordered.iterrows()]
    wanted = [*_lines(layout), *(c for column in columns for c in (f"{column}, hole", column))]
    known = list(dict.fromkeys(key for line in lines for key in line))
    wanted = [c for c in dict.fromkeys(wanted) if c in known]
    table = pd.DataFrame(lines, columns=[*wanted, *(c for c in known if c not in wanted)])
    return table.fillna("").rename(columns={"setting": "problem"})


def _counts(cells: pd.DataFrame) -> dict[str, str]:
    """Count a line's images and failed recoveries, and give its mean time."""
    tried = cells["tried"].sum()
    seconds = cells["seconds"].mean()
    return {
        "images": count_range(cells["images"]),
        "not converged": f"{cells['not_converged'].sum()} of {tried}",
        "diverged": f"{cells['diverged'].sum()} of {tried}",
        "s per image": "" if math.isnan(seconds) else f"{seconds:.3g}",
    }
