"""Errors of others in one line."""

import torch


def in_a_line(error: BaseException) -> str:
    """What an error says, on one line; after its class, where the text alone may say little."""
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, OSError | TypeError | ValueError)
        else f"{type(error).__name__}: {text}"
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine has no memory left."""
    of_torch = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # on a CPU
    return of_torch or isinstance(error, torch.OutOfMemoryError | MemoryError)
