"""Image-adaptive GAN reconstruction (Abu Hussein, Tirer & Giryes 2020: IAGAN)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from core.checks import require_at_least
from priors.prior import GanPrior, Prior
from recovery.csgm import Csgm, generator_surgery, iagan_stage_1
from recovery.descent import descend
from recovery.linear import back_project
from recovery.methods import (
    PriorBased,
    Progress,
    Recovery,
    Status,
    in_parts,
    require_linear,
    residual_energy,
    residual_norm,
)
from recovery.operators import Operator


class ImageAdaptive(PriorBased):
    """Stage 1: CSGM finds z. Stage 2: for each image, latent and generator weights w together,

        ||A(G_w(z)) - y||^2 + gamma ||z||^2,

    from the trained weights, by Adam. The result is the last iterate, as published: stopping keeps
    the noise out. Every image adapts its own copy of the weights; the prior does not change.

    `iagan` and `ia_dcgan` are the published settings.

    Status: `diverged` if stage 1 diverged or an objective of stage 2 was not finite (the image is
    then stage 1's), else `budget`: stage 2 has no end of its own.

    Args:
        prior: G, frozen; needs `decode_with`, as `GanPrior` has.
        gamma: weight of the penalty, as in `LatentSearch`.
        search: makes stage 1 from the prior and gamma.
        steps: of stage 2, each one evaluation.
        latent_learning_rate, weight_learning_rate: Adam's, of stage 2.
        back_projection: add A^+ (y - A(x)) to the result, by conjugate gradients: right where
            measurements are linear and without noise.
        batch_size: images adapted at once, each with a copy of the weights, its gradient and two
            moments; bounds memory, changes no result.

    Raises:
        TypeError: the prior has no weights to adapt.
        ValueError: an option is out of range; names it.
    """

    batch_size: int

    def __init__(
        self,
        prior: Prior,
        gamma: float = 0.0,
        *,
        search: Callable[[Prior, float], Csgm] = Csgm,
        steps: int = 300,
        latent_learning_rate: float = 1e-4,
        weight_learning_rate: float = 1e-3,
        back_projection: bool = False,
        batch_size: int = 8,
    ) -> None:
        if not isinstance(prior, GanPrior):
            raise TypeError(
                f"image-adaptive recovery adapts a generator's weights, which {prior.name} does "
                "not hand out: use it with a GAN prior"
            )
        require_at_least(1, steps=steps, batch_size=batch_size)
        super().__init__()
        self.prior = prior
        self.gamma = gamma
        self.search = search(prior, gamma)
        self.steps = steps
        self.latent_learning_rate = latent_learning_rate
        self.weight_learning_rate = weight_learning_rate
        self.back_projection = back_projection
        self.batch_size = batch_size

    def check(self, operator: Operator) -> None:
        self.search.check(operator)
        if self.back_projection:
            require_linear("back projection", operator)

    @property
    def images_at_once(self) -> None:
        return None  # stages 1 and 2 take batches of their own

    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        found = self.search.recover(y, operator, seeds=seeds, progress=progress)

        def adapted(part: slice) -> Recovery:
            return self._adapt(y[part], _slice(found, part), operator, progress)

        return in_parts(adapted, len(y), self.batch_size)

    def _adapt(
        self, y: Tensor, found: Recovery, operator: Operator, progress: Progress | None
    ) -> Recovery:
        assert found.latent is not None
        z = found.latent.clone().requires_grad_()
        weights = {
            name: weight.detach().expand(len(y), *weight.shape).clone().requires_grad_()
            for name, weight in self.prior.weights().items()
        }

        def objective() -> Tensor:
            fit = residual_energy(y, operator.A(self.prior.decode_with(weights, z)))
            return fit + self.gamma * z.square().sum(dim=1)

        groups = [
            ([z], self.latent_learning_rate),
            (list(weights.values()), self.weight_learning_rate),
        ]
        finite = descend(objective, groups, self.steps, lambda _: None, progress)
        with torch.no_grad():
            image = self.prior.decode_with(weights, z)
            value = objective()
        finite &= value.isfinite()
        image = torch.where(finite[:, None, None, None], image, found.image)
        if self.back_projection:
            image = back_project(image, y, operator)
        status: list[Status] = [
            "budget" if fine and before != "diverged" else "diverged"
            for fine, before in zip(finite.tolist(), found.status, strict=True)
        ]
        return replace(
            found,
            image=image,
            latent=torch.where(finite[:, None], z.detach(), found.latent),
            objective=torch.where(finite, value, found.objective),
            residual=residual_norm(image, y, operator),
            steps=found.steps + self.steps,
            evaluations=found.evaluations + self.steps,
            status=tuple(status),
        )


def _slice(recovery: Recovery, part: slice) -> Recovery:
    assert recovery.latent is not None
    return Recovery(
        image=recovery.image[part],
        latent=recovery.latent[part],
        objective=recovery.objective[part],
        residual=recovery.residual[part],
        steps=recovery.steps[part],
        evaluations=recovery.evaluations[part],
        status=recovery.status[part],
    )


def iagan(prior: Prior, gamma: float = 0.0) -> ImageAdaptive:
    """Adapt as Abu Hussein et al. with PGGAN: 300 steps, weights at 1e-3."""
    return ImageAdaptive(prior, gamma, search=iagan_stage_1)


def ia_dcgan(prior: Prior, gamma: float = 0.0) -> ImageAdaptive:
    """Adapt as Smedemark-Margulies et al. with DCGAN: 600 steps, weights at 1e-4."""
    return ImageAdaptive(
        prior,
        gamma,
        search=generator_surgery,
        steps=600,
        weight_learning_rate=1e-4,
    )
