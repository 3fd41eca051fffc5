"""deepinv both ways: its physics and reconstructors here, our methods in its test loop."""

import sys
from functools import partial
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor

from callbacks.recovery import Plan, RecoveryDuringTraining
from core.seeds import generator
from datamodules.image_set import ImageSet
from networks.glow import Glow
from priors.prior import FlowPrior
from recovery.bm3d import BM3D
from recovery.deepinv import Reconstructor, TotalVariation
from recovery.lasso import Lasso
from recovery.latent_search import LatentSearch
from recovery.linear import Adjoint, PseudoInverse
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator
from recovery.physics import Deepinv, PerChannel, Physics
from results.identity import ConfigTexts, describe
from results.rows import Row
from results.trial import NamedMethod, Problem

deepinv = pytest.importorskip("deepinv", reason="deepinv is not installed")

SHAPE = (3, 16, 16)
NOISE = {"class_path": "deepinv.physics.GaussianNoise", "init_args": {"sigma": 0.05}}
MRI = {
    "class_path": "deepinv.physics.MRI",
    "init_args": {
        "mask": {
            "class_path": "deepinv.physics.generator.GaussianMaskGenerator",
            "init_args": {"acceleration": 3},
        },
        "noise_model": NOISE,
    },
}
SPECS: dict[str, dict[str, Any]] = {
    "blur": {
        "class_path": "deepinv.physics.Blur",
        "init_args": {
            "filter": {
                "class_path": "deepinv.physics.blur.gaussian_blur",
                "init_args": {"sigma": [1.0, 1.0]},
            },
            "padding": "circular",
            "noise_model": NOISE,
        },
    },
    "downsampling": {
        "class_path": "deepinv.physics.Downsampling",
        "init_args": {"filter": "bicubic", "factor": 2, "noise_model": NOISE},
    },
    "tomography": {
        "class_path": "deepinv.physics.Tomography",
        "init_args": {"angles": 12, "normalize": True, "noise_model": NOISE},
    },
    "sensing": {
        "class_path": "deepinv.physics.CompressedSensing",
        "init_args": {"m": 200, "noise_model": NOISE},
    },
    "mri": MRI,
    "phase retrieval": {
        "class_path": "deepinv.physics.RandomPhaseRetrieval",
        "init_args": {"m": 1500, "noise_model": NOISE},
    },
}
LINEAR = [name for name in SPECS if name != "phase retrieval"]
each_physics = pytest.mark.parametrize("name", SPECS)


def operator(name: str) -> Operator:
    if name == "mri":
        return PerChannel(SHAPE, Deepinv(MRI), complex=True)
    return Deepinv(SPECS[name])(SHAPE)


def images(count: int, size: int = 16) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=generator("deepinv test"))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=True)


def glow() -> FlowPrior:
    torch.manual_seed(0)
    network = Glow(image_size=16, steps=2, levels=2, hidden=8, last_level_steps=2)
    network.initialize(images(16) - 0.5)
    return FlowPrior(network.frozen(), "glow")


# ---- physics as operators


@pytest.mark.parametrize("name", LINEAR)
def test_adjoints_are_transposes(name: str) -> None:
    physics, x = operator(name), images(2)
    y = physics.A(x)
    other = torch.randn(y.shape, generator=generator("other"))
    left = (y * other).flatten(1).sum(dim=1)
    right = (x * physics.A_adjoint(other)).flatten(1).sum(dim=1)
    assert physics.linear
    assert torch.allclose(left, right, rtol=1e-3, atol=1e-3)


@each_physics
def test_noise_follows_the_image_not_its_batch(name: str) -> None:
    physics, x = operator(name), images(3)
    y = physics(x, seeds=[4, 5, 6])
    assert torch.allclose(physics(x[1:2], seeds=[5])[0], y[1], atol=1e-5)
    assert not torch.allclose(physics(x[1:2], seeds=[4])[0], y[1], atol=1e-3)
    again = operator(name)
    assert torch.allclose(again(x, seeds=[4, 5, 6]), y, atol=1e-5)


def test_noise_is_measured_on_the_cpu_wherever_the_physics_is() -> None:
    """A mask that noise is multiplied by stays there too."""
    physics = operator("mri")
    y = physics.A(images(1))
    expected = physics._noisy(y, 3)  # type: ignore[attr-defined]
    assert torch.equal(physics.to("meta")._noisy(y, 3), expected)  # type: ignore[operator]


@each_physics
def test_global_randomness_is_left_alone(name: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    operator(name)(images(2))
    assert torch.equal(torch.rand(2), expected)


@each_physics
def test_the_noise_energy_is_that_of_the_noise(name: str) -> None:
    physics = operator(name)
    x = images(1).expand(200, -1, -1, -1)
    energy = (physics(x) - physics.A(x)).flatten(1).square().sum(dim=1).mean().item()
    assert physics.sigma == pytest.approx(0.05)
    assert physics.noise_energy == pytest.approx(energy, rel=0.05)


def test_measurements_are_those_that_say_something() -> None:
    assert operator("sensing").measurements == 200
    assert operator("downsampling").measurements == 3 * 8 * 8
    kept = 3 * 2 * int(operator("mri").physics.mask[0, 0].sum())  # type: ignore[union-attr, index, operator]
    assert 0 < operator("mri").measurements <= kept < 3 * 2 * 16 * 16


@each_physics
def test_a_glow_prior_recovers_through_any_physics(name: str) -> None:
    physics, x = operator(name), images(2)
    y = physics(x)
    method = LatentSearch(glow(), evaluations=60)
    recovery = method.recover(y, physics)
    start = method.prior.decode(torch.zeros(2, 768))
    assert "diverged" not in recovery.status
    fitted = recovery.residual < 0.5 * (physics.A(start) - y).flatten(1).norm(dim=1)
    at_the_noise = recovery.residual.square() <= physics.noise_energy
    assert (fitted | at_the_noise).all()
    assert (psnr(recovery.image, x) > psnr(start, x) + 1).all()


def test_a_mask_of_deepinvs_leaves_a_hole_and_a_blur_or_a_grid_none() -> None:
    mask = {"class_path": "deepinv.physics.Inpainting", "init_args": {"mask": 0.1}}
    mask["init_args"] |= {"img_size": list(SHAPE), "noise_model": NOISE}  # type: ignore[operator]
    assert Deepinv(mask)(SHAPE).leaves_a_hole()
    grid = {"class_path": "deepinv.physics.Downsampling", "init_args": {"factor": 2}}
    assert not Deepinv(grid)(SHAPE).leaves_a_hole()
    assert not operator("blur").leaves_a_hole()


def test_what_a_physics_is_is_told_by_its_description() -> None:
    one, same = describe(operator("mri")), describe(operator("mri"))
    assert one == same
    changed = {**MRI, "init_args": {**MRI["init_args"], "noise_model": {**NOISE, "init_args": {}}}}
    assert describe(PerChannel(SHAPE, Deepinv(changed), complex=True)) != one


# ---- reconstructors as methods


@pytest.mark.parametrize(
    "problem",
    [Denoising(SHAPE, sigma=0.1), GaussianSensing(SHAPE, m=0.5), operator("blur")],
    ids=["denoising", "sensing", "blur"],
)
def test_a_reconstructor_is_a_method(problem: Operator) -> None:
    spec = {
        "class_path": "deepinv.models.ArtifactRemoval",
        "init_args": {"backbone_net": {"class_path": "deepinv.models.MedianFilter"}},
    }
    x = images(2)
    recovery = Reconstructor(Deepinv(spec)).recover(problem(x), problem)
    alone = Reconstructor(Deepinv(spec)).recover(problem(x)[1:], problem)
    assert recovery.status == ("converged", "converged")
    assert torch.allclose(recovery.image[1], alone.image[0])
    assert torch.allclose(
        recovery.residual, (problem.A(recovery.image) - problem(x)).flatten(1).norm(dim=1)
    )


def test_a_reconstructor_leaves_the_operator_as_it_is() -> None:
    optim = "deepinv.optim."
    spec = {
        "class_path": optim + "ADMM",
        "init_args": {
            "data_fidelity": {"class_path": optim + "L2"},
            "prior": {"class_path": optim + "TVPrior"},
            "max_iter": 2,
        },
    }
    blur = operator("blur")
    before = describe(blur)
    Reconstructor(Deepinv(spec)).recover(blur(images(1)), blur)
    assert describe(blur) == before


def test_a_result_that_is_not_finite_is_a_status() -> None:
    problem = Denoising(SHAPE, sigma=0.1)
    y = problem(images(2))
    y[0, 0, 3, 3] = torch.nan
    assert BM3D().recover(y, problem).status == ("diverged", "converged")
    assert Adjoint().recover(y, problem).status == ("diverged", "converged")


def test_total_variation_recovers_what_linear_algebra_does_not() -> None:
    x, sensing = images(2), GaussianSensing(SHAPE, m=0.4)
    y = sensing(x)
    smooth = TotalVariation(weight=0.003).recover(y, sensing)
    assert (smooth.evaluations > 10).all() and (smooth.evaluations <= 500).all()
    cut = TotalVariation(weight=0.003, iterations=7).recover(y, sensing)
    assert cut.steps.tolist() == cut.evaluations.tolist() == [7, 7]
    assert set(cut.status) == {"budget"}
    assert (psnr(smooth.image, x) > psnr(PseudoInverse().recover(y, sensing).image, x) + 5).all()
    alone = TotalVariation(weight=0.003).recover(y[1:], sensing)
    assert torch.allclose(alone.image[0], smooth.image[1], atol=1e-5)


def test_bm3d_removes_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    for restricted in ("bm3d", "ptwt"):  # their licences: importing them would fail here
        monkeypatch.setitem(sys.modules, restricted, None)
    x = images(2, size=32)
    noisy = Denoising((3, 32, 32), sigma=0.1)
    recovery = BM3D().recover(noisy(x), noisy)
    assert (psnr(recovery.image, x) > 30).all()  # the noisy images have 20
    grey = Denoising((1, 32, 32), sigma=0.1)
    assert (psnr(BM3D().recover(grey(x[:, :1]), grey).image, x[:, :1]) > 27).all()
    with pytest.raises(ValueError, match="Inpainting is another problem"):
        BM3D().check(Inpainting(SHAPE, sigma=0.1))
    with pytest.raises(ValueError, match="patches of 6 pixels do not fit"):
        BM3D().check(Denoising((3, 4, 8), sigma=0.1))
    BM3D().check(
        Deepinv({"class_path": "deepinv.physics.Denoising", "init_args": {"noise_model": NOISE}})(
            SHAPE
        )
    )


# ---- our methods in deepinv


@pytest.mark.parametrize("method", ["latent-search", "lasso", "adjoint"])
@pytest.mark.parametrize("kind", ["blur", "sensing"])
def test_methods_run_in_deepinvs_test_loop(
    method: str, kind: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {
        "latent-search": lambda: LatentSearch(glow(), evaluations=40),
        "lasso": Lasso,
        "adjoint": Adjoint,
    }[method]()
    x = images(4)
    physics = operator(kind).physics
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, physics(x)), batch_size=2
    )
    results = deepinv.test(
        made,
        loader,
        physics,
        metrics=deepinv.loss.metric.PSNR(),
        compare_no_learning=True,
        show_progress_bar=False,
        verbose=False,
    )
    if method == "adjoint":
        assert results["PSNR"] == pytest.approx(results["PSNR no learning"], abs=1e-3)
    else:
        assert results["PSNR"] > 14  # of the mean colour: 12
        assert kind == "blur" or results["PSNR"] > results["PSNR no learning"] + 1


def test_a_physics_without_an_adjoint_needs_a_prior() -> None:
    physics = operator("phase retrieval").physics
    y = physics(images(1) + 0j)
    assert LatentSearch(glow(), evaluations=5)(y, physics).shape == (1, *SHAPE)
    with pytest.raises(ValueError, match="does not tell the shape"):
        Lasso()(y, physics)


# ---- what is wrong is said before anything is computed


@pytest.mark.parametrize("method", [Lasso(), Adjoint(), PseudoInverse(), TotalVariation()])
def test_linear_methods_refuse_other_operators(method: Any) -> None:
    with pytest.raises(ValueError, match=r"linear operator, and deepinv\.physics\.RandomPhase"):
        method.check(operator("phase retrieval"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"class_path": "deepinv.physics.Blurr"}, "there is no such class"),
        (
            {"class_path": "deepinv.physics.Blur", "init_args": {"kernel": 1}},
            "has no argument 'kernel'; it takes filter, padding",
        ),
        ({"class_path": "torch.nn.Linear"}, "is not of deepinv"),
        ({"init_args": {}}, "expected class_path"),
    ],
)
def test_wrong_descriptions_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Deepinv(spec)


def test_a_physics_of_other_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not measure images of shape \(3, 16, 16\)"):
        Deepinv(MRI)(SHAPE)


def test_what_a_physics_raises_is_told_and_not_tried_again() -> None:
    calls: list[torch.dtype] = []

    class Broken(deepinv.physics.LinearPhysics):
        def A(self, x: Tensor, **kwargs: Any) -> Tensor:
            calls.append(x.dtype)
            raise KeyError("table")

    with pytest.raises(ValueError, match=r"Broken does not measure.*KeyError: 'table'"):
        Physics(SHAPE, Broken())
    assert calls == [torch.float32]


def test_speckle_measures_black_pixels_too() -> None:
    noise = {"class_path": "deepinv.physics.GammaNoise", "init_args": {"l": 40.0}}
    speckle = Deepinv(
        {"class_path": "deepinv.physics.Denoising", "init_args": {"noise_model": noise}}
    )
    x = images(2)
    x[:, :, :4] = 0
    y = speckle(SHAPE)(x)
    assert y[:, :, :4].max() < 1e-4 and psnr(y, x).min() > 20
    assert speckle(SHAPE).noise_energy == 0  # not Gaussian: unknown


class Wears(Operator):
    """An operator that its adjoint changes, and that may fail."""

    def __init__(self, image_shape: tuple[int, int, int], fails: str = "") -> None:
        super().__init__(image_shape, 0.0, 0)
        self.fails = fails
        self.uses = 0

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        if self.fails == "A":
            raise KeyError("table")
        return x

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        if self.fails == "A_adjoint":
            raise ZeroDivisionError("no angle")
        self.uses += 1
        return y


@pytest.mark.parametrize(("fails", "said"), [("A", "KeyError"), ("A_adjoint", "ZeroDivisionError")])
def test_an_operator_that_raises_anything_is_named_before_training(fails: str, said: str) -> None:
    plan = Plan(problems=["worn"], images=1)
    problem = Problem(partial(Wears, fails=fails))
    callback = RecoveryDuringTraining({"worn": problem}, {}, during=plan, at_end=plan)
    with pytest.raises(ValueError, match=rf"recovery\.problems\.worn: Wears does not .*: {said}"):
        callback.check(SHAPE)


def test_an_operator_that_changes_as_it_is_used_is_described_before(tmp_path: Any) -> None:
    methods = {name: NamedMethod(Adjoint()) for name in ("first", "second")}
    plan = Plan(problems=["worn"], images=1)
    callback = RecoveryDuringTraining({"worn": Problem(Wears)}, methods, during=plan, at_end=plan)
    held_out = ImageSet("held-out", "in", (255 * images(1)).to(torch.uint8), ["a"])
    sets = {name: [held_out] for name in methods}
    hashes = []
    for job in callback.jobs("worn", sets, glow(), Row("run", "glow", 0, 0), ConfigTexts(None)):
        hashes.append(job.template.config)
        job.method.recover(job.operator(images(1)), job.operator)
    assert hashes[0] == hashes[1]


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    spec = {"class_path": "deepinv.models.DnCNN", "init_args": {"pretrained": "download"}}
    with pytest.raises(ValueError, match=r"deepinv\.models\.DnCNN cannot be made: .*not known"):
        Deepinv(spec).build(SHAPE)
