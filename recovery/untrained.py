"""Recovery with untrained networks: the architecture is the prior, fitted to one image's y."""

from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from core.checks import require_above, require_at_least
from core.seeds import generator, seed_from
from recovery.descent import descend
from recovery.methods import (
    PriorFree,
    Progress,
    Recovery,
    Status,
    residual_energy,
    residual_norm,
)
from recovery.operators import Operator


class UntrainedNetwork(Protocol):
    """A network that makes an image from an input it draws; see `networks.deep_decoder`."""

    def draw_input(self, generator: torch.Generator) -> Tensor: ...

    def __call__(self, drawn: Tensor) -> Tensor: ...


# image size -> network
NetworkFactory = Callable[[int], nn.Module]


class Untrained(PriorFree):
    """Minimises ||A(G_w(input)) - y||^2 over the weights w of a network, from random ones, by Adam.

    Every image has its own weights and its own input. Fitting a batch at once changes an image only
    by rounding (which Adam amplifies). The recovery is the image of the last step, as published.
    Its alternative, `least-residual`, is that of the step with the least residual. Neither looks at
    the truth.

    Early stopping is the discrepancy principle, with `stop_at_noise`: an image's fit ends at the
    first step whose ||A(G) - y||^2 is at most E ||noise||^2. Where there is no noise, or its energy
    is not known, only `steps` ends it.

    Status: `converged` once the residual has fallen to the operator's expected noise energy, with
    `stop_at_noise`; `diverged` if an objective was not finite; else `budget`.

    Args:
        network: makes G for the image size. It must treat the images of a batch independently.
        steps: of Adam, each one evaluation.
        learning_rate: Adam's.
        input_noise: standard deviation of the noise added to the input at every step.
        stop_at_noise: end an image's fit once only noise is left (see above).
        seed: of weights, inputs and noise.
        batch_size: images fitted at once, each with weights, gradient and two moments; bounds
            memory, changes no result.

    Raises:
        ValueError: an option is out of range; names it.
    """

    variant = "last"

    def __init__(
        self,
        network: NetworkFactory,
        *,
        steps: int = 5000,
        learning_rate: float = 0.01,
        input_noise: float = 0.0,
        stop_at_noise: bool = False,
        seed: int = 0,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        require_at_least(1, steps=steps, batch_size=batch_size)
        require_above(0, learning_rate=learning_rate)
        require_at_least(0, input_noise=input_noise)
        self.network = network
        self.steps = steps
        self.learning_rate = learning_rate
        self.input_noise = input_noise
        self.stop_at_noise = stop_at_noise
        self.seed = seed
        self.batch_size = batch_size

    def check(self, operator: Operator) -> None:
        (network,) = self.networks(operator.image_shape[-1], [0])
        drawn = cast(UntrainedNetwork, network).draw_input(generator("untrained input"))
        with torch.no_grad():
            _, *shape = network(drawn).shape
        if tuple(shape) != operator.image_shape:
            raise ValueError(
                f"the network makes images of shape {tuple(shape)}, and {operator.label} measures "
                f"{operator.image_shape}"
            )

    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        return _Fit(self, y, operator, seeds).recover(progress)

    def networks(self, image_size: int, seeds: Sequence[int]) -> list[nn.Module]:
        """Make one network per image, with weights drawn from the image's seed."""
        made = []
        with torch.random.fork_rng():
            for seed in seeds:
                torch.manual_seed(seed_from("untrained weights", self.seed, seed))
                made.append(self.network(image_size))
        return made


class _Fit:
    """One batch's search."""

    def __init__(
        self, method: Untrained, y: Tensor, operator: Operator, seeds: Sequence[int]
    ) -> None:
        self.method, self.y, self.operator = method, y, operator
        networks = method.networks(operator.image_shape[-1], seeds)
        weights, self.buffers = stack_module_state([net.to(y) for net in networks])
        self.weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        self.network = networks[0]
        draw = cast(UntrainedNetwork, self.network).draw_input
        inputs = [draw(generator("untrained input", method.seed, seed)) for seed in seeds]
        self.inputs = torch.stack(inputs).to(y)
        self.noises = [generator("input noise", method.seed, seed) for seed in seeds]
        target = operator.noise_energy
        self.target = target if method.stop_at_noise and target > 0 else -1.0
        self.image = y.new_zeros(len(y), *operator.image_shape)
        self.least = self.image.clone()
        self.last_residual = y.new_full((len(y),), torch.inf)
        self.least_residual = self.last_residual.clone()
        self.stopped = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        self.evaluations = torch.zeros(len(y), dtype=torch.int64)  # that were finite

    def recover(self, progress: Progress | None) -> Recovery:
        groups = [(list(self.weights.values()), self.method.learning_rate)]
        finite = descend(self._objective, groups, self.method.steps, self._observe, progress)
        if bool((finite & ~self.stopped).any()):  # nothing has looked at the last step's result
            with torch.no_grad():
                finite &= self._objective().isfinite() | self.stopped
            self._observe(self.residual)
        status: list[Status] = [
            "diverged" if not fine else "converged" if stopped else "budget"
            for fine, stopped in zip(finite.tolist(), self.stopped.tolist(), strict=True)
        ]
        least = self._recovery(self.least, self.least_residual, status)
        recovery = self._recovery(self.image, self.last_residual, status)
        return Recovery(**{**vars(recovery), "alternatives": {"least-residual": least}})

    def _objective(self) -> Tensor:
        inputs = self.inputs
        if self.method.input_noise > 0:
            drawn = [torch.randn(inputs.shape[1:], generator=noise) for noise in self.noises]
            inputs = inputs + self.method.input_noise * torch.stack(drawn).to(inputs)
        decode = vmap(lambda w, b, x: functional_call(self.network, (w, b), (x,))[0])
        decoded = decode(self.weights, self.buffers, inputs)
        residual = residual_energy(self.y, self.operator.A(decoded))
        self.decoded, self.residual = decoded.detach(), residual.detach()
        return residual

    def _observe(self, residual: Tensor) -> Tensor:
        """Remember the last and the least; return which images are at the noise."""
        active = residual.isfinite() & ~self.stopped
        better = active & (residual < self.least_residual)
        self.image[active], self.last_residual[active] = self.decoded[active], residual[active]
        self.least[better], self.least_residual[better] = self.decoded[better], residual[better]
        self.evaluations += active.cpu()
        self.stopped |= active & (residual <= self.target)
        return self.stopped

    def _recovery(self, image: Tensor, objective: Tensor, status: list[Status]) -> Recovery:
        return Recovery(
            image=image.clone(),
            latent=None,
            objective=objective,
            residual=residual_norm(image, self.y, self.operator),
            steps=(self.evaluations - 1).clamp_min(0),
            evaluations=self.evaluations,
            status=tuple(status),
        )
