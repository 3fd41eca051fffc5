"""Results as one self-contained HTML page, and as Markdown for terminals.

The page fetches nothing: figures and pictures are data URIs, the style is inline, and there is no
script. It has each figure in a light and in a dark version; the reader's system chooses.
"""

import base64
import io
import numbers
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from cycler import cycler
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from core.files import write_whole

TEMPLATE = Path(__file__).with_name("page.html.jinja")
MAX_SVG = 200_000  # bytes: a figure that needs more (thousands of points) is a PNG

# Ten colours that colour-blind readers can distinguish as far as ten allow (markers do the rest),
# at least 3:1 against the page. The dark page has the same hues, lighter.
LIGHT = [
    *("#0067a5", "#c8501e", "#a6417f", "#00806a", "#96700a"),
    *("#4d8fd1", "#2b2f36", "#4f9a2f", "#7a5bc7", "#808080"),
]
DARK = [
    *("#5ab0f0", "#f08a4b", "#e58cc4", "#35c9a5", "#e0b83c"),
    *("#a9cbef", "#e6e6e6", "#a8d86e", "#b9a3f5", "#9a9a9a"),
]


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Args:
        title: its heading.
        sentences: findings, plain text.
        tables: caption -> table. Cells are text, or numbers (shown with four digits); an index
            other than 0, 1, 2, ... becomes the first columns.
        figures: draws caption -> figure. The page calls it under its rcParams, once light and once
            dark: take colours from the cycle ("C0", ...) or from rcParams.
        pictures: caption -> PNG file, embedded as it is.
        summary: the sentences for the head of a page of several sections; none: all of them.
    """

    title: str
    sentences: Sequence[str] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Callable[[], Mapping[str, Figure]] = dict
    pictures: Mapping[str, Path] = field(default_factory=dict)
    summary: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A figure or picture as data URIs; width in CSS pixels."""

    caption: str
    light: str
    dark: str
    width: int | None = None


def write_page(
    path: Path,
    title: str,
    summary: Sequence[str],
    sections: Sequence[Section],
    details: Mapping[str, str],
) -> None:
    """Write the HTML page: summary, contents, sections, details. Whole or not at all.

    Raises:
        FileNotFoundError: a section's picture is not there.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    shown = [
        {
            "title": section.title,
            "sentences": section.sentences,
            "tables": [_table(caption, table) for caption, table in section.tables.items()],
            "figures": _figures(section),
            "pictures": [_png(caption, file) for caption, file in section.pictures.items()],
        }
        for section in sections
    ]
    page = environment.get_template(TEMPLATE.name).render(
        title=title, summary=summary, sections=shown, details=details
    )
    write_whole(path, page)


def write_markdown(
    path: Path,
    title: str,
    summary: Sequence[str],
    sections: Sequence[Section],
    details: Mapping[str, str],
) -> None:
    """Write the text of the page, without its figures, for terminals. Whole or not at all."""
    parts = [f"# {title}", _bullets(summary)]
    for section in sections:
        parts += [f"## {section.title}", _bullets(section.sentences)]
        for caption, table in section.tables.items():
            parts += [f"{caption}:", _markdown_table(table)]
        parts += [f"{caption}: {file}" for caption, file in section.pictures.items()]
    parts.append("## Details")
    parts += [f"{name}:\n\n{textwrap.indent(text, '    ')}" for name, text in details.items()]
    write_whole(path, "\n\n".join(part for part in parts if part) + "\n")


def save_figures(folder: Path, sections: Sequence[Section]) -> list[Path]:
    """Save each figure as a PNG on white, for papers and slides: `<section>-<number>.png`.

    Removes those of an earlier report of these sections.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [re.sub(r"[^a-z0-9]+", "-", s.title.lower()).strip("-") for s in sections]
    for file in folder.glob("*.png"):
        if re.sub(r"-\d+$", "", file.stem) in names:
            file.unlink()
    saved = []
    with mpl.rc_context({**style(dark=False), "savefig.facecolor": "white"}):
        for name, section in zip(names, sections, strict=True):
            for number, figure in enumerate(section.figures().values(), 1):
                saved.append(folder / f"{name}-{number}.png")
                figure.savefig(saved[-1], dpi=130)
    return saved


def _unbroken(sentence: str) -> str:
    """Prevent line breaks inside `2.10 ± 0.20 dB` and `n = 100`."""
    return re.sub(
        r" ?[±=] ?| (?=dB)", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), sentence
    )


# --- figures -------------------------------------------------------------------------------------


def style(dark: bool) -> Any:
    """Set the rcParams of figures on a light or dark page: transparent, legible on a phone."""
    ink, quiet = ("#e4e7eb", "#7d8590") if dark else ("#1c2128", "#8a919a")
    return {
        "axes.prop_cycle": cycler(color=DARK if dark else LIGHT),
        "axes.edgecolor": quiet,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "font.size": 10.5,
        "grid.color": quiet,
        "grid.alpha": 0.3,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "svg.fonttype": "path",  # text looks the same whatever fonts the reader has
        "svg.hashsalt": "invertible-priors",  # the same figure is the same file
    }


def _figures(section: Section) -> list[Picture]:
    drawn: list[dict[str, tuple[str, int]]] = []
    for dark in (False, True):
        with mpl.rc_context(style(dark)):
            drawn.append(
                {
                    caption: (_image(figure), round(96 * figure.get_figwidth()))
                    for caption, figure in section.figures().items()
                }
            )
    light, dark_ones = drawn
    return [
        Picture(caption, uri, dark_ones[caption][0], width)
        for caption, (uri, width) in light.items()
    ]


def _image(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    if len(file.getvalue()) <= MAX_SVG:
        return _data_uri("image/svg+xml", file.getvalue())
    file = io.BytesIO()
    figure.savefig(file, format="png", transparent=True, dpi=180)
    return _data_uri("image/png", file.getvalue())


def _png(caption: str, file: Path) -> Picture:
    uri = _data_uri("image/png", file.read_bytes())
    return Picture(caption, uri, uri)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# --- tables --------------------------------------------------------------------------------------


def _cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Write header and rows as text."""
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()
    header = [str(column) for column in table.columns]
    return header, [[_text(value) for value in row] for row in table.itertuples(index=False)]


def _text(value: Any) -> str:
    if value is None or value is pd.NA or value != value:  # NaN
        return ""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return str(value)
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    number = float(value)
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def _table(caption: str, table: pd.DataFrame) -> dict[str, Any]:
    header, rows = _cells(table)
    return {"caption": caption, "header": header, "rows": rows, "numeric": _numeric(rows, header)}


def _numeric(rows: list[list[str]], header: list[str]) -> list[bool]:
    """Mark the columns of numbers, which go to the right."""
    filled = [[row[i] for row in rows if row[i]] for i in range(len(header))]
    return [
        bool(column) and all(cell.lstrip("-+−~")[:1].isdigit() for cell in column)
        for column in filled
    ]


def _markdown_table(table: pd.DataFrame) -> str:
    header, rows = _cells(table)
    right = _numeric(rows, header)
    lines = [
        [cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)
    ]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    rule = [
        f"{'-' * (width - 1)}{':' if r else '-'}" for width, r in zip(widths, right, strict=True)
    ]
    padded = [
        [
            cell.rjust(width) if r else cell.ljust(width)
            for cell, width, r in zip(line, widths, right, strict=True)
        ]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(
        textwrap.fill(sentence, 100, initial_indent="- ", subsequent_indent="  ")
        for sentence in sentences
    )
