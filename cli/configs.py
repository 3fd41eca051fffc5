"""Config files that compose: a later file merges into the earlier ones, key by key.

Dictionaries merge, everything else is replaced whole, lists too. A file with `overlay: true` is
merged after all others, wherever the command names it. What the command itself sets wins over
every file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

OPTIONS = ("--config", "-c")
CLASS = ("class_path", "init_args", "dict_kwargs")  # what names a class and its arguments


def with_one_config(arguments: Sequence[str], defaults: Path) -> list[str]:
    """The arguments of a program with their config files, `defaults` first, merged into one.

    Raises ValueError, naming the file, for one that is missing or holds no mapping.
    """
    rest: list[str] = []
    files: list[Path] = []
    waiting = iter(arguments)
    for argument in waiting:
        option, given, value = argument.partition("=")
        if option not in OPTIONS:
            rest.append(argument)
            continue
        if not given and (value := next(waiting, "")) == "":
            raise ValueError(f"{option}: name a YAML file")
        files.append(Path(value).expanduser())
    if not files:
        return list(arguments)
    merged: dict[str, Any] = {}
    read = [read_config(path) for path in (defaults, *files)]
    for overlay in (False, True):
        for config in read:
            if bool(config.get("overlay")) == overlay:
                merged = merge(merged, config)
    merged.pop("overlay", None)
    first = next((i for i, argument in enumerate(rest) if argument.startswith("-")), len(rest))
    return [*rest[:first], f"--config={yaml.safe_dump(merged, sort_keys=False)}", *rest[first:]]


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file's mapping. Raises ValueError, naming the file."""
    try:
        config = get_loader("yaml")(path.read_text())
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} is no YAML: {error}") from error
    if not isinstance(config, dict | None):
        raise ValueError(f"--config {path}: expected a mapping of keys to values")
    return config or {}


def merge(earlier: Any, later: Any) -> Any:
    """`later` merged into `earlier`: mappings key by key, all else replaced.

    Another class replaces the arguments of the one before with its own.
    """
    if isinstance(earlier, str) and isinstance(later, Mapping) and "init_args" in later:
        earlier = {"class_path": earlier}  # short for a class without arguments
    if not isinstance(earlier, Mapping) or not isinstance(later, Mapping):
        return later
    one_of_two = ("class_path" in earlier) != ("class_path" in later)
    if "class_path" in later and earlier.get("class_path", "") != later["class_path"]:
        return dict(later)
    if one_of_two and not set(later) <= set(CLASS):
        return dict(later)
    return {
        **earlier,
        **{k: merge(earlier[k], value) if k in earlier else value for k, value in later.items()},
    }
