"""The keys of a parser, the types of their values, and the names that are near a wrong one."""

import collections.abc
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser

MAPPINGS = (dict, collections.abc.Mapping)
SEQUENCES = (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable)
Path = tuple[str, ...]  # of a key
Keys = dict[str, Any]  # key -> its type, or the keys below it


def keys_of(parser: ArgumentParser) -> Keys:
    """The keys of a parser, nested, with their types."""
    keys: Keys = {}
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if hint is None or action.dest.endswith(".help"):
            continue
        *groups, leaf = action.dest.split(".")
        inner = keys
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = hint
    return keys


def paths_of(keys: Keys, above: Path = ()) -> Iterator[Path]:
    for key, below in keys.items():
        yield from paths_of(below, (*above, key)) if isinstance(below, dict) else [(*above, key)]


def members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def names_of(hint: Any) -> list[str]:
    """A type as one would say it, or the values that it lists."""
    if get_origin(hint) is Literal:
        return [str(one) for one in get_args(hint)]
    base = class_expected(hint)
    if base is not None:
        return [base.__name__]
    if hint in (None, type(None)):
        return ["null"]
    return [re.sub(r"\b[a-z_]+\.", "", str(hint)) if get_args(hint) else hint.__name__]


def class_expected(hint: Any) -> type | None:
    """The class of which a type wants a subclass: itself, or what a factory returns."""
    if get_origin(hint) is collections.abc.Callable:
        hint = get_args(hint)[-1]
    plain = ("builtins", "pathlib", "datetime", "typing")
    return hint if inspect.isclass(hint) and hint.__module__ not in plain else None


def class_named(path: str, base: type) -> Any:
    """The class or function of a dotted path, or of the bare name of a subclass; else a text: what
    is wrong with the path."""
    if "." not in path:
        known = {one.__name__: one for one in subclasses(base)}
        return known.get(path) or f"there is no class {path!r}{near(path, known)}"
    module, made = "", None
    for name in path.split("."):
        inside = f"{module}.{name}" if module else name
        try:
            made = getattr(made, name) if hasattr(made, name) else importlib.import_module(inside)
        except ImportError as error:
            if getattr(error, "name", None) not in (inside, module):
                return f"{path} cannot be imported: {error}"
            return f"there is no {inside!r}{near(inside, names_in(made, module))}"
        except Exception as error:  # whatever a module of the user's raises when it is imported
            return f"{inside} cannot be imported: {type(error).__name__}: {error}"
        module = inside
    return made


def names_in(module: Any, path: str) -> list[str]:
    """What can be named in a module: its modules, classes and functions."""
    if not inspect.ismodule(module):
        return []
    inside = [name for _, name, _ in pkgutil.iter_modules(getattr(module, "__path__", []))]
    inside += [name for name, one in vars(module).items() if callable(one) and name[0] != "_"]
    return [f"{path}.{name}" for name in inside]


def subclasses(base: Any) -> Iterator[type]:
    yield base
    for one in base.__subclasses__():
        yield from subclasses(one)


def near(name: str, names: Iterable[str]) -> str:
    """The nearest name there is, or all of a few."""
    names = list(names)
    for close in get_close_matches(name, names, n=1):
        return f"; did you mean {close!r}?"
    return f"; there are {', '.join(names)}" if 0 < len(names) <= 12 else ""
