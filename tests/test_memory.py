"""python -m benchmarks memory: peaks of real processes, and the lines through them."""

import argparse
import sys

import pytest

from benchmarks import memory


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are /proc's")
@pytest.mark.parametrize("work", memory.WORKS)
def test_activations_computed_again_take_less_memory(
    work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = {"image_size": 32, "steps": 8, "levels": 2, "last_level_steps": 8}
    monkeypatch.setitem(memory.NETWORKS, "small", network)
    options = argparse.Namespace(hidden=64, threads=1)
    kept, again = (
        memory.measure(options, "small", work, recompute, 8) for recompute in (False, True)
    )
    assert 0 < again[0] < kept[0] / 2
    assert kept[1] > 0 and kept[2] == again[2] > 0


def test_two_batches_tell_what_an_image_takes_and_how_many_a_card_holds() -> None:
    kept, again = [(110.0, 1.0, 50.0), (310.0, 3.0, 50.0)], [(20.0, 1.5, 50.0), (40.0, 4.5, 50.0)]
    assert memory.line(kept) == (100.0, 10.0, 50.0)
    cells = memory.row("a network", "training step", "again", again, kept)
    assert cells[3:8] == ["10", "10", "1.50", "10.0", "1.50"]
    assert cells[8] == f"{(80e9 / 2**20 - 10 - 4 * 50) / 10:,.0f}"
