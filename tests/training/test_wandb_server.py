"""Weights & Biases as it may be found: without a key, without an answer, with a name it refuses."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, TINY
from tests.helpers import refused

KEY = "a" * 40


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def run(root: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB") and k != "NETRC"}
    return subprocess.run(
        [sys.executable, "train.py", "fit", *TINY, f"--run.root={root}", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
        env={**kept, "HOME": str(root), "WANDB_SILENT": "true", **environment},
    )


QUICK = ["--model.total_images=64", "--recovery.during.problems=[]"]
QUICK += ["--recovery.at_end.problems=[]", "--run.wandb=auto"]


@pytest.mark.slow
def test_auto_goes_on_without_a_server_that_does_not_answer(tmp_path: Path, silent: str) -> None:
    began = time.monotonic()
    done = run(tmp_path, *QUICK, WANDB_BASE_URL=silent, WANDB_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert "This run is logged offline" in done.stdout
    assert list((tmp_path / "demo" / "wandb").glob("offline-run-*"))
    assert time.monotonic() - began < 120  # W&B's own patience is 90 s, and more for its retries


@pytest.mark.slow
def test_auto_without_a_key_says_that_it_is_offline(tmp_path: Path) -> None:
    done = run(tmp_path, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "W&B: no key found" in done.stdout
    assert list((tmp_path / "demo" / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--run.project=a/b/c"], "run.project"),
        (["--run.project=glow?"], "run.project"),
        (["--run.name="], "run.name"),
        (["--run.name=../x"], "run.name"),
    ],
)
def test_names_that_cannot_be_are_refused_first(
    options: list[str],
    named: str,
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert named in refused(capsys, [*tiny, *options])
    assert not (tmp_path / "runs").exists()
