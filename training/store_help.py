"""Writes what train.py --help prints: python -m training.store_help

train.py prints the file without importing Lightning, which takes seconds.
"""

from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from training.cli import Train

STORED = Path(__file__).with_name("help.txt")


def page() -> str:
    """Return the help page, made from today's keys and docstrings."""
    with redirect_stdout(StringIO()) as shown, suppress(SystemExit):
        Train(["fit", "--help"])
    return shown.getvalue()


if __name__ == "__main__":
    STORED.write_text(page())
