"""Config files that compose: a later file merges into the earlier ones, key by key.

Dictionaries merge, everything else is replaced whole, lists too. A file with `overlay: true` is
merged after all others, wherever the command names it. What the command itself sets wins over
every file, and replaces dictionaries whole.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

OPTIONS = ("--config", "-c")
CLASS = {"class_path", "init_args", "dict_kwargs"}  # of a class and its arguments
METHOD = {"method", "prior", "images"}  # of a method and what it goes with
MOVED = {  # class paths that configs may still have
    "recovery.deepinv.PerChannel": "recovery.physics.PerChannel",
    "recovery.deepinv.Physics": "recovery.physics.Physics",
}


class Mistake(ValueError):
    """What a command or a config file has wrong; the message is one line and says all."""


@dataclass(frozen=True)
class ConfigFile:
    """A file that --config names, or the defaults."""

    path: Path
    config: dict[str, Any]

    @property
    def overlay(self) -> bool:
        return bool(self.config.get("overlay"))


@dataclass(frozen=True)
class Command:
    """A program's command line: its config files in the order of merging, and all else.

    `arguments` are for jsonargparse: the files are in them as one --config, before the options.
    """

    files: list[ConfigFile]
    config: dict[str, Any]
    rest: list[str]

    @property
    def arguments(self) -> list[str]:
        first = next((i for i, one in enumerate(self.rest) if one.startswith("-")), len(self.rest))
        return [*self.rest[:first], f"--config={written(self.config)}", *self.rest[first:]]


class Quoted(yaml.SafeDumper):
    """Writes every string in quotes: 1e3 is a number to jsonargparse and none to PyYAML."""


Quoted.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def read_command(arguments: Sequence[str], defaults: Path, methods: str) -> Command:
    """A command line with its config files merged, `defaults` first; `methods` is the key of them.

    Raises Mistake, naming the file, for one that is missing or holds no mapping.
    """
    rest: list[str] = []
    paths: list[Path] = [defaults]
    waiting = iter(arguments)
    for argument in waiting:
        option, given, value = argument.partition("=")
        if option not in OPTIONS:
            rest.append(argument)
            continue
        value = value if given else next(waiting, "")
        if not value or value.startswith("-"):
            raise Mistake(f"{option}: name a YAML file")
        paths.append(Path(at_home(value)))
    named = [path for path in paths[1:] if not same_file(path, defaults)]
    files = [ConfigFile(path, read_config(path, methods)) for path in (defaults, *named)]
    files.sort(key=lambda file: file.overlay)  # stable: otherwise as the command has them
    merged: dict[str, Any] = {}
    for file in files:
        merged = merge(merged, file.config)
    merged.pop("overlay", None)
    return Command(files, merged, [*with_named_methods(rest, methods)])


def read_config(path: Path, methods: str = "") -> dict[str, Any]:
    """A YAML file's mapping, empty for an empty file. Raises Mistake, naming the file."""
    try:
        config = get_loader("yaml")(path.read_text())
    except OSError as error:
        raise Mistake(f"--config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Mistake(f"--config {path} is not a text file") from error
    except yaml.YAMLError as error:
        raise Mistake(f"--config {path} is not YAML: {where_and_why(error)}") from error
    if config is None:
        return {}
    if not isinstance(config, dict):
        kind = "a list" if isinstance(config, list) else repr(config)
        raise Mistake(f"--config {path}: expected keys and values, found {kind}")
    if not isinstance(config.get("overlay", False), bool):
        raise Mistake(f"{path}: overlay is true or false, got {config['overlay']!r}")
    return as_read(config, methods)


def as_read(config: dict[str, Any], methods: str) -> dict[str, Any]:
    """A file's mapping as it is meant: classes by their paths of today, methods in one form."""
    *above, last = methods.split(".")
    config = inner = renamed(config)
    for key in above:
        inner = inner.get(key)
        if not isinstance(inner, dict):
            return config
    if isinstance(inner.get(last), dict):
        inner[last] = named_methods(inner[last])
    return config


def named_methods(methods: Mapping[str, Any]) -> dict[str, Any]:
    """Methods by name, each as {method, prior, images}."""
    return {k: {"method": value} if alone(value) else value for k, value in methods.items()}


def alone(value: Any) -> bool:
    """Whether a value is a method alone, short for {method: ...}: a class, or arguments of one."""
    if isinstance(value, Mapping):
        return bool(value) and bool(value.keys() & CLASS or not value.keys() & METHOD)
    return isinstance(value, str)


def with_named_methods(arguments: Iterable[str], methods: str) -> Iterator[str]:
    """Arguments of a command line with the methods in them in one form."""
    waiting = iter(arguments)
    for argument in waiting:
        option, given, value = argument.partition("=")
        if option == f"--{methods}" or option.startswith(f"--{methods}."):
            yield named_option(option, value if given else next(waiting, ""), methods)
        else:
            yield argument


def named_option(option: str, value: str, methods: str) -> str:
    name, _, below = option.removeprefix(f"--{methods}.").partition(".")
    given = load(value)
    if option == f"--{methods}" and isinstance(given, dict):
        value = written(named_methods(given))
    elif below and below.partition(".")[0] not in METHOD:
        option = f"--{methods}.{name}.method.{below}"
    elif option != f"--{methods}" and not below and alone(given):
        option += ".method"
    return f"{option}={value}"


def merge(earlier: Any, later: Any) -> Any:
    """`later` merged into `earlier`: mappings key by key, all else replaced.

    A class that is named again keeps its arguments; another class drops them. null takes a named
    method or problem away.
    """
    earlier, later = alike(earlier, later), alike(later, earlier)
    if not isinstance(earlier, Mapping) or not isinstance(later, Mapping):
        return later
    if {"class_path"} <= earlier.keys() & later.keys() and not same_class(earlier, later):
        return dict(later)
    merged = {
        **earlier,
        **{k: merge(earlier[k], value) if k in earlier else value for k, value in later.items()},
    }
    gone = {key for key, value in later.items() if value is None and named(earlier.get(key))}
    return {key: value for key, value in merged.items() if key not in gone}


def named(value: Any) -> bool:
    """Whether a value defines a method or a problem, which null can take away."""
    return isinstance(value, Mapping) and bool(value.keys() & {"method", "operator"})


def alike(value: Any, other: Any) -> Any:
    """A value in the form of the class it merges with, where it is short for it: a class by its
    path alone, or its arguments without `init_args`."""
    if not isinstance(other, Mapping) or not other.keys() & CLASS:
        return value
    if isinstance(value, str) and (other.keys() == {"init_args"} or same_class(value, other)):
        return {"class_path": value}
    if isinstance(value, Mapping) and value and not value.keys() & CLASS:
        return {"init_args": value}
    return value


def same_class(one: Any, other: Any) -> bool:
    """Whether two values name one class; either may leave out the module."""
    a, b = (str(path_of_class(value)) for value in (one, other))
    short = "." not in a or "." not in b
    return a == b or (short and a.rpartition(".")[2] == b.rpartition(".")[2])


def path_of_class(value: Any) -> Any:
    return value.get("class_path") if isinstance(value, Mapping) else value


def same_file(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def load(text: str) -> Any:
    """What YAML makes of a value; the text itself if it is none."""
    try:
        return get_loader("yaml")(text)
    except yaml.YAMLError:
        return text


def renamed(value: Any) -> Any:
    """A value of a config with the classes in it that have moved named by their new paths."""
    if isinstance(value, dict):
        return {key: renamed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [renamed(one) for one in value]
    return MOVED.get(value, value) if isinstance(value, str) else value


def at_home(text: str) -> str:
    """A path with its ~ expanded; any other text as it is."""
    return os.path.expanduser(text) if text.startswith("~") and "/" in text else text


def written(config: Any) -> str:
    return str(yaml.dump(config, Dumper=Quoted, sort_keys=False))


def where_and_why(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    why = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"line {mark.line + 1}: {why}" if mark else why
