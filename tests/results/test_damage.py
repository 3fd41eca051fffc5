"""A damaged file of results is named, before anything is computed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from results.identity import ConfigTexts
from results.rows import read_rows
from tests.conftest import REPOSITORY
from tests.helpers import refused

SAVED = REPOSITORY / "tests" / "saved" / "run"


def without_a_column(text: str) -> str:
    return "\n".join(line.partition(",")[2] for line in text.splitlines()) + "\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("21.8", "twenty-one"),
        lambda text: text.replace("faces-val,in,", "faces-val,in,more,", 1),
        lambda text: "\x00\x01\n" + text,
        without_a_column,
    ],
)
def test_damaged_rows_are_named(damage: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(damage((SAVED / "rows.csv").read_text()))
    with pytest.raises(ValueError, match=r"rows\.csv is damaged"):
        read_rows(tmp_path)


@pytest.mark.parametrize("line", ["{", "[]", '{"config": {}}', "3"])
def test_damaged_configs_are_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "configs.jsonl"
    path.write_text((SAVED / "configs.jsonl").read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"configs\.jsonl is damaged"):
        ConfigTexts(path)


@pytest.mark.parametrize("name", ["rows.csv", "configs.jsonl"])
def test_a_run_with_damaged_results_is_refused_before_it_trains(
    name: str, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "runs" / "demo"
    shutil.copytree(SAVED, directory)
    (directory / name).write_text("x\n" + (directory / name).read_text())
    trained = (directory / "metrics.jsonl").read_bytes()
    assert f"{name} is damaged" in refused(capsys, tiny)
    assert (directory / "metrics.jsonl").read_bytes() == trained
