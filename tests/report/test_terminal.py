"""The terminal's table: how many, how sure."""

import io
import math

import numpy as np
import pandas as pd
from rich.console import Console

from report.terminal import summary_table
from tests.made import frame, row, sample


def printed(rows: pd.DataFrame) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(rows))
    return console.export_text()


def line_with(text: str, *parts: str) -> str:
    (line,) = [line for line in text.splitlines() if all(part in line for part in parts)]
    return line


def test_the_table_says_how_many_and_how_sure() -> None:
    old = sample().assign(images_seen=50, psnr=1.0)
    text = printed(pd.concat([old, sample().assign(m=1250)]))
    assert "after 100 images" in text
    sem = np.std([20, 22, 27], ddof=1) / math.sqrt(3)
    line = line_with(text, "cs", "faces-val")
    assert f"23.00 ± {sem:.2f}" in line and "0.700" in line and "1,250" in line
    assert line.split()[-4:] == ["3", "2", "(1", "diverged)"]
    assert line_with(text, "cs", "faces-ood").split()[-2:] == ["2", "0"]


def test_a_single_image_has_no_standard_error() -> None:
    line = line_with(printed(sample()), "inpaint")
    assert "30.00" in line and "15.00" in line and "±" not in line
    assert "nan" not in printed(sample())


def test_a_group_without_any_psnr_is_shown_as_diverged() -> None:
    broken = {"psnr": math.nan, "ssim": math.nan, "status": "diverged", "problem": "broken"}
    text = printed(pd.concat([sample(), frame(row("a", **broken), row("b", **broken))]))
    assert "nan" not in text
    assert line_with(text, "broken").split()[-4:] == ["0", "2", "(2", "diverged)"]
