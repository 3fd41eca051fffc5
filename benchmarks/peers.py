"""Our Glow beside other people's: a training step, and a decode with its gradient.

normflows (pip install normflows) has a Glow of the same levels, steps and channels. The authors'
own (github.com/CACTuS-AI/GlowIP, which needs scikit-image), of 512 channels alone, is compared
where --authors names a folder with their repository. A step is forward, backward, clipping and
Adam, on one batch; a decode gives the gradient of the latents alone. All in float32, in turn, in
one process; on a CPU with bfloat16 our step in bf16-mixed too. The peak is that of square float32
matrix products, on the same threads, by torch's product or its convolution. Targets: a step 2.0
times normflows' at 32px and 2.3 times at 64px, a decode 1.5 times.
"""

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.decode import gradient
from benchmarks.gpu_speed import flops_of
from benchmarks.measure import Ratio, alternate, print_table
from benchmarks.networks import perturbed
from benchmarks.training import CLIP_NORM, in_bfloat16, step
from core.precision import has_bfloat16
from datamodules.procedural import faces
from networks.glow import Glow

CASES: dict[str, dict[str, Any]] = {
    "32px, hidden 128": {"image_size": 32, "levels": 3, "steps": 8, "hidden": 128},
    "64px, hidden 512": {"image_size": 64, "levels": 4, "steps": 4, "hidden": 512},
}
TRAINED = {32: 16, 64: 4}  # images a step takes, by their size
PEAK_SIDE = 2048  # of the matrices whose product is the peak


class Peer(NamedTuple):
    """A network with what it does: a step on images, and a decode of latents with its gradient."""

    name: str
    parameters: int
    train: Callable[[Tensor], Callable[[], object]]
    decode: Callable[[int], Callable[[], object]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--authors", type=Path, metavar="FOLDER", help="with their repository")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name has TEXT")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64], help="decoded")
    parser.add_argument("--repetitions", type=int, default=10)


def run(options: argparse.Namespace) -> None:
    peak = measured_peak()
    rows: list[list[object]] = []
    for name, sizes in CASES.items():
        if options.only in name:
            torch.manual_seed(0)
            images = faces(range(128), image_size=sizes["image_size"]).float() / 255 - 0.5
            for work in compared(sizes, images, options):
                rows += [[name, *row] for row in lines(work, peak, options)]
    print_table(
        [
            "network",
            "work",
            "of",
            "parameters",
            "GFLOP/image",
            "images/s",
            "of peak",
            "ours faster",
        ],
        rows,
        f"Images per second: median. Of peak: of {peak / 1e9:.0f} GFLOP/s, matrix products of "
        f"{PEAK_SIDE} rows. Ours faster: their time over our float32's, median (quartiles) of "
        "alternate repetitions.",
    )


class Work(NamedTuple):
    """One kind of work on a batch of so many images: ours first, by name."""

    name: str
    batch: int
    calls: dict[str, tuple[int, Callable[[], object]]]  # parameters, call


def compared(sizes: dict[str, Any], images: Tensor, options: argparse.Namespace) -> Iterator[Work]:
    peers = [normflows_glow(sizes, images)]
    if options.authors is not None and sizes["hidden"] == 512:
        peers.append(authors_glow(sizes, images, options.authors))
    glow = our_glow(sizes, images)
    size = count(glow)
    batch = TRAINED[sizes["image_size"]]
    part = images[:batch]
    calls: dict[str, Any] = {"ours": (size, step(glow, Glow.forward, part))}
    if has_bfloat16():
        other = our_glow(sizes, images)
        calls["ours, bf16-mixed"] = (size, step(other, in_bfloat16, part))
    for peer in peers:
        calls[peer.name] = (peer.parameters, peer.train(part))
    yield Work("step", batch, calls)
    frozen = glow.frozen()
    for batch in options.batches:
        latents = 0.5 * torch.randn(batch, glow.latent_dim)
        cotangent = torch.randn(batch, *glow.image_shape)

        def decode(latents: Tensor = latents, cotangent: Tensor = cotangent) -> object:
            return gradient(frozen.inverse, latents, cotangent)

        calls = {"ours": (size, decode)}
        calls |= {peer.name: (peer.parameters, peer.decode(batch)) for peer in peers}
        yield Work("decode", batch, calls)


def lines(work: Work, peak: float, options: argparse.Namespace) -> Iterator[list[object]]:
    """Measure one kind of work; give the table's rows."""
    times = alternate(*(call for _, call in work.calls.values()), repetitions=options.repetitions)
    for (name, (parameters, call)), own in zip(work.calls.items(), times, strict=True):
        flops = flops_of(call)
        rate = work.batch / median(own)
        ratio = "" if name == "ours" else str(Ratio.of(own, times[0]))
        yield [
            f"{work.name}, {work.batch}",
            name,
            f"{parameters:,}",
            f"{flops / work.batch / 1e9:.2f}",
            f"{rate:.1f}",
            f"{flops / work.batch * rate / peak:.0%}",
            ratio,
        ]


def measured_peak() -> float:
    """FLOP/s of square matrix products in float32, by torch's product or its convolution."""
    matrix = torch.randn(PEAK_SIDE, PEAK_SIDE)
    columns = matrix.view(16, -1, 1, PEAK_SIDE).permute(0, 3, 1, 2)  # channels last
    weight = matrix[:, :, None, None]
    both = (lambda: matrix @ matrix), (lambda: F.conv2d(columns, weight))
    return 2 * PEAK_SIDE**3 / min(map(min, alternate(*both, repetitions=10, warm_up=2)))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# --- ours


def our_glow(sizes: dict[str, Any], images: Tensor) -> Glow:
    glow = Glow(**sizes, last_level_steps=sizes["steps"])
    glow.initialize(images)
    return perturbed(glow)


# --- theirs


def training(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Make a step of training a network, as `benchmarks.training.step` is for ours."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def train() -> None:
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()

    return train


def normflows_glow(sizes: dict[str, Any], images: Tensor) -> Peer:
    """normflows' Glow, put together as its own example does; its layers set from the images."""
    nf = imported("normflows", "pip install normflows")
    levels, side = sizes["levels"], sizes["image_size"]
    bases, flows, merges = [], [], []
    for level in range(levels):  # from the coarsest
        channels = 3 * 2 ** (levels + 1 - level)
        blocks = [nf.flows.GlowBlock(channels, sizes["hidden"]) for _ in range(sizes["steps"])]
        flows.append([*blocks, nf.flows.Squeeze()])
        merges += [nf.flows.Merge()] if level else []
        emitted = channels if level == 0 else channels // 2
        shape = (emitted, side >> (levels - level), side >> (levels - level))
        bases.append(nf.distributions.DiagGaussian(shape, trainable=False))
    flow = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)
    with torch.no_grad():
        flow.log_prob(images, None)
    nats = 3 * side**2 * math.log(2)

    def decode(batch: int) -> Callable[[], object]:
        flow.requires_grad_(False)
        shapes = [base.shape for base in bases]
        z = [0.5 * torch.randn(batch, *shape) for shape in shapes]
        cotangent = torch.randn(batch, 3, side, side)

        def call() -> object:
            latents = [part.clone().requires_grad_() for part in z]
            image, _ = flow.forward_and_log_det(views(latents))
            return torch.autograd.grad(image, latents, cotangent)

        return call

    def train(x: Tensor) -> Callable[[], object]:
        return training(flow, lambda: flow.forward_kld(x) / nats)

    return Peer("normflows", count(flow), train, decode)


def authors_glow(sizes: dict[str, Any], images: Tensor, folder: Path) -> Peer:
    """The authors' Glow, from a folder with their repository; one step on its last level."""
    with on_path(folder):
        module = imported("glow.glow", f"needs {folder} to hold GlowIP, and scikit-image")
    flow = module.Glow(
        (3, sizes["image_size"], sizes["image_size"]),
        K=sizes["steps"],
        L=sizes["levels"],
        coupling="affine",
        device="cpu",
        nn_init_last_zeros=True,
    )
    with torch.no_grad():
        emitted, _, _ = flow(images)

    def decode(batch: int) -> Callable[[], object]:
        flow.requires_grad_(False)
        z = [0.5 * torch.randn(batch, *part.shape[1:]) for part in emitted]
        cotangent = torch.randn(batch, *images.shape[1:])

        def call() -> object:
            latents = [part.clone().requires_grad_() for part in z]
            image = flow(views(latents), reverse=True, reverse_clone=False)
            return torch.autograd.grad(image, latents, cotangent)

        return call

    def train(x: Tensor) -> Callable[[], object]:
        return training(flow, lambda: flow.nll_loss(x)[0])

    return Peer("the authors'", count(flow), train, decode)


def views(latents: list[Tensor]) -> list[Tensor]:
    """Give the same tensors as no leaves, which the counter of operations does not take."""
    return [part.view_as(part) for part in latents]


def imported(name: str, needs: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"error: {name} cannot be imported ({error}): {needs}") from error


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Import from a folder for a while."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
