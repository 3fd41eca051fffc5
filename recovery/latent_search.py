"""Recovery through an invertible prior: search its latent space (paper, section 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.checks import require_at_least
from core.seeds import seed_from
from priors.prior import Prior
from recovery.lbfgs import minimise
from recovery.methods import (
    PriorBased,
    Progress,
    Recovery,
    residual_energy,
    residual_norm,
)
from recovery.operators import Operator
from recovery.starts import Normal, Start

PAPERS_START = Normal(0.0)


class LatentSearch(PriorBased):
    """Minimises, for each image on its own, from latent 0,

        ||A(G(z)) - y||^2 + gamma ||z||^2                  (formulation 1; with gamma 0, 2)

    by L-BFGS. Started at 0 and stopped in time, the search itself favours likely images.

    Args:
        prior: G, frozen.
        gamma: weight of the penalty. About sigma^2 for denoising; 0 for compressive sensing.
        evaluations: budget of objective evaluations per image.
        history: curvature pairs kept per image.
        stop_at_noise: with gamma 0, stop an image once its residual falls to the operator's
            expected noise energy: only noise is left to fit (discrepancy principle).
        gradient_tolerance: stop once the gradient has fallen by this factor.
        start: of the search; by default the paper's, 0. An image starts at 0 instead if its start,
            or what it decodes to, has no finite norm.
        seed: of the start.
        batch_size: images searched at once; bounds memory, changes no result.

    Raises:
        ValueError: an option is out of range; names it.
    """

    def __init__(
        self,
        prior: Prior,
        gamma: float = 0.0,
        *,
        evaluations: int = 200,
        history: int = 50,
        stop_at_noise: bool = True,
        gradient_tolerance: float = 1e-5,
        start: Start = PAPERS_START,
        seed: int = 0,
        batch_size: int = 32,
    ) -> None:
        require_at_least(0, gamma=gamma)
        require_at_least(1, evaluations=evaluations, history=history, batch_size=batch_size)
        super().__init__()
        self.prior = prior
        self.gamma = gamma
        self.evaluations = evaluations
        self.history = history
        self.stop_at_noise = stop_at_noise
        self.gradient_tolerance = gradient_tolerance
        self.start = start
        self.seed = seed
        self.batch_size = batch_size

    def check(self, operator: Operator) -> None:
        self.start.check(self.prior, operator)

    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        mixed = [seed_from("start", self.seed, seed) for seed in seeds]
        start = self.start(self.prior, y, operator, mixed).to(y)
        return self.search(y, start, operator, progress)

    def search(
        self,
        y: Tensor,
        start: Tensor,
        operator: Operator,
        progress: Progress | None,
        gamma: float | None = None,
        centre: Tensor | None = None,
    ) -> Recovery:
        """Search from the latents `start` (B, n) with a penalty of gamma ||z - centre||^2.

        gamma is the method's own if None, the centre 0.
        """
        gamma = self.gamma if gamma is None else gamma
        if start.any():
            start = self._finite(start)

        def objective(latents: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                z = latents.detach().requires_grad_()
                fit = residual_energy(y[indices], operator.A(self.prior.decode(z)))
                offset = z if centre is None else z - centre[indices]
                values = fit + gamma * offset.square().sum(dim=1)
                (gradients,) = torch.autograd.grad(values.sum(), z)
            return values.detach(), gradients

        noise = getattr(operator, "noise_energy", 0.0)
        found = minimise(
            objective,
            start,
            max_evaluations=self.evaluations,
            history=self.history,
            gradient_tolerance=self.gradient_tolerance,
            target=noise if self.stop_at_noise and gamma == 0 and noise > 0 else None,
            progress=progress,
        )
        with torch.no_grad():
            image = self.prior.decode(found.point)
        return Recovery(
            image=image,
            latent=found.point,
            objective=found.value,
            residual=residual_norm(image, y, operator),
            steps=found.steps,
            evaluations=found.evaluations,
            status=found.status,
        )

    def _finite(self, start: Tensor) -> Tensor:
        """Replace latents whose objective would not be finite by 0."""
        with torch.no_grad():
            energy = self.prior.decode(start).square().flatten(1).sum(dim=1)
        finite = (energy + start.square().sum(dim=1)).isfinite()
        return torch.where(finite[:, None], start, 0.0)
