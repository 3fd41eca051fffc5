"""Randomness that depends on what is computed, never on who computes it or when."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def seed_from(*parts: int | str) -> int:
    """Hash integers and strings to a 63-bit seed, equal on every machine and in every run."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Make a CPU generator seeded by `seed_from(*parts)`."""
    return torch.Generator().manual_seed(seed_from(*parts))


def normal(seeds: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """Draw N(0, 1) of shape (B, *shape) on the CPU; row i depends on the i-th seed alone."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


def uniform(seeds: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """Draw U[0, 1) of shape (B, *shape) on the CPU; row i depends on the i-th seed alone."""
    rows = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)
