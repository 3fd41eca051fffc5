"""float32 means float32: what a search needs of the machine's arithmetic."""

import torch


def require_full_precision() -> None:
    """Turn TF32 off for this process's convolutions, which run in it on recent GPUs by default.

    Its 10 bits of mantissa make values and gradients disagree, and a search end early: at half
    of n measurements, rounded like that, with twice the residual of the noise. Where speed is
    worth it, bf16 is asked for by name, inside coupling networks alone (configs/cluster.yaml).
    """
    torch.backends.cudnn.allow_tf32 = False
