"""Which rows count: those of a config that was replaced do not, those of another process do."""

import json
import os
from dataclasses import replace
from pathlib import Path

from report.terminal import summary_table
from results.means import latest
from results.rows import BEFORE_KINDS, Row, RowFile, read_rows

ROW = Row(
    *("run", "gan", 100, 1, "faces-val", "in", "a", "cs-10%", "cs", "csgm"),
    psnr=20.0,
    status="converged",
)


def rows(config: str, images: str, **columns: object) -> list[Row]:
    return [replace(ROW, config=config, image=image, **columns) for image in images]  # type: ignore[arg-type]


def test_processes_that_round_differently_all_count(tmp_path: Path) -> None:
    RowFile(tmp_path / "rows.csv").append(rows("one", "ac"))
    RowFile(tmp_path / "rows-rank1.csv").append(rows("two", "bd", psnr=30.0))
    last = latest(read_rows(tmp_path))
    assert sorted(last["image"]) == list("abcd")
    columns = {c.header: list(c.cells) for c in summary_table(last).columns}
    assert columns["images"] == ["4"] and columns["PSNR"][0].startswith("25.00")


def test_a_recovery_configured_anew_replaces_the_one_before(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.csv")
    file.append(rows("one", "abcd"))
    file.append(rows("two", "ab", psnr=30.0))  # fewer images than before
    read = read_rows(tmp_path)
    assert read["config"].tolist() == ["two", "two"] and read["image"].tolist() == ["a", "b"]
    assert len(read_rows(tmp_path, every=True)) == 6


def test_other_times_methods_and_sets_keep_their_rows(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.csv")
    file.append(rows("one", "ab", images_seen=50))
    file.append(rows("one", "ab", method="other"))
    file.append(rows("one", "ab", dataset="faces-ood"))
    file.append(rows("one", "ab"))
    file.append(rows("two", "ab"))
    assert len(read_rows(tmp_path)) == 8


def test_the_same_row_again_is_one_row(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.csv")
    file.append(rows("one", "abc"))
    file.append(rows("one", "a", psnr=31.0))
    read = read_rows(tmp_path)
    assert sorted(read["image"]) == list("abc") and read["psnr"].max() == 31.0


def old_file(path: Path, **columns: object) -> None:
    """Rows of version 0.1, which had no kinds."""
    row = {**vars(ROW), "psnr_hole": "", "latent_norm": "", **columns}
    lines = [",".join(BEFORE_KINDS), ",".join(str(row[column]) for column in BEFORE_KINDS)]
    path.write_text("\n".join(lines) + "\n")


def configs(path: Path, *used: str) -> None:
    path.write_text("".join(f'{{"hash": "{config}", "config": {{}}}}\n' for config in used))


def test_of_several_files_the_config_first_used_last_counts_whenever_they_were_written(
    tmp_path: Path,
) -> None:
    """One process, then two, then one again."""
    RowFile(tmp_path / "rows.csv").append(
        [*rows("one", "abcd", psnr=1.0), *rows("two", "ac", psnr=2.0)]
    )
    RowFile(tmp_path / "rows-rank1.csv").append(rows("two", "bd", psnr=2.0))
    configs(tmp_path / "configs.jsonl", "one", "two")
    for first in ("rows.csv", "rows-rank1.csv"):
        os.utime(tmp_path / first, (1_000, 1_000))
        assert read_rows(tmp_path)["psnr"].tolist() == [2.0] * 4
    RowFile(tmp_path / "rows.csv").append(rows("three", "abcd", psnr=3.0))
    configs(tmp_path / "configs.jsonl", "one", "two", "three")
    assert read_rows(tmp_path)["psnr"].tolist() == [3.0] * 4


JOB = {"images_seen": 100, "dataset": "faces-val", "problem": "cs-10%", "method": "csgm"}
JOB |= {"seed": 0}


def use_again(path: Path, config: str, **job: object) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"hash": config, "again": JOB | job}) + "\n")


def test_a_config_taken_up_again_replaces_the_one_between(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    RowFile(file).append([*rows("one", "abc", psnr=1.0), *rows("two", "ab", psnr=2.0)])
    texts = tmp_path / "configs.jsonl"
    configs(texts, "one", "two")
    assert read_rows(tmp_path)["psnr"].tolist() == [2.0] * 2
    use_again(texts, "one", seed=1)  # of other rows
    assert read_rows(tmp_path)["psnr"].tolist() == [2.0] * 2
    use_again(texts, "one")
    for path in (tmp_path, file):
        assert read_rows(path)["psnr"].tolist() == [1.0] * 3
    RowFile(tmp_path / "rows-rank1.csv").append(rows("two", "c", psnr=2.0))
    configs(tmp_path / "configs-rank1.jsonl", "two")
    assert read_rows(tmp_path)["psnr"].tolist() == [1.0] * 3
    use_again(texts, "two")
    assert read_rows(tmp_path)["psnr"].tolist() == [2.0] * 3


def test_every_variant_of_a_job_returns_with_it(tmp_path: Path) -> None:
    both = ("last", "least-residual")
    RowFile(tmp_path / "rows.csv").append(
        row
        for psnr, config in enumerate(("one", "two"))
        for variant in both
        for row in rows(config, "ab", variant=variant, psnr=float(psnr))
    )
    configs(tmp_path / "configs.jsonl", "one", "two")
    use_again(tmp_path / "configs.jsonl", "one")
    read = read_rows(tmp_path)
    assert read["psnr"].tolist() == [0.0] * 4 and set(read["variant"]) == set(both)


def test_methods_that_trade_their_configs_keep_apart(tmp_path: Path) -> None:
    """As {x: 1, y: 2}, then {x: 2, y: 1}: in one file, its order tells."""
    file = RowFile(tmp_path / "rows.csv")
    for psnr, used in enumerate([{"x": "one", "y": "two"}, {"x": "two", "y": "one"}]):
        for method, config in used.items():
            file.append(rows(config, "ab", method=method, psnr=float(psnr)))
    texts = tmp_path / "configs.jsonl"
    configs(texts, "one", "two")
    assert read_rows(tmp_path)["psnr"].tolist() == [1.0] * 4
    use_again(texts, "one", method="y")
    assert read_rows(tmp_path)["psnr"].tolist() == [1.0] * 4


def test_old_rows_take_the_kind_that_new_rows_of_their_config_tell(tmp_path: Path) -> None:
    old_file(tmp_path / "rows.csv", problem="deblur")
    assert read_rows(tmp_path)["kind"].tolist() == [""]
    RowFile(tmp_path / "rows.csv").append([replace(ROW, problem="deblur", image="b", kind="Blur")])
    assert read_rows(tmp_path)["kind"].tolist() == ["Blur", "Blur"]
