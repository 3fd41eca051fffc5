"""Compressed sensing using generative models (Bora, Jalal, Price & Dimakis 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.checks import require_above, require_at_least
from core.seeds import seed_from
from priors.prior import Prior
from recovery.descent import descend
from recovery.methods import (
    PriorBased,
    Progress,
    Recovery,
    Status,
    residual_energy,
    residual_norm,
)
from recovery.operators import Operator

SETTLED = 1e-3  # relative fall of the objective over the last tenth of the steps


class Csgm(PriorBased):
    """Minimises, for each image on its own and from several random starts,

        ||A(G(z)) - y||^2 + gamma ||z||^2

    by Adam, and keeps the restart with the least residual ||A(G(z)) - y||. Of each restart it takes
    the latent with the least objective, which Adam's last may not be.

    The defaults are those of Bora et al.; `iagan_stage_1` and `generator_surgery` are others'.

    Status: `converged` if the objective of the restart it keeps fell by less than a thousandth over
    the last tenth of the steps, `diverged` if no restart ever had a finite objective.

    Args:
        prior: G, frozen.
        gamma: weight of the penalty, as in `LatentSearch`.
        steps: of Adam, each one evaluation.
        learning_rate: Adam's.
        restarts: random starts per image, searched at once.
        start_std: standard deviation of the starts.
        start_limit: clamps the entries of the starts to at most this size; None for no limit.
        seed: of the starts.
        batch_size: latents (images times restarts) searched at once; bounds memory, changes no
            result.

    Raises:
        ValueError: an option is out of range; names it.
    """

    batch_size: int

    def __init__(
        self,
        prior: Prior,
        gamma: float = 0.0,
        *,
        steps: int = 500,
        learning_rate: float = 0.1,
        restarts: int = 2,
        start_std: float = 1.0,
        start_limit: float | None = None,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        require_at_least(0, gamma=gamma)
        require_at_least(1, steps=steps, restarts=restarts, batch_size=batch_size)
        require_above(0, learning_rate=learning_rate)
        super().__init__()
        self.prior = prior
        self.gamma = gamma
        self.steps = steps
        self.learning_rate = learning_rate
        self.restarts = restarts
        self.start_std = start_std
        self.start_limit = start_limit
        self.seed = seed
        self.batch_size = batch_size

    @property
    def images_at_once(self) -> int:
        return max(1, self.batch_size // self.restarts)

    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        return self._search(y, self._starts(seeds).to(y), operator, progress)

    def _starts(self, seeds: Sequence[int]) -> Tensor:
        """Draw the starts (B restarts, n), an image's restarts side by side."""
        mixed = [
            seed_from("start", self.seed, seed, restart)
            for seed in seeds
            for restart in range(self.restarts)
        ]
        starts = self.prior.initial_latent(mixed, self.start_std)
        limit = self.start_limit
        return starts if limit is None else starts.clamp(-limit, limit)

    def _search(
        self, y: Tensor, starts: Tensor, operator: Operator, progress: Progress | None
    ) -> Recovery:
        z = starts.clone().requires_grad_()
        targets = y.repeat_interleave(self.restarts, dim=0)
        best, best_value = starts.clone(), torch.full_like(starts[:, 0], torch.inf)
        history: list[Tensor] = []

        def objective() -> Tensor:
            fit = residual_energy(targets, operator.A(self.prior.decode(z)))
            return fit + self.gamma * z.square().sum(dim=1)

        def keep_the_best(values: Tensor) -> None:
            better = values < best_value
            best[better], best_value[better] = z.detach()[better], values[better]
            history.append(best_value.clone())

        descend(objective, [([z], self.learning_rate)], self.steps, keep_the_best, progress)
        earlier = history[max(0, len(history) - 1 - max(1, self.steps // 10))]
        settled = earlier - best_value <= SETTLED * best_value
        return self._choose(y, operator, best, best_value, settled)

    def _choose(
        self, y: Tensor, operator: Operator, best: Tensor, value: Tensor, settled: Tensor
    ) -> Recovery:
        """Choose the restart of least residual, per image."""
        with torch.no_grad():
            images = self.prior.decode(best)
        targets = y.repeat_interleave(self.restarts, dim=0)
        residual = residual_norm(images, targets, operator)
        usable = residual.where(residual.isfinite() & value.isfinite(), torch.inf)
        chosen = usable.view(len(y), -1).argmin(dim=1)
        chosen += self.restarts * torch.arange(len(y), device=y.device)
        status: list[Status] = [
            "diverged" if not finite else "converged" if done else "budget"
            for finite, done in zip(
                usable[chosen].isfinite().tolist(), settled[chosen].tolist(), strict=True
            )
        ]
        steps = torch.full((len(y),), self.steps)
        return Recovery(
            image=images[chosen],
            latent=best[chosen],
            objective=value[chosen],
            residual=residual[chosen],
            steps=steps,
            evaluations=self.restarts * steps,
            status=tuple(status),
        )


def iagan_stage_1(prior: Prior, gamma: float = 0.0) -> Csgm:
    """Search as Abu Hussein, Tirer & Giryes (2020): 1800 steps from each of 5 starts."""
    return Csgm(prior, gamma, steps=1800, restarts=5)


def generator_surgery(prior: Prior, gamma: float = 0.0) -> Csgm:
    """Search as Smedemark-Margulies et al. (2020) with DCGAN: 1600 steps from 3 clamped starts."""
    return Csgm(prior, gamma, steps=1600, restarts=3, start_limit=1.0)
