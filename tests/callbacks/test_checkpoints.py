"""Checkpoints: whole, the best among them, and damaged ones left out."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.checkpoints import Checkpoints, WholeFiles, newest_checkpoint
from lightning_modules import MaximumLikelihood
from priors.checkpoint import read_checkpoint
from tests.helpers import Killed, refused, run


def test_the_best_is_of_the_validation_where_it_was_best(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside an epoch, too: validated every 32 images, of which an epoch has 64."""
    bits = {32: 1.0, 64: 3.0, 96: 2.0, 128: 0.5}

    def validated(
        self: MaximumLikelihood, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        names: list[str] = self.trainer.datamodule.validation_names  # type: ignore[attr-defined]
        value = torch.tensor(bits[self.images_seen])
        name = f"bits_per_dim/{names[dataloader_idx]}"
        self.log(name, value, batch_size=1, add_dataloader_idx=False)

    monkeypatch.setattr(MaximumLikelihood, "validation_step", validated)
    options = ["--trainer.val_check_interval=4", "--recovery.at_end.problems=[]"]
    options.append("--recovery.during.problems=[]")
    for total, best in ((64, 32), (128, 128)):
        directory = run(tiny, *options, f"--model.total_images={total}")
        seen = [
            read_checkpoint(directory / "checkpoints" / f"{name}.ckpt")["images_seen"]
            for name in ("best", "last")
        ]
        assert seen == [best, total]


def test_another_monitor_begins_its_best_anew(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A least inversion error is far below any bits/dim."""
    bits = {64: 3.0, 128: 2.0}

    def validated(
        self: MaximumLikelihood, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        name = self.trainer.datamodule.validation_names[dataloader_idx]  # type: ignore[attr-defined]
        values = {f"bits_per_dim/{name}": bits[self.images_seen], f"inversion/{name}": 1e-8}
        self.log_dict(values, batch_size=1, add_dataloader_idx=False)

    monkeypatch.setattr(MaximumLikelihood, "validation_step", validated)
    options = ["--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]
    inverted = "--checkpoints.monitor=inversion/faces-val"
    directory = run(tiny, *options, "--model.total_images=64", inverted)
    run(tiny, *options, "--model.total_images=128")
    assert read_checkpoint(directory / "checkpoints" / "best.ckpt")["images_seen"] == 128


def test_a_monitor_that_nothing_logs_is_told(tiny: list[str]) -> None:
    options = ["--model.total_images=64", "--recovery.during.problems=[]"]
    options += ["--recovery.at_end.problems=[]", "--checkpoints.monitor=bits_per_dim/vall"]
    with pytest.warns(UserWarning, match=r"no metric is named bits_per_dim/vall.*per_dim/faces-v"):
        directory = run(tiny, *options)
    assert not (directory / "checkpoints" / "best.ckpt").exists()


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


def test_a_signal_that_comes_while_the_ranks_agree_waits_for_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted = [0, 15]  # before the reduction, and after it
    monkeypatch.setattr("callbacks.checkpoints.received", lambda: noted.pop(0))
    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda sent, reduce_op: sent)
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    checkpoints = Checkpoints()
    assert checkpoints.agreed(trainer) == (False, 0)  # the others have heard of none
    noted[:] = [15, 15]
    assert checkpoints.agreed(trainer) == (False, 15)
