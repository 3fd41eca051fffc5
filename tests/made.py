"""Networks, priors and rows made by hand."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from core.seeds import generator
from datamodules.procedural import faces
from networks.glow import Glow
from networks.linear_flow import LinearFlow
from networks.resize_gan import Generator
from priors.prior import FlowPrior, GanPrior
from priors.prior import flow_prior as make_flow_prior
from results.rows import COLUMNS, Row, RowFile, read_rows

# --- networks and priors


def small(**options: object) -> Glow:
    torch.manual_seed(0)
    settings = {"image_size": 8, "steps": 2, "levels": 2, "hidden": 8, **options}
    return Glow(**settings)  # type: ignore[arg-type]


def perturbed(network: Glow, std: float) -> Glow:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += std * torch.randn(parameter.shape, generator=generator)
    return network


def images_to_initialize(size: int, count: int) -> Tensor:
    """Dequantised faces, as training sees them."""
    levels = faces(range(count), image_size=size).div(8, rounding_mode="floor")
    noise = torch.rand(levels.shape, generator=torch.Generator().manual_seed(3))
    return (levels + noise) / 32 - 0.5


@cache
def glow() -> Glow:
    """A Glow that is not a linear map and does not fold its latents to nothing."""
    torch.manual_seed(0)
    network = Glow(8, steps=2, levels=2, hidden=8)
    network.initialize(faces(range(64), image_size=8).float() / 255 - 0.5)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator(name))
    return network


@cache
def flow_prior() -> FlowPrior:
    return FlowPrior(glow().frozen(), "glow")


def gaussian_prior(scale: float = 0.05) -> FlowPrior:
    """A linear flow of 4px images; its standard deviations are about 7 times the scale."""
    generator = torch.Generator().manual_seed(0)
    mix = scale * torch.randn(48, 48, generator=generator).double()
    network = LinearFlow(4)
    network.fit(0.05 * torch.randn(48, generator=generator), mix @ mix.T + 1e-4 * torch.eye(48))
    return make_flow_prior(network, images_seen=1)


def drawn_from(prior: FlowPrior, count: int = 4) -> Tensor:
    """Images (count, C, H, W) that the prior draws."""
    return prior.decode(prior.initial_latent(list(range(count)), 1.0))


@cache
def held_out() -> Tensor:
    return faces(range(1000, 1005), image_size=8).float() / 255


@cache
def gan_prior() -> GanPrior:
    """An untrained generator of 8px images, with BatchNorm as in evaluation."""
    torch.manual_seed(0)
    network = Generator(8, latent_dim=5, width=6)
    network.train()
    for _ in range(20):
        network(torch.randn(64, 5))
    return GanPrior(network.eval().requires_grad_(False), "resize-gan", "abc")


# --- rows


def row(image: str = "a", **columns: object) -> Row:
    settings = {"dataset": "faces-val", "distribution": "in", "problem": "cs", "method": "search"}
    values = {**settings, "psnr": 30.0, "ssim": 0.9, "status": "converged", **columns}
    return Row("run-1", "glow", 100, 1, image=image, **values)  # type: ignore[arg-type]


def written(path: Path, *rows: Row) -> pd.DataFrame:
    RowFile(path).append(rows)
    return read_rows(path)


def frame(*rows: Row) -> pd.DataFrame:
    return pd.DataFrame([vars(r) for r in rows], columns=COLUMNS)


def cuts(path: Path) -> list[bytes]:
    """The file cut short at every byte of its last line."""
    text = path.read_bytes()
    start = text.rstrip(b"\n").rfind(b"\n") + 1
    return [text[:end] for end in range(start, len(text))]


def sample() -> pd.DataFrame:
    """Two problems, two sets; one image diverged, one out of budget."""
    ood = {"dataset": "faces-ood", "distribution": "out"}
    return frame(
        row("a", psnr=20.0, ssim=0.5, seconds=1.0),
        row("b", psnr=22.0, ssim=0.7, seconds=3.0, status="budget"),
        row("c", psnr=27.0, ssim=0.9, seconds=5.0, status="diverged"),
        row("a", **ood, psnr=18.0, ssim=0.4, seconds=1.0),
        row("b", **ood, psnr=19.0, ssim=0.4, seconds=1.0),
        row("a", problem="inpaint", psnr=30.0, psnr_hole=15.0, seconds=1.0),
    )


def two_runs() -> pd.DataFrame:
    """A flow's and a GAN's rows; the flow also has an image c and an earlier time."""
    parts = [replace(row(), run="one", images_seen=50)]
    for run, prior, method, base in (
        ("one", "glow", "latent-search", 40.0),
        ("two", "dcgan", "csgm", 22.0),
    ):
        for problem, m in (("cs-10%", 10), ("cs-50%", 50)):
            for side in ("in", "out"):
                shared = {
                    "problem": problem,
                    "kind": "cs",
                    "m": m,
                    "distribution": side,
                    "method": method,
                }
                shared["dataset"] = f"faces-{side}"
                for image, offset in (("a", 1), ("b", -1), ("c", 9))[: 3 if run == "one" else 2]:
                    level = base + offset + m / 10
                    parts.append(replace(row(image, psnr=level, **shared), run=run, prior=prior))
    return frame(*parts)
