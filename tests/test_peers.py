"""The benchmark beside other people's Glows: the same work, whoever does it."""

import argparse
from pathlib import Path

import pytest

from benchmarks import csgm, peers


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    peers.add_options(parser)
    return parser.parse_args(["--repetitions=1", "--batches", "1", "3", *arguments])


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"image_size": 16, "levels": 2, "steps": 2, "hidden": 16}
    monkeypatch.setattr(peers, "CASES", {"tiny": sizes})
    monkeypatch.setattr(peers, "TRAINED", {16: 4})
    monkeypatch.setattr(peers, "PEAK_SIDE", 64)


@pytest.mark.filterwarnings("ignore:torch.lu is deprecated")
def test_ours_and_normflows_do_the_same_work(capsys: pytest.CaptureFixture[str]) -> None:
    peers.run(options())
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "tiny" in line]
    found = {
        (work, of): (int(size.replace(",", "")), ratio) for _, work, of, size, *_, ratio in rows
    }
    for work in ("step, 4", "decode, 1", "decode, 3"):
        ours, theirs = found[work, "ours"], found[work, "normflows"]
        assert theirs[0] == pytest.approx(ours[0], rel=0.1)
        assert ours[1] == "" and float(theirs[1].split()[0]) > 0


def test_a_peer_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"normflows-2 cannot be imported .*: pip install"):
        peers.imported("normflows-2", "pip install normflows-2")
    sizes = {"image_size": 16, "levels": 2, "steps": 2, "hidden": 512}
    monkeypatch.setattr(peers, "CASES", {"tiny": sizes})
    with pytest.raises(
        SystemExit, match=f"glow.glow cannot be imported .*needs {tmp_path} to hold"
    ):
        peers.run(options(f"--authors={tmp_path}"))


def test_csgm_is_compared_on_the_same_generator_and_measurements(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("deepinv")
    parser = argparse.ArgumentParser()
    csgm.add_options(parser)
    csgm.run(parser.parse_args(["--images=2", "--steps=3", "--most=4"]))
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line][2:]
    evaluations = {name: int(count) for name, _, count, *_ in rows}
    assert evaluations.pop("deepinv") <= 4  # it stops where its loss settles
    assert evaluations == {
        "deepinv, to the last step": 4,
        "deepinv, our steps and rate": 3,
        "ours, 1 start, one at a time": 3,
        "ours, 1 start, all at once": 3,
        "ours, 2 starts, all at once": 6,
    }
    quality = {name: float(decibel) for name, decibel, *_ in rows}
    assert quality["ours, 1 start, one at a time"] == quality["ours, 1 start, all at once"]
    assert all(abs(decibel - quality["deepinv"]) < 3 for decibel in quality.values())
