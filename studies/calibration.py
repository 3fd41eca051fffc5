"""Do posterior samples know how wrong they are? Ranks under the prior, coverage on real images.

Two questions, kept apart. Of images that the prior itself draws, x = G(z), the truth's rank among
its samples is uniform if the sampler is right (simulation-based calibration: Talts et al. 2018).
Of held-out images, intervals of the samples hold as many truths as they say if the prior is right
too.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.special import stdtrit
from scipy.stats import chisquare
from torch import Tensor

from core.seeds import normal, seed_from
from recovery.operators import GaussianSensing
from recovery.posterior import PosteriorSamples
from recovery.posterior_chains import DIAGNOSTICS, MIXED, PosteriorChains
from studies.study import Given, Study, Tables, unit_range

LEVELS = (0.5, 0.8, 0.9, 0.95)  # of the intervals
DRAWN = "x = G(z)"  # the source of images that the prior draws
DRAWS = 500  # of the bootstrap over images
BINS = 4  # of ranks, in the test of uniformity
SIGNIFICANT = 0.01


class Source(NamedTuple):
    """Images whose truth is known: (N, C, H, W), in [0, 1] where they are photographs."""

    name: str
    distribution: str
    image_names: Sequence[str]
    truth: Tensor


class Calibration(Study):
    """Ranks and intervals of posterior samples, per pixel and along random directions.

    A scalar q of the image (a pixel's value, or the image's component along a random direction) has
    the samples' mean and standard deviation; its interval at a level is the mean ± t times the
    deviation, with Student's t of as many degrees of freedom as there are pairs of samples, or one
    less than chains.

    Args:
        prior: a flow or a GAN.
        datasets: held-out sets.
        chosen_on: the one of them on which the factor on the standard deviation is chosen, so that
            90% intervals hold 90% there (split conformal prediction).
        fractions: of n, measured by compressive sensing.
        images: of each set, and drawn from the prior.
        samples, tau, perturb, evaluations: see `recovery.posterior.PosteriorSamples`.
        chain_steps: with any, samples are `recovery.posterior_chains.PosteriorChains`'s, of so many
            steps.
        directions: random directions, and as many random pixels.
        seed: of everything random.
    """

    title = "Calibration of posterior samples"

    def __init__(
        self,
        prior: str = "glow",
        datasets: Sequence[str] = ("celeba-val", "ffhq-val"),
        chosen_on: str = "celeba-val",
        fractions: Sequence[float] = (0.05,),
        images: int = 48,
        samples: int = 16,
        tau: float = 1.0,
        perturb: bool = False,
        evaluations: int = 200,
        chain_steps: int = 0,
        directions: int = 16,
        seed: int = 0,
    ) -> None:
        if min(images, directions) < 1 or not fractions:
            raise ValueError("Calibration: images, directions and fractions must not be empty")
        if chosen_on not in datasets:
            raise ValueError(
                f"Calibration: chosen_on {chosen_on!r} is none of {', '.join(datasets)}"
            )
        self.prior = prior
        self.datasets = datasets
        self.chosen_on = chosen_on
        self.fractions = fractions
        self.images = images
        self.samples = samples
        self.tau = tau
        self.perturb = perturb
        self.evaluations = evaluations
        self.chain_steps = chain_steps
        self.directions = directions
        self.seed = seed

    def check(self, given: Given) -> None:
        """Raise ValueError: no such prior or set, or options that sampling refuses."""
        prior = given.prior(self.prior)
        sampler = self.sampler(given)
        for fraction in self.fractions:
            sampler.check(GaussianSensing(prior.image_shape, float(fraction), seed=self.seed))
        for dataset in self.datasets:
            given.first_images(dataset, self.images, prior)

    def sampler(self, given: Given) -> PosteriorSamples:
        prior = given.prior(self.prior)
        options: dict[str, Any] = {
            "samples": self.samples,
            "tau": self.tau,
            "perturb": self.perturb,
            "evaluations": self.evaluations,
            "seed": self.seed,
        }
        if self.chain_steps:
            return PosteriorChains(prior, steps=self.chain_steps, **options)
        return PosteriorSamples(prior, **options)

    # --- compute ---------------------------------------------------------------------------

    def compute(self, given: Given, progress: Callable[[str], None]) -> Tables:
        """Make table `scalars`, a row per image and scalar.

        source, distribution, fraction, image, kind (pixel, direction), scalar, rank (of the truth
        among samples that are independent), among (how many those are), error (truth - mean),
        deviation, freedom (its degrees). Of chains also r_hat, effective_samples, acceptance and
        step, which are the image's.
        """
        sampler = self.sampler(given)
        at_once = max(1, sampler.batch_size // self.samples)
        tables = []
        for number, source in enumerate(self.sources(given)):
            for fraction in self.fractions:
                shape = sampler.prior.image_shape
                operator = GaussianSensing(shape, float(fraction), seed=self.seed)
                operator = operator.to(given.device)
                for first in range(0, len(source.truth), at_once):
                    images = slice(first, first + at_once)
                    part = partial(self.sampled, sampler, operator, source, images, progress)
                    table = given.part(f"{number}-{fraction:g}-{first}", part)
                    tables.append(table.assign(fraction=fraction))
        return {"scalars": pd.concat(tables, ignore_index=True)}

    def sampled(
        self,
        sampler: PosteriorSamples,
        operator: GaussianSensing,
        source: Source,
        images: slice,
        progress: Callable[[str], None],
    ) -> pd.DataFrame:
        """Make the rows of a few images of a source."""
        truth = source.truth[images]
        seeds = [
            seed_from("calibration", self.seed, source.name, name)
            for name in source.image_names[images]
        ]
        last = images.start + len(truth)
        doing = f"sample {source.name} at {operator.measurements} measurements, images "
        doing += f"{images.start + 1} to {last} of {len(source.truth)}"
        progress(doing)
        with torch.no_grad():
            y = operator(truth, seeds=seeds)

        def tell(count: int, _: int) -> None:
            progress(f"{doing}, evaluation {count:,}")  # chains take minutes an image

        found = sampler.recover(y, operator, seeds=seeds, progress=tell)
        assert found.samples is not None
        probes = self.probes(operator.image_shape).to(truth)
        table = self.scalars(truth.flatten(1) @ probes, found.samples.flatten(2) @ probes)
        told = {
            name: value.cpu().numpy()[table["image"]] for name, value in found.diagnostics.items()
        }
        return table.assign(
            image=table["image"] + images.start,
            source=source.name,
            distribution=source.distribution,
            **told,
        )

    def sources(self, given: Given) -> Iterator[Source]:
        """Yield the images that the prior draws, then those of each set.

        Images of the prior are not clamped: they are what it says images are.
        """
        prior = given.prior(self.prior)
        seeds = [seed_from("calibration draw", self.seed, index) for index in range(self.images)]
        with torch.no_grad():
            drawn = prior.decode(prior.initial_latent(seeds, 1.0).to(given.device))
        yield Source(DRAWN, "prior", [str(index) for index in range(self.images)], drawn)
        for dataset in self.datasets:
            images = given.first_images(dataset, self.images, prior)
            truth = unit_range(images.images, given.device)
            yield Source(dataset, images.distribution, images.image_names, truth)

    def probes(self, image_shape: tuple[int, int, int]) -> Tensor:
        """Make the scalars' weights (n, 2 directions): unit directions, then single pixels."""
        n = math.prod(image_shape)
        seeds = [seed_from("probe", self.seed, index) for index in range(self.directions)]
        along = normal(seeds, (n,)).T
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
        pixels = torch.zeros(n, self.directions)
        pixels[order[: self.directions], torch.arange(min(n, self.directions))] = 1
        return torch.cat([along / along.norm(dim=0), pixels], dim=1)

    def scalars(self, truth: Tensor, samples: Tensor) -> pd.DataFrame:
        """Compare scalars (N, K) with those of samples (N, S, K): of chains, or in pairs."""
        count, kinds = truth.shape
        if self.chain_steps:
            independent, freedom = samples, self.samples - 1
            # of the mean of so many, as of one more
            deviation = samples.std(dim=1) * (1 + 1 / self.samples) ** 0.5
        else:
            # the two of a pair are not independent: one of each. Their errors cancel in the mean,
            # so that no degree of freedom is lost
            independent, freedom = samples[:, ::2], self.samples // 2
            deviation = samples.var(dim=1, correction=0).sqrt()
        columns = {
            "image": torch.arange(count)[:, None].expand(count, kinds),
            "scalar": torch.arange(kinds).expand(count, kinds),
            "rank": (independent < truth[:, None]).sum(dim=1),
            "error": truth - samples.mean(dim=1),
            "deviation": deviation,
        }
        table = pd.DataFrame({name: value.cpu().flatten() for name, value in columns.items()})
        kind = np.where(table["scalar"] < self.directions, "direction", "pixel")
        return table.assign(kind=kind, among=independent.shape[1], freedom=freedom)

    # --- findings --------------------------------------------------------------------------

    def findings(self, tables: Tables) -> list[str]:
        scalars = tables["scalars"]
        sentences = []
        for fraction, rows in scalars.groupby("fraction"):
            own = rows[rows["source"] == DRAWN]
            p = uniformity(own)
            verdict = "not uniform: the sampler is not exact" if p < SIGNIFICANT else "uniform"
            sentences.append(
                f"At {fraction:.1%} of n, ranks of {own['image'].nunique()} images drawn from the "
                f"prior are {verdict} (chi-square, p = {p:.2g})."
            )
            factor = conformal_factor(rows[rows["source"] == self.chosen_on])
            held = [
                f"{source} {low_high(part)}, {low_high(part, factor=factor)} with the factor"
                for source, part in rows.groupby("source", sort=False)
            ]
            sentences.append(
                f"At {fraction:.1%} of n, 90% intervals hold: {'; '.join(held)}. The factor on the "
                f"standard deviation, {factor:.2f}, was chosen on {self.chosen_on}."
            )
            if "r_hat" in rows:
                sentences.append(f"At {fraction:.1%} of n, {mixing(rows)}.")
        return sentences

    def figures(self, tables: Tables) -> dict[str, Figure]:
        scalars = tables["scalars"]
        fractions = scalars["fraction"].unique()
        figure = Figure(figsize=(4.2 * len(fractions), 3.8), layout="constrained")
        for axes, fraction in zip(
            figure.subplots(1, len(fractions), squeeze=False)[0], fractions, strict=True
        ):
            rows = scalars[scalars["fraction"] == fraction]
            axes.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="as it should be")
            for source, part in rows.groupby("source", sort=False):
                covered = [coverage(part, level) for level in LEVELS]
                axes.plot(LEVELS, covered, "o-", markersize=4, label=source)
            axes.set(xlabel="interval", ylabel="truths in it", title=f"m/n = {fraction:.1%}")
            axes.set(xlim=(0.45, 1), ylim=(0, 1))
            axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
        return {
            "How many truths the intervals of posterior samples hold.": figure,
            "Error against the predicted standard deviation.": self.errors(scalars),
        }

    def errors(self, scalars: pd.DataFrame) -> Figure:
        """Draw the root mean square error over the predicted deviation, in bins of equal count."""
        figure = Figure(figsize=(4.6, 3.8), layout="constrained")
        axes = figure.subplots()
        for source, part in scalars.groupby("source", sort=False):
            bins = part.groupby(pd.qcut(part["deviation"], 8, duplicates="drop"), observed=True)
            predicted = bins["deviation"].apply(lambda d: math.sqrt((d**2).mean()))
            made = bins["error"].apply(lambda e: math.sqrt((e**2).mean()))
            axes.loglog(predicted, made, "o-", markersize=4, label=source)
        low, high = scalars["deviation"].quantile([0.02, 0.98])
        axes.loglog([low, high], [low, high], color="0.5", linestyle=":", label="as it should be")
        axes.set(xlabel="predicted standard deviation", ylabel="root mean square error")
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
        return figure


def mixing(scalars: pd.DataFrame) -> str:
    """Say on how many images the chains have mixed, and how far they are from it."""
    images = scalars.groupby(["source", "image"], sort=False)[list(DIAGNOSTICS)].first()
    middle = images.median()
    return (
        f"chains mixed (R-hat below {MIXED:g}) on {(images['r_hat'] < MIXED).sum()} of "
        f"{len(images)} images; medians: R-hat {middle['r_hat']:.2f}, effective samples "
        f"{middle['effective_samples']:.0f}, acceptance {middle['acceptance']:.2f}"
    )


def coverage(scalars: pd.DataFrame, level: float, factor: float = 1.0) -> float:
    """Compute the share of truths inside their intervals."""
    return float((standardised(scalars) <= factor * quantile(scalars, level)).mean())


def low_high(scalars: pd.DataFrame, level: float = 0.9, factor: float = 1.0) -> str:
    """Write the coverage with its 95% interval, by a bootstrap over images."""
    inside = standardised(scalars) <= factor * quantile(scalars, level)
    shares = inside.groupby(scalars["image"]).mean().to_numpy()
    drawn = np.random.default_rng(0).choice(shares, (DRAWS, len(shares))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{shares.mean():.1%} ({low:.1%} to {high:.1%})"


def conformal_factor(scalars: pd.DataFrame, level: float = 0.9) -> float:
    """Compute the factor on the deviation with which intervals hold their level of these truths."""
    return float(standardised(scalars).quantile(level)) / quantile(scalars, level)


def standardised(scalars: pd.DataFrame) -> pd.Series:
    return scalars["error"].abs() / scalars["deviation"]


def quantile(scalars: pd.DataFrame, level: float) -> float:
    return float(stdtrit(int(scalars["freedom"].iloc[0]), (1 + level) / 2))


def uniformity(scalars: pd.DataFrame) -> float:
    """Compute the p-value of uniform ranks: of one direction per image, which are independent."""
    images, _ = pd.factorize(scalars["image"])
    first = scalars[scalars["scalar"] == images % scalars["scalar"].nunique()]
    ranks = int(first["among"].iloc[0]) + 1
    # ranks that share a bin make its expected count
    of_rank = np.arange(ranks) * BINS // ranks
    expected = np.bincount(of_rank, minlength=BINS) / ranks * len(first)
    found = np.bincount(of_rank[first["rank"]], minlength=BINS)
    return float(chisquare(found, expected).pvalue)
