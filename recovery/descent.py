"""Descent on many separate problems at once, one per row, so that a bad row spoils no other."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recovery.methods import Progress

# the rows' objective values (B,), with their graph
Objective = Callable[[], Tensor]
# called before each step with the values where it starts; may return which rows (B,) are done
Observer = Callable[[Tensor], Tensor | None]


def descend(
    objective: Objective,
    parameters: Sequence[tuple[Sequence[Tensor], float]],
    steps: int,
    observe: Observer,
    progress: Progress | None = None,
    optimizer_class: type[torch.optim.Adam | torch.optim.SGD] = torch.optim.Adam,
) -> Tensor:
    """Minimise every row's objective by `steps` of the optimizer, fewer if all are done.

    Args:
        objective: of the parameters as they are; row i must depend on row i of each alone.
        parameters: tensors (B, ...) that require gradients, changed in place, and learning rates.
        steps: how many; each evaluates the objective once.
        observe: takes the values (B,) of every step; the rows it returns as done stay in place.
        progress: see `recovery.methods.Progress`.
        optimizer_class: Adam (betas 0.9, 0.999), or SGD without momentum.

    Returns:
        Which rows (B,) were finite throughout. The others stay where they first had a value or
        gradient that was not finite.
    """
    optimizer = optimizer_class([{"params": list(group), "lr": lr} for group, lr in parameters])
    tensors = [tensor for group, _ in parameters for tensor in group]
    finite = torch.ones(len(tensors[0]), dtype=torch.bool, device=tensors[0].device)
    done = ~finite
    for step in range(steps):
        with torch.enable_grad():
            values = objective()
            # a generator may hold weights its images do not use (a grown PGGAN's small RGB layers)
            gradients = torch.autograd.grad(values.sum(), tensors, materialize_grads=True)
        told = observe(values.detach())
        done = done if told is None else done | told
        finite = finite & values.detach().isfinite()
        for gradient in gradients:  # a sum shows it without a mask of the gradient's size
            finite = finite & gradient.flatten(1).sum(dim=1).isfinite()
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient
        active = finite & ~done
        if not active.any():
            break
        if not active.all():
            _stop(optimizer, tensors, ~active)
        optimizer.step()
        if progress is not None:
            progress(step + 1, int(active.sum()))
    return finite


def _stop(optimizer: torch.optim.Optimizer, tensors: Sequence[Tensor], rows: Tensor) -> None:
    """Clear the gradient and momentum of rows, so that the optimizer leaves them where they are."""
    for tensor in tensors:
        assert tensor.grad is not None
        tensor.grad[rows] = 0.0
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimizer.state.get(tensor, {}):
                optimizer.state[tensor][moment][rows] = 0.0
