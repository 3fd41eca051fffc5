"""The moving average of a network's weights, by images seen."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def move_average(
    average: nn.Module, network: nn.Module, images: int, images_seen: int, half_life: int
) -> None:
    """Move the average: average <- d average + (1 - d) weights, d = 2^(-images / half-life).

    `images` are those since its last move. The half-life is at most 5% of the images seen, so that
    the average does not remember the start (Karras et al. 2020, appendix B).
    """
    decay = 0.5 ** (images / min(half_life, 0.05 * images_seen))
    move = get_ema_multi_avg_fn(decay)  # all weights in one operation on a GPU
    move(list(average.parameters()), list(network.parameters()), None)
