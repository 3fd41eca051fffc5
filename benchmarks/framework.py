"""A training step in the framework against a plain PyTorch loop of the same networks.

Ours: `train.py` as a user runs it, without recovery: data stream, Lightning, seeded noise, checks,
logging, moving average. Plain: the same mathematics in a loop of one screen, with images from the
same kind of stream, noise by torch.rand, no checks and no logging. They take turns batch by batch.
Guards: the share of our step that goes into what only looks for faults, of numbers and of signals.
Targets: at most 5% slower; guards at most 2%.
"""

import argparse
import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Ratio, print_table
from callbacks.checkpoints import Checkpoints
from core.stopping import Unfinished
from lightning_modules import Adversarial, MaximumLikelihood
from lightning_modules.clock import ClockedModule
from training.cli import Train

QUIET = ["--run.wandb=disabled", "--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]
DATA = ["--data=datamodules.faces.ProceduralFaces", "--data.training_images=2048"]
DCGAN = [
    "--config=configs/dcgan_celeba32.yaml",
    *DATA,
    "--data.image_size=32",
    "--data.batch_size=64",
]
PGGAN = [
    "--config=configs/pggan_celeba32.yaml",
    *DATA,
    "--model.generator.image_size=8",
    "--model.discriminator.image_size=8",
    "--model.growth={stabilise_images: 1, fade_images: 1}",  # 8px from the third image on
    "--data.image_size=8",
    "--data.batch_size=16",
]
STEPS = {
    "Glow, 32px, hidden 64": ["--config=configs/demo.yaml"],
    "small GAN, 32px": ["--config=configs/demo_gan.yaml"],
    "DCGAN, 32px": DCGAN,
    "PGGAN, 8px, 512 channels": PGGAN,
}
LEFT_OUT = 3  # batches at the start
TARGET = "<= 1.05"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--only", metavar="TEXT", default="", help="steps whose name has TEXT")


def run(options: argparse.Namespace) -> None:
    rows = []
    for name in (name for name in STEPS if options.only in name):
        with tempfile.TemporaryDirectory() as folder:
            command = ["fit", *STEPS[name], *QUIET, f"--run.root={folder}"]
            command += ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
            command += ["--model.total_images=1000000"]
            command += ["--trainer.callbacks+=benchmarks.framework.TakeTurns"]
            command += [f"--trainer.callbacks.batches={options.batches}"]
            TURNS.clear()
            with suppress(Unfinished), timed_guards():  # `TakeTurns` ends it
                Train(command)
        ours, plain, guards, images = zip(*TURNS[LEFT_OUT:], strict=True)
        rates = [f"{images[0] / median(times):.1f}" for times in (plain, ours)]
        share = f"{100 * median(g / step for g, step in zip(guards, ours, strict=True)):.2f}%"
        rows.append([name, images[0], *rates, Ratio.of(ours, plain), TARGET, share])
    print_table(
        ["step", "batch", "plain, images/s", "ours, images/s", "times as long", "target", "guards"],
        rows,
        "Images per second: median. Times as long: median (quartiles) of alternate batches.",
    )


# seconds of ours, seconds of plain, seconds of ours in guards, images
TURNS: list[tuple[float, float, float, int]] = []
GUARDS = [
    (ClockedModule, "require_finite"),
    (Adversarial, "require_diverse"),
    (Checkpoints, "agreed"),
]
guarding = [0.0]  # seconds since the last batch


@contextmanager
def timed_guards() -> Iterator[None]:
    """Add the seconds that guards take to `guarding`."""
    plain = [getattr(owner, name) for owner, name in GUARDS]
    for (owner, name), guard in zip(GUARDS, plain, strict=True):
        setattr(owner, name, timed(guard))
    try:
        yield
    finally:
        for (owner, name), guard in zip(GUARDS, plain, strict=True):
            setattr(owner, name, guard)


def timed(guard: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return guard(*args, **kwargs)
        finally:
            guarding[0] += time.perf_counter() - began

    return run


class TakeTurns(pl.Callback):
    """Times one plain step of equal networks after every batch of a training."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.step = plain_step(pl_module)
        self.stream = endless(trainer.datamodule)  # type: ignore[attr-defined]
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        ours = time.perf_counter() - self.began
        began = time.perf_counter()
        self.step(next(self.stream))
        plain = time.perf_counter() - began
        TURNS.append((ours, plain, guarding[0], len(batch["image"])))
        guarding[0] = 0.0
        trainer.should_stop = len(TURNS) >= self.batches
        self.began = time.perf_counter()


def endless(data: Any) -> Iterator[Tensor]:
    while True:
        for batch in data.train_dataloader():
            yield batch["image"]


def plain_step(module: MaximumLikelihood | Adversarial) -> Callable[[Tensor], None]:
    """Make a step on a uint8 batch, of copies of a module's networks."""
    if isinstance(module, MaximumLikelihood):
        network = copy.deepcopy(module.network)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)
        return partial(likelihood_step, network, copy.deepcopy(network), optimizer, module.bits)
    generator, critic = copy.deepcopy(module.generator), copy.deepcopy(module.discriminator)
    average = None if module.average is None else copy.deepcopy(module.average)
    adam = partial(torch.optim.Adam, lr=1e-5, betas=module.betas)
    adams = adam(generator.parameters()), adam(critic.parameters())
    step = logistic_step if module.loss == "logistic" else wasserstein_step
    return partial(step, generator, critic, average, *adams, module.instance_noise)


def likelihood_step(
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    bits: int,
    images: Tensor,
) -> None:
    levels = torch.div(images, 2 ** (8 - bits), rounding_mode="floor").float()
    z, log_det = network((levels + torch.rand(levels.shape)) / 2**bits - 0.5)
    nats = -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi)) + log_det
    optimizer.zero_grad()
    (-nats.mean() / (z.shape[1] * math.log(2))).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 50.0)
    optimizer.step()
    follow(average, network)


def logistic_step(
    generator: nn.Module,
    discriminator: nn.Module,
    average: nn.Module | None,
    generator_optimizer: torch.optim.Optimizer,
    discriminator_optimizer: torch.optim.Optimizer,
    noise: float,
    images: Tensor,
) -> None:
    def blur(x: Tensor) -> Tensor:
        return x + noise * torch.randn_like(x) if noise else x

    real = images.float() / 127.5 - 1
    fake = generator(latents(generator, len(real)))
    of_real, of_fake = discriminator(blur(real)), discriminator(blur(fake.detach()))
    discriminator_optimizer.zero_grad()
    (F.softplus(-of_real).mean() + F.softplus(of_fake).mean()).backward()
    discriminator_optimizer.step()
    generator_optimizer.zero_grad()
    discriminator.requires_grad_(False)
    F.softplus(-discriminator(blur(fake))).mean().backward()
    discriminator.requires_grad_(True)
    generator_optimizer.step()
    if average is not None:
        follow(average, generator)


def wasserstein_step(
    generator: nn.Module,
    critic: nn.Module,
    average: nn.Module | None,
    generator_optimizer: torch.optim.Optimizer,
    critic_optimizer: torch.optim.Optimizer,
    noise: float,
    images: Tensor,
) -> None:
    real = images.float() / 127.5 - 1
    fake = generator(latents(generator, len(real)))
    of_real, of_fake = critic(real), critic(fake.detach())
    mixed = torch.lerp(fake.detach(), real, torch.rand(len(real), 1, 1, 1)).requires_grad_()
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    critic_optimizer.zero_grad()
    (of_fake.mean() - of_real.mean() + 1e-3 * of_real.square().mean() + 10 * penalty).backward()
    critic_optimizer.step()
    generator_optimizer.zero_grad()
    critic.requires_grad_(False)
    (-critic(fake).mean()).backward()
    critic.requires_grad_(True)
    generator_optimizer.step()
    if average is not None:
        follow(average, generator)


def latents(generator: Any, count: int) -> Tensor:
    return torch.randn(count, generator.latent_dim)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module) -> None:
    for kept, current in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(current, 1e-3)
