"""The results table: one row per recovered image, on disk before anything is sent anywhere."""

import csv
import io
import itertools
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from core.files import drop_cut_line, naming, whole_lines, write_whole

RECOVERY = ["run", "prior", "images_seen", "dataset"]
RECOVERY += ["problem", "gamma", "method", "variant", "seed"]
KEY = [*RECOVERY, "image"]
OF_A_JOB = ["images_seen", "dataset", "problem", "method", "seed"]  # within one run, all variants
AGAIN = "again"  # in a line of configs.jsonl: for rows of which job a config is in use again


@dataclass(frozen=True)
class Row:
    """One recovered image.

    PSNR in dB; `psnr_hole` inside an inpainting hole, else empty. `kind` is the operator's
    (`recovery.operators.Operator.kind`), `problem` what the config calls it.
    """

    run: str
    prior: str
    images_seen: int
    epoch: int
    dataset: str = ""
    distribution: str = ""
    image: str = ""
    problem: str = ""
    kind: str = ""
    method: str = ""
    variant: str = ""
    seed: int = 0
    config: str = ""
    m: int = 0
    sigma: float = 0.0
    gamma: float = 0.0
    psnr: float = math.nan
    psnr_hole: float | None = None
    ssim: float = math.nan
    objective: float = math.nan
    residual: float = math.nan
    latent_norm: float | None = None
    steps: int = 0
    evaluations: int = 0
    seconds: float = math.nan
    status: str = ""


COLUMNS = [field.name for field in fields(Row)]
TYPES = {field.name: field.type if field.type in (str, int) else float for field in fields(Row)}


BEFORE_KINDS = [column for column in COLUMNS if column != "kind"]  # version 0.1 wrote these


class RowFile:
    """Appends rows to a CSV file; each call is on disk when it returns.

    Opening drops a last line that a crash cut short, and gives a file of version 0.1 today's
    columns. Raises ValueError if the file has other columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes() if path.exists() else b""
        header = ",".join(COLUMNS).encode()
        if header.startswith(text):  # a new file, or one whose first line was cut short
            path.write_bytes(b"")
            self._append([COLUMNS])
            return
        columns = text.split(b"\n", 1)[0].decode(errors="replace").strip().split(",")
        if columns == BEFORE_KINDS:
            _add_kinds(path)
        elif columns != COLUMNS:
            raise ValueError(f"{path} has other columns than this version writes: move it away")
        drop_cut_line(path)

    def append(self, rows: Iterable[Row]) -> None:
        self._append([_cell(value) for value in asdict(row).values()] for row in rows)

    def _append(self, lines: Iterable[Iterable[Any]]) -> None:
        size = self.path.stat().st_size
        try:
            with naming(self.path), self.path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(self.path, size)  # or the next row would continue a line that was cut
            raise


def read_rows(path: Path | str, *, every: bool = False) -> pd.DataFrame:
    """Read the rows of a file, or of all `rows*.csv` in a run directory.

    Of rows with one key the last counts; of several files, that of the config that `configs.jsonl`
    has last. A config stops counting once any of its images has been recovered under another one,
    until it is taken up again (`ConfigTexts.put_after`). `every=True` returns all rows. A last line
    that is cut short, or that a process is writing, is no row.

    Raises FileNotFoundError if there are none, ValueError for a damaged file, by its name.
    """
    path = Path(path)
    files = sorted(path.glob("rows*.csv"), key=_by_number) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise FileNotFoundError(f"no rows at {path}: expected a rows.csv written by a run")
    rows = pd.concat([_read(file) for file in files], ignore_index=True)
    first, again = _used(path if path.is_dir() else path.parent)
    if len(files) > 1:
        age = rows["config"].map(first).fillna(-1)
        rows = rows.iloc[age.argsort(kind="stable")].reset_index(drop=True)
    if again:
        rows = _taken_up_last(rows, first, again)
    told = rows[rows["kind"] != ""].drop_duplicates("config").set_index("config")["kind"]
    rows["kind"] = rows["kind"].where(rows["kind"] != "", rows["config"].map(told)).fillna("")
    return rows if every else rows[~superseded(rows)].reset_index(drop=True)


def _by_number(file: Path) -> tuple[int, str]:
    """rows.csv, rows-rank1.csv, rows-rank2.csv, ..., rows-rank10.csv."""
    return len(file.name), file.name


Uses = dict[tuple[str, tuple[Any, ...]], int]  # places, by config and the values of OF_A_JOB


def _used(folder: Path) -> tuple[dict[str, int], Uses]:
    """Tell at which place the folder's configs were first used, and for which rows last again.

    Of several processes' files, the first that knows a config tells. Copying a folder changes its
    files' times, but not this.
    """
    first: dict[str, int] = {}
    again: Uses = {}
    for file in _config_files(folder):
        own: Uses = {}
        for place, config, told in config_lines(file):
            if AGAIN in told:
                own[config, tuple(told[AGAIN].get(column) for column in OF_A_JOB)] = place
            else:
                first.setdefault(config, place)
        again = own | again
    return first, again


def _taken_up_last(rows: pd.DataFrame, first: dict[str, int], again: Uses) -> pd.DataFrame:
    """Put the rows of jobs that have returned to a config in the order of their configs' uses."""
    jobs = list(zip(*(rows[column] for column in OF_A_JOB), strict=True))
    returned = {job for _, job in again}
    places: dict[tuple[Any, ...], list[int]] = {}
    for index, job in enumerate(jobs):
        if job in returned:
            places.setdefault(job, []).append(index)
    order = list(range(len(rows)))
    for job, indices in places.items():
        use = {
            config: again.get((config, job), first.get(config, -1))
            for config in rows["config"].iloc[indices].unique()
        }
        sorted_ = sorted(indices, key=lambda index: use[rows["config"].iat[index]])
        for index, source in zip(indices, sorted_, strict=True):
            order[index] = source
    return rows.iloc[order].reset_index(drop=True)


def measured(folder: Path) -> pd.DataFrame:
    """Tell operator and prepared set of each config of a folder, by its hash; None for unknown."""
    told = {
        config: {
            "operator": json.dumps(text["problem"], sort_keys=True) if "problem" in text else None,
            "prepared": text.get("set"),
        }
        for file in _config_files(folder)
        for _, config, line in config_lines(file)
        if AGAIN not in line
        for text in [line.get("config") or {}]
    }
    return pd.DataFrame.from_dict(
        told, orient="index", columns=["operator", "prepared"], dtype=object
    )


def _config_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("configs*.jsonl"), key=_by_number)


def config_lines(file: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield place, hash and line of each config of a file; raise ValueError if it is damaged."""
    for place, line in enumerate(whole_lines(file).splitlines()):
        try:
            told = json.loads(line)
            config = str(told["hash"])
            for part in ("config", AGAIN):
                dict(told.get(part) or {})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{file} is damaged: {error!r}. Move it away") from error
        yield place, config, told


def superseded(rows: pd.DataFrame) -> pd.Series:
    """Mark the rows that no longer count: a later one has their key or replaced their config.

    A config is replaced if a later row of one of its images has another config. Configs that share
    no image, such as those of processes that round differently, all count.
    """
    again = rows.duplicated(KEY, keep="last")
    last = rows.groupby(KEY, sort=False)["config"].transform("last")
    replaced = again & (rows["config"] != last)
    groups = [rows[column] for column in [*RECOVERY, "config"]]
    return again | replaced.groupby(groups, sort=False).transform("any")


def rows_of(rows: pd.DataFrame, **key: Any) -> pd.Series:
    """Mark the rows that have these values in these columns."""
    matches = pd.Series(True, index=rows.index)
    for column, value in key.items():
        matches &= rows[column] == value
    return matches


def _read(path: Path) -> pd.DataFrame:
    """Read every row of one file. Raises ValueError, naming it, if it holds anything else."""
    empty = {column: ["", "nan"] for column, kind in TYPES.items() if kind is float}
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            rows = pd.read_csv(
                io.BytesIO(whole_lines(path) or ",".join(COLUMNS).encode()),
                dtype=TYPES,
                keep_default_na=False,
                na_values=empty,
                index_col=False,
            )
        if list(rows.columns) == BEFORE_KINDS:
            rows["kind"] = rows["problem"].map(kind_by_name)
        return rows[COLUMNS]
    except (KeyError, ValueError, pd.errors.ParserWarning) as error:  # pandas' are ValueErrors
        raise ValueError(f"{path} is damaged: {error}. Move it away") from error


def kind_by_name(problem: str) -> str:
    """Tell a problem's kind by its name, which is all that rows of version 0.1 have; or ""."""
    kind = problem.split("-")[0]
    return kind if kind in ("cs", "denoise", "inpaint") else ""


def _add_kinds(path: Path) -> None:
    """Give a file of version 0.1 the column `kind`, whole or not at all."""

    def lines() -> Iterator[list[str]]:
        yield COLUMNS
        place, problem = COLUMNS.index("kind"), BEFORE_KINDS.index("problem")
        for cells in itertools.islice(csv.reader(old), 1, None):
            yield [*cells[:place], kind_by_name(cells[problem]), *cells[place:]]

    old = io.StringIO(whole_lines(path).decode())
    new = io.StringIO()
    csv.writer(new, lineterminator="\n").writerows(lines())
    write_whole(path, new.getvalue())


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value
