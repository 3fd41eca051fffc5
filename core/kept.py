"""What is computed once for an object, and kept as long as it."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class Kept(Generic[T]):
    """Keeps one result for every owner, and forgets it with its owner, to which it may not refer.

    Owners and sources are told apart by identity, so owners must be hashable by it.
    """

    def __init__(self) -> None:
        self._entries: WeakKeyDictionary[Any, tuple[object, float, T]] = WeakKeyDictionary()

    def get(self, owner: object, source: object, number: float, make: Callable[[], T]) -> T:
        """Return what `make` made for this owner, source and number, or make it.

        A result of another source or number is let go before, as it may be large.
        """
        entry = self._entries.get(owner)
        if entry is None or entry[0] is not source or entry[1] != number:
            entry = None
            self._entries.pop(owner, None)
            entry = self._entries[owner] = (source, number, make())
        return entry[2]

    def __len__(self) -> int:
        return len(self._entries)
