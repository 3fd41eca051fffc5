"""The Jacobian of a flow: against a linear flow, its log-determinant, finite differences."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from datamodules.image_set import ImageSet
from evaluation.outcome import study_tables
from priors.prior import FlowPrior
from studies.jacobian import (
    Jacobian,
    jacobian,
    leading_singular_values,
    products,
    singular_values,
    transposed_products,
)
from studies.study import Given
from studies.theorem1 import Theorem1
from tests.made import images_to_initialize
from tests.studies.conftest import LinearFlow, flow, image_set, linear_flow, reread

# --- the Jacobian


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


# --- all of them


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
