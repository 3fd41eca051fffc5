"""Keys and passwords stay out of what is written or sent."""

import re
from typing import Any

NAMES = re.compile(r"(^|_)(api_?key|token|secret|password)$", re.IGNORECASE)
HIDDEN = "(hidden)"


def is_secret(name: object, value: object) -> bool:
    """Whether an option is a secret: a text, called api_key, token, secret or password."""
    return isinstance(value, str) and NAMES.search(str(name)) is not None


def without_secrets(config: Any) -> Any:
    """A config with every secret in it hidden."""
    if isinstance(config, list):
        return [without_secrets(value) for value in config]
    if not isinstance(config, dict):
        return config
    return {
        name: HIDDEN if is_secret(name, value) else without_secrets(value)
        for name, value in config.items()
    }
