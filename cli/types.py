"""What config files may name that jsonargparse does not know by itself."""

from typing import Any

from jsonargparse.typing import register_type

from recovery.physics import Deepinv


def as_deepinv(value: Any) -> Deepinv:
    return value if isinstance(value, Deepinv) else Deepinv(value)


def register_types() -> None:
    """deepinv's objects stay descriptions, so that its type hints are not consulted."""
    register_type(
        Deepinv,
        serializer=lambda named: named.spec,
        deserializer=as_deepinv,
        fail_already_registered=False,
    )
