"""A command line, read: one config, or one line that says what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from cli.configs import Command, Mistake, at_home
from cli.keys import keys_of
from cli.mistakes import empty_group, explain, own_words, words


class Strict(ArgumentParser):
    """A parser that raises its refusals, and takes no abbreviation of a key for the key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # defaults, as jsonargparse makes further parsers of this class for the arguments of classes
        super().__init__(*args, **{"exit_on_error": False, "allow_abbrev": False, **kwargs})


def parse(parser: ArgumentParser, command: Command, keys: ArgumentParser) -> Namespace:
    """The config of a command.

    Args:
        parser: of the program, Strict.
        command: its command line.
        keys: the parser that knows the config's keys, of a subcommand perhaps.

    Raises:
        Mistake: in one line: the key, where it was given, and the nearest one that there is.
    """
    if found := empty_group(keys_of(keys), command.config):
        raise Mistake(words(found, command))
    try:
        config = parser.parse_args(command.arguments)
    except ArgumentError as error:
        raise Mistake(explain(str(error), command, keys)) from error
    return with_home(config)


def with_home(value: Any) -> Any:
    """A config with the ~ of every path in it expanded: the one place that does."""
    if isinstance(value, str):
        return at_home(value)
    if isinstance(value, list):
        return [with_home(one) for one in value]
    if isinstance(value, dict | Namespace):
        of = vars(value) if isinstance(value, Namespace) else value
        return type(value)({key: with_home(one) for key, one in of.items()})
    return value


@contextmanager
def said_by_us() -> Iterator[None]:
    """What makes the objects of a config raises our own errors as they are."""
    try:
        yield
    except ValueError as error:
        own = own_words(str(error))
        if own == str(error):
            raise
        raise ValueError(own) from error
