"""What linear algebra alone recovers: baselines that any method should beat."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.checks import require_at_least
from core.seeds import generator
from recovery.methods import (
    PriorFree,
    Progress,
    Recovery,
    Status,
    require_linear,
    residual_norm,
)
from recovery.operators import Operator


def norm_squared(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    like: Tensor,
    iterations: int = 20,
) -> Tensor:
    """Estimate ||F||^2 from below, by power iterations from a fixed start shaped like `like`."""
    v = torch.randn(like.shape, generator=generator("power iteration")).to(like)
    largest = v.new_zeros(())
    for _ in range(iterations):
        v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
        v = adjoint(forward(v))
        largest = v.norm()
    return largest


@torch.no_grad()
def conjugate_gradients(
    product: Callable[[Tensor], Tensor], y: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve M u = y per image, from 0; `product` computes M u of (B, ...), M positive semidefinite.

    Returns:
        u as y, the iterations (B,) each image took, and whether (B,) it reached the tolerance:
        a residual of the equation of `tolerance` times ||y||.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(dim=1).view(-1, *[1] * (a.ndim - 1))

    residual = y
    u, direction = torch.zeros_like(residual), residual
    steps = torch.zeros(len(y), dtype=torch.int64)
    energy = dot(residual, residual)
    goal = tolerance**2 * energy
    for _ in range(iterations):
        unsolved = (energy > goal).flatten()
        if not unsolved.any():
            break
        steps += unsolved.cpu()
        curved = product(direction)
        curvature = dot(direction, curved)
        # 0 for an image with y = 0, or one already solved: the rest of the batch must not move it
        moves = (curvature > 0) & (energy > goal)
        step = torch.where(moves, energy / curvature, 0.0)
        u, residual = u + step * direction, residual - step * curved
        before, energy = energy, dot(residual, residual)
        direction = residual + torch.where(before > 0, energy / before, 0.0) * direction
    return u, steps, (energy <= goal).flatten()


def solve_normal(
    y: Tensor, operator: Operator, iterations: int = 100, tolerance: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve A A^T u = y per image; A must be linear. Returns what `conjugate_gradients` does."""
    return conjugate_gradients(
        lambda u: operator.A(operator.A_adjoint(u)), y, iterations, tolerance
    )


def back_project(image: Tensor, y: Tensor, operator: Operator) -> Tensor:
    """Compute x + A^+ (y - A(x)) per image: the nearest image that fits y (IAGAN, section 3.2)."""
    with torch.no_grad():
        u, _, _ = solve_normal(y - operator.A(image), operator)
        return image + operator.A_adjoint(u)


class Adjoint(PriorFree):
    """Recovers A^T y: exact on the known pixels of inpainting, a blurred guess elsewhere."""

    def check(self, operator: Operator) -> None:
        require_linear("the adjoint", operator)

    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        none = torch.zeros(len(y), dtype=torch.int64)
        return linear_recovery(operator.A_adjoint(y), y, operator, none, none == 0)


class PseudoInverse(PriorFree):
    """Recovers A^+ y, the image of least norm that fits y best, by conjugate gradients on A A^T.

    Status: `budget` where the residual of A A^T u = y has not fallen by `tolerance`; it cannot
    for noisy measurements that no image explains (a mask with noise under it).

    Args:
        iterations: at most so many; stopping early keeps noise out of badly conditioned inverses.
        tolerance: see `solve_normal`.
    """

    def __init__(self, iterations: int = 100, tolerance: float = 1e-4) -> None:
        super().__init__()
        require_at_least(1, iterations=iterations)
        self.iterations = iterations
        self.tolerance = tolerance

    def check(self, operator: Operator) -> None:
        require_linear("the pseudo-inverse", operator)

    def _recover(
        self, y: Tensor, operator: Operator, seeds: Sequence[int], progress: Progress | None
    ) -> Recovery:
        u, steps, solved = solve_normal(y, operator, self.iterations, self.tolerance)
        return linear_recovery(operator.A_adjoint(u), y, operator, steps, solved.cpu())


def linear_recovery(
    image: Tensor, y: Tensor, operator: Operator, steps: Tensor, solved: Tensor
) -> Recovery:
    """Make the recovery of images that took `steps` (B,) iterations and are `solved` (B,)."""
    residual = residual_norm(image, y, operator)
    status: list[Status] = [
        "diverged" if not finite else "converged" if done else "budget"
        for finite, done in zip(residual.isfinite().tolist(), solved.tolist(), strict=True)
    ]
    return Recovery(
        image=image,
        latent=None,
        objective=residual.square(),
        residual=residual,
        steps=steps,
        evaluations=steps,
        status=tuple(status),
    )
