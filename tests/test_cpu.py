"""python -m benchmarks cpu: each setting is on in one contestant and off in the other."""

import argparse
import resource

import pytest
import torch

import networks.glow
from benchmarks import cpu


def few_images() -> bool:
    return networks.glow._few_images(torch.zeros(2, 128, 16, 16))


def test_convolutions_are_timed_as_torch_chooses_and_by_16(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(cpu, "_call", lambda: seen.append(few_images()), raising=False)
    cpu.convolutions(2)
    assert seen == [False, True] * 3  # once to warm up
    assert few_images()


def faults() -> int:
    """Page faults of a call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    cpu.once()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.slow
def test_a_process_keeps_freed_memory_and_another_does_not() -> None:
    network = {"image_size": 64, "steps": 1, "levels": 1, "hidden": 512}
    counts = []
    for keep in (True, False):
        with cpu.process(network, 17, "decode", keep) as pool:  # a layer takes 34 MiB
            counts.append([pool.apply(faults) for _ in range(6)][-1])
    kept, returned = counts
    assert kept < returned / 4


def test_the_table_has_a_row_for_each_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"image_size": 8, "steps": 1, "levels": 1, "hidden": 8}
    monkeypatch.setattr(cpu, "NETWORKS", {"tiny": tiny, "other": tiny})
    parser = argparse.ArgumentParser()
    cpu.add_options(parser)
    cpu.run(parser.parse_args(["--only=tiny", "--batches", "2", "--repetitions=2"]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1:4] for line in lines if "tiny" in line] == [
        [" tiny    ", " 2      ", " step   "],
        [" tiny    ", " 2      ", " decode "],
    ]
