"""A RealNVP on points in the plane: where latent norm and density disagree (paper, Fig. 9).

A flow is continuous and invertible: what lies between two modes of the data lies between their
preimages, so points of small ||z|| and little density must exist. The paper's point set, network
and training are unknown; two moons and eight Gaussians on a ring are our choice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from core.seeds import generator
from networks.realnvp import RealNVP
from priors.prior import standard_normal_log_prob
from studies.study import Given, Study, Tables

FAR = 4.0  # in standard deviations from every centre: between the modes, or outside
LIKELY = 0.9  # this share of the data has a latent norm that counts as small


@dataclass(frozen=True)
class PointSet:
    """Equally weighted round Gaussians in the plane, so that the true density is known.

    Args:
        centres: (K, 2).
        std: of each Gaussian.
    """

    centres: Tensor
    std: float

    def sample(self, count: int, seed: torch.Generator) -> Tensor:
        """Draw (count, 2)."""
        which = torch.randint(len(self.centres), (count,), generator=seed)
        return self.centres[which] + self.std * torch.randn(count, 2, generator=seed)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p(x) of x (B, 2), (B,) in nats."""
        scaled = torch.cdist(x, self.centres) / self.std
        normaliser = math.log(2 * math.pi * self.std**2 * len(self.centres))
        return torch.logsumexp(-scaled.square() / 2, dim=1) - normaliser

    def far(self, x: Tensor) -> Tensor:
        """Mark points x (B, 2) farther than `FAR` standard deviations from every centre."""
        return torch.cdist(x, self.centres).min(dim=1).values > FAR * self.std


def moons() -> PointSet:
    """Make two interleaved half circles of radius 1, each a chain of 256 Gaussians."""
    angle = torch.linspace(0, math.pi, 256)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
    return PointSet(torch.cat([upper, -upper]), std=0.05)


def ring() -> PointSet:
    """Put eight Gaussians on a circle of radius 2."""
    angle = torch.arange(8) * (math.pi / 4)
    return PointSet(2 * torch.stack([angle.cos(), angle.sin()], dim=1), std=0.15)


POINT_SETS = {"moons": moons, "ring": ring}


class RealNVPToy(Study):
    """Fits a flow to 2-D points by maximum likelihood, on the CPU, about a minute per point set.

    Args:
        steps: of training.
        batch_size: points per step.
        learning_rate: of Adam at the start; it falls to 0 along a cosine.
        points: in the training set, the held-out set, and the samples each.
        grid: points per side of the maps.
    """

    title = "Density and latent norm of a flow in the plane"

    def __init__(
        self,
        steps: int = 4000,
        batch_size: int = 256,
        learning_rate: float = 5e-3,
        points: int = 10_000,
        grid: int = 100,
    ) -> None:
        if min(steps, batch_size) < 1 or points < batch_size or grid < 2 or learning_rate <= 0:
            raise ValueError("RealNVPToy: sizes must be positive, and points at least batch_size")
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.points = points
        self.grid = grid

    def compute(self, given: Given, progress: Callable[[str], None]) -> Tables:
        """Make tables, all with the column `points`, the name of the point set.

        `examples`: x, y of 2,000 training points. `grid`: x, y, log_density in nats, latent_norm,
        far (0 or 1). `scores`: for held-out points the mean log-likelihood in nats under the true
        density and the flow's, the SEM of their difference, and the latent norm that 90% stay
        below; for samples and held-out points, the shares that are far from every mode.
        """
        examples, grids, scores = [], [], []
        for name, make in POINT_SETS.items():
            points, seed = make(), generator("realnvp-toy", name)
            training = points.sample(self.points, seed)
            network = self._train(name, training, seed, progress)
            frame = pd.DataFrame(training[:2000].numpy(), columns=["x", "y"])
            examples.append(frame.assign(points=name))
            grids.append(self._map(network, points).assign(points=name))
            scores.append({"points": name, **self._scores(network, points, seed)})
        return {
            "examples": pd.concat(examples, ignore_index=True),
            "grid": pd.concat(grids, ignore_index=True),
            "scores": pd.DataFrame(scores),
        }

    def _train(
        self, name: str, points: Tensor, seed: torch.Generator, progress: Callable[[str], None]
    ) -> RealNVP:
        """Fit a RealNVP to points (N, 2): minimise -E log p(x) in nats per point."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed.initial_seed())
            network = RealNVP()
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for step in range(self.steps):
            batch = points[torch.randint(len(points), (self.batch_size,), generator=seed)]
            loss = -log_density(network, batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 500 == 0:
                progress(f"{name}: step {step:,} of {self.steps:,}, {loss.item():.3f} nats")
        return network.requires_grad_(False)

    def _map(self, network: RealNVP, points: PointSet) -> pd.DataFrame:
        x = plane(points, self.grid)
        z, _ = network(x)
        columns = {"x": x[:, 0], "y": x[:, 1], "log_density": log_density(network, x)}
        columns |= {"latent_norm": z.norm(dim=1), "far": points.far(x).int()}
        return pd.DataFrame(columns)

    def _scores(
        self, network: RealNVP, points: PointSet, seed: torch.Generator
    ) -> dict[str, float]:
        held_out = points.sample(self.points, seed)
        true, model = points.log_prob(held_out), log_density(network, held_out)
        samples = network.inverse(torch.randn(self.points, 2, generator=seed))
        return {
            "held_out": len(held_out),
            "true_log_likelihood": true.mean().item(),
            "log_likelihood": model.mean().item(),
            "sem": (true - model).std().item() / math.sqrt(len(held_out)),
            "norm": network(held_out)[0].norm(dim=1).quantile(LIKELY).item(),
            "samples": len(samples),
            "far_samples": points.far(samples).float().mean().item(),
            "far_truth": points.far(held_out).float().mean().item(),
        }

    def findings(self, tables: Tables) -> list[str]:
        found = []
        for row in tables["scores"].itertuples(index=False):
            grid = tables["grid"].query("points == @row.points")
            small = grid[grid["latent_norm"] < row.norm]
            between = small[small["far"] == 1]
            depth = between["log_density"].min() - small["log_density"].max()
            lowest = f", where the density is down to exp({depth:.1f}) of its highest"
            sem = math.sqrt(row.far_samples * (1 - row.far_samples) / row.samples)
            found += [
                f"{row.points}: {row.log_likelihood:.3f} nats per point on {row.held_out:,} "
                f"held-out points, {row.true_log_likelihood - row.log_likelihood:.3f} ± "
                f"{row.sem:.3f} below the true density.",
                f"{row.points}: of the area whose latent norm is below {row.norm:.2f}, as that of "
                f"{LIKELY:.0%} of the data, {len(between) / len(small):.0%} is more than {FAR:g} "
                f"standard deviations from every mode{lowest if len(between) else ''}.",
                f"{row.points}: {row.far_samples:.2%} ± {sem:.2%} of {row.samples:,} samples fall "
                f"that far from every mode ({row.far_truth:.2%} of the data); the paper calls such "
                "regions of low total probability.",
            ]
        return found

    def figures(self, tables: Tables) -> dict[str, Figure]:
        drawn = {}
        for name, grid in tables["grid"].groupby("points", sort=False):
            figure = Figure(figsize=(10.2, 3.3), layout="constrained")
            target, density, norm = figure.subplots(1, 3, sharex=True, sharey=True)
            examples = tables["examples"].query("points == @name")
            target.plot(examples["x"], examples["y"], ".", markersize=1.5)
            target.set(title="training points", aspect="equal")
            _draw_map(density, grid, np.exp(grid["log_density"]), cmap="viridis")
            density.set(title="density p(x)")
            _draw_map(norm, grid, grid["latent_norm"], cmap="viridis_r", vmin=0, vmax=5)
            norm.set(title=r"latent norm $\|f(x)\|$")
            caption = "training points, the flow's density, its latent norm; contours end the modes"
            drawn[f"{name}: {caption}."] = figure
        return drawn


def log_density(network: RealNVP, x: Tensor) -> Tensor:
    """Compute log p(x) of x (B, 2), (B,) in nats."""
    z, log_det = network(x)
    return standard_normal_log_prob(z) + log_det


def plane(points: PointSet, side: int) -> Tensor:
    """Make a square grid (side^2, 2) around the points' centres, x fastest."""
    reach = points.centres.abs().max() + 8 * points.std
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side) * reach] * 2, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def _draw_map(axes: Axes, grid: pd.DataFrame, values: pd.Series, **colours: Any) -> None:
    """Draw values over the plane; the contour encloses the modes."""
    side = math.isqrt(len(grid))
    x, y, far = (grid[column].to_numpy().reshape(side, side) for column in ("x", "y", "far"))
    image = axes.pcolormesh(x, y, values.to_numpy().reshape(side, side), **colours)
    axes.contour(x, y, far, levels=[0.5], colors="C3", linewidths=0.8)
    axes.set(aspect="equal")
    axes.figure.colorbar(image, ax=axes, extend="max" if "vmax" in colours else "neither")
