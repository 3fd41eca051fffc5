"""Rows: whole after any crash, and the last of a key counts."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from results.rows import COLUMNS, Row, RowFile, read_rows, rows_of
from tests.made import cuts, row, written


def test_what_is_written_is_read(tmp_path: Path) -> None:
    full = Row(
        *(
            "run-1",
            "glow",
            10**10,
            3,
            "001",
            "out",
            'a, "b".png',
            "cs-10%",
            "cs",
            "search",
            "paper",
        ),
        *(7, "0123456789", 1250, 0.1, 0.0025, 31.2345678, 25.5, 0.987, 1e-12, 12.5, 55.4),
        *(100, 120, 0.25, "budget"),
    )
    (read,) = written(tmp_path / "rows.csv", full).to_dict("records")
    assert list(read) == COLUMNS
    assert read == {**vars(full), "psnr": 31.2346}  # six digits are kept


def test_what_is_not_known_stays_empty(tmp_path: Path) -> None:
    bare = Row("run-1", "glow", 100, 1)
    broken = row("nan", psnr=math.nan, ssim=math.nan, objective=math.inf, status="diverged")
    read = written(tmp_path / "rows.csv", bare, broken, row("NA"))
    assert read["psnr_hole"].isna().all() and read["latent_norm"].isna().all()
    assert read["psnr"].isna().tolist() == [True, True, False]
    assert read["objective"][1] == math.inf
    assert read["variant"].tolist() == [""] * 3
    assert read["image"].tolist() == ["", "nan", "NA"]
    assert read["psnr"].dtype == read["ssim"].dtype == float


def test_numbers_as_names_stay_text(tmp_path: Path) -> None:
    names = {"dataset": "001", "problem": "1e5", "method": "02", "variant": "3", "config": "1e2"}
    read = written(tmp_path / "rows.csv", row("000017", **names))
    assert read["image"][rows_of(read, **names)].tolist() == ["000017"]


def test_a_crash_in_the_middle_of_a_line_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    whole = written(path, row("a"), row('b, "c"', psnr_hole=21.25))
    RowFile(path).append([row('cut, "short"', latent_norm=55.5)])
    for text in cuts(path):
        path.write_bytes(text)
        pd.testing.assert_frame_equal(read_rows(path), whole)  # another process may read first
        assert path.read_bytes() == text
        assert written(path, row("next"))["image"].tolist() == ["a", 'b, "c"', "next"]


def test_a_crash_in_the_middle_of_the_header_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    RowFile(path)
    for text in cuts(path)[::9]:
        path.write_bytes(text)
        assert read_rows(path).empty
        assert written(path, row("next"))["image"].tolist() == ["next"]


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    written(tmp_path / "rows.csv", row("a"))
    before = (tmp_path / "rows.csv").read_bytes()
    RowFile(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes() == before


def test_a_row_that_a_full_disk_cut_short_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RowFile(tmp_path / "rows.csv")
    file.append([row("a")])

    def full(descriptor: int) -> None:
        os.truncate(file.path, file.path.stat().st_size - 20)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("results.rows.os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            file.append([row("b")])
    file.append([row("c")])
    assert read_rows(file.path)["image"].tolist() == ["a", "c"]


@pytest.mark.parametrize("text", ["run,psnr\nx,3\n", "run,psnr\nx,", "a note", "run,priors"])
def test_a_file_with_other_columns_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"rows\.csv has other columns.*move it away"):
        RowFile(path)
    assert path.read_text() == text


def test_the_last_row_of_a_key_counts(tmp_path: Path) -> None:
    others = [row("a", **{c: "x"}) for c in ("dataset", "problem", "method", "variant")]
    others += [replace(row("a"), images_seen=200), row("a", seed=1), row("b")]
    read = written(tmp_path / "rows.csv", row("a", psnr=1.0), *others, row("a", psnr=2.0))
    assert len(read) == 8
    assert read["psnr"].tolist() == [30.0] * 7 + [2.0]


def test_files_of_all_processes_are_merged(tmp_path: Path) -> None:
    written(tmp_path / "rows.csv", row("a"), row("c", psnr=1.0))
    written(tmp_path / "rows-rank1.csv", row("b"), row("c", psnr=2.0))
    read = read_rows(tmp_path)
    assert sorted(read["image"]) == ["a", "b", "c"]
    assert read_rows(str(tmp_path / "rows-rank1.csv"))["image"].tolist() == ["b", "c"]


def test_a_process_without_rows_changes_no_column(tmp_path: Path) -> None:
    alone = written(tmp_path / "rows.csv", row("a"))
    RowFile(tmp_path / "rows-rank1.csv")
    pd.testing.assert_frame_equal(read_rows(tmp_path), alone)


def test_no_rows_at_all_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "rows.csv"):
        with pytest.raises(FileNotFoundError, match="no rows at"):
            read_rows(path)


def test_rows_of_are_those_that_match_in_every_column(tmp_path: Path) -> None:
    rows = written(
        tmp_path / "rows.csv",
        *(row("a", config="old"), row("b", config="new"), row("c", config="new", seed=1)),
        row("d", config="new", dataset="faces-ood"),
    )
    key = {"dataset": "faces-val", "problem": "cs", "method": "search", "seed": 0}
    assert rows_of(rows, **key, config="new").tolist() == [False, True, False, False]
    assert rows_of(rows, **key, config="old").tolist() == [True, False, False, False]
    assert not rows_of(rows, **key, config="other").any()
    assert not rows_of(rows, **key, config="new", images_seen=7).any()
    assert len(rows_of(rows[:0], **key, config="new")) == 0
