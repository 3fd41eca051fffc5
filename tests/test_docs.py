"""The pages' examples: those of docs/extending.md run, in order, and README's Python."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from results.rows import read_rows
from tests.conftest import REPOSITORY
from tests.helpers import without_recovery

BLOCK = re.compile(r"^```(python|yaml|bash)(?: title=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(language, file name or "", text) of every block of a page, in order."""
    return BLOCK.findall((REPOSITORY / page).read_text())


@pytest.fixture
def extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the Python path with the files that docs/extending.md names."""
    for _, name, text in blocks("docs/extending.md"):
        if name:
            (tmp_path / name).write_text(text)
            monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("extensions")
def test_the_python_of_extending_runs() -> None:
    pytest.importorskip("deepinv", reason="deepinv is not installed")
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "example"}
    for language, name, text in blocks("docs/extending.md"):
        if language == "python" and not name:
            exec(compile(text, "docs/extending.md", "exec"), names)
    assert "diverged" not in names["searched"].status


def test_the_batch_scripts_of_cluster_are_bash() -> None:
    scripts = [text for language, _, text in blocks("docs/cluster.md") if language == "bash"]
    assert len(scripts) == 3
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_each_example_is_short() -> None:
    for language, name, text in blocks("docs/extending.md"):
        assert len(text.splitlines()) < (40 if language == "yaml" else 30), (name, text)


def test_the_config_of_extending_trains(extensions: Path, tiny: list[str]) -> None:
    pytest.importorskip("deepinv", reason="deepinv is not installed")
    arguments = ["--model.total_images=64", f"--config={extensions / 'mine.yaml'}"]
    images = ["--recovery.at_end.images=1", "--recovery.during.images=1"]
    train.main([*without_recovery(tiny), *arguments, *images])
    rows = read_rows(extensions / "runs" / "demo")
    last = rows[rows["prior"].eq("") | rows["images_seen"].eq(64)]
    counts = last.groupby(["problem", "method"]).size()
    assert len(counts) == 9 and (counts == 2).all()  # each on one image in and one out
    assert set(rows["status"]) <= {"converged", "budget"}


def test_readmes_python_runs(tiny: list[str], tmp_path: Path) -> None:
    train.main([*tiny, "--model.total_images=64"])
    names: dict[str, Any] = {"images": torch.rand(2, 3, 8, 8)}
    for language, _, text in blocks("README.md"):
        if language == "python":
            text = text.replace("runs/demo", str(tmp_path / "runs" / "demo"))
            exec(compile(text, "README.md", "exec"), names)
    assert names["recovery"].image.shape == (2, 3, 8, 8)
