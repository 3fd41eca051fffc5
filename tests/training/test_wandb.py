"""Weights & Biases: one run and one axis, and training without it."""

import os
from typing import Any

import pytest
import wandb
from pytorch_lightning.loggers import WandbLogger

from tests.helpers import losses, refused, run


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


def test_wandb_keeps_its_run_and_its_axis(tiny: list[str]) -> None:
    directory = run(tiny, "--run.wandb=offline", "--model.total_images=64")
    identity = (directory / "wandb_id").read_text()
    wandb.finish()  # as the end of the process does
    run(tiny, "--run.wandb=offline", "--model.total_images=128")
    wandb.finish()
    assert (directory / "wandb_id").read_text() == identity
    folders = sorted(path.name for path in (directory / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert all(name.endswith(identity) for name in folders)


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
