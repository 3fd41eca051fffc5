"""Checkpoints: whole, the best among them, and damaged ones left out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpoints import Checkpoints, WholeFiles, newest_checkpoint
from tests.helpers import Killed, refused, run


def test_the_best_inside_an_epoch_is_saved_there() -> None:
    class Validated:
        """As much of a trainer as `Checkpoints` asks."""

        def __init__(self, value: float, last: bool) -> None:
            self.callback_metrics, self.is_last_batch = {"bits": value}, last
            self.world_size = 1

    saved: list[tuple[float, str]] = []
    checkpoints = Checkpoints(monitor="bits")
    checkpoints.save = lambda trainer, name: saved.append(  # type: ignore[method-assign,assignment]
        (trainer.callback_metrics["bits"], name)
    )
    for value, last in ((1.0, False), (3.0, True), (0.5, True)):
        trainer: Any = Validated(value, last)
        checkpoints.on_validation_end(trainer, None)  # type: ignore[arg-type]
        if last:
            checkpoints.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert saved == [(1.0, "best"), (3.0, "last"), (0.5, "best"), (0.5, "last")]


def test_a_damaged_checkpoint_is_left_out(tiny: list[str]) -> None:
    directory = run(tiny, "--model.total_images=64")
    last = directory / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    for left in (0, 1000, len(whole) // 2, len(whole) - 1000):
        last.write_bytes(whole[:left])
        with pytest.warns(UserWarning, match="damaged"):
            assert newest_checkpoint(directory) == directory / "checkpoints" / "best.ckpt"


def test_a_run_with_damaged_checkpoints_alone_does_not_begin_anew(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(tiny, "--model.total_images=64")
    (directory / "checkpoints" / "best.ckpt").unlink()
    (directory / "checkpoints" / "last.ckpt").write_bytes(b"")
    said = refused(capsys, tiny)
    assert "last.ckpt is damaged" in said and "move the file away to begin anew" in said
    assert (directory / "checkpoints" / "last.ckpt").read_bytes() == b""


def test_a_machine_that_dies_while_saving_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeFiles().save_checkpoint({"images_seen": 1}, path)

    def dying(checkpoint: Any, file: Any) -> None:
        file.write(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dying)
        with pytest.raises(Killed):
            WholeFiles().save_checkpoint({"images_seen": 2}, path)
    assert torch.load(path, weights_only=True) == {"images_seen": 1}
    WholeFiles().save_checkpoint({"images_seen": 3}, path)
    assert torch.load(path, weights_only=True) == {"images_seen": 3}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
