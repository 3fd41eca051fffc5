"""The results page: whole in itself, and never half written."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from report.page import Section, save_figures, write_markdown, write_page
from tests.report.conftest import rows_of, section


def line() -> dict[str, Figure]:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [0, 1])
    return {"A line <b>": figure}


SPECIAL = Section(
    "Noise & <others>",
    ["'a' < \"b\" & c <script>"],
    {"Cells | <td>": pd.DataFrame({"name": ["x|y", "<i>"], "value": [0.000123456, 12345.6]})},
    line,
)
PAGE = (
    "Title <1>",
    ["summary & first"],
    [SPECIAL],
    {"Command": "python evaluate.py \\\n  --x '<y>'"},
)


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_is_whole_in_itself(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", *PAGE)
    text = (tmp_path / "page.html").read_text()
    page = Reader(text)
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert len(ids) == len([1 for _, attributes in page.tags if "id" in attributes])
    for _, attributes in page.tags:
        for name in ("src", "srcset"):
            assert (attributes.get(name) or "data:image/").startswith("data:image/")
        link = attributes.get("href")
        assert link is None or (link.startswith("#") and link[1:] in ids)
    assert not page.all("script") and not page.all("link") and "@import" not in text
    assert not re.search(r"url\(", text)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_every_figure_is_drawn_for_light_and_for_dark(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", *PAGE)
    page = Reader((tmp_path / "page.html").read_text())
    (light,), (dark,) = page.all("img"), page.all("source")
    assert light["alt"] == "A line <b>"
    assert dark["media"] == "(prefers-color-scheme: dark)"
    assert light["src"] != dark["srcset"]
    write_page(tmp_path / "again.html", *PAGE)
    assert (tmp_path / "again.html").read_text() == (tmp_path / "page.html").read_text()


def test_text_is_text(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", *PAGE)
    page = Reader((tmp_path / "page.html").read_text())
    for piece in ("Title <1>", "summary & first", "Noise & <others>", "<td>", "x|y", "--x '<y>'"):
        assert piece in page.text
    assert "'a' < \"b\" & c <script>" in page.text
    assert "0.0001235" in page.text and "12,346" in page.text
    assert page.text.index("summary & first") < page.text.index("Details")


def test_a_page_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("old")
    broken = Section("Pictures", pictures={"Samples": tmp_path / "nowhere.png"})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_page(tmp_path / "page.html", "T", [], [broken], {})
    assert (tmp_path / "page.html").read_text() == "old"


def test_a_command_is_shown_in_one_line_that_can_be_copied(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "T", [], [], {"command": "run --config a.yaml"})
    assert "<pre>run --config a.yaml</pre>" in (tmp_path / "page.html").read_text()


def test_figures_of_an_earlier_report_are_removed(tmp_path: Path) -> None:
    for name in ("noise-others-1", "noise-others-7", "noise-others-too-1", "noise"):
        (tmp_path / f"{name}.png").write_text("old")
    saved = save_figures(tmp_path, [SPECIAL])
    assert [path.name for path in saved] == ["noise-others-1.png"]
    left = sorted(path.stem for path in tmp_path.iterdir())
    assert left == ["noise", "noise-others-1", "noise-others-too-1"]


def test_pictures_are_embedded(tmp_path: Path) -> None:
    line()["A line <b>"].savefig(tmp_path / "samples.png")
    sheet = Section("Pictures", pictures={"Samples": tmp_path / "samples.png"})
    write_page(tmp_path / "page.html", "T", [], [sheet], {})
    (image,) = Reader((tmp_path / "page.html").read_text()).all("img")
    assert image["alt"] == "Samples" and str(image["src"]).startswith("data:image/png;base64,iVBOR")


def test_markdown_tables_hold_the_means(tmp_path: Path) -> None:
    psnr = {"glow": [30.123, 33.456, 29.0], "dcgan": [20.5, 21.25, 22.0]}
    shown = section(*(rows_of(method, values) for method, values in psnr.items()))
    write_markdown(tmp_path / "page.md", "Results", ["one | two"], [shown, SPECIAL], {"Seed": "0"})
    text = (tmp_path / "page.md").read_text()
    for method, values in psnr.items():
        sem = np.std(values, ddof=1) / math.sqrt(3)
        (found,) = [line for line in text.splitlines() if line.startswith(f"| {method} ")]
        cells = [cell.strip() for cell in found.strip("|").split("|")]
        assert cells == [
            *(method, f"{np.mean(values):.2f} ± {sem:.2f} (0.900)"),
            *("3", "0 of 3", "0 of 3", "2"),
        ]
    assert "| x\\|y |" in text
    assert text.startswith("# Results\n\n- one | two\n\n## Experiment\n")
    assert text.endswith("## Details\n\nSeed:\n\n    0\n")
