"""Seeds: the same everywhere and always, told apart by every part."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.seeds import normal, seed_from, uniform


def test_seeds_never_change() -> None:
    """Kept results are compared with new ones: a new formula would change all noise."""
    assert seed_from() == 8238016292129134938
    assert seed_from("noise", 0, 5) == 5007185236531872537


def test_seeds_tell_their_parts_apart() -> None:
    parts: list[tuple[int | str, ...]] = [(1,), ("1",), (1, 1), (11,), ("a", "b"), ("ab",), (-1,)]
    seeds = {seed_from(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("draw", [normal, uniform])
def test_a_row_depends_on_its_seed_alone(draw: Callable[..., Tensor]) -> None:
    rows = draw([5, 2**63 - 1, 5], (4, 3))
    assert rows.shape == (3, 4, 3)
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(draw([2**63 - 1], (4, 3))[0], rows[1])
    assert not torch.equal(rows[0], rows[1])


def test_normal_and_uniform_are_what_they_say() -> None:
    seeds = range(200)
    u, z = uniform(seeds, (100,)), normal(seeds, (100,))
    assert u.min() >= 0 and u.max() < 1
    error = 5 / math.sqrt(u.numel())
    assert abs(u.mean() - 0.5) < error and abs(u.var() - 1 / 12) < error
    assert abs(z.mean()) < error and abs(z.var() - 1) < 2 * error
