"""A trial: held-out images, measured by a problem's operator, recovered by a method, as rows."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from core.seeds import seed_from
from datamodules.image_set import ImageSet
from priors.prior import Prior
from recovery.deepinv import Reconstructor
from recovery.diagnostic import Diagnostic
from recovery.methods import Method, MethodFactory, PriorFree, Progress, Recovery
from recovery.metrics import psnr, ssim
from recovery.operators import Operator, OperatorFactory
from recovery.physics import Deepinv
from results.identity import ConfigTexts, describe
from results.rows import Row, rows_of


@dataclass(frozen=True)
class Problem:
    """A named operator configuration and the penalty the paper gives it.

    Args:
        operator: makes the operator for an image shape (C, H, W); or a physics of deepinv.
        gamma: weight of ||z||^2: above 0 formulation (1), 0 formulation (2).
    """

    operator: Deepinv | OperatorFactory
    gamma: float = 0.0


@dataclass(frozen=True)
class NamedMethod:
    """A recovery method, the prior it goes through, and how much it recovers.

    In a config, the method alone is short for one (`cli.configs.named_methods`).

    Args:
        method: made from a prior and the problem's gamma, or free of any prior.
        prior: its name; none for methods that need none, and none while training, where the prior
            is the one that is trained.
        images: recover at most so many of each set: for what is slow.
    """

    method: Deepinv | PriorFree | MethodFactory
    prior: str | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise ValueError(f"methods: images must be at least 1, got {self.images}")

    @property
    def make(self) -> PriorFree | MethodFactory:
        return Reconstructor(self.method) if isinstance(self.method, Deepinv) else self.method


@dataclass(frozen=True)
class Trial:
    """One batch: truth and y on the method's device, the recovery, and its rows.

    The recovery's own rows come last, in the images' order, after those of its alternatives.
    """

    truth: Tensor
    y: Tensor
    recovery: Recovery
    rows: list[Row]


@dataclass(frozen=True)
class Job:
    """A method, an operator and a set of images.

    Attributes:
        template: what their rows share.
        config_before: `template.config` as versions wrote it that did not look which set it is.
    """

    operator: Operator
    method: Method
    images: ImageSet
    template: Row
    config_before: str

    @classmethod
    def of(
        cls,
        problem: Problem,
        operator: Operator,
        make: PriorFree | MethodFactory,
        prior: Prior | None,
        images: ImageSet,
        row: Row,
        texts: ConfigTexts,
    ) -> "Job":
        """Make the job of a row that names run, problem, method, seed, prior and images seen.

        A method that needs no prior is the same whatever was trained, and for how long: so is its
        row. Raises ValueError if a method needs a prior and there is none.
        """
        described: dict[str, Any] = {"problem": describe(operator)}
        if isinstance(make, PriorFree):
            method: Method = make
            row = replace(row, prior="", images_seen=0, epoch=0, gamma=0.0)
        elif prior is None:
            raise ValueError(f"the method {row.method} needs a prior")
        else:
            method = make(prior, problem.gamma)
            row = replace(row, gamma=problem.gamma)
            described["weights"] = prior.fingerprint
        described["method"] = describe(method)
        before = ConfigTexts(None).hash(**described)
        if images.identity:
            described["set"] = images.identity
        config = texts.hash(**described)
        row = replace(
            row,
            config=config,
            kind=operator.kind,
            m=operator.measurements,
            sigma=operator.sigma,
        )
        return cls(operator, method, images, row, before)

    def as_begun(self, rows: pd.DataFrame) -> "Job":
        """Return the job as the version began it that wrote these rows, which then still count."""
        begun = (rows["config"] == self.config_before) & (rows["dataset"] == self.images.name)
        if not begun.any():
            return self
        return replace(self, template=replace(self.template, config=self.config_before))

    def take_up(self, rows: pd.DataFrame, texts: ConfigTexts) -> "Job":
        """Return the job as it was begun; its rows count, whatever took their place since."""
        job = self.as_begun(rows)
        same = rows[rows_of(rows, **job.key)]
        done = same[same["config"] == job.template.config]
        gammas = done["gamma"] if len(done) else [float(f"{job.template.gamma:.6g}")]
        rivals = same[same["gamma"].isin(gammas)]
        texts.put_after(job.template.config, set(rivals["config"]), job.key)
        return job

    @property
    def key(self) -> dict[str, Any]:
        """What the rows of this job share, under whichever configuration and in every variant."""
        row = self.template
        return {
            "images_seen": row.images_seen,
            "dataset": self.images.name,
            "problem": row.problem,
            "method": row.method,
            "seed": row.seed,
        }

    def missing(self, rows: pd.DataFrame) -> list[int]:
        """Find the positions of the images that have no row of this job yet."""
        of_this = rows_of(
            rows, config=self.template.config, variant=self.method.variant, **self.key
        )
        done = set(rows.loc[of_this, "image"])
        return [i for i, name in enumerate(self.images.image_names) if name not in done]


def run_trials(
    images: ImageSet,
    operator: Operator,
    method: Method,
    template: Row,
    *,
    device: torch.device,
    batch_size: int,
    progress: Progress | None = None,
) -> Iterator[Trial]:
    """Measure and recover `images`, `batch_size` at a time; batches change no image's result.

    Each image's noise comes from (template.seed, set name, image name). `template` holds the
    columns that do not depend on the image.
    """
    for start in range(0, len(images.images), batch_size):
        part = images.subset(range(len(images.images))[start : start + batch_size])
        truth = part.images.to(device).float() / 255
        seeds = [seed_from(template.seed, part.name, name) for name in part.image_names]
        y = operator(truth, seeds=seeds)
        began = time.perf_counter()
        searching = method.shown(truth) if isinstance(method, Diagnostic) else method
        recovery = searching.recover(y, operator, seeds=seeds, progress=progress)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - began) / len(truth)
        variants = [*recovery.alternatives.items(), (method.variant, recovery)]
        rows = [
            row
            for variant, found in variants
            for row in _rows(
                part, operator, truth, found, seconds, replace(template, variant=variant)
            )
        ]
        yield Trial(truth, y, recovery, rows)


def _rows(
    images: ImageSet,
    operator: Operator,
    truth: Tensor,
    recovery: Recovery,
    seconds: float,
    template: Row,
) -> list[Row]:
    hole = getattr(operator, "hole", None)
    in_hole = psnr(recovery.image, truth, hole.to(truth.device)) if hole is not None else None
    whole, structural = psnr(recovery.image, truth), ssim(recovery.image, truth)
    norms = None if recovery.latent is None else recovery.latent.norm(dim=1)
    return [
        replace(
            template,
            dataset=images.name,
            distribution=images.distribution,
            image=name,
            psnr=whole[i].item(),
            psnr_hole=None if in_hole is None else in_hole[i].item(),
            ssim=structural[i].item(),
            objective=recovery.objective[i].item(),
            residual=recovery.residual[i].item(),
            latent_norm=None if norms is None else norms[i].item(),
            steps=int(recovery.steps[i]),
            evaluations=int(recovery.evaluations[i]),
            seconds=seconds,
            status=recovery.status[i],
        )
        for i, name in enumerate(images.image_names)
    ]
