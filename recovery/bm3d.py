"""BM3D (Dabov, Foi, Katkovnik & Egiazarian 2007), in colour, with deepinv's own implementation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recovery.methods import PriorFree, Progress, Recovery, Status, residual_norm
from recovery.operators import Operator
from recovery.physics import require_deepinv

# A basis of colours: brightness, by which BM3D matches patches, and two opponents. Orthonormal, so
# that white noise stays white and keeps its sigma.
OPPONENT = torch.tensor(
    [
        [1 / math.sqrt(3)] * 3,
        [1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)],
        [1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)],
    ]
)


class BM3D(PriorFree):
    """Denoises images of known sigma: groups alike patches, thresholds them, then Wiener filters.

    Applies `deepinv.models.BM3D(use_legacy=False)` to the image in opponent colours, with DCTs
    throughout: its wavelets need ptwt, which is under the EUPL, and its `use_legacy` the package
    bm3d, which is not for commercial use. Needs deepinv (`pip install deepinv`).

    Status: `converged`, or `diverged` where the result is not finite.

    Args:
        patch_size: side of a patch in pixels.
        stride: pixels between the patches for which it looks for others.
    """

    def __init__(self, patch_size: int = 6, stride: int = 2) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.stride = stride

    def check(self, operator: Operator) -> None:
        require_deepinv("BM3D")
        if not operator.denoises or not operator.sigma > 0:
            raise ValueError(
                "BM3D removes noise of known sigma from a whole image, and "
                f"{operator.label} is another problem: recover it by other methods"
            )
        if min(operator.image_shape[1:]) < self.patch_size:
            raise ValueError(
                f"BM3D's patches of {self.patch_size} pixels do not fit images of shape "
                f"{operator.image_shape}"
            )

    @torch.no_grad()
    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        self.check(operator)
        from deepinv.models import BM3D as DeepinvBM3D  # noqa: N811

        dct = ("spatial_ht_transform", "group_ht_transform", "group_wiener_transform")
        denoiser = DeepinvBM3D(
            use_legacy=False,
            device=y.device,
            patch_size=self.patch_size,
            ref_stride=self.stride,
            **dict.fromkeys(dct, "dct"),
        )
        colours = OPPONENT if y.shape[1] == 3 else torch.eye(y.shape[1])
        colours = colours.to(y)
        images = []
        for done, noisy in enumerate(y, 1):
            clean = denoiser(torch.einsum("ij,jhw->ihw", colours, noisy)[None], operator.sigma)[0]
            images.append(torch.einsum("ji,jhw->ihw", colours, clean))
            if progress is not None:
                progress(1, len(y) - done)
        image = torch.stack(images)
        residual = residual_norm(image, y, operator)
        steps = torch.ones(len(y), dtype=torch.int64)
        status: list[Status] = [
            "converged" if finite else "diverged" for finite in residual.isfinite().tolist()
        ]
        return Recovery(
            image=image,
            latent=None,
            objective=residual.square(),
            residual=residual,
            steps=steps,
            evaluations=steps,
            status=tuple(status),
        )
