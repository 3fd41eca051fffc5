"""Named images that training never sees, in its distribution or out of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Distribution = Literal["in", "out"]
Channels = Literal[1, 3]  # grey, RGB
LUMA = (19595, 38470, 7471)  # of 2^16: Pillow's, by ITU-R 601-2


@dataclass(frozen=True)
class ImageSet:
    """A held-out set.

    Attributes:
        name: what configs and rows call it.
        distribution: in or out of the training distribution.
        images: uint8 (N, C, H, W).
        image_names: the N names.
        identity: of the prepared set they are from (`ShardIndex.identity`); drawn faces have none.
    """

    name: str
    distribution: Distribution
    images: Tensor
    image_names: Sequence[str]
    identity: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def in_channels(self, channels: Channels) -> "ImageSet":
        """The set as it is, or in grey."""
        return replace(self, images=in_channels(self.images, channels))

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        names = [self.image_names[index] for index in indices]
        return replace(self, images=self.images[list(indices)], image_names=names)


def in_channels(images: Tensor, channels: Channels) -> Tensor:
    """RGB images uint8 (..., 3, H, W) as they are, or in grey: (..., 1, H, W)."""
    if channels == 3:
        return images
    weights = torch.tensor(LUMA, dtype=torch.int32).view(3, 1, 1)
    summed = (images.int() * weights).sum(dim=-3, keepdim=True)
    return ((summed + 2**15) >> 16).to(torch.uint8)
