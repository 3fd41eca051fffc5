"""Posterior sampling: many searches per image, and their mean instead of one point.

Of all estimates the posterior mean has the least expected squared error; the spread of the samples
tells what the measurements leave open.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.checks import require_above
from core.seeds import normal, seed_from
from priors.prior import Prior
from recovery.latent_search import LatentSearch
from recovery.methods import Progress, Recovery, Status, in_parts, residual_norm
from recovery.operators import Operator
from recovery.starts import Normal


class PosteriorSamples(LatentSearch):
    """Recovers the mean of latent searches from random latents zeta ~ N(0, tau^2 I), in pairs
    zeta, -zeta, whose linear errors cancel.

    Without `perturb`, each search minimises ||A G(z) - y||^2 and stops at the noise. For a
    linear flow, tau 1 and little noise it ends at an exact posterior sample: zeta, moved onto the
    solutions of A G(z) = y by the shortest way. For other priors it is an approximation, and for a
    GAN, whose range holds few solutions, a rough one.

    With `perturb`, each search minimises (randomise-then-optimise: Bardsley et al. 2014)

        ||A G(z) - y - e||^2 + sigma^2 ||z - zeta||^2,    e ~ N(0, sigma^2 I)

    whose minimum is an exact posterior sample of a linear flow at any noise.

    `image` is the samples' mean, `latent` None, `evaluations` those of all samples together. Rows
    of the variant `sample` are of the first sample. Status: `diverged` where no sample is finite,
    `converged` where all converged, else `budget`. Samples that are not finite do not enter the
    mean.

    Args:
        prior: G, frozen.
        gamma: unused: a penalty would draw all searches of an image to one point.
        samples: per image, an even number.
        tau: standard deviation of the starts.
        perturb: see above; needs an operator that tells its noise.
        evaluations: budget of a sample.
        history, stop_at_noise, gradient_tolerance: see `LatentSearch`.
        seed: of zeta and e.
        batch_size: searches at once; bounds memory, changes no result.

    Raises:
        ValueError: an option is out of range; names it.
    """

    variant = "mean"
    batch_size: int

    def __init__(
        self,
        prior: Prior,
        gamma: float = 0.0,
        *,
        samples: int = 16,
        tau: float = 1.0,
        perturb: bool = False,
        evaluations: int = 200,
        history: int = 50,
        stop_at_noise: bool = True,
        gradient_tolerance: float = 1e-5,
        seed: int = 0,
        batch_size: int = 32,
    ) -> None:
        if samples < 2 or samples % 2:
            raise ValueError(f"samples must be an even number from 2 on, got {samples}")
        require_above(0, tau=tau)
        super().__init__(
            prior,
            0.0,
            evaluations=evaluations,
            history=history,
            stop_at_noise=stop_at_noise,
            gradient_tolerance=gradient_tolerance,
            start=Normal(tau),
            seed=seed,
            batch_size=batch_size,
        )
        self.samples = samples
        self.perturb = perturb

    def check(self, operator: Operator) -> None:
        super().check(operator)
        if self.perturb and not (operator.tells_noise and operator.sigma > 0):
            raise ValueError(
                f"posterior samples by perturbation need noise of known sigma, and "
                f"{operator.label} tells none: leave out perturb"
            )

    def takes_gamma(self, operator: Operator) -> bool:
        return False

    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        # sample k of image i is row i S + k
        keys = [(seed, pair) for seed in seeds for pair in range(self.samples // 2)]
        starts = self._paired(self.start(self.prior, y, operator, self._seeds("zeta", keys)).to(y))
        repeated = y.repeat_interleave(self.samples, dim=0)
        gamma, centre = self.gamma, None
        if self.perturb:
            noise = operator.sigma * normal(self._seeds("noise", keys), tuple(y.shape[1:])).to(y)
            repeated = repeated + operator.measured(self._paired(noise))
            gamma, centre = operator.sigma**2, starts

        def part(rows: slice) -> Recovery:
            moved = None if centre is None else centre[rows]
            return self.search(repeated[rows], starts[rows], operator, progress, gamma, moved)

        return self.mean_of(in_parts(part, len(starts), self.batch_size), y, operator)

    def _seeds(self, what: str, keys: Sequence[tuple[int, int]]) -> list[int]:
        return [seed_from("posterior", what, self.seed, seed, pair) for seed, pair in keys]

    def _paired(self, drawn: Tensor) -> Tensor:
        """Follow every row by its negative."""
        return torch.stack([drawn, -drawn], dim=1).flatten(0, 1)

    def mean_of(self, found: Recovery, y: Tensor, operator: Operator) -> Recovery:
        """Average the searches (B S rows) of each image."""
        count = self.samples
        samples = found.image.unflatten(0, (-1, count))
        finite = samples.flatten(2).isfinite().all(dim=2).view(-1, count, 1, 1, 1)
        kept = finite.sum(dim=1).clamp_min(1)
        image = torch.where(finite, samples, 0.0).sum(dim=1) / kept
        status = [combined(found.status[i : i + count]) for i in range(0, len(found.status), count)]
        image = torch.where(finite.any(dim=1), image, torch.nan)
        first = Recovery(
            image=samples[:, 0],
            latent=None if found.latent is None else found.latent[::count],
            objective=found.objective[::count],
            residual=residual_norm(samples[:, 0], y, operator),
            steps=found.steps[::count],
            evaluations=found.evaluations[::count],
            status=found.status[::count],
        )
        return Recovery(
            image=image,
            latent=None,
            objective=found.objective.view(-1, count).mean(dim=1),
            residual=residual_norm(image, y, operator),
            steps=found.steps.view(-1, count).sum(dim=1),
            evaluations=found.evaluations.view(-1, count).sum(dim=1),
            status=tuple(status),
            alternatives={"sample": first},
            samples=samples,
        )


def combined(statuses: Sequence[Status]) -> Status:
    """Return the status of an image whose searches ended with `statuses`."""
    if all(status == "diverged" for status in statuses):
        return "diverged"
    return "converged" if all(status == "converged" for status in statuses) else "budget"
