"""Named tensors: which they are, and whether they fit."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hash the values of named tensors, such as a state dict, to 12 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=6)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def require_same_architecture(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Raise ValueError naming the first parameter that is missing, extra or of another shape."""
    difference = first_difference(ours, theirs)
    if difference is not None:
        name, here, there = difference
        raise ValueError(
            f"The weights are of another architecture: {name} is {there} in them and {here} in "
            "this config. Use the config they were trained with."
        )


def first_difference(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[str, tuple[int, ...] | str, tuple[int, ...] | str] | None:
    """Find the first tensor whose shapes differ: (name, our shape, their shape), or None.

    The shape of a tensor that one side lacks is "absent".
    """
    for name in [*ours, *theirs]:
        here = tuple(ours[name].shape) if name in ours else "absent"
        there = tuple(theirs[name].shape) if name in theirs else "absent"
        if here != there:
            return name, here, there
    return None
