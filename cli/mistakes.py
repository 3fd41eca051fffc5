"""What is wrong with a command line or a config, in one line.

jsonargparse has refused it already, with a page on every alternative. Here the config is walked
once more beside the parser's keys and types, to the first key, class or value that has no place.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser

from cli.configs import Command, load, merge
from cli.keys import (
    MAPPINGS,
    SEQUENCES,
    Keys,
    Path,
    class_expected,
    class_named,
    keys_of,
    members,
    names_of,
    near,
    paths_of,
)

OF_ITS_OWN = r'Parser key "value":\s+Not of type (\w+): (.*)'  # a type that reads its values itself
OF_JSONARGPARSE = ("Does not validate", "Expected ", "Not ", "Problem ", "Subclasses ", "Type ")
FLAGS = ("help", "print_config")  # options without a value


class Typed(str):
    """A value as it was typed on the command line."""


@dataclass(frozen=True)
class Found:
    """A mistake: the key and what is wrong with it.

    `of_type` tells that the value has another type, which one member of a union may say of what
    another would take.
    """

    path: Path
    text: str
    of_type: bool = False


def explain(refusal: str, command: Command, parser: ArgumentParser) -> str:
    """One line on why `parser` refuses a command: the key, where it was given, what is near."""
    found = None
    with suppress(Exception):  # a refusal is still one where its reason is beyond this module
        found = first_mistake(command, parser)
    if found is None:
        return last_words(refusal)
    return words(found, command)


def words(found: Found, command: Command) -> str:
    where = origin(found.path, command)
    return f"{where}: {found.text}" if where else found.text


def first_mistake(command: Command, parser: ArgumentParser) -> Found | None:
    config = command.config
    for path, value in options(command):
        if value is None:
            return Found(path, "give it a value")
        config = merge(config, nested(path, value, config))
    keys = keys_of(parser)
    for key in config:
        whole = [".".join(path) for path in paths_of(keys) if path[-1] == key and len(path) == 2]
        if key not in keys and len(whole) == 1:  # of the right name, in the wrong place
            return Found((str(key),), f"there is no key {key!r}; did you mean {whole[0]!r}?")
    return in_keys(keys, config, ()) or missing(parser, config, ())


# ---- where a key was given


def options(command: Command) -> Iterator[tuple[Path, Typed | None]]:
    """The options of a command line, in order, and their values."""
    for argument, following in pairwise([*command.rest, "--"]):
        option, given, value = argument[2:].partition("=")
        if not argument.startswith("--") or option in FLAGS:
            continue
        lacking = not given and following.startswith("--")
        path = tuple(option.rstrip("+").split("."))
        yield path, None if lacking else Typed(value if given else following)


def nested(path: Path, value: Typed, config: Any) -> Any:
    """The config that an option stands for, to be merged into `config`."""
    if path:
        below = dict(config) if isinstance(config, Mapping) else {}
        below = {**below.get("init_args", {}), **below}
        return {path[0]: nested(path[1:], value, below.get(path[0]))}
    if isinstance(config, Mapping) and "class_path" in config and isinstance(loaded(value), str):
        return {"class_path": value}
    return value


def origin(path: Path, command: Command) -> str:
    """A key as it was given: an option, or a key of a file; without the init_args of classes."""
    short = without_markers(path)
    if not short:
        return ""
    for given, value in reversed(list(options(command))):
        bare = without_markers(given)
        both = min(len(bare), len(short))
        inside = len(bare) >= len(short) or not isinstance(loaded(value), str)
        if bare[:both] == short[:both] and inside:
            return "--" + ".".join(given if len(given) > len(short) else short)
    for file in reversed(command.files):
        if holds(file.config, short):
            return f"{file.path}: {'.'.join(short)}"
    return ".".join(short)


def without_markers(path: Path) -> Path:
    return tuple(key for key in path if key not in ("init_args", "dict_kwargs"))


def holds(config: Any, path: Path) -> bool:
    """Whether a file's mapping gives a key."""
    if not path:
        return True
    if not isinstance(config, Mapping):
        return False
    if path[0] in config:
        return holds(config[path[0]], path[1:])
    return "init_args" in config and holds(config["init_args"], path)


# ---- keys and types, walked beside the config


def empty_group(keys: Keys, config: Any, path: Path = ()) -> Found | None:
    """The first group of keys that a config leaves empty, which jsonargparse takes for a value."""
    for key, below in keys.items():
        if isinstance(below, dict) and isinstance(config, Mapping) and key in config:
            if config[key] is None:
                return Found((*path, key), "expected keys and values, found none")
            if found := empty_group(below, config[key], (*path, key)):
                return found
    return None


def missing(
    parser: ArgumentParser, config: Any, path: Path, later: Iterable[str] = ()
) -> Found | None:
    """The first required key that a config lacks, but for those that come later."""
    required = [action.dest for action in parser._actions if action.required]
    for key in [*required, *sorted(parser._extra_required_keys)]:
        parts = tuple(key.split("."))
        if parts[0] not in later and not holds(config, parts):
            how = "" if path else f": name it in a config file or as --{key}"
            return Found(path, f"{key} is missing{how}")
    return None


def in_keys(keys: Keys, config: Any, path: Path, owner: str = "") -> Found | None:
    """The first mistake in the values of a group of keys, or of a class's arguments."""
    config = loaded(config)
    if isinstance(config, str):  # a file with the group's values
        return None
    if not isinstance(config, Mapping):
        return Found(path, f"expected keys and values, got {config!r}")
    for key, value in config.items():
        below = (*path, str(key))
        if key not in keys:
            return Found(below, f"{owner or 'there is'} no key {key!r}{near(str(key), keys)}")
        inside = in_keys if isinstance(keys[key], dict) else in_type
        found = inside(keys[key], value, below)
        if found is not None:
            return found
    return None


def in_type(hint: Any, value: Any, path: Path) -> Found | None:
    """The first mistake in a value of a type, of a union in the member that it comes closest to."""
    found: list[Found] = []
    for one in members(hint):
        mistake = in_one_type(one, value, path)
        if mistake is None:
            return None
        found.append(mistake)
    closest = max(found, key=lambda mistake: (len(mistake.path), not mistake.of_type))
    return mismatch(hint, value, path) if closest.of_type and closest.path == path else closest


def in_one_type(hint: Any, value: Any, path: Path) -> Found | None:
    made, arguments, inner = get_origin(hint) or hint, get_args(hint), loaded(value)
    parts: list[tuple[Any, Any, Path]] | None = None
    if made in MAPPINGS and isinstance(inner, Mapping) and arguments:
        parts = [(arguments[1], one, (*path, str(key))) for key, one in inner.items()]
    if made in SEQUENCES and isinstance(inner, list) and arguments:
        parts = [(arguments[0], one, (*path, str(i))) for i, one in enumerate(inner)]
    if parts is not None:
        return next((found for part in parts if (found := in_type(*part))), None)
    why = refusal_of(hint, value)
    if why is None:
        return None
    base = class_expected(hint)
    if own := re.fullmatch(OF_ITS_OWN, why):
        kind, said = own.groups()
        return Found(path, said, of_type=not class_path(inner).startswith(f"{kind.lower()}."))
    if base is not None and isinstance(inner, str | Mapping):
        later = len(get_args(hint)[0]) if base is not hint else 0
        return in_class(base, inner, path, later)
    return mismatch(hint, value, path)


def in_class(base: type, value: Any, path: Path, later: int) -> Found | None:
    """The first mistake in {class_path, init_args}, or in the fields of a dataclass.

    The first `later` parameters of the class are given when it is made.
    """
    if isinstance(value, Mapping) and "class_path" not in value:
        if is_dataclass(base):
            return in_arguments(base, value, path)
        return Found(path, f"class_path is missing: name a {base.__name__}")
    if is_dataclass(base):
        return mismatch(base, value, path)
    made = class_named(class_path(value), base)
    if isinstance(made, str):
        return Found(path, made)
    if not inspect.isclass(made):
        return None
    if not issubclass(made, base):
        return mismatch(base, class_path(value), path)
    given = value.get("init_args") if isinstance(value, Mapping) else None
    return in_arguments(made, given or {}, path, later, f"{made.__name__} has")


def in_arguments(
    made: type, given: Any, path: Path, later: int = 0, owner: str = ""
) -> Found | None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(made, fail_untyped=False)
    found = in_keys(keys_of(parser), given, path, owner)
    return found or missing(parser, given, path, [*inspect.signature(made).parameters][:later])


def class_path(value: Any) -> str:
    named = value.get("class_path") if isinstance(value, Mapping) else value
    return str(named)


def refusal_of(hint: Any, value: Any) -> str | None:
    """What jsonargparse says of a value of a type; None if it takes it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        if isinstance(value, Typed):
            parser.parse_args([f"--value={value}"])
        else:
            parser.parse_object({"value": value})
    except ArgumentError as error:
        return str(error)
    return None


# ---- words


def loaded(value: Any) -> Any:
    """What was typed, as YAML reads it."""
    return load(str(value)) if isinstance(value, Typed) else value


def mismatch(hint: Any, value: Any, path: Path) -> Found:
    """That a value is not of a type."""
    text = repr(str(value) if isinstance(value, Typed) else value)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    *names, last = dict.fromkeys(name for part in members(hint) for name in names_of(part))
    wanted = f"{', '.join(names)} or {last}" if names else last
    listed = [
        one for part in members(hint) if get_origin(part) is Literal for one in names_of(part)
    ]
    close = get_close_matches(str(value), listed, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return Found(path, f"expected {wanted}, got {text}{meant}", of_type=True)


def own_words(refusal: str) -> str:
    """Of what jsonargparse says of every member of a union that it could not make, what is ours.

    Its own begins in one of a few ways.
    """
    said = re.findall(r"^ +- (.*)", refusal, flags=re.MULTILINE)
    ours = {line for line in said if not line.startswith(OF_JSONARGPARSE)}
    return ours.pop() if "Union subtypes" in refusal and len(ours) == 1 else refusal


def last_words(refusal: str) -> str:
    """The innermost line of jsonargparse's refusal, and the key it is about."""
    lines = [line for line in refusal.splitlines() if line.strip()]
    keys = re.findall(r'Parser key "([^"]+)"', refusal)
    deepest = max(lines, key=lambda line: len(line) - len(line.lstrip(" -")))
    said = re.sub(r"^the following arguments are required: ", "required: ", deepest.strip(" -"))
    said = re.sub(r'^Parser key "[^"]+":?\s*', "", said)
    return f"{'.'.join(dict.fromkeys(keys))}: {said}" if keys else said
