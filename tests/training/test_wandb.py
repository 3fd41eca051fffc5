"""Weights & Biases: one run and one axis, and training without it."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from pytorch_lightning.loggers import WandbLogger
from wandb.proto.wandb_internal_pb2 import Record

from tests.helpers import losses, refused, run

BLOCK, FULL, FIRST, LAST = 32768, 1, 2, 4


@pytest.mark.parametrize("asked", ["auto", "online"])
def test_a_wandb_out_of_reach_is_named_or_done_without(
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    init = wandb.init

    def without_network(**options: Any) -> Any:
        if "WANDB_MODE" not in os.environ:
            raise wandb.errors.CommError("no route to api.wandb.ai")
        return init(**options)

    monkeypatch.setattr(wandb, "init", without_network)
    monkeypatch.delenv("WANDB_MODE")
    arguments = [*tiny, f"--run.wandb={asked}", "--model.total_images=64"]
    if asked == "online":
        assert "no route to api.wandb.ai. --run.wandb offline" in refused(capsys, arguments)
        return
    directory = run(arguments)
    wandb.finish()
    assert "This run is logged offline" in capsys.readouterr().out
    assert list((directory / "wandb").glob("offline-run-*"))


def test_wandb_keeps_its_run_and_its_axis_over_five_starts(tiny: list[str]) -> None:
    lengths = (64, 96, 128, 160, 192)
    for length in lengths:
        directory = run(tiny, "--run.wandb=offline", f"--model.total_images={length}")
        wandb.finish()  # as the end of the process does
    identity = (directory / "wandb_id").read_text()
    folders = sorted((directory / "wandb").glob("offline-run-*"))
    assert len(folders) == len(lengths)
    assert all(folder.name.endswith(identity) for folder in folders)
    sent: dict[float, float] = {}
    for folder in folders:
        (path,) = folder.glob("*.wandb")
        records = list(records_in(path))
        assert {record.run.run_id for record in records if record.HasField("run")} == {identity}
        axes = [record.metric for record in records if record.HasField("metric")]
        assert any(axis.glob_name == "*" and axis.step_metric == "images_seen" for axis in axes)
        for record in records:
            items = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
            if "train/bits_per_dim" in items:
                sent[json.loads(items["images_seen"])] = json.loads(items["train/bits_per_dim"])
    assert sent == pytest.approx(losses(directory), abs=1e-5) and max(sent) == lengths[-1]


def records_in(path: Path) -> Iterator[Record]:
    """Read W&B's own file: a header of 7 bytes, then LevelDB's log format."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)  # after its checksum
        part, at = data[at + 7 : at + 7 + length], at + 7 + length
        whole = part if kind in (FULL, FIRST) else whole + part
        if kind in (FULL, LAST):
            yield Record.FromString(whole)


def test_training_goes_on_without_wandbs_process(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise ConnectionResetError("Connection lost")

    calls: list[int] = []
    monkeypatch.setattr(WandbLogger, "log_metrics", killed)
    directory = run(tiny, "--run.wandb=offline", "--model.total_images=64")
    assert max(losses(directory)) == 64 and len(calls) == 1
    assert "W&B: ConnectionResetError: Connection lost. Training goes on" in capsys.readouterr().err
