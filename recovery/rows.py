"""The results table: one row per recovered image, on disk before anything is sent anywhere."""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

KEY = ["run", "prior", "images_seen", "dataset", "image"]
KEY += ["problem", "gamma", "method", "variant", "seed"]


@dataclass(frozen=True)
class Row:
    """One recovered image. PSNR in dB; `psnr_hole` inside an inpainting hole, else empty."""

    run: str
    prior: str
    images_seen: int
    epoch: int
    dataset: str = ""
    distribution: str = ""
    image: str = ""
    problem: str = ""
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


class RowFile:
    """Appends rows to a CSV file; each call is on disk when it returns.

    A last line cut short by a crash is dropped when the file is opened. Raises ValueError if the
    file has other columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes() if path.exists() else b""
        header = ",".join(COLUMNS).encode()
        if header.startswith(text):  # a new file, or one whose first line was cut short
            path.write_bytes(b"")
            self._append([COLUMNS])
        elif text.split(b"\n", 1)[0].strip() != header:
            raise ValueError(f"{path} has other columns than this version writes: move it away")
        _drop_cut_line(path)

    def append(self, rows: Iterable[Row]) -> None:
        self._append([_cell(value) for value in asdict(row).values()] for row in rows)

    def _append(self, lines: Iterable[Iterable[Any]]) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(self.path, size)  # what a full disk cut short, the next row would go on
            raise


def read_rows(path: Path | str, *, every: bool = False) -> pd.DataFrame:
    """Rows of a file, or of all `rows*.csv` of a run directory.

    Of rows with one key the last counts (of several files, the file written last), unless `every`
    row is asked for: those of an earlier config among them. A last line that is cut short, or
    just being written, is no row.

    Raises FileNotFoundError where there are none.
    """
    path = Path(path)
    files = list(path.glob("rows*.csv")) if path.is_dir() else [path]
    files.sort(key=lambda file: (file.stat().st_mtime_ns if file.exists() else 0, file.name))
    if not files or not files[0].exists():
        raise FileNotFoundError(f"no rows at {path}: expected a rows.csv written by a run")
    empty = {column: ["", "nan"] for column, kind in TYPES.items() if kind is float}
    parts = [
        pd.read_csv(
            io.BytesIO(_whole_lines(file) or ",".join(COLUMNS).encode()),
            dtype=TYPES,
            keep_default_na=False,
            na_values=empty,
        )
        for file in files
    ]
    rows = pd.concat(parts, ignore_index=True)
    return rows if every else rows.drop_duplicates(KEY, keep="last", ignore_index=True)


def done_images(rows: pd.DataFrame, **key: Any) -> set[str]:
    """Names of the images whose rows already match every given column, `config` among them."""
    matches = pd.Series(True, index=rows.index)
    for column, value in key.items():
        matches &= rows[column] == value
    return set(rows.loc[matches, "image"])


class ConfigTexts:
    """Short hashes of configurations; each text is stored once in `configs.jsonl`, if given."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: set[str] = set()
        if path is not None and path.exists():
            _drop_cut_line(path)
            self.known = {json.loads(line)["hash"] for line in path.read_text().splitlines()}

    def hash(self, **config: Any) -> str:
        text = json.dumps(config, sort_keys=True, default=str)
        short = hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
        if self.path is not None and short not in self.known:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"hash": short, "config": config}, default=str) + "\n")
            self.known.add(short)
        return short


def describe(thing: object) -> dict[str, Any]:
    """What an operator or a method is: its class and its public settings, as JSON values.

    Arrays are hashed; parts (stages of a method, physics of an operator) are described likewise.

    Raises TypeError, naming the setting, for a value that does not tell what it is: two objects
    that differ in it would pass for one, and rows of the one for the other's.
    """
    settings: dict[str, Any] = {"class": _qualified(type(thing))}
    values = dict(vars(thing))
    for kind in ("_buffers", "_parameters", "_modules"):
        values |= values.get(kind, {})
    for name, value in sorted(values.items()):
        if name.startswith("_") or name in ("training", "prior", "batch_size"):
            continue
        if isinstance(value, torch.Generator | torch.device):
            continue  # where it stands, not what it is
        try:
            settings[name] = _described(value)
        except TypeError as error:
            raise TypeError(f"{settings['class']}.{name}: {error}") from error
    return settings


def _described(value: object) -> Any:
    """What to write of a value. Raises TypeError if it does not tell what it is."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        value = value.detach().cpu().resolve_conj().numpy()
    if isinstance(value, np.ndarray):
        return hashlib.blake2b(value.tobytes(), digest_size=5).hexdigest()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | range):
        return [_described(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((_described(part) for part in value), key=json.dumps)
    if isinstance(value, dict):
        return {str(name): _described(part) for name, part in value.items()}
    if isinstance(value, partial):  # of a factory: what it makes, and with which options
        return [_described(part) for part in (value.func, *value.args, value.keywords)]
    if type(value).__name__ == "ClassInstantiator":  # of jsonargparse: how a factory is called
        return _qualified(type(value))
    if isinstance(value, Path | torch.dtype | Enum):
        return str(value)
    if isinstance(value, type | FunctionType | MethodType | BuiltinFunctionType):
        return _qualified(value)
    if isinstance(value, nn.Module) or is_dataclass(value) or _tells(value):
        return describe(value)
    raise TypeError(
        f"a {_qualified(type(value))} does not say what it is. Make it a dataclass or give it "
        "public attributes; or start the setting's name with _, if it changes no result"
    )


def _tells(value: object) -> bool:
    """Whether a plain object's state is in public attributes, or it has none."""
    names = list(getattr(value, "__dict__", ["_"]))
    return not names or any(not name.startswith("_") for name in names)


def _qualified(thing: type | FunctionType | MethodType | BuiltinFunctionType) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _whole_lines(path: Path) -> bytes:
    text = path.read_bytes()
    return text[: text.rfind(b"\n") + 1]


def _drop_cut_line(path: Path) -> None:
    """Truncate the file after its last newline: what follows was cut short by a crash."""
    whole = len(_whole_lines(path))
    if whole < path.stat().st_size:  # else the file would pass for the one written last
        os.truncate(path, whole)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value
