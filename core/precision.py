"""float32 means float32, as a search needs it; and where training does better with bfloat16."""

import torch


def require_full_precision() -> None:
    """Turn TF32 off for this process's convolutions, which use it by default on recent GPUs.

    With its 10 bits of mantissa, values and gradients disagree and a search ends early. Where speed
    is worth it, a config asks for bf16 by name, inside coupling networks only
    (configs/cluster.yaml).
    """
    torch.backends.cudnn.allow_tf32 = False


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by its own instructions (AVX512-BF16 or AMX)."""
    have: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than torch 2.11
    return bool(have.get("avx512_bf16") or have.get("amx_bf16"))


def precision_of_training(accelerator: str) -> str | None:
    """Choose Lightning's precision for Glow: bf16-mixed on CPUs that have it, else its default.

    There it makes training 1.6 to 1.9 times as fast (docs/performance.md).
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return "bf16-mixed" if on_cpu and has_bfloat16() else None
