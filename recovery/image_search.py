"""Recovery through an invertible prior by the paper's first formulation: search among images.

The authors pose recovery as max likelihood among images that fit y, find that "challenging to
optimize", and search latents instead (paper, section 2). In the coordinates of a Gaussian posterior
it is easy.
"""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from core.checks import require_above, require_at_least
from priors.prior import FlowPrior, Prior
from recovery.gaussian_posterior import Posterior, gaussian_of, posterior_of, typical_of
from recovery.latent_search import LatentSearch
from recovery.lbfgs import minimise
from recovery.linear_gaussian import LEAST_SIGMA
from recovery.methods import (
    PriorBased,
    Progress,
    Recovery,
    residual_energy,
    residual_norm,
)
from recovery.operators import Operator
from recovery.starts import require_encoder

LARGEST_IMAGE = 16_384  # values of an image, n, up to which (n, n) matrices are factored
FEW = 0.25  # of an image's values: with fewer, a blur fits, and a latent search starts better
AT_32PX = 3 * 32 * 32  # values of an image, whose latent search has `latent_evaluations`


class ImageSearch(PriorBased):
    """Minimises over images x, each on its own,

        ||A x - y||^2 + weight sigma^2 max(-2 log p_G(x), typical)

    by L-BFGS, with p_G the prior's density: at weight 1, and where x is not more likely than
    typical, the likeliest image of the posterior. `typical` is the mean of -2 log p_G over samples
    G(temperature z): no face is much likelier than those, and an image that is, is a blur. Where n
    / 4 values or more are measured, they forbid a blur, and `typical` is minus infinity.

    It searches in the coordinates u of x = start + R u, where R R' is the posterior covariance of a
    Gaussian with the mean and covariance of the prior's own samples. It starts at that Gaussian's
    posterior mean; where fewer than n / 4 values are measured, at what a `LatentSearch` finds, if
    that is lower. For a linear flow the mean is the answer; a Glow takes 20 to 60 evaluations more.

    For an operator that is not linear or of unknown noise, and for larger images than it can factor
    matrices for, it is the paper's `LatentSearch`, and `check` warns of that. So it is for one that
    leaves a hole, whose likeliest filling is 2 to 4 dB worse.

    Status: `converged` also where the residual is at the noise and the image typical.

    Args:
        prior: invertible, frozen.
        gamma: of the latent search in its place; else the noise's own variance is the weight.
        weight: of the prior against the data; by default min(1, 0.07 / sigma^0.6), near the best
            in denoising at 32 and 64px, and in compressive sensing as good as any.
        temperature: standard deviation of the latents of `typical`.
        evaluations: budget of objective evaluations per image, those of the latent search apart.
        latent_evaluations: budget of the latent search with few measurements; 0 for none. Beyond
            32px it grows with n: 480 at 64px.
        history: curvature pairs kept per image.
        samples: of the prior, from which its Gaussian is fitted, once per prior and process.
        sigma: standard deviation of the noise, where the operator does not tell it.
        batch_size: images searched at once; bounds memory, changes no result.

    Raises:
        ValueError: the prior is not invertible, or an option is out of range.
    """

    prior: FlowPrior
    batch_size: int

    def __init__(
        self,
        prior: Prior,
        gamma: float = 0.0,
        *,
        weight: float | None = None,
        temperature: float = 0.6,
        evaluations: int = 60,
        latent_evaluations: int = 120,
        history: int = 50,
        samples: int = 4000,
        sigma: float | None = None,
        batch_size: int = 32,
    ) -> None:
        require_encoder("a search among images", prior)
        require_above(0, temperature=temperature)
        if weight is not None:
            require_above(0, weight=weight)
        require_at_least(1, evaluations=evaluations, history=history, batch_size=batch_size)
        require_at_least(0, latent_evaluations=latent_evaluations)
        if sigma is not None:
            require_at_least(0, sigma=sigma)
        require_at_least(2, samples=samples)
        super().__init__()
        self.prior = prior  # type: ignore[assignment]
        self.gamma = gamma
        self.weight = weight
        self.temperature = temperature
        self.evaluations = evaluations
        self.latent_evaluations = latent_evaluations
        self.history = history
        self.samples = samples
        self.sigma = sigma
        self.batch_size = batch_size
        self.rules = 2  # of weight and holes: rows that other rules made do not count as this one's

    def check(self, operator: Operator) -> None:
        hindrance = self.hindrance(operator)
        if hindrance is not None:
            warnings.warn(
                f"{operator.label}: {hindrance}, so {type(self).__name__} searches latents, as "
                "recovery.latent_search.LatentSearch does with its own evaluations",
                stacklevel=2,
            )

    def hindrance(self, operator: Operator) -> str | None:
        """Say why it does not search images here; None if it does."""
        if self.prior.latent_dim > LARGEST_IMAGE:
            return f"images of more than {LARGEST_IMAGE:,} values are too large to factor matrices"
        if not operator.linear:
            return "it is not linear"
        if operator.measurements > LARGEST_IMAGE:
            return f"more than {LARGEST_IMAGE:,} measurements are too many to factor matrices"
        if self.sigma is None and not operator.tells_noise:
            return "it does not tell its noise, nor does the method's sigma"
        if operator.leaves_a_hole():
            return "a hole is filled better so"
        return None

    def takes_gamma(self, operator: Operator) -> bool:
        return self.hindrance(operator) is not None

    def posterior(self, y: Tensor, operator: Operator) -> Posterior:
        """Make, or look up, that of the prior's Gaussian given measurements y (B, ...)."""
        sigma = max(operator.sigma if self.sigma is None else self.sigma, LEAST_SIGMA)
        gaussian = gaussian_of(self.prior, self.samples, y)
        return posterior_of(gaussian, operator, y, sigma)

    def measures_few(self, operator: Operator) -> bool:
        """Whether so little is measured that a blur may fit."""
        return operator.measurements < FEW * self.prior.latent_dim

    @torch.no_grad()
    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        if self.hindrance(operator) is not None:
            search = LatentSearch(
                self.prior, self.gamma, history=self.history, batch_size=self.batch_size
            )
            return search.recover(y, operator, seeds=seeds, progress=progress)
        posterior = self.posterior(y, operator)
        root, sigma = posterior.root.to(y), posterior.sigma
        weight = min(1.0, 0.07 / sigma**0.6) if self.weight is None else self.weight
        typical = y.new_tensor(-math.inf)
        if self.measures_few(operator):
            typical = typical_of(self.prior, self.temperature, y).to(y)
        energy = _Energy(self.prior, operator, sigma, weight * sigma**2, typical)
        start, spent = self.started(posterior.mean(y, operator), y, operator, energy, progress)

        def image(u: Tensor, indices: Tensor | slice) -> Tensor:
            return start[indices] + (u @ root.T).unflatten(1, operator.image_shape)

        def objective(points: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                u = points.detach().requires_grad_()
                values = energy(image(u, indices), y[indices])
                (gradients,) = torch.autograd.grad(values.sum(), u)
            return values.detach(), gradients

        least = minimise(
            objective,
            y.new_zeros(len(y), self.prior.latent_dim),
            max_evaluations=self.evaluations,
            history=self.history,
            target=energy.least,
            progress=progress,
        )
        x = image(least.point, slice(None))
        return Recovery(
            image=x,
            latent=self.prior.encode(x)[0],
            objective=least.value,
            residual=residual_norm(x, y, operator),
            steps=least.steps,
            evaluations=least.evaluations + spent,
            status=least.status,
        )

    def started(
        self,
        mean: Tensor,
        y: Tensor,
        operator: Operator,
        energy: "_Energy",
        progress: Progress | None,
    ) -> tuple[Tensor, Tensor]:
        """Choose where each image's search starts; return it with the evaluations spent (B,)."""
        if not self.latent_evaluations or not self.measures_few(operator):
            return mean, torch.zeros(len(y), dtype=torch.int64, device=y.device)
        search = LatentSearch(
            self.prior,
            evaluations=math.ceil(
                self.latent_evaluations * max(1.0, self.prior.latent_dim / AT_32PX)
            ),
            history=self.history,
            batch_size=self.batch_size,
        )
        found = search.recover(y, operator, progress=progress)
        lower = energy(found.image, y) < energy(mean, y)
        return torch.where(lower.view(-1, 1, 1, 1), found.image, mean), found.evaluations + 1


class _Energy:
    """What an `ImageSearch` minimises; `least` is its least possible value."""

    def __init__(
        self, prior: FlowPrior, operator: Operator, sigma: float, weight: float, typical: Tensor
    ) -> None:
        self.prior, self.operator = prior, operator
        self.weight, self.typical = weight, typical
        self.noise = operator.measurements * sigma**2
        self.least = weight * typical

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute ||A x - y||^2 + weight max(-2 log p_G(x), typical), (B,).

        It is the least possible where nothing is left: the residual is at the noise, the image
        typical. There the search ends.
        """
        residual = residual_energy(y, self.operator.A(x))
        unlikely = -2 * self.prior.encode(x)[1]
        values = residual + self.weight * unlikely.clamp_min(self.typical)
        arrived = (residual <= self.noise) & (unlikely <= self.typical)
        return torch.where(arrived, self.least, values)
