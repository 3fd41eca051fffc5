"""The batched L-BFGS against SciPy one problem at a time, and the promises of its docstring."""

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence

# Read when SciPy loads its BLAS, whose idle threads otherwise spin on a busy machine.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from recovery.lbfgs import Minimum, minimise

Energy = Callable[[Tensor, Tensor], Tensor]  # points (k, n), problem indices (k,) -> values (k,)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Recorded:
    """An objective with autograd's gradient that remembers each problem's points and values."""

    def __init__(self, energy: Energy, problems: int) -> None:
        self.energy = energy
        self.points: list[list[Tensor]] = [[] for _ in range(problems)]
        self.values: list[list[float]] = [[] for _ in range(problems)]
        self.batches: list[list[int]] = []

    def __call__(self, points: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        assert not points.requires_grad and points.shape[0] == len(indices)
        points = points.clone().requires_grad_()
        values = self.energy(points, indices)
        (gradients,) = torch.autograd.grad(values.sum(), points)
        self.batches.append(indices.tolist())
        for i, point, value in zip(indices.tolist(), points.detach(), values.tolist(), strict=True):
            self.points[i].append(point)
            self.values[i].append(value)
        return values, gradients  # with their graph: minimise must not keep it


def quadratics(
    conditions: Sequence[float], n: int, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Energy, Tensor]:
    """0.5 x' diag(eigenvalues) x, one condition per problem, log-uniform spectra."""
    rng = np.random.default_rng(seed)
    spectra = np.exp([rng.uniform(-np.log(c), 0, n) for c in conditions])
    spectra[:, 0], spectra[:, 1] = 1, 1 / np.asarray(conditions)
    eigenvalues = torch.tensor(spectra, dtype=dtype)
    start = torch.tensor(rng.standard_normal((len(conditions), n)), dtype=dtype)
    return lambda x, i: 0.5 * (eigenvalues[i] * x * x).sum(-1), start


def rosenbrock(problems: int, n: int, seed: int) -> tuple[Energy, Tensor]:
    start = np.random.default_rng(seed).uniform(-2, 2, (problems, n))

    def energy(x: Tensor, _: Tensor) -> Tensor:
        head, tail = x[:, :-1], x[:, 1:]
        return (100 * (tail - head**2) ** 2 + (1 - head) ** 2).sum(-1)

    return energy, torch.tensor(start)


def two_layer_fits(problems: int, n: int, seed: int) -> tuple[Energy, Tensor]:
    """||W2 tanh(W1 x) - y||^2 + 1e-3 ||x||^2, another network for each problem."""
    rng = np.random.default_rng(seed)
    first = torch.tensor(rng.standard_normal((problems, 60, n)) * 1.5 / n**0.5)
    second = torch.tensor(rng.standard_normal((problems, 30, 60)) / 60**0.5)
    truth, start = torch.tensor(rng.standard_normal((2, problems, n)))

    def outputs(x: Tensor, i: Tensor) -> Tensor:
        hidden = torch.tanh((first[i] * x[:, None]).sum(-1))
        return (second[i] * hidden[:, None]).sum(-1)

    noise = torch.tensor(0.05 * rng.standard_normal((problems, 30)))
    measured = outputs(truth, torch.arange(problems)) + noise
    return (
        lambda x, i: (outputs(x, i) - measured[i]).square().sum(-1) + 1e-3 * x.square().sum(-1),
        start,
    )


def scipy_values(energy: Energy, start: Tensor, i: int, evaluations: int) -> list[float]:
    """The values L-BFGS-B meets on problem i alone, at the same history and no early stop."""
    recorded = Recorded(energy, i + 1)

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = recorded(torch.tensor(x)[None], torch.tensor([i]))
        return value.item(), gradient[0].numpy()

    options = {"maxcor": 20, "maxfun": evaluations + 25, "maxiter": 10**6, "ftol": 0, "gtol": 0}
    scipy.optimize.minimize(
        value_and_gradient, start[i].numpy(), jac=True, method="L-BFGS-B", options=options
    )
    return recorded.values[i]


def ratios_to_scipy(
    energy: Energy, start: Tensor, budgets: Sequence[int], *, largest_fall: float = math.inf
) -> list[float]:
    """Our lowest value over SciPy's at equal evaluations, one per problem and budget."""
    ours = Recorded(energy, len(start))
    minimise(ours, start, max_evaluations=max(budgets), gradient_tolerance=0)
    ratios = []
    for i in range(len(start)):
        theirs = scipy_values(energy, start, i, max(budgets))
        for budget in budgets:
            if theirs[0] < largest_fall * min(theirs[:budget]):
                ratios.append(min(ours.values[i][:budget]) / min(theirs[:budget]))
    return ratios


def same(a: Minimum, b: Minimum) -> bool:
    return (
        torch.equal(a.point, b.point)
        and torch.equal(a.value, b.value)
        and torch.equal(a.steps, b.steps)
        and torch.equal(a.evaluations, b.evaluations)
        and a.status == b.status
    )


@pytest.mark.parametrize("n", [100, 300, 1000])
def test_quadratics_fall_as_fast_as_with_scipy(n: int) -> None:
    energy, start = quadratics([1e2, 1e3, 1e4, 1e5, 1e6] * 2, n, seed=n)
    ratios = ratios_to_scipy(energy, start, (25, 50, 100, 200), largest_fall=1e6)
    assert len(ratios) >= 25
    assert np.median(ratios) <= 1.05
    assert max(ratios) <= 1.25


@pytest.mark.parametrize("problems", [rosenbrock(8, 50, seed=0), two_layer_fits(8, 40, seed=0)])
def test_nonconvex_problems_fall_as_fast_as_with_scipy(problems: tuple[Energy, Tensor]) -> None:
    """No worst case here: two equally good searches may end in different valleys."""
    ratios = ratios_to_scipy(*problems, budgets=(50, 100, 200))
    assert np.median(ratios) <= 1.01
    assert np.exp(np.mean(np.log(ratios))) <= 1.02


def test_a_problem_does_not_feel_its_batch_mates() -> None:
    energy, start = two_layer_fits(20, 30, seed=1)
    together = minimise(Recorded(energy, 20), start, max_evaluations=80)
    for i in range(20):
        alone = minimise(
            lambda x, _, i=i: Recorded(energy, 20)(x, torch.tensor([i])),
            start[i : i + 1],
            max_evaluations=80,
        )
        torch.testing.assert_close(alone.point[0], together.point[i], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(alone.value[0], together.value[i], rtol=1e-9, atol=0)
        assert alone.status[0] == together.status[i]


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scaling_the_objective_changes_nothing(scale: float) -> None:
    energy, start = two_layer_fits(5, 30, seed=2)
    plain, scaled = Recorded(energy, 5), Recorded(lambda x, i: scale * energy(x, i), 5)
    before = minimise(plain, start, max_evaluations=40)
    after = minimise(scaled, start, max_evaluations=40)
    assert torch.equal(before.evaluations, after.evaluations)
    assert before.status == after.status
    for a, b in zip(plain.points, scaled.points, strict=True):
        torch.testing.assert_close(torch.stack(a), torch.stack(b), rtol=1e-6, atol=1e-6)


def test_scaling_by_a_power_of_two_changes_no_bit_until_the_very_end() -> None:
    energy, start = quadratics([1e2, 1e4], 50, seed=3, dtype=torch.float32)
    before = minimise(Recorded(energy, 2), start, max_evaluations=2000)
    after = minimise(Recorded(lambda x, i: 2.0**-20 * energy(x, i), 2), start, max_evaluations=2000)
    assert torch.equal(before.point, after.point)
    assert before.status == after.status == ("converged", "converged")


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_problem_without_finite_values_diverges_alone(poison: float) -> None:
    energy, start = quadratics([1e3] * 4, 50, seed=4)
    healthy = minimise(Recorded(energy, 4), start)

    def poisoned(x: Tensor, i: Tensor) -> Tensor:
        return energy(x, i) * torch.where(i == 2, poison, 1.0)

    result = minimise(Recorded(poisoned, 4), start)
    assert result.status[2] == "diverged"
    assert result.value[2] == math.inf and result.evaluations[2] == 1
    assert torch.equal(result.point[2], start[2])
    others = [0, 1, 3]
    assert torch.equal(result.point[others], healthy.point[others])
    assert torch.equal(result.evaluations[others], healthy.evaluations[others])


def test_a_non_finite_gradient_counts_as_non_finite() -> None:
    result = minimise(lambda x, _: (x.sum(-1), x * math.nan), torch.ones(1, 3))
    assert result.status == ("diverged",)


def test_a_non_finite_trial_shortens_the_step() -> None:
    """Inside the radius lies the minimum, but the first steps lead outside."""
    energy, start = quadratics([1e2] * 3, 20, seed=5)
    start = start / start.norm(dim=-1, keepdim=True)

    def walled(x: Tensor, i: Tensor) -> Tensor:
        outside = (x.norm(dim=-1) > 1.001) | ((x - start[i]).norm(dim=-1) > 0.9)
        outside &= (i == 1) & (x.norm(dim=-1) > 0.3)
        return torch.where(outside, math.inf, energy(x, i))

    free = minimise(Recorded(energy, 3), start)
    objective = Recorded(walled, 3)
    result = minimise(objective, start)
    assert math.inf in objective.values[1]
    assert result.status == ("converged",) * 3
    assert result.value[1] < 1e-8 * energy(start, torch.arange(3))[1]
    assert torch.equal(result.point[[0, 2]], free.point[[0, 2]])


def test_a_minimum_behind_a_wall_is_given_up_at_the_best_point_seen() -> None:
    energy, start = quadratics([1e2] * 2, 20, seed=6)
    floor = torch.tensor([-math.inf, 0.3]).double() * energy(start, torch.arange(2))
    objective = Recorded(
        lambda x, i: torch.where(energy(x, i) < floor[i], math.nan, energy(x, i)), 2
    )
    result = minimise(objective, start, max_evaluations=1000)
    assert result.status == ("converged", "diverged")
    assert result.evaluations[1] < 200
    assert result.value[1] == np.nanmin(objective.values[1])
    torch.testing.assert_close(result.value[1], floor[1], rtol=0.1, atol=0)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_reaching_the_target_ends_a_problem_early(as_tensor: bool) -> None:
    energy, start = quadratics([1e4] * 3, 100, seed=7)
    goal = 1e-2 * energy(start, torch.arange(3))
    target = goal if as_tensor else goal.max().item()
    everything = minimise(Recorded(energy, 3), start)
    result = minimise(Recorded(energy, 3), start, target=target)
    assert result.status == ("converged",) * 3
    assert bool((result.value <= goal.max()).all())
    assert bool((result.evaluations < everything.evaluations).all())
    if as_tensor:
        assert bool((result.value <= goal).all())


@pytest.mark.parametrize("budget", [1, 2, 3, 17, 60])
def test_evaluations_are_counted_and_never_exceed_the_budget(budget: int) -> None:
    energy, start = rosenbrock(6, 20, seed=8)
    objective = Recorded(energy, 6)
    result = minimise(objective, start, max_evaluations=budget)
    passed = Counter(i for batch in objective.batches for i in batch)
    assert result.evaluations.tolist() == [passed[i] for i in range(6)] == [budget] * 6
    assert result.status == ("budget",) * 6
    assert result.value.tolist() == [min(values) for values in objective.values]
    assert bool((result.steps < result.evaluations).all())


def test_done_problems_leave_the_batch() -> None:
    energy, start = quadratics([1e1, 1e5, 1e1, 1e3], 60, seed=9)
    objective, reports = Recorded(energy, 4), []
    result = minimise(objective, start, progress=lambda *report: reports.append(report))
    spent = result.evaluations.tolist()
    assert len(set(spent)) > 2
    for number, batch in enumerate(objective.batches):
        assert batch == [i for i in range(4) if number < spent[i]]
    assert [r[0] for r in reports] == list(range(1, max(spent) + 1))
    assert [r[1] for r in reports] == [sum(s > r[0] for s in spent) for r in reports]


def test_a_convex_quadratic_is_solved_to_the_gradient_tolerance() -> None:
    energy, start = quadratics([1e1, 1e3], 50, seed=10)
    objective, both = Recorded(energy, 2), torch.arange(2)
    result = minimise(objective, start, gradient_tolerance=1e-8)
    assert result.status == ("converged",) * 2
    first, last = (objective(x, both)[1].norm(dim=-1) for x in (start, result.point))
    assert bool((last <= 1e-8 * first).all())


def test_a_start_without_gradient_is_converged() -> None:
    energy, start = quadratics([1e1, 1e1], 10, seed=11)
    start[0] = 0
    result = minimise(Recorded(energy, 2), start)
    assert result.status == ("converged",) * 2
    assert result.evaluations[0] == 1 and result.steps[0] == 0
    assert result.evaluations[1] > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_ends_a_problem_cleanly(dtype: torch.dtype) -> None:
    """A large constant hides the last decreases; no tolerance helps out."""
    energy, start = quadratics([1e1, 1e2, 1e3], 60, seed=12, dtype=dtype)
    objective = Recorded(lambda x, i: 1000 + energy(x, i), 3)
    result = minimise(objective, start, max_evaluations=5000, gradient_tolerance=0)
    assert result.status == ("converged",) * 3
    assert int(result.evaluations.max()) < 500
    assert result.point.dtype == result.value.dtype == dtype
    assert bool((result.value - 1000 <= 1e4 * torch.finfo(dtype).eps).all())


def test_repeatable_and_the_start_is_left_alone() -> None:
    energy, start = rosenbrock(3, 10, seed=13)
    copy = start.clone()
    leaf = start.requires_grad_()
    first = minimise(Recorded(energy, 3), leaf, history=1)
    assert same(first, minimise(Recorded(energy, 3), leaf, history=1))
    assert torch.equal(leaf.detach(), copy)
    assert not first.point.requires_grad and not first.value.requires_grad
    assert first.steps.dtype == first.evaluations.dtype == torch.int64


@pytest.mark.parametrize("flat", ["linear", "constant after the start"])
def test_degenerate_functions_end(flat: str) -> None:
    def objective(x: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        values = x.sum(-1) if flat == "linear" else torch.ones(len(x))
        return values, torch.ones_like(x)  # the constant's gradient is a lie

    result = minimise(objective, torch.zeros(2, 3), max_evaluations=300)
    assert bool((result.evaluations <= 300).all())
    assert bool(result.value.isfinite().all())
    if flat != "linear":
        assert result.status == ("converged",) * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": torch.zeros(3)}, "start"),
        ({"start": torch.zeros(0, 3)}, "start"),
        ({"start": torch.zeros(2, 3, dtype=torch.int64)}, "start"),
        ({"history": 0}, "history"),
        ({"max_evaluations": 0}, "max_evaluations"),
        ({"gradient_tolerance": -1.0}, "gradient_tolerance"),
        ({"gradient_tolerance": math.nan}, "gradient_tolerance"),
        ({"target": torch.zeros(3)}, "target"),
        ({"objective": lambda x, _: (x.sum(), x)}, "objective"),
        ({"objective": lambda x, _: (x.sum(-1), x[:, :1])}, "objective"),
    ],
)
def test_bad_inputs_are_named(changes: dict, message: str) -> None:
    arguments = {"objective": lambda x, _: (x.sum(-1), x), "start": torch.ones(2, 3)} | changes
    with pytest.raises(ValueError, match=message):
        minimise(**arguments)
