"""Where images lie in latent space: ||z|| and the likelihood, clean, noisy and foreign.

The paper (6.4) finds natural images of other kinds given "relatively high likelihood (small normed
latent representations) as compared to noisy, unnatural images"; the authors' notebook draws the
histograms.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from core.seeds import normal, seed_from
from studies.study import Given, Study, Tables, unit_range


class LatentNorm(Study):
    """||encode(x)|| and log p(x) of clean, noisy and out-of-distribution images.

    Args:
        prior: a flow.
        dataset: the set that also gets noise.
        sigmas: standard deviations of that noise, for images in [0, 1].
        others: sets without noise.
        images: how many of each set.
        batch_size: images encoded at once.
    """

    title = "Latent norm and likelihood"

    def __init__(
        self,
        prior: str = "glow",
        dataset: str = "celeba-val",
        sigmas: Sequence[float] = (0.01, 0.05, 0.1),
        others: Sequence[str] = ("ffhq-test", "natural-ood"),
        images: int = 100,
        batch_size: int = 50,
    ) -> None:
        if images < 1 or min(sigmas, default=1.0) <= 0:
            raise ValueError("LatentNorm: images must be at least 1 and every sigma above 0")
        self.prior = prior
        self.dataset = dataset
        self.sigmas = sigmas
        self.others = others
        self.images = images
        self.batch_size = batch_size

    def check(self, given: Given) -> None:
        """Raise ValueError: no such flow or set."""
        for dataset in (self.dataset, *self.others):
            given.first_images(dataset, self.images, given.flow(self.prior))

    @torch.no_grad()
    def compute(self, given: Given, progress: Callable[[str], None]) -> Tables:
        """Make table `norms`: dataset, distribution, sigma, image, n, norm, log_likelihood."""
        prior = given.flow(self.prior)
        kinds = [(self.dataset, sigma) for sigma in (0.0, *self.sigmas)]
        tables = []
        for dataset, sigma in [*kinds, *((other, 0.0) for other in self.others)]:
            progress(f"encode {dataset}, noise {sigma}")
            images = given.first_images(dataset, self.images, prior)
            seeds = [seed_from("latent-norm", dataset, name) for name in images.image_names]
            # one draw per image, scaled, so that nothing else differs between the sigmas
            noise = sigma * normal(seeds, prior.image_shape).to(given.device)
            x = unit_range(images.images, given.device) + noise
            encoded = [prior.encode(part) for part in x.split(self.batch_size)]
            columns = {
                "dataset": dataset,
                "distribution": images.distribution,
                "sigma": sigma,
                "image": images.image_names,
                "n": prior.latent_dim,
                "norm": torch.cat([z.norm(dim=1) for z, _ in encoded]).cpu(),
                "log_likelihood": torch.cat([value for _, value in encoded]).cpu(),
            }
            tables.append(pd.DataFrame(columns))
        return {"norms": pd.concat(tables, ignore_index=True)}

    def findings(self, tables: Tables) -> list[str]:
        table = tables["norms"]
        n = int(table["n"].iloc[0])
        parts = []
        for name, rows in _groups(table).items():
            finite = _finite(rows)
            norm, likelihood = finite["norm"], finite["log_likelihood"].mean() / n
            lost = f", {len(rows) - len(finite)} not finite" if len(finite) < len(rows) else ""
            parts.append(
                f"{name} {norm.mean():.1f} ± {norm.sem():.1f} ({likelihood:.2f} nats per "
                f"dimension, {len(rows)} images{lost})"
            )
        return [f"Latent norms, where sqrt(n) = {math.sqrt(n):.1f}: {'; '.join(parts)}."]

    def figures(self, tables: Tables) -> dict[str, Figure]:
        table = tables["norms"]
        finite = _finite(table)
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        histogram, scatter = figure.subplots(1, 2)
        bins = np.geomspace(finite["norm"].min(), finite["norm"].max(), 50)
        for name, rows in _groups(finite).items():
            histogram.hist(rows["norm"], bins=bins, histtype="step", linewidth=1.4, label=name)
            likelihood = rows["log_likelihood"] / rows["n"]
            scatter.plot(rows["norm"], likelihood, ".", markersize=4, alpha=0.7, label=name)
        root = math.sqrt(table["n"].iloc[0])
        for axes in (histogram, scatter):
            axes.axvline(root, color="0.5", linestyle=":", label=r"$\sqrt{n}$")
            axes.set(xlabel=r"$\|z\|$", xscale="log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.3)
        histogram.set(ylabel="images")
        scatter.set(ylabel="log-likelihood (nats per dimension)")
        scatter.legend(fontsize=7, loc="lower left")
        return {"Latent norms of clean, noisy and foreign images, and their likelihood.": figure}


def _finite(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[np.isfinite(rows["norm"]) & np.isfinite(rows["log_likelihood"])]


def _groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Group rows by what the prior encoded: `celeba-val`, `celeba-val + 0.1`."""
    return {
        f"{dataset} + {sigma:g}" if sigma else str(dataset): rows
        for (dataset, sigma), rows in table.groupby(["dataset", "sigma"], sort=False)
    }
