"""Unconditional samples of every prior (paper, section 6.2.2)."""

import math
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor

from core.seeds import seed_from
from priors.prior import FlowPrior
from studies.study import Given, Study, Tables


class Samples(Study):
    """Decoded N(0, T^2 I) latents, the same ones every time, as `samples-<prior>-<T>.png`.

    Args:
        priors: flows and GANs.
        temperatures: T of a flow's latents (the paper gives none); a GAN's is always 1.
        count: samples per prior and temperature.
        batch_size: images decoded at once.
    """

    title = "Unconditional samples"

    def __init__(
        self,
        priors: Sequence[str] = ("glow", "dcgan"),
        temperatures: Sequence[float] = (0.7, 1.0),
        count: int = 64,
        batch_size: int = 64,
    ) -> None:
        if count < 2 or min(temperatures) <= 0:
            raise ValueError("Samples: count must be at least 2 and every temperature above 0")
        self.priors = priors
        self.temperatures = temperatures
        self.count = count
        self.batch_size = batch_size

    def check(self, given: Given) -> None:
        """Raise ValueError: no such prior."""
        for name in self.priors:
            given.prior(name)

    @torch.no_grad()
    def compute(self, given: Given, progress: Callable[[str], None]) -> Tables:
        """Make table `samples`: one line per prior and temperature.

        prior, temperature, count, not_finite, mean, contrast, outside, spread.

        Of the finite samples: mean of all pixels; contrast, the standard deviation within an
        image; outside, the share of values outside [0, 1]; spread, the standard deviation of a
        pixel over the samples (0 if all samples are alike).
        """
        rows = []
        for name in self.priors:
            prior = given.prior(name)
            seeds = [seed_from("samples", i) for i in range(self.count)]
            for temperature in self.temperatures if isinstance(prior, FlowPrior) else (1.0,):
                progress(f"{self.count} samples of {name} at temperature {temperature:g}")
                latents = prior.initial_latent(seeds, std=temperature).to(given.device)
                parts = [prior.decode(part).cpu() for part in latents.split(self.batch_size)]
                samples = torch.cat(parts)
                grid = picture(samples).permute(1, 2, 0).numpy()
                imsave(given.folder / f"samples-{name}-{temperature:g}.png", grid)
                row = {"prior": name, "temperature": temperature, "count": self.count}
                rows.append(row | statistics(samples))
        return {"samples": pd.DataFrame(rows)}

    def findings(self, tables: Tables) -> list[str]:
        return [
            f"{row.prior} at temperature {row.temperature:g}: {row.count} samples, "
            f"{row.not_finite} not finite, contrast {row.contrast:.3f}, spread {row.spread:.3f}, "
            f"{100 * row.outside:.2f}% of values outside [0, 1]."
            for row in tables["samples"].itertuples(index=False)
        ]

    def figures(self, tables: Tables) -> dict[str, Figure]:
        """Return none: samples are pictures, which the page does not publish."""
        return {}


def statistics(samples: Tensor) -> dict[str, float]:
    """Compute the statistics of samples (N, C, H, W); nan if fewer than two are finite."""
    finite = samples[samples.isfinite().flatten(1).all(dim=1)]
    return {
        "not_finite": len(samples) - len(finite),
        "mean": finite.mean().item(),
        "contrast": finite.flatten(1).std(dim=1).mean().item(),
        "outside": ((finite < 0) | (finite > 1)).float().mean().item(),
        "spread": finite.std(dim=0).mean().item() if len(finite) > 1 else math.nan,
    }


def picture(samples: Tensor) -> Tensor:
    """Tile images (N, C, H, W) in a square, clamped: (3, H', W') in [0, 1]."""
    across = math.ceil(math.sqrt(len(samples)))
    empty = samples.new_ones((-len(samples) % across, *samples.shape[1:]))
    tiles = torch.cat([samples.nan_to_num(0.5).clamp(0, 1), empty])
    tiles = torch.nn.functional.pad(tiles, (0, 1, 0, 1), value=1.0)
    rows = [torch.cat(list(row), dim=2) for row in tiles.split(across)]
    return torch.cat(rows, dim=1).expand(3, -1, -1)
