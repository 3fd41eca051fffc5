"""How far an image moves when its latent takes a step (the authors' dx/dz experiment).

Differences between two images' latents ("natural" directions) move an image more than random
directions do: the anisotropy that section 5 of the paper sees in the Jacobian. The figure shows
the means of the authors' published CSV files too, `studies/published/latent_step.csv`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from core.seeds import normal, seed_from, uniform
from datamodules.image_set import ImageSet
from priors.prior import FlowPrior
from studies.study import Given, Study, Tables

PUBLISHED = Path(__file__).parent / "published" / "latent_step.csv"
LENGTHS = tuple(round(0.01 + 0.79 * step / 19, 2) for step in range(20))


class LatentStep(Study):
    """||x - G(z + step)|| against ||step||, with z = encode(x), for three kinds of direction.

    natural: z - z' with z' another image's latent, away from it as in the authors' code. uniform:
    the authors' random direction, with entries U[0, 1), all positive. gaussian: entries N(0, 1).
    Images have 5 bits and uniform noise, as in the authors' code, whatever the prior was trained
    on.

    Args:
        prior: a flow.
        dataset: the set to take images from.
        images: how many; each one's natural direction leads away from the one before it.
        directions: random directions per image and kind; the study averages their changes.
        lengths: of the steps.
        batch_size: images decoded at once.
    """

    title = "Image change of a latent step"

    def __init__(
        self,
        prior: str = "glow",
        dataset: str = "celeba-val",
        images: int = 80,
        directions: int = 10,
        lengths: Sequence[float] = LENGTHS,
        batch_size: int = 100,
    ) -> None:
        if images < 2 or directions < 1:
            raise ValueError("LatentStep: at least 2 images and 1 direction are needed")
        if min(lengths) <= 0:
            raise ValueError(f"LatentStep: lengths must be positive, got {list(lengths)}")
        self.prior = prior
        self.dataset = dataset
        self.images = images
        self.directions = directions
        self.lengths = lengths
        self.batch_size = batch_size

    def check(self, given: Given) -> None:
        """Raise ValueError: no such flow, or no such set with at least 2 images."""
        images = given.first_images(self.dataset, self.images, given.flow(self.prior))
        if len(images.images) < 2:
            raise ValueError(f"LatentStep needs at least 2 images of {self.dataset}")

    @torch.no_grad()
    def compute(self, given: Given, progress: Callable[[str], None]) -> Tables:
        """Make table `steps`, with the columns of the published one.

        direction, dz_norm, n_rows (images), dx_mean, dx_median, dx_std, dx_max; dx is the change of
        an image, averaged over its random directions.
        """
        prior = given.flow(self.prior)
        images = given.first_images(self.dataset, self.images, prior)
        x = five_bits(images).to(given.device)
        z = torch.cat([prior.encode(part)[0] for part in x.split(self.batch_size)])
        rows = []
        for kind, directions in self._directions(images, z).items():
            directions = directions / directions.norm(dim=2, keepdim=True)
            for length in self.lengths:
                progress(f"{kind} steps of length {length}")
                changes = [self._changes(prior, x, z + length * step) for step in directions]
                change = pd.Series(torch.stack(changes).mean(dim=0).cpu().numpy())
                row = {"direction": kind, "dz_norm": length, "n_rows": len(change)}
                row |= {"dx_mean": change.mean(), "dx_median": change.median()}
                rows.append(row | {"dx_std": change.std(), "dx_max": change.max()})
        return {"steps": pd.DataFrame(rows)}

    def _directions(self, images: ImageSet, z: Tensor) -> dict[str, Tensor]:
        """Make the directions of each kind, (directions, N, n)."""

        def random(draw: Callable[..., Tensor], kind: str) -> Tensor:
            seeds = [
                seed_from("latent-step", kind, images.name, name, k)
                for k in range(self.directions)
                for name in images.image_names
            ]
            drawn = draw(seeds, (z.shape[1],)).to(z.device)
            return drawn.unflatten(0, (self.directions, len(z)))

        return {
            "natural": (z - z.roll(1, dims=0))[None],
            "uniform": random(uniform, "uniform"),
            "gaussian": random(normal, "gaussian"),
        }

    def _changes(self, prior: FlowPrior, x: Tensor, z: Tensor) -> Tensor:
        """Compute ||x - G(z)|| per image, (N,)."""
        parts = zip(x.split(self.batch_size), z.split(self.batch_size), strict=True)
        return torch.cat([(x - prior.decode(z)).flatten(1).norm(dim=1) for x, z in parts])

    def findings(self, tables: Tables) -> list[str]:
        steps, published = tables["steps"], pd.read_csv(PUBLISHED)
        images, last = steps["n_rows"].iloc[0], steps["dz_norm"].max()
        ours = {kind: _slope(steps, kind) for kind in steps["direction"].unique()}
        slopes = ", ".join(f"{mean:.3f} ± {sem:.3f} ({kind})" for kind, (mean, sem) in ours.items())
        (natural, _), (random, _) = _slope(published, "natural"), _slope(published, "random")
        ratio = ours["natural"][0] / ours["uniform"][0]
        return [
            f"A latent step of length {last} moves an image by, per unit of the step, {slopes}; "
            f"{images} images, ± standard error.",
            f"A natural direction moves it {ratio:.2f} times as far as the authors' random one; "
            f"their published means give {natural / random:.2f} ({natural:.3f} and {random:.3f}, "
            "at 64px).",
        ]

    def figures(self, tables: Tables) -> dict[str, Figure]:
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        colours = {"natural": "C0", "random": "C1", "uniform": "C1", "gaussian": "C2"}
        for kind, rows in tables["steps"].groupby("direction", sort=False):
            sem = rows["dx_std"] / rows["n_rows"] ** 0.5
            axes.errorbar(
                rows["dz_norm"], rows["dx_mean"], sem, fmt="o-", markersize=3, linewidth=1,
                color=colours[kind], label=kind,
            )  # fmt: skip
        for kind, rows in pd.read_csv(PUBLISHED).groupby("direction", sort=False):
            label = f"{kind}, published (64px)"
            axes.plot(rows["dz_norm"], rows["dx_mean"], "--", color=colours[kind], label=label)
        axes.set(xlabel=r"latent step $\|dz\|$", ylabel=r"image change $\|x - G(z + dz)\|$")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
        return {"Image change against the length of a latent step; bars are ± 1 SEM.": figure}


def five_bits(images: ImageSet) -> Tensor:
    """Map uint8 images to (N, C, H, W) in [0, 1): 32 levels, and uniform noise of one level.

    The noise depends on the image's name alone.
    """
    seeds = [seed_from("latent-step", images.name, name) for name in images.image_names]
    noise = uniform(seeds, tuple(images.images.shape[1:]))
    return (images.images.div(8, rounding_mode="floor") + noise) / 32


def _slope(steps: pd.DataFrame, direction: str) -> tuple[float, float]:
    """Compute the mean change per unit of the longest step, and its standard error over images."""
    row = steps[steps["direction"] == direction].nlargest(1, "dz_norm").iloc[0]
    sem = row["dx_std"] / row["n_rows"] ** 0.5
    return row["dx_mean"] / row["dz_norm"], sem / row["dz_norm"]
