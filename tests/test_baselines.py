"""Methods free of a prior: linear ones, and what training makes of all of them."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import train
from core.seeds import generator
from lightning_modules.clock import ClockedModule
from recovery.lasso import Lasso
from recovery.linear import Adjoint, PseudoInverse, back_project
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing, Inpainting
from results.means import compared, latest, means
from results.rows import read_rows
from tests.helpers import refused, without_recovery
from training.cli import Train

SHAPE = (3, 8, 8)
METHODS = """
recovery:
  problems:
    cs-10%: {operator: {class_path: recovery.operators.GaussianSensing, init_args: {m: 0.1}}}
    inpaint: {operator: {class_path: recovery.operators.Inpainting}}
    blur:
      operator:
        class_path: deepinv.physics.Blur
        init_args:
          filter: {class_path: deepinv.physics.blur.gaussian_blur, init_args: {sigma: [1, 1]}}
          padding: circular
    phase:
      operator: {class_path: deepinv.physics.RandomPhaseRetrieval, init_args: {m: 300}}
  methods:
    latent-search: {class_path: recovery.latent_search.LatentSearch, init_args: {evaluations: 3}}
    deep-decoder:
      class_path: recovery.untrained.Untrained
      init_args:
        network: {class_path: networks.deep_decoder.DeepDecoder, init_args: {width: 8}}
        steps: 3
    lasso: {class_path: recovery.lasso.Lasso, init_args: {steps: 5}}
    adjoint: {class_path: recovery.linear.Adjoint}
    bm3d: {class_path: recovery.bm3d.BM3D}
    median:
      class_path: deepinv.models.ArtifactRemoval
      init_args: {backbone_net: {class_path: deepinv.models.MedianFilter}}
  during: {problems: [cs-10%, blur], images: 2, methods: [latent-search, deep-decoder, median]}
  at_end: {problems: [cs-10%, blur], images: 2, methods: [latent-search, deep-decoder, lasso]}
"""


# ---- linear methods


def test_the_pseudo_inverse_is_lapacks() -> None:
    operator = GaussianSensing(SHAPE, m=60)
    x = torch.rand(3, *SHAPE, generator=generator("pseudo")).double()
    y = operator.A(x)
    recovery = PseudoInverse(tolerance=1e-10).recover(y, operator)
    matrix = operator.A(torch.eye(192).double().unflatten(1, SHAPE)).T
    expected = (y @ torch.linalg.pinv(matrix).T).unflatten(1, SHAPE)
    assert recovery.status == ("converged",) * 3
    assert torch.allclose(recovery.image, expected, atol=1e-6)
    assert (recovery.residual < 1e-6).all()


def test_the_pseudo_inverse_says_when_it_was_stopped() -> None:
    operator = GaussianSensing(SHAPE, m=180)
    y = operator(torch.rand(2, *SHAPE, generator=generator("stopped")))
    recovery = PseudoInverse(iterations=2).recover(y, operator)
    assert recovery.status == ("budget", "budget") and recovery.steps.tolist() == [2, 2]


def test_the_pseudo_inverse_does_not_depend_on_its_batch() -> None:
    operator = GaussianSensing(SHAPE, m=100)
    y = operator(torch.rand(4, *SHAPE, generator=generator("mates")).double())
    y[1:] += torch.randn(3, 100, generator=generator("harder"))
    together = PseudoInverse(tolerance=0.1).recover(y, operator)
    assert len(set(together.steps.tolist())) > 1
    for row in range(4):
        alone = PseudoInverse(tolerance=0.1).recover(y[row : row + 1], operator)
        assert torch.allclose(alone.image[0], together.image[row], atol=1e-9)


def test_back_projection_is_a_start_and_the_pseudo_inverse_of_what_is_missing() -> None:
    operator = GaussianSensing(SHAPE, m=60)
    x = torch.rand(2, *SHAPE, generator=generator("back"))
    y = operator.A(x)
    nearest = back_project(torch.full_like(x, 0.5), y, operator)
    assert torch.allclose(operator.A(nearest), y, atol=1e-4)
    assert (psnr(nearest, x) > psnr(PseudoInverse().recover(y, operator).image, x)).all()


def test_the_adjoint_of_denoising_is_the_noisy_image() -> None:
    operator = Denoising(SHAPE, sigma=0.1)
    y = operator(torch.rand(2, *SHAPE, generator=generator("adjoint")))
    recovery = Adjoint().recover(y, operator)
    assert torch.equal(recovery.image, y) and recovery.status == ("converged", "converged")
    assert torch.equal(recovery.residual, torch.zeros(2))


# ---- while training


def with_methods(tiny: list[str], folder: Path, *options: str) -> list[str]:
    config = folder / "methods.yaml"
    config.write_text(METHODS)
    return [*without_recovery(tiny), f"--config={config}", *options]


@pytest.mark.slow
def test_methods_without_a_prior_are_recovered_once(tiny: list[str], tmp_path: Path) -> None:
    for name, images, seed in (("one", 128, 0), ("two", 64, 1)):
        options = [f"--model.total_images={images}", f"--run.name={name}"]
        train.main(with_methods(tiny, tmp_path, *options, f"--seed_everything={seed}"))
    one, two = tmp_path / "runs" / "one", tmp_path / "runs" / "two"
    rows = read_rows(one)
    free = rows[rows["prior"] == ""]
    assert set(free["method"]) == {"deep-decoder", "lasso", "median"}
    assert (free["images_seen"] == 0).all()
    # two problems, two sets, two images; the decoder's two iterates are told apart
    counts = free.groupby(["method", "variant"]).size().to_dict()
    assert counts == {
        ("deep-decoder", "last"): 8,
        ("deep-decoder", "least-residual"): 8,
        ("lasso", ""): 8,
        ("median", ""): 8,
    }
    of_prior = rows[rows["prior"] == "glow"]
    assert sorted(of_prior["images_seen"].unique()) == [64, 128]
    # their curves are level: logged at every recovery
    logged = [json.loads(line) for line in (one / "metrics.jsonl").open()]
    name = "recovery/blur/faces-val/deep-decoder (last)/psnr"
    values = [line[name] for line in logged if name in line]
    assert len(values) == 2 and len(set(values)) == 1
    named = means(latest(rows))["method"]
    assert {"deep-decoder (last)", "deep-decoder (least-residual)"} <= set(named)

    # a second run's rows of them equal the first's: one column in a comparison
    others = read_rows(two)
    untrained = others.loc[others["method"] == "deep-decoder", "config"]
    assert set(untrained) == set(free.loc[free["method"] == "deep-decoder", "config"])
    both = pd.concat([rows, others], ignore_index=True)
    names = list(compared(both)["recovery"].unique())
    assert names.count("deep-decoder (last)") == 1
    assert {"one: glow, latent-search", "two: glow, latent-search"} <= set(names)


def one_method(class_path: str, init_args: str) -> list[str]:
    method = f"{{class_path: {class_path}, init_args: {{{init_args}}}}}"
    every = [f"--recovery.{plan}.methods=null" for plan in ("during", "at_end")]
    return [f"--recovery.methods={{x: {method}}}", *every]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--recovery.at_end.problems=[inpaint]", "--recovery.at_end.methods=[bm3d]"],
            "recovery.problems.inpaint: BM3D removes noise of known sigma",
        ),
        (
            ["--recovery.at_end.problems=[phase]"],
            "recovery.problems.phase: the Lasso needs a linear operator",
        ),
        (
            one_method("recovery.image_adaptive.ImageAdaptive", ""),
            "recovery.problems.cs-10%: image-adaptive recovery adapts a generator's weights",
        ),
        (
            one_method("recovery.latent_search.LatentSearch", "evaluations: 0"),
            "evaluations must be",
        ),
        (one_method("recovery.csgm.Csgm", "learning_rate: 0"), "learning_rate must be above 0"),
        (one_method("recovery.csgm.Csgm", "patience: 3"), "patience"),
        (one_method("recovery.lasso.Lasso", "weight: 0"), "weight must be above 0, got 0"),
        (
            one_method("deepinv.models.MedianFilter", ""),
            "MedianFilter is a denoiser of deepinv, not a reconstructor",
        ),
        (
            one_method("deepinv.models.ArtifactRemoval", ""),
            "deepinv.models.ArtifactRemoval cannot be made",
        ),
    ],
)
def test_a_method_that_cannot_serve_a_problem_is_refused_before_training(
    options: list[str],
    message: str,
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(capsys, with_methods(tiny, tmp_path, *options))
    assert not (tmp_path / "runs" / "demo").exists()


def test_methods_that_need_deepinv_say_so_where_it_is_missing(
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "deepinv" else find_spec(name, *rest),
    )
    arguments = [*tiny, *one_method("recovery.bm3d.BM3D", "")]
    assert "BM3D needs deepinv, which is not installed" in refused(capsys, arguments)


def test_an_argument_a_physics_does_not_have_is_named(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = with_methods(tiny, tmp_path)
    text = (tmp_path / "methods.yaml").read_text().replace("padding: circular", "kernel: 3")
    (tmp_path / "methods.yaml").write_text(text)
    error = refused(capsys, arguments)
    assert "deepinv.physics.Blur has no argument 'kernel'; it takes filter, padding" in error


def test_inpainting_is_served_by_the_lasso() -> None:
    Lasso().check(Inpainting(SHAPE))


def test_the_baselines_overlay_serves_its_problems(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = []

    def check_only(cli: Train, model: ClockedModule, **_: Any) -> None:
        """In place of training: `before_fit` has asked every planned method."""
        served.append(cli.config_init.fit.recovery)

    monkeypatch.setattr(Train, "fit", check_only)
    monkeypatch.setattr(Train, "after_fit", lambda _: None)
    Train([arg for arg in [*tiny, "--config=configs/baselines.yaml"] if "at_end" not in arg])
    assert len(served[0].at_end.problems) == 5 and "deep-decoder" in served[0].at_end.methods
