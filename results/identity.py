"""Which recoveries are the same: a short hash of an operator, a method and weights."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.files import drop_cut_line, naming
from core.secrets import is_secret
from results.rows import AGAIN, config_lines

# Classes that have moved keep their first name here, so that their rows stay done.
FIRST_NAMED = {
    "recovery.physics.Physics": "recovery.deepinv.Physics",
    "recovery.physics.PerChannel": "recovery.deepinv.PerChannel",
}


class ConfigTexts:
    """Short hashes of configurations; stores each text once, in the file at `path` if given.

    The order of its lines tells which of two came later. Raises ValueError, naming the file, if it
    holds anything else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.places: dict[tuple[str, str], int] = {}  # of a config's text, or of its last use again
        if path is not None and path.exists():
            drop_cut_line(path)
            for place, config, told in config_lines(path):
                self.places[config, _text(told.get(AGAIN))] = place

    def hash(self, **config: Any) -> str:
        short = hashlib.blake2b(_text(config).encode(), digest_size=5).hexdigest()
        if (short, _text(None)) not in self.places:
            self._append(short, None, {"config": config})
        return short

    def put_after(self, config: str, others: Iterable[str], rows: dict[str, Any]) -> None:
        """Note that `config` is in use again for `rows`, if another has been used since for them.

        Args:
            config: its hash.
            others: hashes of what else these rows have been recovered under.
            rows: the columns and values that they share.
        """
        if any(self._place(other, rows) > self._place(config, rows) for other in others):
            self._append(config, rows, {AGAIN: rows})

    def _place(self, config: str, rows: dict[str, Any]) -> int:
        return max(self.places.get((config, _text(of)), -1) for of in (None, rows))

    def _append(self, config: str, rows: dict[str, Any] | None, told: dict[str, Any]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.path), self.path.open("a") as file:
            file.write(json.dumps({"hash": config, **told}, default=str) + "\n")
        self.places[config, _text(rows)] = 1 + max(self.places.values(), default=-1)


def _text(told: dict[str, Any] | None) -> str:
    return json.dumps(told, sort_keys=True, default=str)


def describe(thing: object) -> dict[str, Any]:
    """Describe an operator or a method: its class and its public settings, as JSON values.

    Hashes arrays; describes parts (stages of a method, physics of an operator) in the same way.

    Raises TypeError, naming the setting, for a value that does not show what it is: two objects
    that differ in it would pass for one, and one's rows for the other's.
    """
    settings: dict[str, Any] = {"class": _qualified(type(thing))}
    values = dict(vars(thing))
    for kind in ("_buffers", "_parameters", "_modules"):
        values |= values.get(kind, {})
    for name, value in sorted(values.items()):
        if name.startswith("_") or name in ("training", "prior", "batch_size"):
            continue
        if isinstance(value, torch.Generator | torch.device):
            continue  # says where it runs, not what it is
        if is_secret(name, value):
            continue
        try:
            settings[name] = _described(value)
        except TypeError as error:
            raise TypeError(f"{settings['class']}.{name}: {error}") from error
    return settings


def _described(value: object) -> Any:
    """Describe a value. Raises TypeError if it does not show what it is."""
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
        return {str(k): _described(v) for k, v in value.items() if not is_secret(k, v)}
    if isinstance(value, partial):  # a factory: describe what it makes, and with which options
        return [_described_argument(part) for part in (value.func, *value.args, value.keywords)]
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


def _described_argument(value: object) -> Any:
    """Describe an argument of a factory; a plain callable only says how to call the rest."""
    told = isinstance(value, type | FunctionType | MethodType | BuiltinFunctionType | nn.Module)
    if callable(value) and not told and not is_dataclass(value):
        return _qualified(type(value))
    return _described(value)


def _tells(value: object) -> bool:
    """Return whether a plain object keeps its state in public attributes, or has none."""
    names = list(getattr(value, "__dict__", ["_"]))
    return not names or any(not name.startswith("_") for name in names)


def _qualified(thing: type | FunctionType | MethodType | BuiltinFunctionType) -> str:
    name = f"{thing.__module__}.{thing.__qualname__}"
    return FIRST_NAMED.get(name, name)
