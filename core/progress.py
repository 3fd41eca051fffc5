"""Progress bars that count images."""

import sys
from typing import Any

from tqdm import tqdm


def image_bar(title: str, total: int, **options: Any) -> "tqdm[None]":
    """Make a bar that counts images: twice a second on a terminal, twice a minute in a log."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total,
        desc=title,
        unit="image",
        mininterval=interval,
        miniters=0,
        smoothing=0.05,
        **options,
    )
