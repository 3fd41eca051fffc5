"""deepinv's reconstructors as methods. deepinv is optional: only what names it imports it."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.checks import require_above, require_at_least
from core.seeds import seed_from
from recovery.linear import norm_squared
from recovery.methods import (
    PriorFree,
    Progress,
    Recovery,
    in_parts,
    require_linear,
    residual_norm,
)
from recovery.operators import Operator
from recovery.physics import Deepinv, PerChannel, Physics, as_physics, require_deepinv

# Configs and programs named these here before they had a file of their own.
__all__ = ["Deepinv", "PerChannel", "Physics", "Reconstructor", "TotalVariation"]


class Reconstructor(PriorFree):
    """A deepinv reconstructor as a method: whatever computes images as model(y, physics).

    It reconstructs every image on its own, with its own seed. Status: `diverged` if the image is
    not finite, `budget` if an algorithm of deepinv reports that it has not converged. Steps and
    evaluations are its iterations, and 1 for any other reconstructor.

    Args:
        model: a description, or the module itself.
    """

    def __init__(self, model: Deepinv | nn.Module) -> None:
        super().__init__()
        self.spec = model.spec if isinstance(model, Deepinv) else {}
        self._make = model if isinstance(model, Deepinv) else None
        if isinstance(model, nn.Module):
            self.model = model

    def check(self, operator: Operator) -> None:
        from deepinv.models import Denoiser

        model = self._model(operator)
        if isinstance(model, Denoiser):
            raise ValueError(
                f"{type(model).__name__} is a denoiser of deepinv, not a reconstructor: give it to "
                "deepinv.models.ArtifactRemoval as backbone_net"
            )

    def _model(self, operator: Operator) -> nn.Module:
        return self._make.build(operator.image_shape) if self._make else self.model

    @torch.no_grad()
    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        model = self._model(operator)
        model = model.to(y.device).eval()
        physics = as_physics(operator).to(y.device)

        def one(image: slice) -> Recovery:
            with torch.random.fork_rng():
                torch.manual_seed(seed_from("reconstructor", seeds[image.start]))
                # a copy, because some algorithms start from where they ended with the last image
                found = self._one(copy.deepcopy(model), y[image], physics, operator)
            if progress is not None:
                progress(1, len(y) - image.stop)
            return found

        return in_parts(one, len(y), 1)

    def _one(self, model: nn.Module, y: Tensor, physics: nn.Module, operator: Operator) -> Recovery:
        made: list[None] = []  # iterations
        iterator = getattr(getattr(model, "fixed_point", None), "iterator", None)
        if iterator is not None:
            iterator.register_forward_hook(lambda *_: made.append(None))
        image = model(y, physics)
        finite = bool(image.isfinite().all())
        residual = residual_norm(image, y, operator)
        steps = torch.tensor([max(1, len(made))])
        finished = getattr(model, "has_converged", True)
        return Recovery(
            image=image,
            latent=None,
            objective=residual.square(),
            residual=residual,
            steps=steps,
            evaluations=steps,
            status=("diverged" if not finite else "converged" if finished else "budget",),
        )


class TotalVariation(PriorFree):
    """Minimises ||A(x) - y||^2 / 2 + weight TV(x) by deepinv's FISTA and total variation.

    Args:
        weight: of the total variation.
        iterations: at most so many.
        tolerance: converged once an iteration changes the image by less than this, relatively.

    Raises:
        ValueError: an option is out of range; names it. From `check`: deepinv is not installed.
    """

    def __init__(
        self, weight: float = 0.01, iterations: int = 500, tolerance: float = 1e-5
    ) -> None:
        super().__init__()
        require_above(0, weight=weight)
        require_at_least(1, iterations=iterations)
        self.weight = weight
        self.iterations = iterations
        self.tolerance = tolerance

    def check(self, operator: Operator) -> None:
        require_deepinv("total variation")
        require_linear("total variation", operator)

    @torch.no_grad()
    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        from deepinv.models import TVDenoiser
        from deepinv.optim import FISTA, L2, TVPrior

        prior = TVPrior()
        # for images in [0, 1]; FISTA starts it from its last point, so that few iterations suffice
        prior.TVModel = TVDenoiser(tau=1.0, n_it_max=20, crit=1e-8)
        like = y.new_zeros(1, *operator.image_shape)
        fista = FISTA(
            data_fidelity=L2(),
            prior=prior,
            lambda_reg=self.weight,
            stepsize=0.95 / float(norm_squared(operator.A, operator.A_adjoint, like)),
            max_iter=self.iterations,
            thres_conv=self.tolerance,
            early_stop=True,
        )
        return Reconstructor(fista).recover(y, operator, seeds=seeds, progress=progress)
