"""Resuming: a run that was stopped ends as one that never was."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
from PIL import Image

from callbacks.checkpoints import Checkpoints
from datamodules import prepare
from datamodules.procedural import faces
from priors import load_prior
from results.rows import read_rows
from tests.helpers import Killed, assert_same_checkpoint, kill_at, losses, newest, run


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("killed_at", [32, 64, 112])  # in the first epoch, at its end, in the next
def test_resumes_bit_for_bit(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, killed_at: int, accumulate: int
) -> None:
    options = [
        f"--trainer.accumulate_grad_batches={accumulate}",
        "--data.flip=true",
        "--checkpoints.every_minutes=0",
        "--recovery.during.problems=[]",
        "--recovery.at_end.problems=[]",
    ]
    whole = run(tiny, *options, "--run.name=whole")
    with monkeypatch.context() as patch:
        kill_at(patch, killed_at)
        with pytest.raises(Killed):
            run(tiny, *options, "--run.name=resumed")
    resumed = run(tiny, *options, "--run.name=resumed")
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


@pytest.mark.slow
def test_resumes_from_shards_read_by_workers(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, distribution, count in (("a", "in", 70), ("b", "in", 5), ("c", "out", 5)):
        folder = tmp_path / name
        folder.mkdir()
        for index, face in enumerate(faces(range(count), distribution=distribution)):
            Image.fromarray(face.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
        out = str(tmp_path / "data/8px" / name)
        assert prepare.main([str(folder), out, "--image-size=8", "--shard-size=16"]) == 0
    options = [
        "--data=datamodules.faces.ShardedFaces",
        "--data.image_size=8",
        "--data.batch_size=8",
        f"--data.root={tmp_path / 'data'}",
        "--data.train=a",
        "--data.in_distribution=[b]",
        "--data.out_of_distribution=[c]",
        "--data.window=2",
        "--data.num_workers=2",
        "--checkpoints.every_minutes=0",
        "--recovery.during.problems=[]",
        "--recovery.at_end.problems=[]",
    ]
    arguments = [argument for argument in tiny if not argument.startswith("--data.")]
    whole = run(arguments, *options, "--run.name=whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 104)
        with pytest.raises(Killed):
            run(arguments, *options, "--run.name=resumed")
    resumed = run(arguments, *options, "--run.name=resumed")
    assert_same_checkpoint(whole, resumed)
    assert losses(whole) == losses(resumed)
