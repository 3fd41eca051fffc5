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
    options = argparse.Namespace(hidden=64, threads=1, repetitions=1)
    kept, again = (
        memory.measure(options, "small", work, recompute, 8) for recompute in (False, True)
    )
    assert 0 < again.above < kept.above / 2
    assert kept.seconds > 0 and kept.weights == again.weights > 0


def peaks_of(image: float, besides: float, pace: float) -> list[memory.Peak]:
    return [memory.Peak(besides + image * n, pace * n, 50.0) for n in memory.BATCHES]


def test_batches_tell_what_an_image_takes_and_how_many_a_card_holds() -> None:
    kept, again = peaks_of(100, 10, 1), peaks_of(10, 10, 1.5)
    assert memory.Line.through(kept) == pytest.approx((100, 10))
    peaks = {
        ("a network", "training step", False): kept,
        ("a network", "training step", True): again,
    }
    _, cells = memory.rows(peaks)
    assert cells[:2] == ["a network", "training step"]
    assert cells[3:8] == ["10", "10", "1.50", "10.0", "1.50"]
    assert cells[8] == f"{(80e9 / 2**20 - 10 - 4 * 50) / 10:,.0f}"


def test_the_figure_draws_each_peak_and_its_line() -> None:
    kept, again = peaks_of(100, 10, 1), peaks_of(10, 10, 1.5)
    works = {
        (work, recompute): found
        for work in memory.WORKS
        for recompute, found in ((False, kept), (True, again))
    }
    drawn = memory.figure({("a network", *key): found for key, found in works.items()})
    for axes in drawn.axes:
        points, line, *_ = axes.get_lines()
        assert list(points.get_ydata()) == pytest.approx([110, 210, 410])
        assert line.get_ydata()[-1] == pytest.approx(100 * 10 * memory.BATCHES[-1] + 10)
