"""Recovery through a linear flow in closed form: the Wiener filter for any linear operator."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from core.checks import require_at_least
from core.kept import Kept
from priors.prior import FlowPrior, Prior
from recovery.linear import conjugate_gradients, linear_recovery
from recovery.methods import PriorBased, Progress, Recovery, require_linear, residual_energy
from recovery.operators import Operator

LEAST_SIGMA = 1e-4  # of exact measurements: below an 8-bit image's rounding, above float64's
LARGEST_MATRIX = 16_384  # measurements up to which A C A' is formed and factored


@runtime_checkable
class GaussianNetwork(Protocol):
    """A flow that is a Gaussian; see `networks.linear_flow.Gaussian`."""

    mean: Tensor

    def covariance(self, v: Tensor) -> Tensor: ...

    def to(self, dtype: torch.dtype) -> "GaussianNetwork": ...


class Wiener(PriorBased):
    """The mean of x given y = A x + noise, for x ~ N(mu, C):

        x = mu + C A' (A C A' + sigma^2 I)^-1 (y - A mu)

    the linear estimator of least mean squared error (Wiener 1949), which is what `LatentSearch`
    through the same prior finds where gamma = sigma^2. By a Cholesky factor of A C A' + sigma^2 I,
    one for the images of a call, in float64; by conjugate gradients beyond 16,384 measurements.

    Status: `converged`, `budget` where conjugate gradients end at their limit, `diverged` where the
    result is not finite.

    Args:
        prior: a linear flow's.
        gamma: unused: the noise's own variance takes its place.
        sigma: standard deviation of the noise, where the operator does not tell it.
        iterations: of conjugate gradients, at most.
        tolerance: of theirs, relative to ||y - A mu||.

    Raises:
        ValueError: the prior is no linear flow, or an option is out of range.
    """

    prior: FlowPrior

    def __init__(
        self,
        prior: Prior,
        gamma: float = 0.0,
        *,
        sigma: float | None = None,
        iterations: int = 1000,
        tolerance: float = 1e-5,
    ) -> None:
        super().__init__()
        network: Any = getattr(prior, "network", None)
        if not isinstance(prior, FlowPrior) or not isinstance(network, GaussianNetwork):
            raise ValueError(
                f"a Wiener filter needs the prior of a linear flow (networks.linear_flow), and "
                f"{prior.name} is not one"
            )
        if sigma is not None:
            require_at_least(0, sigma=sigma)
        require_at_least(1, iterations=iterations)
        self.prior = prior
        self._gaussian = network
        self.sigma = sigma
        self.iterations = iterations
        self.tolerance = tolerance

    def check(self, operator: Operator) -> None:
        require_linear("a Wiener filter", operator)
        self.variance(operator)

    def variance(self, operator: Operator) -> float:
        """Compute sigma^2. Raises ValueError where neither the operator nor the config tells it."""
        sigma = operator.sigma if self.sigma is None else self.sigma
        if self.sigma is None and not operator.tells_noise:
            raise ValueError(
                f"a Wiener filter needs the noise's standard deviation, and {operator.label} does "
                "not tell it: set the method's sigma"
            )
        return max(sigma, LEAST_SIGMA) ** 2

    def takes_gamma(self, operator: Operator) -> bool:
        return False

    @torch.no_grad()
    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        variance = self.variance(operator)
        solve = self.by_cholesky if y[0].numel() <= LARGEST_MATRIX else self.by_gradients
        image, steps, solved = solve(y, operator, variance)
        latent, _ = self.prior.encode(image)
        penalty = variance * latent.square().sum(dim=1)
        found = linear_recovery(image, y, operator, steps, solved)
        fit = residual_energy(y, operator.A(image))
        return replace(found, latent=latent, objective=fit + penalty)

    def by_cholesky(
        self, y: Tensor, operator: Operator, variance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        network = self._gaussian
        known = _factored.get(
            operator, network, variance, lambda: factored(network, operator, y, variance)
        )
        difference = y.flatten(1).double() - known.expected
        u = torch.cholesky_solve(difference.T, known.factor)
        image = known.mean + u.T @ known.seen
        none = torch.zeros(len(y), dtype=torch.int64)
        return image.to(y).unflatten(1, operator.image_shape), none, none == 0

    def by_gradients(
        self, y: Tensor, operator: Operator, variance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        gaussian = self._gaussian.to(torch.float64)  # of variances that differ 10^7 times

        def through_prior(image: Tensor) -> Tensor:
            product = gaussian.covariance(image.flatten(1).double())
            return product.to(image).unflatten(1, operator.image_shape)

        def product(u: Tensor) -> Tensor:
            return operator.A(through_prior(operator.A_adjoint(u))) + variance * u

        mean = (self._gaussian.mean + 0.5).view(1, *operator.image_shape)
        difference = y - operator.A(mean)
        u, steps, solved = conjugate_gradients(product, difference, self.iterations, self.tolerance)
        return mean + through_prior(operator.A_adjoint(u)), steps, solved.cpu()


@dataclass(frozen=True)
class _Factored:
    """What a Wiener filter computes once for an operator, in float64.

    Attributes:
        mean: mu, (n,).
        expected: A mu, (m,).
        seen: A C, (m, n).
        factor: (m, m), of Cholesky, of A C A' + variance I.
    """

    mean: Tensor
    expected: Tensor
    seen: Tensor
    factor: Tensor


_factored: Kept[_Factored] = Kept()


def factored(network: GaussianNetwork, operator: Operator, y: Tensor, variance: float) -> _Factored:
    """Factor A C A' + variance I for the operator that measured y."""
    gaussian = network.to(torch.float64)
    rows = matrix_of(operator, y).double()  # A
    seen = gaussian.covariance(rows)
    inner = seen @ rows.T
    inner.diagonal().add_(variance)
    mean = gaussian.mean + 0.5
    factor = torch.linalg.cholesky(inner)
    return _Factored(mean, mean @ rows.T, seen, factor)


def matrix_of(operator: Operator, y: Tensor, size: int = 256) -> Tensor:
    """Compute the matrix (m, n) of a linear operator that measures y (B, ...), by its adjoint."""
    count, parts = y[0].numel(), []
    for first in range(0, count, size):
        ones = y.new_zeros(min(size, count - first), count)
        ones.diagonal(first).fill_(1)
        parts.append(operator.A_adjoint(ones.unflatten(1, y.shape[1:])).flatten(1))
    return torch.cat(parts)
