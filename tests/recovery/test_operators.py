"""Operators: exact adjoints, the paper's scales, and noise that follows the image alone."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from core.seeds import generator
from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator

SHAPE = (3, 8, 8)
N = 192
MASKS = ("centre", "random", "left", "bottom")
OPERATORS: dict[str, Callable[..., Operator]] = {
    "gaussian-m40": partial(GaussianSensing, SHAPE, m=40),
    "gaussian-150%": partial(GaussianSensing, SHAPE, m=288),
    "denoising": partial(Denoising, SHAPE, sigma=0.1),
    **{mask: partial(Inpainting, SHAPE, mask=mask, sigma=0.1) for mask in MASKS},  # type: ignore[arg-type]
}
each_operator = pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS.keys())


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=generator("test images"))


def matrix(operator: Operator) -> Tensor:
    """A as (m, n), read off by measuring the unit images."""
    n = math.prod(operator.image_shape)
    return operator.A(torch.eye(n).unflatten(1, operator.image_shape)).flatten(1).T


def noise(operator: Operator, seeds: list[int]) -> Tensor:
    return operator(torch.zeros(len(seeds), *operator.image_shape), seeds=seeds)


# --- A and its adjoint


@pytest.mark.parametrize(("fraction", "hole"), [(0.001, False), (0.5, False), (0.8, True)])
def test_pixels_left_out_between_others_are_no_hole(fraction: float, hole: bool) -> None:
    assert Inpainting((3, 32, 32), "random", fraction).leaves_a_hole() == hole


@pytest.mark.parametrize("name", OPERATORS)
def test_a_hole_is_where_nothing_near_is_measured(name: str) -> None:
    operator = OPERATORS[name]()
    assert operator.leaves_a_hole() == (name in ("centre", "left", "bottom"))
    assert getattr(operator, "_drawn", None) is None  # a large matrix waits for its first use


@each_operator
def test_adjoint_is_the_transpose(make: Callable[..., Operator]) -> None:
    operator = make()
    x = images(5).double()
    ax = operator.A(x)
    y = torch.randn(ax.shape, generator=generator("test y")).double()
    left = (ax * y).flatten(1).sum(dim=1)
    right = (x * operator.A_adjoint(y)).flatten(1).sum(dim=1)
    assert operator.A_adjoint(y).shape == x.shape
    assert torch.allclose(left, right, rtol=1e-12)


@each_operator
def test_a_batch_is_measured_image_by_image(make: Callable[..., Operator]) -> None:
    operator, x = make(), images(3)
    alone = torch.cat([operator.A(image[None]) for image in x])
    assert torch.allclose(operator.A(x), alone, atol=1e-6)


@pytest.mark.parametrize("m", [20, 100, 400])
def test_entries_of_the_sensing_matrix_are_normal_with_variance_one_over_m(m: int) -> None:
    entries = matrix(GaussianSensing(SHAPE, m)) * math.sqrt(m)
    assert entries.shape == (m, N)
    deviation = 4 / math.sqrt(entries.numel())  # 4 standard errors
    assert abs(entries.mean()) < deviation
    assert abs(entries.square().mean() - 1) < deviation * math.sqrt(2)
    assert abs(entries.pow(4).mean() - 3) < deviation * math.sqrt(96)


def test_measuring_keeps_energy_on_average() -> None:
    x = images(8)
    ratios = [
        GaussianSensing(SHAPE, 50, seed=seed).A(x).square().sum() / x.square().sum()
        for seed in range(40)
    ]
    assert abs(torch.stack(ratios).mean() - 1) < 4 * math.sqrt(2 / 50 / 40)


@pytest.mark.parametrize(
    ("m", "count"), [(0.25, 48), (0.01, 2), (1.0, N), (1, 1), (48, 48), (48.0, 48)]
)
def test_m_is_a_count_or_a_fraction_of_n(m: float, count: int) -> None:
    operator = GaussianSensing(SHAPE, m)
    assert operator.measurements == count
    assert operator.A(images(2)).shape == (2, count)
    assert torch.equal(matrix(operator), matrix(GaussianSensing(SHAPE, count)))


# --- noise


@pytest.mark.parametrize("m", [5, 50, 0.9])
@pytest.mark.parametrize("norm", [0.1, 0.5])
def test_noise_of_compressive_sensing_has_the_papers_norm(m: float, norm: float) -> None:
    operator = GaussianSensing(SHAPE, m, noise_norm=norm)
    energies = noise(operator, list(range(1000))).square().sum(dim=1)
    error = 5 * math.sqrt(2 / energies.numel() / operator.measurements)
    assert energies.mean().sqrt().item() == pytest.approx(norm, rel=error)
    assert operator.noise_energy == pytest.approx(norm**2)


def test_papers_noise_norm_is_the_default() -> None:
    assert GaussianSensing(SHAPE, 7).noise_energy == pytest.approx(0.1**2)


@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_noise_of_denoising_is_white_with_sigma_per_pixel(sigma: float) -> None:
    eta = noise(Denoising(SHAPE, sigma), list(range(500))).flatten(1) / sigma
    error = 5 / math.sqrt(eta.numel())
    assert abs(eta.mean()) < error
    assert abs(eta.square().mean() - 1) < error * math.sqrt(2)
    assert abs((eta[:, 1:] * eta[:, :-1]).mean()) < error
    assert eta.square().mean(dim=0).min() > 0.6  # every pixel has its noise
    assert Denoising(SHAPE, sigma).noise_energy == pytest.approx(N * sigma**2)


@pytest.mark.parametrize("mask", MASKS)
def test_noise_of_inpainting_is_on_kept_pixels_only(mask: str) -> None:
    operator = Inpainting(SHAPE, mask=mask, sigma=0.2)  # type: ignore[arg-type]
    y = noise(operator, list(range(100)))
    assert (y[..., operator.hole] == 0).all()
    kept = y[..., ~operator.hole]
    assert kept.std().item() == pytest.approx(0.2, rel=5 / math.sqrt(2 * kept.numel()))
    assert operator.measurements == kept[0].numel()
    assert operator.noise_energy == pytest.approx(kept[0].numel() * 0.04)


def test_without_sigma_there_is_no_noise() -> None:
    operator, x = Inpainting(SHAPE), images(2)
    assert operator.noise_energy == 0
    assert torch.equal(operator(x, seeds=[1, 2]), operator.A(x))


@each_operator
def test_noise_follows_the_image_seed_in_any_batch(make: Callable[..., Operator]) -> None:
    operator = make()
    together = noise(operator, [7, 8, 9, 7])
    assert torch.equal(together[0], together[3])
    assert torch.equal(noise(operator, [9, 7])[1], together[0])
    assert torch.equal(noise(operator, [9])[0], together[2])
    again = make()  # another process, another node
    matrix(again)  # whether or not the matrix was drawn before
    assert torch.equal(noise(again, [7, 8, 9, 7]), together)
    x = images(2)
    assert torch.allclose(operator(x, seeds=[8, 9]) - operator.A(x), together[1:3], atol=1e-6)


@each_operator
def test_other_image_or_operator_seeds_give_other_noise(make: Callable[..., Operator]) -> None:
    here, there = noise(make(seed=0), [1, 2]), noise(make(seed=1), [1, 2])
    for a, b in [(here[0], here[1]), (here[0], there[0]), (here[0], there[1])]:
        both = (a != 0) & (b != 0)
        assert both.any() and (a != b)[both].all()


@each_operator
def test_noise_without_seeds_is_the_same_every_time(make: Callable[..., Operator]) -> None:
    x = images(3)
    y = make()(x)
    torch.manual_seed(99)  # not the global generator's
    assert torch.equal(make()(x), y)
    eta = make()(torch.zeros_like(x))
    assert not torch.equal(eta[0], eta[1])


@each_operator
def test_no_global_randomness_is_drawn(make: Callable[..., Operator]) -> None:
    before = torch.get_rng_state()
    make()(images(2), seeds=[1, 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_matrix_and_mask_are_functions_of_the_config() -> None:
    same, other = GaussianSensing(SHAPE, 20, seed=3), GaussianSensing(SHAPE, 20, seed=4)
    assert torch.equal(matrix(same), matrix(GaussianSensing(SHAPE, 20, seed=3)))
    assert (matrix(same) != matrix(other)).all()
    masks = [Inpainting(SHAPE, "random", 0.5, seed=seed).kept for seed in (3, 3, 4)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


# --- masks


def test_the_papers_centre_mask_hides_19_by_19_pixels_of_64() -> None:
    hole = Inpainting((3, 64, 64)).hole
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[22:41, 22:41] = True
    assert torch.equal(hole, expected)
    assert Inpainting((3, 64, 64)).measurements == 3 * (64**2 - 19**2)


def test_left_and_bottom_masks_hide_that_fraction_of_columns_and_rows() -> None:
    left = Inpainting((3, 10, 20), mask="left", fraction=0.3).hole
    assert left[:, :6].all() and not left[:, 6:].any()
    bottom = Inpainting((3, 10, 20), mask="bottom", fraction=0.3).hole
    assert bottom[7:].all() and not bottom[:7].any()


def test_random_mask_hides_that_fraction_of_pixels_in_every_channel() -> None:
    operator = Inpainting((3, 10, 20), mask="random", fraction=0.3)
    assert operator.hole.sum() == 60
    assert operator.hole.any(dim=0).sum() > 12  # spread over the image
    hidden = operator.A(torch.ones(1, 3, 10, 20))[0] == 0
    assert torch.equal(hidden, operator.hole.expand(3, 10, 20))


def test_inpainting_leaves_kept_pixels_as_they_are() -> None:
    operator, x = Inpainting(SHAPE), images(2)
    y = operator(x)
    assert torch.equal(y[..., ~operator.hole], x[..., ~operator.hole])
    assert (y[..., operator.hole] == 0).all()


# --- types and devices


@each_operator
def test_float64_images_give_float64_measurements_of_the_same_values(
    make: Callable[..., Operator],
) -> None:
    x = images(2)
    y, y64 = make()(x, seeds=[1, 2]), make()(x.double(), seeds=[1, 2])
    assert y64.dtype == torch.float64
    assert torch.allclose(y64.float(), y, atol=1e-5)
    assert make().A_adjoint(y64).dtype == torch.float64


@each_operator
def test_a_visit_to_another_type_changes_no_value(make: Callable[..., Operator]) -> None:
    operator, x = make(), images(2)
    y = operator(x, seeds=[1, 2])
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert operator.A(x.to(dtype)).dtype == dtype
        operator.to(dtype).to(torch.float32)
        assert torch.equal(operator(x, seeds=[1, 2]), y), dtype


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_operator
def test_noise_and_matrix_are_the_same_on_a_gpu(make: Callable[..., Operator]) -> None:
    cpu, gpu, x = make(), make().cuda(), images(2)
    assert torch.allclose(gpu(x.cuda(), seeds=[1, 2]).cpu(), cpu(x, seeds=[1, 2]), atol=1e-5)
    zero = torch.zeros_like(x)
    assert torch.equal(gpu(zero.cuda(), seeds=[1, 2]).cpu(), cpu(zero, seeds=[1, 2]))


@each_operator
def test_callers_like_deepinv_may_pass_further_keywords(make: Callable[..., Operator]) -> None:
    operator, x = make(), images(2)
    assert torch.equal(operator(x, extra_kw=1), operator(x))
    assert torch.equal(operator.A(x, extra_kw=1), operator.A(x))
    y = operator(x)
    assert torch.equal(operator.A_adjoint(y, extra_kw=1), operator.A_adjoint(y))


# --- refusals


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(Denoising, sigma=-0.1), r"sigma.*-0\.1"),
        (partial(Denoising, sigma=math.nan), "sigma.*nan"),
        (partial(Inpainting, sigma=-0.1), r"sigma.*-0\.1"),
        (partial(Inpainting, mask="round"), "mask.*'round'"),
        (partial(Inpainting, fraction=0), "fraction.*0"),
        (partial(Inpainting, fraction=1.0), r"fraction.*1\.0"),
        (partial(Inpainting, fraction=-0.3), r"fraction.*-0\.3"),
        (partial(GaussianSensing, m=0), "m must.*0"),
        (partial(GaussianSensing, m=0.001), r"m must.*0\.001"),
        (partial(GaussianSensing, m=-5), "m must.*-5"),
        (partial(GaussianSensing, m=1.5), r"m must.*1\.5"),
        (partial(GaussianSensing, m=5, noise_norm=-0.1), r"noise_norm.*-0\.1"),
    ],
)
def test_bad_values_are_named(make: Callable[..., Operator], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(SHAPE)


def test_one_seed_per_image_is_demanded() -> None:
    with pytest.raises(ValueError, match="3 images need as many seeds, got 1"):
        Denoising(SHAPE, 0.1)(images(3), seeds=[1])
