"""Checks of the numbers that constructors are given."""


def require_at_least(least: float, **numbers: float) -> None:
    """Raise ValueError, naming it, for a number below `least`."""
    for name, number in numbers.items():
        if not number >= least:
            raise ValueError(f"{name} must be at least {least:g}, got {number}")


def require_above(bound: float, **numbers: float) -> None:
    """Raise ValueError, naming it, for a number that is not above `bound`."""
    for name, number in numbers.items():
        if not number > bound:
            raise ValueError(f"{name} must be above {bound:g}, got {number}")
