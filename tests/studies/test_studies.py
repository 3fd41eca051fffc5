"""Studies: each against theory or a second way of computing; tables survive being saved."""

import io
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from torch import Tensor

from core.seeds import generator
from datamodules.image_set import ImageSet
from datamodules.procedural import faces
from evaluation.outcome import study_tables
from networks.resize_gan import Generator
from priors.prior import FlowPrior, GanPrior
from results.rows import COLUMNS
from studies.bias import Bias
from studies.jacobian import (
    Jacobian,
    jacobian,
    leading_singular_values,
    products,
    singular_values,
    transposed_products,
)
from studies.latent_norm import LatentNorm
from studies.latent_step import LENGTHS, PUBLISHED, LatentStep, five_bits
from studies.samples import Samples, picture, statistics
from studies.study import Given, Study, Tables
from studies.theorem1 import Theorem1, best_bound, lower_bound, squared_errors, upper_bound
from studies.toy import PointSet, RealNVPToy, moons, plane, ring
from tests.networks.test_glow import images_to_initialize, perturbed, small


class LinearFlow:
    """z = W x, an invertible network with a known Jacobian."""

    def __init__(self, weight: Tensor, shape: tuple[int, int, int]) -> None:
        self.weight = weight
        self.latent_dim = len(weight)
        self.image_shape = shape

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.linalg.slogdet(self.weight).logabsdet
        return x.flatten(1) @ self.weight.T, log_det.expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return torch.linalg.solve(self.weight, z.T).T.unflatten(1, self.image_shape)

    def to(self, dtype: torch.dtype) -> "LinearFlow":
        return LinearFlow(self.weight.to(dtype), self.image_shape)


def flow() -> FlowPrior:
    network = small(image_size=8)
    network.initialize(images_to_initialize(8, 8))
    return FlowPrior(perturbed(network, 0.02).frozen(), "glow")


def linear_flow(n: int = 12, scale: float = 1.0) -> FlowPrior:
    weight = torch.randn(n, n, generator=generator("linear")) + 4 * torch.eye(n)
    return FlowPrior(LinearFlow(scale * weight, (3, 2, n // 6)), "linear")


def image_set(name: str, count: int, size: int = 8) -> ImageSet:
    names = [f"{name}-{i}" for i in range(count)]
    return ImageSet(name, "in", faces(range(count), image_size=size), names)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    torch.manual_seed(0)
    gan = GanPrior(Generator(8, latent_dim=4, width=4).eval().requires_grad_(False), "resize-gan")
    sets = {name: image_set(name, 6) for name in ("celeba-val", "ffhq-test", "natural-ood")}
    priors = {"glow": flow(), "dcgan": gan}
    return Given(priors, sets, pd.DataFrame(), torch.device("cpu"), tmp_path)


def reread(tables: Tables) -> Tables:
    """As a report sees them: written as CSV and read again."""
    return {
        name: pd.read_csv(io.StringIO(table.to_csv(index=False))) for name, table in tables.items()
    }


# --- Theorem 1 ---


def test_flat_spectrum_attains_the_lower_bound() -> None:
    s = torch.ones(30, dtype=torch.float64)
    errors = squared_errors(s, 12, 5, generator("flat"))
    assert torch.allclose(errors, torch.full_like(errors, 18.0), atol=1e-12)
    assert lower_bound(s, 12) == 18


def test_error_is_that_of_the_pseudo_inverse() -> None:
    n, m, draws = 8, 5, 3
    s = torch.linspace(2, 0.1, n, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    errors = squared_errors(s, m, draws, generator("pseudo-inverse"))
    matrices = torch.randn(
        draws, n, m, generator=generator("pseudo-inverse"), dtype=torch.float64
    ).mT
    for error, matrix in zip(errors, matrices, strict=True):
        g = rotation @ s.diag()
        a = matrix @ rotation.T  # as Gaussian as `matrix`
        estimate = g @ torch.linalg.pinv(a @ g) @ a @ g  # x_hat = G (A G)^+ A G z
        expected = (g - estimate).square().sum()  # E_z ||(G - estimate) z||^2
        assert torch.allclose(error, expected, rtol=1e-10)


def test_bounds_by_their_formulas() -> None:
    s = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    assert lower_bound(s, 4) == 0.25
    assert upper_bound(s, 4) == 3 * (4 + 1 + 0.25)
    assert best_bound(s, 4) == upper_bound(s, 4)  # k = 2 is the only rank
    s = torch.arange(1, 101, dtype=torch.float64).reciprocal()
    brute = min((1 + k / (19 - k)) * s[k:].square().sum().item() for k in range(2, 19))
    assert math.isclose(best_bound(s, 20), brute, rel_tol=1e-12)


def test_theorem_1_holds_at_a_small_size(given: Given) -> None:
    study = Theorem1(percent=[20, 50, 90], n=20, draws=100)
    tables = reread(study.compute(given, print))
    assert len(tables["errors"]) == 12
    said = study.findings(tables)
    assert "in 12 of 12 cases" in said[0] and "in 12." in said[0]
    broken = {"errors": tables["errors"].assign(upper=0.5 * tables["errors"]["mean"])}
    assert "in 0 of 12 cases" in study.findings(broken)[0]
    again = study.compute(given, print)["errors"]
    assert again.equals(study.compute(given, print)["errors"])


def test_theorem_1_with_a_trained_spectrum(given: Given) -> None:
    study = Theorem1(percent=[10, 50], n=40, draws=2, prior="glow", dataset="celeba-val")
    study.check(given)
    errors = study.compute(given, lambda _: None)["errors"]
    ours = errors[errors["spectrum"] == "glow at celeba-val-0"]
    assert list(ours["m"]) == [19, 96] and (ours["n"] == 192).all()
    assert (ours["lower"] < ours["mean"]).all() and (ours["mean"] < ours["upper"]).all()


# --- the Jacobian ---


def test_jacobian_of_a_linear_flow_is_its_matrix() -> None:
    prior = linear_flow().double()
    inverse = torch.linalg.inv(prior.network.weight)  # type: ignore[attr-defined]
    z = torch.randn(12, dtype=torch.float64)
    assert torch.allclose(jacobian(prior.network, z, chunk=5), inverse, atol=1e-12)
    v = torch.randn(12, 7, dtype=torch.float64)
    assert torch.allclose(products(prior.network, z, v, chunk=3), inverse @ v, atol=1e-12)
    assert torch.allclose(
        transposed_products(prior.network, z, v, chunk=3), inverse.T @ v, atol=1e-12
    )


def test_singular_values_give_the_log_det_of_the_flow() -> None:
    prior = flow().double()
    with torch.no_grad():
        z, log_det = prior.network.forward(images_to_initialize(8, 2).double())
    for latent, expected in zip(z, log_det, strict=True):
        values = singular_values(prior.network, latent)
        assert values.dtype == torch.float64
        assert torch.allclose(-values.log().sum(), expected, atol=1e-9)


def test_forward_mode_equals_finite_differences() -> None:
    prior = flow().double()
    z = torch.randn(192, dtype=torch.float64)
    columns = jacobian(prior.network, z)[:, [0, 100, 191]]
    for column, index in zip(columns.T, (0, 100, 191), strict=True):
        step = torch.zeros(192, dtype=torch.float64)
        step[index] = 1e-5
        ends = prior.network.inverse(torch.stack([z + step, z - step])).flatten(1)
        assert torch.allclose(column, (ends[0] - ends[1]) / 2e-5, atol=1e-8)


def test_range_finder_finds_the_leading_values() -> None:
    basis = torch.linalg.qr(torch.randn(2, 60, 60, dtype=torch.float64)).Q
    s = (-torch.arange(60, dtype=torch.float64) / 6).exp()
    generator_matrix = basis[0] @ s.diag() @ basis[1]
    network = LinearFlow(torch.linalg.inv(generator_matrix), (3, 4, 5))
    found = leading_singular_values(network, torch.zeros(60, dtype=torch.float64), rank=10)
    assert torch.allclose(found, s[:10], rtol=1e-6)
    assert (found <= s[:10] * (1 + 1e-9)).all()


def test_float64_flow_is_exact_to_its_precision() -> None:
    prior = flow()
    x = images_to_initialize(8, 3) + 0.5
    z, _ = prior.encode(x)
    precise, _ = prior.double().encode(x.double())
    assert precise.dtype == torch.float64
    assert torch.allclose(precise.float(), z, rtol=1e-4, atol=1e-4)
    assert (prior.double().decode(precise) - x.double()).abs().max() < 1e-12


def test_jacobian_study_counts_energy_and_decades(given: Given) -> None:
    study = Jacobian(dataset="celeba-val", images=2)
    study.check(given)
    table = study.compute(given, lambda _: None)["singular_values"]
    assert len(table) == 2 * 192 and table["exact"].all()
    falling = pd.DataFrame({"image": "a", "n": 20, "index": range(1, 21), "exact": 1})
    falling["singular_value"] = [10.0**-i for i in range(20)]
    (said,) = study.findings(reread({"singular_values": falling}))
    assert "over 19.00 ± 0.00 decades" in said and "10% hold 100.0 ± 0.0%" in said
    partial = Jacobian(dataset="celeba-val", images=1, rank=5)
    tables = partial.compute(given, lambda _: None)
    assert len(tables["singular_values"]) == 5
    assert "randomised range finder" in partial.findings(tables)[0]


def test_an_image_keeps_its_name_in_a_study_read_again(given: Given) -> None:
    named = replace(given.sets["celeba-val"], image_names=[f"000{i}" for i in range(6)])
    given = replace(given, sets={"celeba-val": named})
    study = Jacobian(dataset="celeba-val", images=2, rank=2)
    tables = study_tables(study, given, given.folder / "study", {}, lambda _: None)
    assert set(tables["singular_values"]["image"]) == {"0000", "0001"}


# --- latents ---


def test_latent_step_of_a_linear_flow(given: Given) -> None:
    # x = z / 2 moves every direction by half a step
    prior = FlowPrior(LinearFlow(2 * torch.eye(192), (3, 8, 8)), "linear")
    study = LatentStep(images=4, directions=2, lengths=[0.1, 0.8], batch_size=3)
    linear = Given({"glow": prior}, given.sets, given.rows, given.device, given.folder)
    steps = study.compute(linear, lambda _: None)["steps"]
    assert len(steps) == 6 and (steps["n_rows"] == 4).all()
    assert ((steps["dx_mean"] / steps["dz_norm"] - 0.5).abs() < 1e-4).all()
    assert "0.500 ± 0.000 (natural)" in study.findings(reread({"steps": steps}))[0]
    assert "published means give 1.44 (0.572 and 0.398" in study.findings({"steps": steps})[1]


def test_directions_of_latent_steps() -> None:
    images, z = image_set("celeba-val", 3), torch.randn(3, 192)
    directions = LatentStep(directions=4)._directions(images, z)
    assert torch.equal(directions["natural"][0, 1], z[1] - z[0])
    assert directions["uniform"].shape == directions["gaussian"].shape == (4, 3, 192)
    assert directions["uniform"].min() >= 0 and directions["gaussian"].mean().abs() < 0.1
    alone = LatentStep(directions=4)._directions(images.subset([2]), z[2:])
    assert torch.equal(alone["uniform"][:, 0], directions["uniform"][:, 2])


def test_images_that_do_not_encode_are_counted() -> None:
    norms = {"dataset": "a", "sigma": 0.0, "n": 4, "norm": [1.0, 3.0, math.inf]}
    table = pd.DataFrame({**norms, "log_likelihood": [4.0, 8.0, math.nan]})
    (said,) = LatentNorm().findings(reread({"norms": table}))
    assert "a 2.0 ± 1.0 (1.50 nats per dimension, 3 images, 1 not finite)" in said


def test_published_steps_are_those_of_the_defaults() -> None:
    published = pd.read_csv(PUBLISHED)
    assert sorted(published["dz_norm"].unique()) == sorted(LENGTHS)


def test_five_bits_keep_the_level_of_each_pixel() -> None:
    images = image_set("celeba-val", 2)
    x = five_bits(images)
    assert torch.equal((32 * x).floor(), images.images.div(8, rounding_mode="floor").float())
    assert torch.equal(five_bits(images.subset([1])), x[1:])


def test_latent_norm_of_a_linear_flow(given: Given) -> None:
    prior = FlowPrior(LinearFlow(2 * torch.eye(192), (3, 8, 8)), "linear")
    study = LatentNorm(images=4, sigmas=[0.5], batch_size=3)
    linear = Given({"glow": prior}, given.sets, given.rows, given.device, given.folder)
    study.check(linear)
    norms = study.compute(linear, lambda _: None)["norms"]
    assert len(norms) == 16
    x = given.sets["celeba-val"].images[0].float() / 255 - 0.5
    clean, noisy = norms.iloc[0], norms[norms["sigma"] == 0.5]
    assert math.isclose(clean["norm"], 2 * x.norm().item(), rel_tol=1e-5)
    log_p = 192 * (math.log(2) - 0.5 * math.log(2 * math.pi)) - clean["norm"] ** 2 / 2
    assert math.isclose(clean["log_likelihood"], log_p, rel_tol=1e-5)
    added = (noisy["norm"].pow(2).mean() - norms["norm"].iloc[:4].pow(2).mean()) / 192
    assert abs(added - 4 * 0.25) < 0.2  # ||2 sigma noise||^2 / n
    assert "celeba-val + 0.5" in study.findings(reread({"norms": norms}))[0]


# --- samples ---


def test_samples_are_the_same_every_time_and_written(given: Given) -> None:
    study = Samples(temperatures=[0.5, 1.0], count=5, batch_size=2)
    study.check(given)
    first = study.compute(given, lambda _: None)["samples"]
    files = sorted(path.name for path in given.folder.glob("*.png"))
    assert files == ["samples-dcgan-1.png", "samples-glow-0.5.png", "samples-glow-1.png"]
    written = (given.folder / files[1]).read_bytes()
    again = Samples(temperatures=[0.5, 1.0], count=5, batch_size=2).compute(given, print)
    assert first.equals(again["samples"])
    assert (given.folder / files[1]).read_bytes() == written
    assert len(study.findings(reread({"samples": first}))) == 3


def test_statistics_of_samples() -> None:
    samples = torch.stack([torch.full((3, 2, 2), value) for value in (0.0, 1.0, 2.0, math.nan)])
    found = statistics(samples)
    assert found["not_finite"] == 1 and found["contrast"] == 0
    assert found["mean"] == found["spread"] == 1
    assert math.isclose(found["outside"], 1 / 3, rel_tol=1e-6)
    assert picture(samples).shape == (3, 6, 6)
    assert picture(samples).min() == 0 and picture(samples).max() == 1


# --- the plane ---


@pytest.mark.parametrize("make", [moons, ring])
def test_true_density_is_that_of_the_points(make: type[PointSet]) -> None:
    points = make()
    grid = plane(points, 120)
    cell = (grid[1, 0] - grid[0, 0]) ** 2
    density = points.log_prob(grid).exp()
    assert abs(density.sum() * cell - 1) < 1e-3
    sampled = points.sample(20_000, generator("points"))
    mean = (density * grid[:, 0].square()).sum() * cell
    assert abs(sampled[:, 0].square().mean() / mean - 1) < 0.03
    assert points.far(sampled).float().mean() < 1e-3
    assert points.far(torch.zeros(1, 2))


@pytest.mark.slow
def test_toy_learns_the_density(given: Given) -> None:
    study = RealNVPToy(steps=600, batch_size=256, points=4000, grid=60)
    tables = reread(study.compute(given, print))
    scores = tables["scores"]
    assert (scores["log_likelihood"] > scores["true_log_likelihood"] - 0.8).all()
    assert (scores["log_likelihood"] < scores["true_log_likelihood"] + 3 * scores["sem"]).all()
    assert len(study.findings(tables)) == 6


def test_findings_where_no_small_norm_lies_between_the_modes() -> None:
    grid = {"points": "a", "log_density": [0.0, -9.0], "latent_norm": [1.0, 3.0], "far": [0, 1]}
    score = {"points": "a", "held_out": 9, "true_log_likelihood": -1.0, "log_likelihood": -1.5}
    score |= {"sem": 0.1, "norm": 2.0, "samples": 9, "far_samples": 0.0, "far_truth": 0.0}
    tables = {"grid": pd.DataFrame(grid), "scores": pd.DataFrame([score])}
    said = RealNVPToy().findings(tables)
    assert "0.500 ± 0.100 below the true density" in said[0]
    assert "0% is more than 4 standard deviations from every mode." in said[1]
    tables["grid"].loc[1, "latent_norm"] = 1.5
    assert "50% is" in RealNVPToy().findings(tables)[1]
    assert "exp(-9.0)" in RealNVPToy().findings(tables)[1]


# --- all of them ---


def all_studies() -> list[Study]:
    return [
        Theorem1(percent=[20, 60], n=20, draws=2),
        Jacobian(dataset="celeba-val", images=2),
        LatentStep(images=3, directions=1, lengths=[0.1, 0.8]),
        LatentNorm(images=3),
        RealNVPToy(steps=2, batch_size=16, points=50, grid=20),
    ]


@pytest.mark.parametrize("study", all_studies(), ids=lambda study: type(study).__name__)
def test_saved_tables_are_enough_to_draw(study: Study, given: Given) -> None:
    study.check(given)
    tables = reread(study.compute(given, lambda _: None))
    assert study.title and study.findings(tables)
    for style in ("default", "dark_background"):
        with plt.style.context(style):
            for caption, figure in study.figures(tables).items():
                assert caption.endswith(".")
                figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (Jacobian(prior="pggan"), "no prior named 'pggan': there are glow, dcgan"),
        (Jacobian(prior="dcgan"), "'dcgan' must be a flow"),
        (Jacobian(dataset="mars"), "no set of images named 'mars'"),
        (Theorem1(prior="glow", dataset="mars"), "mars"),
        (LatentStep(prior="dcgan"), "must be a flow"),
        (LatentNorm(others=["mars"]), "mars"),
        (Samples(priors=["pggan"]), "pggan"),
    ],
)
def test_what_is_missing_is_named(study: Study, said: str, given: Given) -> None:
    with pytest.raises(ValueError, match=said):
        study.check(given)


def test_bias_names_the_problem_its_reference_lacks(given: Given) -> None:
    recovered = [
        {"dataset": "a", "image": f"i{i}", "problem": problem, "method": method, "psnr": 20.0 + i}
        for problem, methods in (("p", ["r", "m"]), ("q", ["m"]))
        for method in methods
        for i in range(4)
    ]
    attributes = pd.DataFrame({"Hat": [0, 1, 0, 1]}, index=[f"i{i}" for i in range(4)])
    rows = pd.DataFrame(recovered).reindex(columns=COLUMNS, fill_value="")
    study = Bias(["Hat"], reference="r", dataset="a")
    known = replace(given, rows=rows, attributes=attributes)
    with pytest.raises(ValueError, match="q: no image of a was recovered by the reference 'r'"):
        study.compute(known, print)


def test_images_of_another_size_are_refused(given: Given) -> None:
    sets = {"celeba-test": image_set("celeba-test", 1, size=16)}
    other = Given(given.priors, sets, given.rows, given.device, given.folder)
    with pytest.raises(ValueError, match=r"celeba-test's images are \(3, 16, 16\)"):
        Jacobian().check(other)


def test_a_jacobian_too_large_asks_for_a_rank(given: Given) -> None:
    prior = FlowPrior(LinearFlow(torch.empty(12_291, 0), (3, 17, 241)), "large")
    images = torch.zeros(1, 3, 17, 241, dtype=torch.uint8)
    sets = {"celeba-test": ImageSet("celeba-test", "in", images, ["a"])}
    large = Given({"glow": prior}, sets, given.rows, given.device, given.folder)
    with pytest.raises(ValueError, match="set `rank`"):
        Jacobian().check(large)
    with pytest.raises(ValueError, match="12,291 is above 12,288"):
        Theorem1(prior="glow").check(large)
    Jacobian(rank=10).check(large)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Theorem1, {"percent": [3]}),
        (Theorem1, {"percent": [100]}),
        (Theorem1, {"draws": 1}),
        (Jacobian, {"rank": 0}),
        (LatentStep, {"images": 1}),
        (LatentStep, {"lengths": [0.0]}),
        (LatentNorm, {"sigmas": [0.0]}),
        (Samples, {"count": 1}),
        (RealNVPToy, {"points": 10}),
    ],
)
def test_bad_options_are_refused(make: type[Study], options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=make.__name__):
        make(**options)
