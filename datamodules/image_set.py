"""Named images that training never sees, in its distribution or out of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

Distribution = Literal["in", "out"]


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

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        names = [self.image_names[index] for index in indices]
        return replace(self, images=self.images[list(indices)], image_names=names)
