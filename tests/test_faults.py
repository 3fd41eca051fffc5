"""The campaign of faults, as far as a test may take: python -m benchmarks faults."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import faults, tiny


@pytest.mark.slow
def test_a_kill_and_damaged_checkpoints_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--model.total_images=256", "--recovery.during.problems=[]"]
    monkeypatch.setitem(tiny.COMMANDS, "glow", [*tiny.GLOW, *small])
    parser = argparse.ArgumentParser()
    faults.add_options(parser)
    options = ["--minutes=0", "--tries=1", f"--out={tmp_path / 'faults.json'}"]
    only = ["--only", "kill-glow", "cut-checkpoint", "flipped-checkpoint"]
    faults.run(parser.parse_args([*options, *only]))
    found = json.loads((tmp_path / "faults.json").read_text())
    assert {name: outcome["tries"] for name, outcome in found.items()} == {
        "kill-glow": 1,
        "cut-checkpoint": 40,
        "flipped-checkpoint": 40,
    }
    assert not any(outcome["lost"] for outcome in found.values())
    assert "| kill -9 of a Glow's training | 1     | nothing |" in capsys.readouterr().out
