"""The linear invertible model of the paper's Theorem 1, x = mu + G z: a Gaussian.

Its covariance C = G G' has r leading eigenvectors U, with standard deviations s, and an isotropic
rest, rho, in all other directions (probabilistic PCA: Tipping & Bishop 1999). G is C's symmetric
root,

    G = U diag(s) U' + rho (I - U U'),

so that latents are images of white noise, and nothing depends on a choice of axes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Gaussian:
    """The arithmetic of a `LinearFlow`, over its weights or a copy of them.

    Attributes:
        image_shape: (C, H, W); n = C H W.
        mean: (n,).
        vectors: U, (n, r), orthonormal columns.
        scales: s, (r,).
        rest: rho, ().
    """

    image_shape: tuple[int, int, int]
    mean: Tensor
    vectors: Tensor
    scales: Tensor
    rest: Tensor

    @property
    def latent_dim(self) -> int:
        return math.prod(self.image_shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) -> z (B, n), log_det (B,) in nats."""
        z = self._stretch(x.flatten(1) - self.mean, 1 / self.scales, 1 / self.rest)
        others = self.latent_dim - len(self.scales)
        log_det = -(self.scales.log().sum() + others * self.rest.log())
        return z, log_det.expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        """z (B, n) -> x (B, C, H, W)."""
        x = self.mean + self._stretch(z, self.scales, self.rest)
        return x.unflatten(1, self.image_shape)

    def covariance(self, v: Tensor) -> Tensor:
        """Multiply rows v (B, n) by C.

        At full rank I - U U' is rounding, of float32, and by the least variance at most: more would
        make C indefinite.
        """
        variances = self.scales.square()
        full = len(variances) == self.latent_dim
        return self._stretch(v, variances, variances.min() if full else self.rest.square())

    def _stretch(self, v: Tensor, along: Tensor, elsewhere: Tensor) -> Tensor:
        """Multiply rows v (B, n) by U diag(along) U' + elsewhere (I - U U')."""
        return elsewhere * v + (v @ self.vectors * (along - elsewhere)) @ self.vectors.T

    def to(self, dtype: torch.dtype) -> "Gaussian":
        tensors = (self.mean, self.vectors, self.scales, self.rest)
        return Gaussian(self.image_shape, *(tensor.to(dtype) for tensor in tensors))


class LinearFlow(nn.Module):
    """x = mu + G z with standard normal z; the identity until it is fitted.

    Args:
        image_size: H = W.
        channels: image channels.
        rank: eigenvectors kept, r; None for all n of them. It holds n x r numbers.

    Raises:
        ValueError: a size is below 1, or the rank above n.
    """

    def __init__(self, image_size: int = 32, channels: int = 3, rank: int | None = None) -> None:
        super().__init__()
        n = channels * image_size**2
        rank = n if rank is None else rank
        if min(image_size, channels, rank) < 1 or rank > n:
            raise ValueError(
                f"LinearFlow: sizes must be at least 1 and rank at most n = {n}, got image_size "
                f"{image_size}, channels {channels}, rank {rank}"
            )
        self.image_shape = (channels, image_size, image_size)
        self.latent_dim = n
        self.mean = nn.Parameter(torch.zeros(n))
        self.vectors = nn.Parameter(torch.eye(n, rank))
        self.scales = nn.Parameter(torch.ones(rank))
        self.rest = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("initialized", torch.tensor(False))
        self.initialized: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) in [-0.5, 0.5] -> z (B, n), log_det (B,) in nats."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"LinearFlow: expected (B, *{self.image_shape}), got {tuple(x.shape)}")
        return self.fold().forward(x)

    def inverse(self, z: Tensor) -> Tensor:
        """z (B, n) -> x (B, C, H, W)."""
        if tuple(z.shape[1:]) != (self.latent_dim,):
            raise ValueError(f"LinearFlow: expected (B, {self.latent_dim}), got {tuple(z.shape)}")
        return self.fold().inverse(z)

    def fold(self) -> Gaussian:
        return Gaussian(self.image_shape, self.mean, self.vectors, self.scales, self.rest)

    @torch.no_grad()
    def frozen(self) -> Gaussian:
        """Take a snapshot for recovery, without gradients to the weights.

        Makes U's columns orthonormal again, which they are no longer once stored in half precision.
        """
        vectors = self.vectors
        if self.initialized:  # else they are axes
            vectors, triangle = torch.linalg.qr(vectors)
            vectors *= triangle.diagonal().sign()
        tensors = (self.mean, vectors, self.scales, self.rest)
        return Gaussian(self.image_shape, *(tensor.detach().clone() for tensor in tensors))

    @torch.no_grad()
    def fit(self, mean: Tensor, covariance: Tensor) -> None:
        """Set the maximum likelihood model of this rank, given moments (n,), (n, n) of the data.

        rho^2 is the mean of the eigenvalues left out (Tipping & Bishop 1999, eq. 8). In float64.

        Raises:
            ValueError: the covariance is not positive definite.
        """
        variances, vectors = torch.linalg.eigh(covariance.double())
        if not variances[0] > 0:
            raise ValueError(
                "LinearFlow: the covariance is not positive definite: its least eigenvalue is "
                f"{variances[0]:.3g}"
            )
        rank = len(self.scales)
        left_out, kept = variances.split([len(variances) - rank, rank])
        self.mean.copy_(mean)
        self.vectors.copy_(vectors[:, -rank:].flip(1))  # the largest first
        self.scales.copy_(kept.flip(0).sqrt())
        # at full rank any number is right: I - U U' is 0 but for rounding, which 1 does not amplify
        self.rest.copy_(left_out.mean().sqrt() if len(left_out) else torch.ones(()))
        self.initialized.fill_(True)
