"""Restoration with a latent convolutional model, as published (Athar et al. 2019)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.checks import require_above, require_at_least
from core.pyramid import pyramid_distance
from priors.prior import Prior
from recovery.descent import descend
from recovery.methods import PriorBased, Progress, Recovery, Status, residual_norm
from recovery.operators import Inpainting, Operator

RING = 5  # pixels around a hole, and how much their square error counts


class LatentNetworkFit(PriorBased):
    """Fits the weights phi of each image's latent network, from the common start, by SGD:

        MSE(A(x), y) + sum_l 4^-l mean |L_l(A(x)) - L_l(y)|,   x = G(f(s; phi)),

    L_l the levels of the Laplacian pyramid. Convolution weights stay within +-0.01. Around the hole
    of an inpainting, the square error counts five times within 5 pixels of it. Where y has not the
    image's shape the pyramid has no meaning, and the first term stands alone, ||A(x) - y||^2 over
    the number of the image's values; the authors did not recover from such y. The result is the
    last iterate: published, and what keeps noise out.

    `LatentSearch` through the same prior minimises ||A(x) - y||^2 by L-BFGS.

    Status: `diverged` if an objective was not finite (the image is then that of the
    weights it stopped at), else `budget`: it has no end of its own.

    Args:
        prior: of `networks.latent_convolutional`.
        gamma: not used: the method has no penalty.
        steps: of SGD, each one evaluation.
        learning_rate: of phi.
        batch_size: images fitted at once; bounds memory, changes no result.

    Raises:
        TypeError: the prior has no latent network.
        ValueError: an option is out of range; names it.
    """

    def __init__(
        self,
        prior: Prior,
        gamma: float = 0.0,
        *,
        steps: int = 3001,
        learning_rate: float = 1.0,
        batch_size: int = 32,
    ) -> None:
        network: Any = getattr(prior, "network", None)
        if not hasattr(network, "bound"):
            raise TypeError(
                f"this fits the weights of a latent network, which {prior.name} does not have: use "
                "it with a latent convolutional model"
            )
        require_at_least(1, steps=steps, batch_size=batch_size)
        require_above(0, learning_rate=learning_rate)
        super().__init__()
        self.prior = prior
        self.network = network
        self.steps = steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size

    def takes_gamma(self, operator: Operator) -> bool:
        return False

    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        units = self.network.units
        offset = y.new_zeros(len(y), self.prior.latent_dim).requires_grad_()  # phi less the start

        def keep_in_bounds() -> Tensor:
            with torch.no_grad():
                latent = offset / units
                self.network.bound(latent)
                offset.copy_(latent * units)
            return latent

        def objective() -> Tensor:
            keep_in_bounds()
            return self.loss(operator.A(self.prior.decode(offset / units)), y, operator)

        finite = descend(
            objective,
            [([offset], self.learning_rate)],
            self.steps,
            lambda _: None,
            progress,
            torch.optim.SGD,
        )
        with torch.no_grad():
            value = objective()
            latent = keep_in_bounds()
            image = self.prior.decode(latent)
        status: list[Status] = [
            "budget" if fine else "diverged" for fine in (finite & value.isfinite()).tolist()
        ]
        steps = torch.full((len(y),), self.steps)
        return Recovery(
            image=image,
            latent=latent,
            objective=value,
            residual=residual_norm(image, y, operator),
            steps=steps,
            evaluations=steps.clone(),
            status=tuple(status),
        )

    def loss(self, measured: Tensor, y: Tensor, operator: Operator) -> Tensor:
        """Compute what is minimised, (B,), of measurements `measured` of images."""
        difference = measured - y
        if y.shape[1:] != operator.image_shape:
            values = operator.image_shape[0] * operator.image_shape[1] * operator.image_shape[2]
            return difference.square().flatten(1).sum(dim=1) / values
        weight = torch.ones_like(difference[:1, :1])
        if isinstance(operator, Inpainting):
            hole = operator.hole.to(y)[None, None]
            near = F.max_pool2d(hole, 2 * RING + 1, stride=1, padding=RING)
            weight = weight + (RING - 1) * (near - hole)
        return (weight * difference.square()).mean(dim=(1, 2, 3)) + pyramid_distance(difference)
