"""Results kept with their owners."""

import gc
import weakref

from core.kept import Kept


class Thing:
    """Hashable by identity, and weakly referenced."""


def test_a_result_is_made_once_for_an_owner_a_source_and_a_number() -> None:
    kept: Kept[Thing] = Kept()
    owner, source = Thing(), Thing()
    made = kept.get(owner, source, 1.0, Thing)
    assert kept.get(owner, source, 1.0, Thing) is made
    assert kept.get(Thing(), source, 1.0, Thing) is not made
    assert kept.get(owner, source, 2.0, Thing) is not made
    assert kept.get(owner, Thing(), 2.0, Thing) is not made


def test_a_result_goes_with_its_owner_and_before_another_is_made() -> None:
    kept: Kept[Thing] = Kept()
    owner = Thing()
    first = weakref.ref(kept.get(owner, None, 1.0, Thing))
    assert first() is not None

    def make() -> Thing:
        gc.collect()
        assert first() is None
        return Thing()

    second = weakref.ref(kept.get(owner, None, 2.0, make))
    del owner
    gc.collect()
    assert second() is None and len(kept) == 0
