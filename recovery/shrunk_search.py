"""The likeliest image, shrunk towards a Gaussian's posterior mean: less expected squared error."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from priors.prior import Prior
from recovery.image_search import ImageSearch
from recovery.methods import Progress, Recovery, residual_norm
from recovery.operators import Operator

ALL_OF_IT = 0.2  # of an image's values: with as many measurements nothing is shrunk
PER_HALVING = 0.125  # shrinkage that half as many measurements add


class ShrunkSearch(ImageSearch):
    """An `ImageSearch` whose result x becomes x + shrinkage (mean - x), per image.

    `mean` is the posterior mean of the Gaussian that the search starts from: of the mean and
    covariance of the prior's own samples. The mode of a posterior is not its mean, which has the
    least expected squared error; a Gaussian's mean misses what the flow knows. Both fit y, and they
    err in different directions, so that a mean of the two errs less (Bates & Granger 1969). It
    costs no evaluation. The less is measured, the more it gains (docs/recovery.md).

    For an operator that `ImageSearch` cannot search images for, nothing is shrunk. What the search
    itself has found is the recovery's alternative `likeliest`; its `objective` is of both.

    Args:
        prior: as of `ImageSearch`, as are gamma and all options but:
        shrinkage: in [0, 1]; by default log2(n / 5m) / 8, and 0 from n / 5 measurements on or with
            fewer samples than n: the default 4000 are enough at 32px, and at 64px nothing gains.

    Raises:
        ValueError: as `ImageSearch`, or shrinkage is out of range.
    """

    variant = "shrunk"

    def __init__(
        self, prior: Prior, gamma: float = 0.0, *, shrinkage: float | None = None, **options: Any
    ) -> None:
        super().__init__(prior, gamma, **options)
        if shrinkage is not None and not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage must be in [0, 1], got {shrinkage}")
        self.shrinkage = shrinkage

    def shrinkage_of(self, operator: Operator) -> float:
        """Look up or compute the shrinkage, from the share of an image's values it measures."""
        if self.shrinkage is not None:
            return self.shrinkage
        n = self.prior.latent_dim
        if self.samples < n:  # their covariance is singular, its posterior mean a poor one
            return 0.0
        measured = max(1, operator.measurements) / n
        return min(1.0, max(0.0, PER_HALVING * math.log2(ALL_OF_IT / measured)))

    @torch.no_grad()
    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        found = super()._recover(y, operator, seeds, progress)
        shrinkage = self.shrinkage_of(operator)
        if self.hindrance(operator) is None and shrinkage > 0:
            mean = self.posterior(y, operator).mean(y, operator)
            x = torch.lerp(found.image, mean, shrinkage)
            residual, latent = residual_norm(x, y, operator), self.prior.encode(x)[0]
            shrunk = replace(found, image=x, latent=latent, residual=residual)
        else:
            shrunk = found
        return replace(shrunk, alternatives={"likeliest": found})
