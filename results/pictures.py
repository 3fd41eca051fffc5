"""What a recovery looks like: the measurement, the recovered image, the spread of its samples."""

import matplotlib
import torch
from torch import Tensor

from recovery.methods import Recovery
from recovery.operators import Operator

SAMPLES = 3  # shown of a posterior's
BRIGHTEST = 0.2  # standard deviation of the colour map's end, of values from 0 to 1
SPREAD = f"standard deviation (0 to {BRIGHTEST})"
OF_SAMPLES = (SPREAD, *(f"sample {k + 1}" for k in range(SAMPLES)))  # columns, where there are any


def measurement_as_image(y: Tensor, operator: Operator) -> Tensor | None:
    """Show y as images: itself, or its adjoint; None for a non-linear operator."""
    if tuple(y.shape[1:]) == operator.image_shape:
        return y
    return operator.A_adjoint(y) if operator.linear else None


def pictures_of(recovery: Recovery) -> dict[str, Tensor]:
    """Show a recovery as images (B, C, H, W) by column: "recovery", and of samples `OF_SAMPLES`."""
    columns = {"recovery": recovery.image}
    if recovery.samples is not None:
        columns[SPREAD] = in_colour(recovery.samples.std(dim=1).mean(dim=1) / BRIGHTEST)
        columns |= dict(zip(OF_SAMPLES[1:], recovery.samples.unbind(dim=1), strict=False))
    return columns


def in_colour(values: Tensor) -> Tensor:
    """Map (B, H, W), from 0 to 1, to RGB (B, 3, H, W) in matplotlib's perceptual `inferno`."""
    table = torch.tensor(matplotlib.colormaps["inferno"](range(256)))[:, :3]
    steps = (values.nan_to_num(nan=1.0).clamp(0, 1) * 255).round().long().cpu()
    return table[steps].movedim(-1, 1).float()
