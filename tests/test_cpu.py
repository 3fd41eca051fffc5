"""python -m benchmarks cpu: each setting is on in one contestant and off in the other."""

import argparse
import platform

import pytest
import torch
from torch import Tensor

import networks.glow
from benchmarks import cpu


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_settings_are_taken_off_and_put_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few, by_16 = networks.glow._few_images, networks.glow.Affine._by_16
    calls: list[int] = []

    def counted(self: networks.glow.Affine, x: Tensor) -> Tensor:
        calls.append(len(x))
        return by_16(self, x)

    monkeypatch.setattr(networks.glow.Affine, "_by_16", counted)
    tiny = {"image_size": 32, "steps": 1, "levels": 1, "hidden": 128}
    monkeypatch.setattr(cpu, "NETWORKS", {"tiny": tiny})
    parser = argparse.ArgumentParser()
    cpu.add_options(parser)
    threads = torch.get_num_threads()
    cpu.run(parser.parse_args(["--batches", "2", "16", "--repetitions", "2"]))
    torch.set_num_threads(threads)
    assert networks.glow._few_images is few
    # 2 works x (1 + 2 times) x the 2 of 3 contestants that have it; batches of 16 do without it
    assert calls == [2] * 12
    out = capsys.readouterr().out
    assert out.count("| tiny ") == 4 and "1x1 as 16 images" in out
