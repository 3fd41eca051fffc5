"""Trials: every image has its own row, whatever its batch."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd
import pytest
import torch
from torch import Tensor

from core.seeds import generator, seed_from
from datamodules.image_set import ImageSet
from recovery.lasso import Lasso
from recovery.latent_search import LatentSearch
from recovery.methods import Method, Progress, Recovery, Status
from recovery.metrics import ssim
from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator
from results.identity import ConfigTexts
from results.rows import COLUMNS, Row
from results.trial import Job, Problem, Trial, run_trials
from tests.results.conftest import SHAPE, FlatPrior

CPU = torch.device("cpu")
STATUSES: tuple[Status, ...] = ("converged", "budget", "diverged", "converged", "budget")


class Adjoint(Method):
    """Returns A^T y, and numbers that tell the images apart."""

    def recover(
        self,
        y: Tensor,
        operator: Operator,
        *,
        seeds: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Recovery:
        image = operator.A_adjoint(y)
        number = torch.arange(len(y))
        value = number.float()
        status = STATUSES[: len(y)]
        return Recovery(image, None, value, value + 10, number + 20, number + 30, status)


def image_set(count: int = 5) -> ImageSet:
    levels = torch.randint(0, 256, (count, *SHAPE), generator=generator("image set"))
    return ImageSet("faces-ood", "out", levels.byte(), [f"face-{i}" for i in range(count)])


def trials(
    operator: Operator, method: Method, images: ImageSet | None = None, batch_size: int = 5
) -> list[Trial]:
    template = Row("run-1", "flat", 100, 1, problem="p", method="m", seed=3, m=9, config="abc")
    images = image_set() if images is None else images
    return list(run_trials(images, operator, method, template, device=CPU, batch_size=batch_size))


def all_rows(parts: list[Trial]) -> list[Row]:
    return [r for part in parts for r in part.rows]


def test_every_image_has_a_row_with_its_own_numbers() -> None:
    (trial,) = trials(Denoising(SHAPE, 0.1), Adjoint())
    truth = image_set().images.float() / 255
    assert torch.equal(trial.truth, truth)
    seeds = [seed_from(3, "faces-ood", f"face-{i}") for i in range(5)]
    assert torch.equal(trial.y, Denoising(SHAPE, 0.1)(truth, seeds=seeds))
    for i, r in enumerate(trial.rows):
        error = (trial.y[i].clamp(0, 1) - truth[i]).double().numpy()
        assert r.psnr == pytest.approx(-10 * math.log10((error**2).mean()), abs=1e-4)
        assert r.ssim == pytest.approx(ssim(trial.y, truth)[i].item(), abs=1e-6)
        assert (r.objective, r.residual, r.steps, r.evaluations) == (i, i + 10, i + 20, i + 30)
    assert [r.image for r in trial.rows] == [f"face-{i}" for i in range(5)]
    assert tuple(r.status for r in trial.rows) == STATUSES
    assert len({r.psnr for r in trial.rows}) == 5


def test_rows_carry_the_template_and_the_set() -> None:
    for r in all_rows(trials(Denoising(SHAPE, 0.1), Adjoint())):
        assert (r.run, r.prior, r.images_seen, r.epoch, r.seed) == ("run-1", "flat", 100, 1, 3)
        assert (r.problem, r.method, r.m, r.config) == ("p", "m", 9, "abc")
        assert (r.dataset, r.distribution) == ("faces-ood", "out")
        assert r.latent_norm is None and r.seconds > 0


def test_psnr_in_the_hole_is_given_where_there_is_one() -> None:
    operator = Inpainting(SHAPE, "left", 0.5)
    (trial,) = trials(operator, Adjoint())
    for r, truth in zip(trial.rows, trial.truth, strict=True):
        energy = truth[:, :, :6].double().square().mean().item()  # recovered as 0
        assert r.psnr_hole == pytest.approx(-10 * math.log10(energy), abs=1e-4)
        assert r.psnr == pytest.approx(r.psnr_hole + 10 * math.log10(2), abs=1e-4)
    for other in (Denoising(SHAPE, 0.1), GaussianSensing(SHAPE, 50)):
        assert all(r.psnr_hole is None for r in all_rows(trials(other, Adjoint())))


@pytest.mark.parametrize(
    "operator", [Denoising(SHAPE, 0.1), GaussianSensing(SHAPE, 60)], ids=["denoising", "sensing"]
)
def test_batches_change_no_row(operator: Operator) -> None:
    search = LatentSearch(FlatPrior(), 0.01, evaluations=50)
    whole = all_rows(trials(operator, search))
    for batch_size in (1, 2, 100):
        for a, b in zip(
            whole, all_rows(trials(operator, search, batch_size=batch_size)), strict=True
        ):
            assert a.image == b.image
            assert a.psnr == pytest.approx(b.psnr, abs=0.02)
            assert a.ssim == pytest.approx(b.ssim, abs=1e-3)
            assert a.latent_norm == pytest.approx(b.latent_norm, rel=1e-3)


def test_an_image_is_measured_alike_in_any_subset() -> None:
    operator = Denoising(SHAPE, 0.1)
    (whole,) = trials(operator, Adjoint())
    (part,) = trials(operator, Adjoint(), image_set().subset([4, 1]))
    assert [r.image for r in part.rows] == ["face-4", "face-1"]
    assert torch.equal(part.y, whole.y[[4, 1]])
    renamed = replace(image_set(), name="faces-val")
    (other,) = trials(operator, Adjoint(), renamed)
    assert (other.y != whole.y).any()


def test_latent_norms_are_those_of_the_latents() -> None:
    (trial,) = trials(Denoising(SHAPE, 0.1), LatentSearch(FlatPrior(), 0.01, evaluations=5))
    assert trial.recovery.latent is not None
    for r, latent in zip(trial.rows, trial.recovery.latent, strict=True):
        assert r.latent_norm == pytest.approx(latent.norm().item(), rel=1e-5)


def test_a_set_without_images_has_no_trials() -> None:
    assert trials(Denoising(SHAPE, 0.1), Adjoint(), image_set(0)) == []


def test_a_row_is_of_one_set_unless_it_was_written_before_sets_had_an_identity() -> None:
    images = image_set()
    operator = Denoising(SHAPE, 0.1)
    row = Row("run-1", "flat", 100, 1, problem="p", method="m", seed=3)

    def job(identity: str) -> Job:
        held_out = replace(images, identity=identity)
        problem = Problem(lambda _: operator)
        return Job.of(problem, operator, Lasso(), None, held_out, row, ConfigTexts(None))

    one, other, drawn = job("one"), job("other"), job("")
    assert len({one.template.config, other.template.config, drawn.template.config}) == 3
    assert drawn.template.config == one.config_before == other.config_before
    none = pd.DataFrame(columns=COLUMNS)
    done = [
        replace(drawn.template, dataset=images.name, image=name, variant=one.method.variant)
        for name in images.image_names[:2]
    ]
    before = pd.DataFrame([asdict(row) for row in done])
    assert one.as_begun(none) is one
    assert one.as_begun(before.assign(dataset="another")) is one
    assert one.as_begun(before).missing(before) == [2, 3, 4]
    assert other.missing(before.assign(config=one.template.config)) == [0, 1, 2, 3, 4]
