"""Theorem 1: the bounds against the error of the pseudo-inverse."""

import math
from dataclasses import replace

import torch

from core.seeds import generator
from studies.study import Given
from studies.theorem1 import Theorem1, best_bound, lower_bound, squared_errors, upper_bound
from tests.studies.conftest import reread


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
    kept = replace(given, parts=given.folder / "parts")
    assert study.compute(kept, lambda _: None)["errors"].equals(errors)
    assert study.compute(kept, lambda _: None)["errors"].equals(errors)  # from its parts
    assert len(list((given.folder / "parts").iterdir())) > 0
