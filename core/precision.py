"""float32 means float32: what a search needs of the machine's arithmetic."""

import torch


def require_full_precision() -> None:
    """Turn TF32 off for this process's convolutions, which use it by default on recent GPUs.

    With its 10 bits of mantissa, values and gradients disagree and a search ends early. Where speed
    is worth it, a config asks for bf16 by name, inside coupling networks only
    (configs/cluster.yaml).
    """
    torch.backends.cudnn.allow_tf32 = False
