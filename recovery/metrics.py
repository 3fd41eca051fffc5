"""How close a recovery is to the truth, per image. Images are clamped to [0, 1] first."""

import torch
from torch import Tensor


def psnr(image: Tensor, truth: Tensor, region: Tensor | None = None) -> Tensor:
    """Compute the peak signal-to-noise ratio (B,) in dB, 10 log10(1 / MSE), data range 1.

    Within `region` (H, W), bool, if given. Infinite for equal images.
    """
    error = (image.clamp(0, 1) - truth.clamp(0, 1)).double().square()
    if region is not None:
        error = error[..., region]
    return -10 * torch.log10(error.flatten(1).mean(dim=1))


def ssim(image: Tensor, truth: Tensor) -> Tensor:
    """Compute SSIM (B,), data range 1, with an 11x11 Gaussian window (Wang et al. 2004)."""
    # here, because importing torchmetrics takes longer than all that needs no metric
    from torchmetrics.functional.image import structural_similarity_index_measure

    return structural_similarity_index_measure(
        image.clamp(0, 1), truth.clamp(0, 1), data_range=1.0, reduction="none"
    ).reshape(len(image))
