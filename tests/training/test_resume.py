"""Resuming: a run that was stopped ends as one that never was."""

import json
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
from PIL import Image

from callbacks.checkpoints import Checkpoints
from datamodules import prepare
from datamodules.image_set import Distribution
from datamodules.procedural import faces
from priors import load_prior
from results.rows import read_rows
from tests.helpers import (
    Killed,
    assert_same_checkpoint,
    losses,
    newest,
    refused,
    run,
    run_killed_at,
)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumes_bit_for_bit(tiny: list[str], accumulate: int) -> None:
    options = [
        f"--trainer.accumulate_grad_batches={accumulate}",
        "--data.flip=true",
        "--checkpoints.every_minutes=0",
        "--recovery.during.problems=[]",
        "--recovery.at_end.problems=[]",
    ]
    whole = run(tiny, *options, "--run.name=whole")
    for killed_at in (32, 64, 112):  # in the first epoch, at its end, in the next
        name = f"--run.name=resumed-{killed_at}"
        run_killed_at(killed_at, tiny, *options, name)
        resumed = run(tiny, *options, name)
        assert_same_checkpoint(whole, resumed)
        assert losses(whole) == losses(resumed)


def test_a_run_killed_between_its_last_checkpoints_hands_out_the_last_weights(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tiny, "--run.name=whole")
    save = Checkpoints.save

    def killed(self: Checkpoints, trainer: pl.Trainer, name: str) -> None:
        if name == "last" and trainer.lightning_module.images_seen == 192:
            raise Killed
        save(self, trainer, name)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(Killed):
            run(tiny, "--run.name=resumed")
    resumed = run(tiny, "--run.name=resumed")
    assert load_prior(resumed).fingerprint == load_prior(whole).fingerprint
    assert (resumed / "samples" / "000000192.png").exists()
    assert set(read_rows(resumed)["images_seen"]) == set(read_rows(whole)["images_seen"])


def test_a_finished_run_trains_nothing_and_shows_its_table(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(tiny)
    first = (directory / "rows.csv").read_text()
    count = len(losses(directory))
    capsys.readouterr()
    before = newest(directory).stat().st_mtime_ns
    run(tiny)
    assert "after 192 images" in capsys.readouterr().out
    assert newest(directory).stat().st_mtime_ns == before
    assert (directory / "rows.csv").read_text() == first
    assert len(losses(directory)) == count


def test_more_images_continue_a_finished_run(tiny: list[str]) -> None:
    run(tiny)
    directory = run(tiny, "--model.total_images=256", "--model.decay_fraction=0.3")
    assert list(losses(directory)) == [*range(8, 264, 8)]


def prepare_faces(folder: Path, name: str, indices: range, kind: Distribution = "in") -> None:
    """Prepare drawn faces as the set `name`, in place of the one that is there."""
    source, out = folder / name, folder / "data/8px" / name
    for old in (source, out):
        shutil.rmtree(old, ignore_errors=True)
    source.mkdir()
    for index, face in enumerate(faces(indices, distribution=kind)):
        Image.fromarray(face.permute(1, 2, 0).numpy()).save(source / f"{index}.png")
    assert prepare.main([str(source), str(out), "--image-size=8", "--shard-size=16"]) == 0


def from_shards(tiny: list[str], folder: Path) -> list[str]:
    """Arguments that train on the prepared sets a, b (in) and c (out), without recovery."""
    return [*(a for a in tiny if not a.startswith("--data.")), *shards(folder)]


def shards(folder: Path) -> list[str]:
    return [
        "--data=datamodules.faces.ShardedFaces",
        "--data.image_size=8",
        "--data.batch_size=8",
        f"--data.root={folder / 'data'}",
        "--data.train=a",
        "--data.in_distribution=[b]",
        "--data.out_of_distribution=[c]",
        "--data.window=2",
        "--recovery.during.problems=[]",
        "--recovery.at_end.problems=[]",
    ]


@pytest.mark.slow
def test_resumes_from_shards_read_by_workers(tiny: list[str], tmp_path: Path) -> None:
    prepare_faces(tmp_path, "a", range(70))
    prepare_faces(tmp_path, "b", range(100, 105))
    prepare_faces(tmp_path, "c", range(5), "out")
    arguments = from_shards(tiny, tmp_path)
    options = ["--data.num_workers=2", "--checkpoints.every_minutes=0"]
    whole = run(arguments, *options, "--run.name=whole")
    run_killed_at(104, arguments, *options, "--run.name=resumed")
    resumed = run(arguments, *options, "--run.name=resumed")
    assert_same_checkpoint(whole, resumed)
    assert losses(whole) == losses(resumed)


def test_a_set_replaced_under_its_name_is_told_or_refused(
    tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prepare_faces(tmp_path, "a", range(32))
    prepare_faces(tmp_path, "b", range(100, 105))
    prepare_faces(tmp_path, "c", range(5), "out")
    arguments = [*from_shards(tiny, tmp_path), "--model.total_images=32", "--data.num_workers=0"]
    directory = run(arguments)
    before = json.loads((directory / "sets.json").read_text())
    assert {use: list(sets) for use, sets in before.items()} == {
        "train": ["a"],
        "held_out": ["b", "c"],
    }
    prepare_faces(tmp_path, "a", range(1, 33))
    said = refused(capsys, arguments)
    assert f"data.train.a: {before['train']['a']} -> " in said
    assert "data.train.a changes what the run is" in said and "data.held_out" not in said
    prepare_faces(tmp_path, "a", range(32))  # the same images again
    prepare_faces(tmp_path, "c", range(5, 10), "out")
    capsys.readouterr()
    run(arguments)
    said = capsys.readouterr().out
    assert f"data.held_out.c: {before['held_out']['c']} -> " in said and "data.train" not in said
