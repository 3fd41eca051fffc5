"""Pictures of a recovery survive whatever stops it."""

from collections.abc import Iterable
from pathlib import Path

import pytest

import train
from results.rows import Row, RowFile
from tests.helpers import Killed

PROBLEMS = ("cs-25%", "denoise-0.1", "inpaint-centre")


def pictures(directory: Path) -> dict[str, bytes]:
    folder = directory / "pictures"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("batches", [1, 5])
def test_a_recovery_killed_after_its_rows_has_all_its_pictures(
    batches: int, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*tiny, "--model.total_images=64", "--recovery.during.problems=[]"]
    train.main([*options, "--run.name=whole"])
    append, count = RowFile.append, 0

    def dying(self: RowFile, rows: Iterable[Row]) -> None:
        nonlocal count
        append(self, rows)
        count += 1
        if count > batches:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RowFile, "append", dying)
        with pytest.raises(Killed):
            train.main([*options, "--run.name=killed"])
    train.main([*options, "--run.name=killed"])
    whole = pictures(tmp_path / "runs" / "whole")
    assert pictures(tmp_path / "runs" / "killed") == whole
    sets = ("faces-val", "faces-ood")
    assert set(whole) == {f"{p}/{s}/000000064.png" for p in PROBLEMS for s in sets}


def test_a_method_added_to_a_finished_run_leaves_its_pictures_as_they_are(
    tiny: list[str], tmp_path: Path
) -> None:
    options = [*tiny, "--model.total_images=64", "--recovery.during.problems=[]"]
    options.append("--recovery.at_end.problems=[denoise-0.1]")
    train.main(options)
    before = pictures(tmp_path / "runs" / "demo")
    added = "--recovery.methods={adjoint: recovery.linear.Adjoint}"
    train.main([*options, added, "--run.accept_changes=true"])
    after = pictures(tmp_path / "runs" / "demo")
    assert {name: after.get(name) for name in before} == before
    names = {Path(name).name for name in after.keys() - before.keys()}
    assert names == {"000000064-2.png"}
