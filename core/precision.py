"""float32 means float32: what a search needs of the machine's arithmetic."""

import torch


def require_full_precision() -> None:
    """Turn TF32 off for this process's convolutions, which run in it on recent GPUs by default.

    With its 10 bits of mantissa values and gradients disagree, so that a search ends early. Where
    speed is worth it, bf16 is asked for by name, inside coupling networks alone
    (configs/cluster.yaml).
    """
    torch.backends.cudnn.allow_tf32 = False
