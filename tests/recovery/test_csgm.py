"""Recovery through GAN priors: CSGM and image-adaptive search, each image its own problem."""

import copy
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from networks import dcgan, pggan, resize_gan
from networks.glow import Glow
from priors.prior import FlowPrior, GanPrior
from recovery.csgm import Csgm, generator_surgery, iagan_stage_1
from recovery.descent import descend
from recovery.image_adaptive import ImageAdaptive, back_project, ia_dcgan, iagan
from recovery.methods import MethodFactory
from recovery.metrics import psnr
from recovery.operators import Denoising, GaussianSensing, Inpainting
from recovery.starts import require_encoder
from results.identity import describe


@pytest.fixture(scope="module")
def prior() -> GanPrior:
    """An untrained generator of 8px images, with BatchNorm as in evaluation."""
    torch.manual_seed(0)
    network = resize_gan.Generator(8, latent_dim=5, width=6)
    network.train()
    for _ in range(20):
        network(torch.randn(64, 5))
    return GanPrior(network.eval().requires_grad_(False), "resize-gan", "abc")


@pytest.fixture
def in_range(prior: GanPrior) -> Tensor:
    return prior.decode(prior.initial_latent([10, 11, 12, 13], 1.0)).detach()


@pytest.fixture
def out_of_range(in_range: Tensor) -> Tensor:
    noise = torch.rand(in_range.shape, generator=torch.Generator().manual_seed(5))
    return 0.5 * in_range + 0.5 * noise


def sensing(m: int = 96) -> GaussianSensing:
    return GaussianSensing((3, 8, 8), m, noise_norm=0.0)


class Cliff(nn.Module):
    """A generator that is not a number where z[0] is large."""

    latent_dim = 4
    image_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 192)

    def forward(self, z: Tensor) -> Tensor:
        good = torch.where(z[:, :1] > 1.0, torch.nan, 1.0)
        return (self.layer(z) * good).view(-1, 3, 8, 8)


# --- the prior ---------------------------------------------------------------------------------


def test_a_gan_has_no_encoder(prior: GanPrior) -> None:
    assert not hasattr(prior, "encode")
    with pytest.raises(ValueError, match="needs an invertible prior, and resize-gan is not one"):
        require_encoder("a start", prior)


def test_decode_maps_to_zero_one(prior: GanPrior) -> None:
    z = prior.initial_latent([0, 1], 1.0)
    assert torch.equal(prior.decode(z), prior.network(z) / 2 + 0.5)
    assert torch.equal(prior.initial_latent([1], 1.0)[0], z[1])
    assert prior.initial_latent([1], 0.0).abs().max() == 0


@pytest.mark.parametrize("generator", [dcgan.Generator, resize_gan.Generator])
def test_every_image_through_its_own_weights(generator: type[Any]) -> None:
    torch.manual_seed(0)
    network = generator(8, latent_dim=5, width=4).eval().requires_grad_(False)
    prior = GanPrior(network, "any")
    z = torch.randn(3, 5)
    stacked = {name: w.expand(3, *w.shape) for name, w in prior.weights().items()}
    assert torch.allclose(prior.decode_with(stacked, z), prior.decode(z), atol=1e-6)
    changed = {name: w + 0.1 * torch.randn_like(w) for name, w in stacked.items()}
    for i in range(3):
        own = copy.deepcopy(network)
        own.load_state_dict({**own.state_dict(), **{name: w[i] for name, w in changed.items()}})
        alone = GanPrior(own, "any").decode(z[i : i + 1])
        assert torch.allclose(prior.decode_with(changed, z)[i : i + 1], alone, atol=1e-6)


# --- CSGM ----------------------------------------------------------------------------------------


def test_what_is_in_the_range_is_recovered(prior: GanPrior, in_range: Tensor) -> None:
    operator = sensing()
    recovery = Csgm(prior, steps=400, restarts=3).recover(operator.A(in_range), operator)
    assert psnr(recovery.image, in_range).min() > 40
    assert set(recovery.status) <= {"converged", "budget"}
    assert recovery.evaluations.tolist() == [1200] * 4
    assert torch.equal(prior.decode(recovery.latent), recovery.image)  # type: ignore[arg-type]


def test_more_measurements_do_not_help_out_of_range(prior: GanPrior, out_of_range: Tensor) -> None:
    """Representation error: the paper's point about GANs."""
    found = [
        Csgm(prior, steps=200).recover(operator.A(out_of_range), operator).image
        for operator in (sensing(96), sensing(192))
    ]
    few, many = (psnr(image, out_of_range).mean().item() for image in found)
    assert many - few < 1.5 and many < 25


def test_the_restart_of_least_residual_is_kept(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y = operator.A(out_of_range)
    together = Csgm(prior, steps=60, restarts=4).recover(y, operator)
    seen = []

    class Recorded(Csgm):
        def _choose(self, y: Tensor, operator: Any, best: Tensor, *rest: Any) -> Any:
            images = self.prior.decode(best)
            seen.append((operator.A(images) - y.repeat_interleave(4, 0)).norm(dim=1).view(-1, 4))
            return super()._choose(y, operator, best, *rest)

    Recorded(prior, steps=60, restarts=4).recover(y, operator)
    least = seen[0].min(dim=1).values
    assert (seen[0].max(dim=1).values > 1.01 * least).any()  # else this shows nothing
    assert torch.allclose(together.residual, least, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y, seeds = operator.A(out_of_range), [7, 8, 9, 10]
    whole = Csgm(prior, steps=80).recover(y, operator, seeds=seeds)
    for batch_size in (1, 3):
        parts = Csgm(prior, steps=80, batch_size=batch_size).recover(y, operator, seeds=seeds)
        assert torch.allclose(whole.image, parts.image, atol=1e-3)
    alone = Csgm(prior, steps=80).recover(y[2:3], operator, seeds=[9])
    assert torch.allclose(alone.image, whole.image[2:3], atol=1e-3)
    other = Csgm(prior, steps=80).recover(y[2:3], operator, seeds=[1])
    assert not torch.allclose(other.latent, alone.latent, atol=1e-3)  # type: ignore[arg-type]


def test_the_penalty_pulls_latents_in(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y = operator.A(out_of_range)
    norms = [
        Csgm(prior, gamma, steps=100).recover(y, operator).latent.norm(dim=1).mean()  # type: ignore[union-attr]
        for gamma in (0.0, 0.1, 1.0)
    ]
    assert norms[0] > norms[1] > norms[2]


def test_starts(prior: GanPrior) -> None:
    search = Csgm(prior, restarts=3, start_limit=0.5)
    starts = search._starts([4, 5])
    assert starts.shape == (6, 5)
    assert starts.abs().max() == 0.5
    assert len({tuple(row.tolist()) for row in starts}) == 6
    assert torch.equal(search._starts([5]), starts[3:])


def test_settled_searches_are_converged(prior: GanPrior, in_range: Tensor) -> None:
    operator = Denoising((3, 8, 8), sigma=0.2)
    y = operator(in_range, seeds=[1, 2, 3, 4])
    assert set(Csgm(prior, steps=600).recover(y, operator).status) == {"converged"}
    assert "budget" in Csgm(prior, steps=5).recover(y, operator).status


def test_an_image_that_diverges_spoils_no_other(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y = operator.A(out_of_range)
    healthy = Csgm(prior, steps=30).recover(y, operator)
    y[1, 0] = torch.nan
    hurt = Csgm(prior, steps=30).recover(y, operator)
    assert hurt.status[1] == "diverged" and "diverged" not in hurt.status[::2]
    others = [0, 2, 3]
    assert torch.allclose(hurt.image[others], healthy.image[others], atol=1e-4)


def test_a_restart_that_leaves_the_finite_keeps_its_best() -> None:
    torch.manual_seed(0)
    prior = GanPrior(Cliff().requires_grad_(False), "cliff")
    operator = Denoising((3, 8, 8), sigma=0.0)
    latent = torch.tensor([[0.5, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    truth = prior.network.layer(latent).view(-1, 3, 8, 8) / 2 + 0.5  # type: ignore[operator, union-attr]
    recovery = Csgm(prior, steps=200, start_std=0.3).recover(truth, operator)
    assert recovery.image.isfinite().all()
    assert psnr(recovery.image[:1], truth[:1]).item() > 40
    assert recovery.latent[1, 0] <= 1.0  # type: ignore[index]


def test_a_generator_that_is_never_finite_is_marked() -> None:
    prior = GanPrior(Cliff().requires_grad_(False), "cliff")
    prior.network.layer.weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    recovery = Csgm(prior, steps=3).recover(torch.zeros(2, 3, 8, 8), Denoising((3, 8, 8), 0.1))
    assert recovery.status == ("diverged", "diverged")


def test_adam_is_torchs() -> None:
    """Rows that are finite follow torch.optim.Adam to the last bit."""
    start = torch.randn(3, 4)
    ours = start.clone().requires_grad_()
    descend(lambda: (ours**4).sum(dim=1), [([ours], 0.1)], 20, lambda values: None)
    theirs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (theirs**4).sum().backward()
        optimizer.step()
    assert torch.equal(ours, theirs)


# --- image-adaptive ------------------------------------------------------------------------------


def adaptive(prior: GanPrior, **options: Any) -> ImageAdaptive:
    def search(prior: Any, gamma: float) -> Csgm:
        return Csgm(prior, gamma, steps=60)

    return ImageAdaptive(prior, search=search, **{"steps": 60, **options})


def test_adaptation_leaves_the_range(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing(160)
    y = operator.A(out_of_range)
    before = {name: w.clone() for name, w in prior.network.state_dict().items()}
    csgm = Csgm(prior, steps=60).recover(y, operator)
    adapted = adaptive(prior, steps=150).recover(y, operator)
    assert (adapted.residual < 0.7 * csgm.residual).all()
    assert psnr(adapted.image, out_of_range).mean() > psnr(csgm.image, out_of_range).mean() + 0.5
    assert adapted.steps.tolist() == [60 + 150] * 4
    assert adapted.evaluations.tolist() == [120 + 150] * 4
    for name, weight in prior.network.state_dict().items():
        assert torch.equal(weight, before[name]), name
        assert not weight.requires_grad


def test_a_grown_generator_adapts(out_of_range: Tensor) -> None:
    """It keeps the RGB layers of the sizes it grew through, which its images no longer use."""
    torch.manual_seed(0)
    grown = pggan.Generator(image_size=8, latent_dim=6, base=32, growing=True)
    prior = GanPrior(grown.eval().requires_grad_(False), "grown")
    assert "to_rgb.0.weight" in prior.weights() and "to_rgb.1.weight" in prior.weights()
    operator = sensing(160)
    y = operator.A(out_of_range)
    adapted = adaptive(prior, weight_learning_rate=1e-2).recover(y, operator)
    assert (adapted.residual < 0.9 * Csgm(prior, steps=60).recover(y, operator).residual).all()


def test_an_adapted_image_does_not_depend_on_its_batch(
    prior: GanPrior, out_of_range: Tensor
) -> None:
    operator = sensing()
    y, seeds = operator.A(out_of_range), [7, 8, 9, 10]
    whole = adaptive(prior).recover(y, operator, seeds=seeds)
    parts = adaptive(prior, batch_size=1).recover(y, operator, seeds=seeds)
    assert psnr(whole.image, parts.image).min() > 60


def test_an_adaptation_that_diverges_falls_back(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y = operator.A(out_of_range)
    healthy = adaptive(prior, steps=10).recover(y, operator)
    y[1, 0] = torch.inf
    hurt = adaptive(prior, steps=10).recover(y, operator)
    assert hurt.status == ("budget", "diverged", "budget", "budget")
    others = [0, 2, 3]
    assert torch.allclose(hurt.image[others], healthy.image[others], atol=1e-4)
    assert hurt.image.isfinite().all()


@pytest.mark.parametrize(
    "operator", [sensing(), Inpainting((3, 8, 8), mask="centre"), Denoising((3, 8, 8), sigma=0.0)]
)
def test_back_projection_fits_the_measurements(operator: Any, out_of_range: Tensor) -> None:
    y = operator.A(out_of_range)
    start = torch.rand_like(out_of_range)
    fitted = back_project(start, y, operator)
    assert (operator.A(fitted) - y).abs().max() < 1e-4
    # the nearest such image: what changed lies in the range of A^T
    change = (fitted - start).flatten(1)
    basis = torch.stack([operator.A_adjoint(row[None])[0].flatten() for row in _units(y)])
    within = torch.linalg.lstsq(basis.T, change.T).solution
    assert torch.allclose(basis.T @ within, change.T, atol=1e-3)


def _units(y: Tensor) -> Tensor:
    return torch.eye(y[0].numel()).view(-1, *y.shape[1:])


def test_back_projection_is_an_option(prior: GanPrior, out_of_range: Tensor) -> None:
    operator = sensing()
    y = operator.A(out_of_range)
    fitted = adaptive(prior, steps=20, back_projection=True).recover(y, operator)
    plain = adaptive(prior, steps=20).recover(y, operator)
    assert fitted.residual.max() < 1e-3 < plain.residual.min()


def test_back_projection_needs_a_linear_operator(prior: GanPrior) -> None:
    operator = sensing()
    operator.linear = False
    adaptive(prior, steps=20).check(operator)
    with pytest.raises(ValueError, match="back projection needs a linear operator"):
        adaptive(prior, steps=20, back_projection=True).check(operator)


def test_a_flow_has_no_weights_to_adapt() -> None:
    flow = Glow(image_size=8, steps=1, levels=2, hidden=4)
    prior = FlowPrior(flow.frozen(), "glow")
    with pytest.raises(TypeError, match="which glow does not hand out"):
        ImageAdaptive(prior)


# --- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (Csgm, {"steps": 0}, "steps must be at least 1, got 0"),
        (Csgm, {"restarts": 0}, "restarts must be at least 1"),
        (Csgm, {"gamma": -1.0}, "gamma must be at least 0"),
        (ImageAdaptive, {"steps": 0}, "steps must be at least 1"),
        (ImageAdaptive, {"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_options(prior: GanPrior, method: type, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        method(prior, **options)


def test_published_settings(prior: GanPrior) -> None:
    bora = Csgm(prior)
    assert (bora.steps, bora.restarts, bora.learning_rate, bora.start_std) == (500, 2, 0.1, 1.0)
    for made, search, steps, rates in (
        (iagan(prior), (1800, 5, None), 300, (1e-4, 1e-3)),
        (ia_dcgan(prior), (1600, 3, 1.0), 600, (1e-4, 1e-4)),
    ):
        assert (made.search.steps, made.search.restarts, made.search.start_limit) == search
        assert made.steps == steps
        assert (made.latent_learning_rate, made.weight_learning_rate) == rates
    assert iagan_stage_1(prior, 0.5).gamma == generator_surgery(prior, 0.5).gamma == 0.5


def test_settings_from_yaml_and_in_the_rows(prior: GanPrior) -> None:
    parser = ArgumentParser()
    parser.add_argument("--methods", type=dict[str, MethodFactory])
    config = parser.parse_string(
        """
methods:
  csgm: {class_path: recovery.csgm.Csgm, init_args: {steps: 7}}
  preset: recovery.image_adaptive.ia_dcgan
  own:
    class_path: recovery.image_adaptive.ImageAdaptive
    init_args:
      steps: 11
      search: {class_path: recovery.csgm.Csgm, init_args: {restarts: 3}}
  stage:
    class_path: recovery.image_adaptive.ImageAdaptive
    init_args: {search: recovery.csgm.generator_surgery}
"""
    )
    methods = {
        name: make(prior, 0.25) for name, make in parser.instantiate_classes(config).methods.items()
    }
    assert methods["csgm"].steps == 7 and methods["csgm"].gamma == 0.25
    assert methods["preset"].steps == 600
    assert methods["own"].steps == 11 and methods["own"].search.restarts == 3
    assert methods["own"].search.gamma == 0.25
    assert methods["stage"].search.steps == 1600
    one, other = describe(methods["own"]), describe(methods["stage"])
    assert one["search"]["restarts"] == 3 and one["search"] != other["search"]


def test_progress_is_told(prior: GanPrior, in_range: Tensor) -> None:
    told: list[tuple[int, int]] = []
    operator = sensing()
    adaptive(prior, steps=3).recover(
        operator.A(in_range), operator, progress=lambda step, active: told.append((step, active))
    )
    assert told[:60] == [(step, 8) for step in range(1, 61)]
    assert told[60:] == [(step, 4) for step in (1, 2, 3)]
