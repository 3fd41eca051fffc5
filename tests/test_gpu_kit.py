"""The kit for a GPU, at toy sizes on any device, and what it takes to a machine without a network.

python -m benchmarks gpu --toy; python -m benchmarks pack.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from benchmarks import gpu, pack
from benchmarks.gpu_kit import FULL, Kit
from benchmarks.gpu_runs import UNKNOWN, train_command
from datamodules.procedural import faces
from datamodules.shards import ShardIndex
from tests.conftest import REPOSITORY
from tests.datamodules.preparing import run as prepare
from tests.datamodules.preparing import save


def options_of(module: ModuleType, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_options(parser)
    return parser.parse_args(arguments)


def kit(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "gpu", "--toy", "--minutes=5", f"--out={out}"]
    return subprocess.run(
        [*command, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )


def results(out: Path) -> dict[str, dict]:
    return {
        name: json.loads((out / f"{name}.json").read_text())
        for name in gpu.PARTS
        if (out / f"{name}.json").exists()
    }


@pytest.mark.slow
def test_a_part_that_fails_stops_no_other_and_the_same_command_makes_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = kit(tmp_path, "--weights=nothing")
    assert first.returncode == 1, first.stderr
    found = results(tmp_path)
    assert found.keys() == gpu.PARTS.keys() - {"recovery"}, first.stdout
    assert "nothing" in (tmp_path / "recovery.log").read_text()
    assert "Failed: " in first.stdout and "(`recovery.log`)" in first.stdout

    assert found["tests"]["failed"] == 0
    assert found["tests"]["passed" if torch.cuda.is_available() else "skipped"] > 0
    assert found["products"]["tflops"].keys() == {"float32", "TF32", "bf16", "fp16"}
    cases = found["steps"]["cases"]
    assert len(cases) == 2 * (3 + 4)  # batches x precisions of training and of decoding
    assert all(case["images_per_second"] > 0 and case["share_of_peak"] > 0 for case in cases)
    trained = found["training"]
    assert trained["images_seen"] % 8 == 0 and len(trained["curve"]) > 10
    assert trained["curve"][-1][0] == trained["images_seen"]
    config = yaml.safe_load((tmp_path / "runs" / "kit" / "config.yaml").read_text())
    assert 0 < config["model"]["init_args"]["total_images"] < UNKNOWN  # of a second start
    pieces = [(tmp_path / piece).read_bytes() for piece in found["training"]["pieces"]]
    assert b"".join(pieces) == (tmp_path / "kit" / "weights.safetensors").read_bytes()
    assert found["rows"]["problems"].keys() == {"cs-8%", "cs-20%"}
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 2 * 2

    (tmp_path / "products.json").unlink()
    weights = "--weights=tests/saved/export"
    gpu.run(options_of(gpu, "--toy", "--minutes=5", f"--out={tmp_path}", weights))
    again = results(tmp_path)
    assert {name: again[name] for name in found if name != "products"} == {
        name: found[name] for name in found if name != "products"
    }
    assert again["products"]["seconds"] != found["products"]["seconds"]
    searches = again["recovery"]["searches"]
    assert [search["precision"] for search in searches] == 2 * ["float32", "TF32", "bf16", "fp16"]
    assert not list(tmp_path.glob("*.log"))
    assert (tmp_path / "report.md").read_text() in capsys.readouterr().out


def test_a_part_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    gpu.start("products", 0.2, options_of(gpu, "--toy", f"--out={tmp_path}"))
    assert not results(tmp_path)
    assert "its share of the minutes" in (tmp_path / "products.log").read_text()


@pytest.mark.parametrize("sets", [["celeba-train", "celeba-val", "ffhq-val"], []])
def test_the_training_of_full_size_is_one_that_train_py_takes(
    sets: list[str], tmp_path: Path
) -> None:
    for name in sets:
        (tmp_path / "64px" / name).mkdir(parents=True)
        (tmp_path / "64px" / name / "index.json").touch()
    kit = Kit(tmp_path / "out", tmp_path, "", None, FULL, torch.device("cuda"), time.monotonic())
    command = [sys.executable, *train_command(kit, 60.0, 1000, True, 64), "--print_config"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    config = yaml.safe_load(shown.stdout)
    assert config["model"]["init_args"]["cuda_graph"] and config["data"]["init_args"]["passes"] == 8
    assert config["data"]["init_args"].get("train", "") == "".join(sets[:1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.run(options_of(gpu, f"--out={tmp_path}"))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("no CUDA device") and "--toy" in said and said.count("\n") == 1


def test_a_pack_fits_and_is_prepared_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, face in enumerate(faces(range(12), image_size=32)):
        save(tmp_path / "faces" / f"{index}.png", face.permute(1, 2, 0).numpy())
    assert prepare(tmp_path / "faces", tmp_path / "set", size=32) == 0
    out = tmp_path / "kit.zip"
    capsys.readouterr()
    pack.run(options_of(pack, f"--shards={tmp_path / 'set'}", f"--out={out}", "--mebibytes=0.006"))
    assert out.stat().st_size <= 0.006 * 2**20
    assert prepare(out, tmp_path / "there", size=32) == 0
    there = ShardIndex.load(tmp_path / "there")
    assert 3 < len(there) < 12
    assert f"{len(there)} of 12 images, 0.0 MiB" in capsys.readouterr().out
