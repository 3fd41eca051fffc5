"""Singular values of a trained generator's Jacobian at natural images (paper, section 5)."""

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import jvp

from core.seeds import generator
from priors.prior import FlowPrior, InvertibleNetwork
from studies.study import Given, Study, Tables, unit_range

LARGEST = 12_288  # n of a 64px colour image: its Jacobian takes 1.2 GB in float64
OVERSAMPLING = 16  # columns beyond the rank (Halko, Martinsson & Tropp 2011, section 4.2)
POWER_ITERATIONS = 2


def jacobian(network: InvertibleNetwork, z: Tensor, chunk: int = 64) -> Tensor:
    """Compute dG/dz at z (n,), as (n, n): row = pixel, column = latent; in z's precision.

    Forward mode, `chunk` columns at a time.
    """
    return products(network, z, torch.eye(len(z), dtype=z.dtype, device=z.device), chunk)


def products(network: InvertibleNetwork, z: Tensor, directions: Tensor, chunk: int = 64) -> Tensor:
    """Compute the products J v with directions v, the columns of (n, k), as (n, k).

    Each product is its own copy of z in a batch: the network need not know `vmap`.
    """
    columns = []
    for part in directions.split(chunk, dim=1):
        copies = z.expand(part.shape[1], -1).clone()
        columns.append(jvp(network.inverse, (copies,), (part.T,))[1].flatten(1).T)
    return torch.cat(columns, dim=1)


def transposed_products(
    network: InvertibleNetwork, z: Tensor, images: Tensor, chunk: int = 64
) -> Tensor:
    """Compute the products J^T u with images u, the columns of (n, k), as (n, k). Reverse mode."""
    columns = []
    for part in images.split(chunk, dim=1):
        copies = z.expand(part.shape[1], -1).clone().requires_grad_()
        with torch.enable_grad():
            decoded = network.inverse(copies).flatten(1)
        columns.append(torch.autograd.grad(decoded, copies, part.T)[0].T)
    return torch.cat(columns, dim=1)


def singular_values(network: InvertibleNetwork, z: Tensor, chunk: int = 64) -> Tensor:
    """Compute all n singular values of dG/dz at z (n,), largest first."""
    return torch.linalg.svdvals(jacobian(network, z, chunk))


def leading_singular_values(
    network: InvertibleNetwork, z: Tensor, rank: int, chunk: int = 64
) -> Tensor:
    """Estimate the `rank` largest, by a randomised range finder with power iterations.

    Q is a basis of the range of (J J^T)^2 J W with W Gaussian; the singular values of Q^T J are
    lower bounds (Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.1).
    """
    columns = min(rank + OVERSAMPLING, len(z))
    gaussian = torch.randn(len(z), columns, generator=generator("range-finder"), dtype=z.dtype)
    found = products(network, z, gaussian.to(z.device), chunk)
    for _ in range(POWER_ITERATIONS):  # orthogonalise in between, or rounding hides small values
        rows = transposed_products(network, z, torch.linalg.qr(found).Q, chunk)
        found = products(network, z, torch.linalg.qr(rows).Q, chunk)
    rows = transposed_products(network, z, torch.linalg.qr(found).Q, chunk)
    return torch.linalg.svdvals(rows)[:rank]


def latents(prior: FlowPrior, images: Tensor) -> Tensor:
    """Encode images (N, C, H, W) in [0, 1], in float64: z as (N, n)."""
    with torch.no_grad():
        return torch.cat([prior.encode(image[None].double())[0] for image in images])


class Jacobian(Study):
    """How fast the singular values of dG/dz decay at natural images (section 5, no figure there).

    All in float64.

    Args:
        prior: a flow.
        dataset: the set to take images from.
        images: how many.
        rank: None for all n singular values; a number for that many of the largest, by a
            randomised range finder.
        chunk: products computed at once.
    """

    title = "Singular values of the generator's Jacobian"

    def __init__(
        self,
        prior: str = "glow",
        dataset: str = "celeba-test",
        images: int = 4,
        rank: int | None = None,
        chunk: int = 64,
    ) -> None:
        if images < 1 or (rank is not None and rank < 1):
            raise ValueError("Jacobian: images and rank must be at least 1")
        self.prior = prior
        self.dataset = dataset
        self.images = images
        self.rank = rank
        self.chunk = chunk

    def check(self, given: Given) -> None:
        """Raise ValueError: no such prior or set, or n is too large for all singular values."""
        prior = given.flow(self.prior)
        given.first_images(self.dataset, self.images, prior)
        if self.rank is None and prior.latent_dim > LARGEST:
            raise ValueError(
                f"the Jacobian of {self.prior!r} has n = {prior.latent_dim:,} columns, above "
                f"{LARGEST:,}: set `rank`, e.g. to 1000, for its leading singular values"
            )

    def compute(self, given: Given, progress: Callable[[str], None]) -> Tables:
        """Make table `singular_values`: image, n, index (from 1), singular_value, exact (0, 1)."""
        prior = given.flow(self.prior).double()
        images = given.first_images(self.dataset, self.images, prior)
        z = latents(prior, unit_range(images.images, given.device))
        spectra = []
        for i, name in enumerate(images.image_names):
            progress(f"Jacobian at image {i + 1} of {len(z)}")
            spectra.append(given.part(str(i), partial(self.spectrum, prior, name, z[i])))
        return {"singular_values": pd.concat(spectra, ignore_index=True)}

    def spectrum(self, prior: FlowPrior, name: str, z: Tensor) -> pd.DataFrame:
        """Make the rows of one image, of latent z (n,)."""
        if self.rank is None:
            values = singular_values(prior.network, z, self.chunk)
        else:
            values = leading_singular_values(prior.network, z, self.rank, self.chunk)
        return pd.DataFrame(
            {
                "image": name,
                "n": prior.latent_dim,
                "index": range(1, len(values) + 1),
                "singular_value": values.cpu().numpy(),
                "exact": int(self.rank is None),
            }
        )

    def findings(self, tables: Tables) -> list[str]:
        table = tables["singular_values"]
        images, n = table["image"].nunique(), int(table["n"].iloc[0])
        values = table.groupby("image")["singular_value"]
        decades = (values.max() / values.min()).map(_log10)
        over = f"{decades.mean():.2f} ± {decades.std(ddof=0):.2f} decades (± over images)"
        if not table["exact"].all():
            kept = table["index"].max()
            return [
                f"At {images} images, the leading {kept:,} of {n:,} singular values of the "
                f"generator's Jacobian decay over {over}; estimated by a randomised range finder, "
                "from below."
            ]
        energy = table.assign(energy=table["singular_value"] ** 2)
        leading = energy[energy["index"] <= n // 10].groupby("image")["energy"].sum()
        share = 100 * leading / energy.groupby("image")["energy"].sum()
        return [
            f"At {images} images, the {n:,} singular values of the generator's Jacobian decay over "
            f"{over}; the leading 10% hold {share.mean():.1f} ± {share.std(ddof=0):.1f}% of the "
            "energy (sum of squares)."
        ]

    def figures(self, tables: Tables) -> dict[str, Figure]:
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, spectrum in tables["singular_values"].groupby("image", sort=False):
            relative = spectrum["singular_value"] / spectrum["singular_value"].max()
            axes.plot(spectrum["index"] / spectrum["n"], relative, label=name, linewidth=1.2)
        axes.set(xlabel="index i / n", ylabel=r"$s_i / s_1$", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, title="image", title_fontsize=7)
        return {"Singular values of the generator's Jacobian at encoded images.": figure}


def _log10(value: float) -> float:
    return torch.tensor(value, dtype=torch.float64).log10().item()
