"""--help: the keys in groups, each with its docstring; and the arguments of any class."""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser

from cli.configs import Mistake
from cli.keys import (
    MAPPINGS,
    SEQUENCES,
    class_expected,
    class_named,
    members,
    names_of,
)

WIDTH, COLUMN = 100, 36
HELP = ("--help", "-h")


class Page:
    """A program's help, section by section.

    Args:
        intro: what comes first: how the program is called.
        parser: of its keys.
        defaults: the config that is read before all others.
    """

    def __init__(self, intro: str, parser: ArgumentParser, defaults: Mapping[str, Any]) -> None:
        self.parts = [textwrap.dedent(intro).strip()]
        self.parser, self.defaults = parser, defaults

    def keys(self, heading: str, *keys: str, words: Mapping[str, str] | None = None) -> None:
        """A section of some of the parser's keys; one that ends with a dot is all below it.

        `words` say what keys mean whose docstrings are not ours.
        """
        known = list(options(self.parser))
        rows = [
            row(f"--{one.dest}", one, of(self.defaults, one.dest), (words or {}).get(one.dest))
            for key in keys
            for one in known
            if one.dest == key or (key.endswith(".") and one.dest.startswith(key))
        ]
        self.parts.append("\n".join([f"{heading}:", *rows]))

    def arguments(self, heading: str, made: type, prefix: str) -> None:
        """A section of a class's arguments."""
        self.parts.append("\n".join([f"{heading}:", *class_rows(made, prefix)]))

    def text(self) -> str:
        return "\n\n".join(self.parts) + "\n"


def show_help(arguments: Sequence[str], page: Callable[[], str]) -> None:
    """Print `page`, or what --help CLASS asks for, and end the program; unless it was not asked."""
    waiting = iter(arguments)
    if any(argument in HELP for argument in waiting):
        asked = next(waiting, "-")
        print(page() if asked.startswith("-") else class_page(asked), end="")
        sys.exit()


def class_page(path: str) -> str:
    """The arguments of a class that a config may name. Raises Mistake where there is none."""
    made = class_named(path, object)
    if isinstance(made, str):
        raise Mistake(f"--help {path}: {made}")
    rows = class_rows(made, "") if inspect.isclass(made) else []
    return "\n".join([f"{path}: {first_paragraph(made)}", *rows]) + "\n"


def class_rows(made: type, prefix: str) -> list[str]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(made, fail_untyped=False)
    later = given_later(made)
    return [
        row(f"{prefix}{action.dest}", action)
        for action in options(parser)
        if action.dest.split(".")[0] not in later
    ]


def given_later(made: type) -> list[str]:
    """Parameters that no config gives: what a method is made from, an operator's image shape."""
    # here, as they import torch
    from recovery.methods import PriorBased
    from recovery.operators import Operator

    count = 2 if issubclass(made, PriorBased) else 1 if issubclass(made, Operator) else 0
    return [*inspect.signature(made).parameters][:count]


def options(parser: ArgumentParser) -> Iterator[Any]:
    """The actions of a parser that take a value of a config."""
    for action in parser._actions:
        if hasattr(action, "_typehint") and not action.dest.endswith(".help"):
            yield action


def row(key: str, action: Any, default: Any = None, words: str | None = None) -> str:
    """A key with its type, and what it means."""
    default = action.default if default is None else default
    said = words or plain(action.help or "")
    if action.required and default is None:
        said = f"{said} (required)".strip()
    elif shown := in_words(default):
        said = f"{said} (default: {shown})".strip()
    head = f"  {key} {kind(action._typehint)}".rstrip()
    first, *more = textwrap.wrap(said, WIDTH - COLUMN, break_on_hyphens=False) or [""]
    lines = [f"{head:<{COLUMN}}{first}"] if len(head) < COLUMN else [head, " " * COLUMN + first]
    return "\n".join([*lines, *(" " * COLUMN + line for line in more)]).rstrip()


def kind(hint: Any) -> str:
    """A type in a word; nothing for one that takes more words."""
    parts = [part for part in members(hint) if part is not type(None)]
    made = get_origin(parts[0]) if len(parts) == 1 else None
    if made in (*MAPPINGS, *SEQUENCES):
        inside = [kind(one) or "..." for one in get_args(parts[0])]
        if made in MAPPINGS:
            return f"{{NAME: {inside[1]}}}"
        return f"[{', '.join(inside)}{'' if made is tuple else ', ...'}]"
    if all(class_expected(part) for part in parts):
        return "..." if any(is_dataclass(class_expected(part)) for part in parts) else "CLASS"
    text = "|".join(dict.fromkeys(name for part in parts for name in names_of(part)))
    return text if len(text) <= 60 and not re.search(r"[A-Z[]", text) else ""


def in_words(default: Any) -> str:
    """A default in a few words; nothing where it says nothing."""
    if isinstance(default, Mapping):
        named = default.get("class_path")
        return str(named).rpartition(".")[2] if named else ", ".join(default)
    if isinstance(default, list | tuple | bool):
        text = yaml.safe_dump(
            list(default) if isinstance(default, tuple) else default, default_flow_style=True
        )
        return text.removesuffix("\n...\n").strip() if default or default is False else ""
    return "" if default is None else str(default)


def of(config: Mapping[str, Any], key: str) -> Any:
    """A dotted key's value in a config, None where it has none."""
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def first_paragraph(made: Any) -> str:
    return plain((inspect.getdoc(made) or "").partition("\n\n")[0])


def plain(text: str) -> str:
    """A docstring's text without markup, on one line."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    return " ".join(text.replace("``", "").split())
