"""Theorem 1: the expected error of a linear invertible prior lies between two sums (section 4).

x = G z with z ~ N(0, I_n), y = A x with A (m, n) Gaussian and no noise. The maximum likelihood
estimate is G z_hat with z_hat the shortest latent that explains y. With s the singular values of
G, S = diag(s) and Q an orthonormal basis of the range of S A^T,

    E||x_hat - x||^2 = E||S - Q Q^T S||_F^2 = ||S||_F^2 - E||Q^T S||_F^2,

because A U is Gaussian like A for G's left singular vectors U: only s matters. Between

    sum_{i>m} s_i^2  <=  E||x_hat - x||^2  <=  (m - 1) sum_{i>m-2} s_i^2.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from core.seeds import generator
from priors.prior import FlowPrior
from studies.jacobian import LARGEST, latents, singular_values
from studies.study import Given, Study, Tables, unit_range

SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "1/i": lambda i: 1 / i,
    "1/sqrt(i)": lambda i: i.rsqrt(),
    "exp(-i/8)": lambda i: (-i / 8).exp(),
    "flat": torch.ones_like,
}
BATCH = 2**27  # entries of Y = S A^T computed at once: 1 GB in float64
ROUNDING = 1e-9  # a flat spectrum attains the lower bound exactly, up to float64


def lower_bound(s: Tensor, m: int) -> float:
    """Compute sum_{i>m} s_i^2: the error of the best m-dimensional model."""
    return s[m:].square().sum().item()


def upper_bound(s: Tensor, m: int) -> float:
    """Compute (m - 1) sum_{i>m-2} s_i^2, for 4 <= m <= n."""
    return (m - 1) * s[m - 2 :].square().sum().item()


def best_bound(s: Tensor, m: int) -> float:
    """Minimise (1 + k/(m-k-1)) sum_{i>k} s_i^2 over k = 2..m-2; the theorem takes k = m - 2.

    Halko, Martinsson & Tropp 2011, theorem 10.5, with rank k and oversampling m - k.
    """
    tails = s.square().flip(0).cumsum(0).flip(0)  # tails[k] = sum_{i>k} s_i^2
    k = torch.arange(2, m - 1, dtype=s.dtype, device=s.device)
    return ((1 + k / (m - k - 1)) * tails[2 : m - 1]).min().item()


def squared_errors(s: Tensor, m: int, draws: int, seed: torch.Generator) -> Tensor:
    """Compute ||x_hat - x||^2 averaged over z, for each of `draws` matrices A (m, n): (draws,).

    Args:
        s: singular values (n,), float64.
        m: measurements, at most n.
        draws: how many A, drawn on the CPU.
        seed: of the matrices.
    """
    n, batch = len(s), max(1, BATCH // (len(s) * m))
    errors = []
    for start in range(0, draws, batch):
        count = min(batch, draws - start)
        matrices = torch.randn(count, n, m, generator=seed, dtype=s.dtype).to(s.device)
        basis = torch.linalg.qr(s[:, None] * matrices).Q
        errors.append(s.square().sum() - (s[:, None] * basis).square().sum(dim=(1, 2)))
    return torch.cat(errors)


def table_of_values(prior: FlowPrior, z: Tensor) -> pd.DataFrame:
    """Compute the singular values of a prior's Jacobian at z (n,), in float64."""
    return pd.DataFrame({"singular_value": singular_values(prior.network, z).cpu().numpy()})


class Theorem1(Study):
    """Monte-Carlo error of the linear model between its bounds (section 4, equation 4).

    Args:
        percent: m in percent of n; with n = 100, m itself. Every m must be from 4 to below n.
        n: dimension of the spectra that have a formula.
        draws: matrices A per point.
        prior: a flow; its Jacobian at an image gives one more spectrum, of the linear model that
            approximates the generator near this image. None for none.
        dataset: the set whose first images it takes.
        images: how many.
        prior_draws: matrices A per point of these spectra; a few, because with n in the thousands
            the error hardly varies.
    """

    title = "Theorem 1: error of a linear invertible prior"

    def __init__(
        self,
        percent: Sequence[float] = (4, 6, 10, 20, 40, 60, 80, 96, 98, 99),
        n: int = 100,
        draws: int = 400,
        prior: str | None = None,
        dataset: str = "celeba-test",
        images: int = 1,
        prior_draws: int = 4,
    ) -> None:
        if not all(4 <= round(part * n / 100) < n for part in percent):
            raise ValueError(
                f"Theorem1: every m must be from 4 to below n = {n}, got {percent} percent"
            )
        if min(draws, prior_draws) < 2:
            raise ValueError("Theorem1: a standard error needs at least 2 draws")
        self.percent = percent
        self.n = n
        self.draws = draws
        self.prior = prior
        self.dataset = dataset
        self.images = images
        self.prior_draws = prior_draws

    def check(self, given: Given) -> None:
        """Raise ValueError: no such flow or set, or the flow's n is above 12,288."""
        if self.prior is None:
            return
        prior = given.flow(self.prior)
        given.first_images(self.dataset, self.images, prior)
        if prior.latent_dim > LARGEST:
            raise ValueError(
                f"Theorem1 needs all singular values of {self.prior!r}'s Jacobian: n = "
                f"{prior.latent_dim:,} is above {LARGEST:,}"
            )

    def compute(self, given: Given, progress: Callable[[str], None]) -> Tables:
        """Make table `errors`: spectrum, n, m, draws, lower, mean, sem, upper, best_bound."""
        rows = []
        for name, s, draws in self._spectra(given, progress):
            for m in dict.fromkeys(round(part * len(s) / 100) for part in self.percent):
                progress(f"spectrum {name}, m = {m:,} of {len(s):,}")
                errors = squared_errors(s, m, draws, generator("theorem-1", name, m))
                row = {"spectrum": name, "n": len(s), "m": m, "draws": draws}
                row |= {"lower": lower_bound(s, m), "mean": errors.mean().item()}
                row |= {"sem": errors.std().item() / math.sqrt(draws)}
                row |= {"upper": upper_bound(s, m), "best_bound": best_bound(s, m)}
                rows.append(row)
        return {"errors": pd.DataFrame(rows)}

    def _spectra(
        self, given: Given, progress: Callable[[str], None]
    ) -> Iterator[tuple[str, Tensor, int]]:
        """Yield name, singular values (n,) in float64, draws."""
        index = torch.arange(1, self.n + 1, dtype=torch.float64, device=given.device)
        for name, formula in SPECTRA.items():
            yield name, formula(index), self.draws
        if self.prior is not None:
            prior = given.flow(self.prior).double()
            images = given.first_images(self.dataset, self.images, prior)
            z = latents(prior, unit_range(images.images, given.device))
            for i, image in enumerate(images.image_names):
                progress(f"Jacobian of {self.prior} at {image}")
                table = given.part(str(i), partial(table_of_values, prior, z[i]))
                s = torch.tensor(table["singular_value"].to_numpy(), device=given.device)
                yield f"{self.prior} at {image}", s, self.prior_draws

    def findings(self, tables: Tables) -> list[str]:
        table = tables["errors"]
        error = 3 * table["sem"] + ROUNDING * table["mean"]
        above = table["mean"] + error >= table["lower"]
        below = table["mean"] - error <= table["upper"]
        within = table["mean"] - error <= table["best_bound"]
        over, under = table["mean"] / table["lower"], table["mean"] / table["upper"]
        furthest, closest = over.idxmax(), under.idxmax()
        ranges = over.groupby(table["spectrum"], sort=False).agg(["min", "max"])
        spans = [f"{name} {row['min']:.2f} to {row['max']:.2f}" for name, row in ranges.iterrows()]
        return [
            f"The Monte-Carlo error lies between Theorem 1's bounds in {(above & below).sum()} of "
            f"{len(table)} cases (up to 3 standard errors and rounding), and below the best bound "
            f"over rank and oversampling in {within.sum()}.",
            f"It is at most {over[furthest]:.2f} times the lower bound ({_case(table, furthest)}) "
            f"and at most {under[closest]:.3f} times the upper "
            f"({_case(table, closest)}).",
            f"Error over lower bound, per spectrum: {'; '.join(spans)}.",
        ]

    def figures(self, tables: Tables) -> dict[str, Figure]:
        spectra = list(tables["errors"].groupby("spectrum", sort=False))
        figure = Figure(figsize=(2.9 * len(spectra), 3.2), layout="constrained")
        panels = figure.subplots(1, len(spectra), squeeze=False)[0]
        for axes, (name, rows) in zip(panels, spectra, strict=True):
            m = rows["m"] / rows["n"]
            axes.fill_between(m, rows["lower"], rows["upper"], alpha=0.15, color="C0")
            axes.plot(m, rows["upper"], "-", color="C0", label="upper bound")
            axes.plot(m, rows["best_bound"], "--", color="C2", label="best (k, p) bound")
            axes.errorbar(
                m, rows["mean"], rows["sem"], fmt="C1o", markersize=3, label="Monte Carlo"
            )
            axes.plot(m, rows["lower"], "-.", color="C0", label="lower bound")
            axes.set(title=f"{name}, n = {rows['n'].iloc[0]:,}", xlabel="m / n", yscale="log")
            axes.grid(alpha=0.3)
        panels[0].set_ylabel(r"$E\|\hat x - x\|^2$")
        panels[0].legend(fontsize=7)
        return {"Expected squared error of the linear model, and Theorem 1's bounds.": figure}


def _case(table: pd.DataFrame, index: int | np.integer) -> str:
    row = table.loc[index]
    return f"spectrum {row['spectrum']}, m = {row['m']:,} of {row['n']:,}"
