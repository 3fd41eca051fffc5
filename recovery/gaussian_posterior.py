"""A Gaussian that stands in for an invertible prior: where a search starts, and how it is scaled.

Both are kept as long as what they were made from: the fit with its prior, the posterior with its
operator.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.kept import Kept
from core.seeds import normal, seed_from
from priors.prior import FlowPrior, decode_in_parts
from recovery.linear_gaussian import matrix_of
from recovery.operators import Operator

AT_ONCE = 256  # samples decoded at once
TYPICAL_SAMPLES = 128  # they set the typical likelihood
BLOCK = 512  # columns at once of a product of which half is needed
LEAST_VARIANCE = 1e-4  # added to the covariance, which is singular for fewer samples than values


@dataclass(frozen=True)
class Gaussian:
    """N(mean, L L') of images (C, H, W), in float64.

    Attributes:
        mean: (n,).
        root: L, (n, n), lower triangular.
    """

    mean: Tensor
    root: Tensor


@dataclass(frozen=True)
class Posterior:
    """Images given measurements y of an operator, for a Gaussian prior: N(mean(y), R R').

    Attributes:
        prior: the Gaussian.
        sigma: standard deviation of the noise.
        root: R, (n, n), in float64.
        seen: A R, (m, n), in float64: an adjoint in float32 has a rounding error that A does not
            see, and that 1 / sigma^2 would amplify.
    """

    prior: Gaussian
    sigma: float
    root: Tensor
    seen: Tensor

    def mean(self, y: Tensor, operator: Operator) -> Tensor:
        """Compute mu + R (A R)' (y - A mu) / sigma^2 for y (B, ...): images (B, C, H, W)."""
        shape = operator.image_shape
        expected = operator.A(self.prior.mean.to(y).view(1, *shape))
        difference = (y - expected).flatten(1).double()
        moved = self.prior.mean + difference @ self.seen @ self.root.T / self.sigma**2
        return moved.unflatten(1, shape).to(y)


_gaussians: Kept[Gaussian] = Kept()
_typical: Kept[Tensor] = Kept()
_posteriors: Kept[Posterior] = Kept()


def gaussian_of(prior: FlowPrior, samples: int, like: Tensor) -> Gaussian:
    """Fit mean and covariance to that many samples of a prior of `like`'s device and type."""
    return _gaussians.get(prior, None, samples, lambda: fit(prior, samples, like))


@torch.no_grad()
def fit(prior: FlowPrior, samples: int, like: Tensor) -> Gaussian:
    n = prior.latent_dim
    total = like.new_zeros(n, dtype=torch.float64)
    products = like.new_zeros(n, n, dtype=torch.float64)
    for first in range(0, samples, AT_ONCE):
        indices = range(first, min(first + AT_ONCE, samples))
        # an untrained prior may decode to nan
        flat = samples_of(prior, indices, like).flatten(1).nan_to_num()
        total += flat.double().sum(dim=0)
        products += flat.T @ flat
    mean = total / samples
    covariance = products.div_(samples).sub_(mean.outer(mean))
    covariance.diagonal().add_(LEAST_VARIANCE)
    return Gaussian(mean, torch.linalg.cholesky(covariance))


def typical_of(prior: FlowPrior, temperature: float, like: Tensor) -> Tensor:
    """Compute the mean of -2 log p_G, (), over samples G(temperature z) of a prior."""

    @torch.no_grad()
    def mean() -> Tensor:
        images = samples_of(prior, range(TYPICAL_SAMPLES), like, temperature)
        return -2 * prior.encode(images)[1].mean()

    return _typical.get(prior, None, temperature, mean)


def samples_of(prior: FlowPrior, indices: range, like: Tensor, std: float = 1.0) -> Tensor:
    """Decode latents of N(0, std^2 I), always the same for the same index; clamped to [0, 1]."""
    latents = normal([seed_from("sample of the prior", i) for i in indices], (prior.latent_dim,))
    return decode_in_parts(prior, std * latents.to(like))


def posterior_of(gaussian: Gaussian, operator: Operator, y: Tensor, sigma: float) -> Posterior:
    """Make the posterior given what a linear operator measures with noise sigma, as y (B, ...)."""
    return _posteriors.get(
        operator, gaussian, sigma, lambda: factored(gaussian, operator, y, sigma)
    )


@torch.no_grad()
def factored(gaussian: Gaussian, operator: Operator, y: Tensor, sigma: float) -> Posterior:
    """Compute R = L M^-T, where M M' = I + L' A' A L / sigma^2 (a Cholesky factor)."""
    seen = gaussian.root  # A L
    if not operator.denoises:
        seen = times_lower(matrix_of(operator, y[:1]).double(), seen)
    inner = lower_gram(seen).div_(sigma**2)
    inner.diagonal().add_(1)
    factor = torch.linalg.cholesky(inner)
    del inner
    root = torch.linalg.solve_triangular(factor.T, gaussian.root, upper=True, left=False)
    if operator.denoises:
        return Posterior(gaussian, sigma, root, root)
    seen = torch.linalg.solve_triangular(factor.T, seen, upper=True, left=False)
    return Posterior(gaussian, sigma, root, seen)


def times_lower(left: Tensor, lower: Tensor) -> Tensor:
    """Multiply (m, n) by a lower triangular (n, n), leaving out what is zero: half the work."""
    product = torch.empty_like(left)
    for columns in blocks(len(lower)):
        first = columns.start
        torch.mm(left[:, first:], lower[first:, columns], out=product[:, columns])
    return product


def lower_gram(x: Tensor) -> Tensor:
    """Compute the lower triangle of x'x for (m, n), the rest zero but for its diagonal blocks:
    half the work."""
    gram = x.new_zeros(x.shape[1], x.shape[1])
    for columns in blocks(x.shape[1]):
        first = columns.start
        gram[first:, columns] = x[:, first:].T @ x[:, columns]
    return gram


def blocks(count: int) -> list[slice]:
    """Cut `count` columns into blocks, of which a matrix product of a few is still fast."""
    return [slice(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
