"""Golden loss curves: 50 steps of tiny networks on drawn faces, in float32 on one CPU thread.

    python -m tests.golden

rewrites the curves beside this file. Run it only where you mean to change the numerics, and say
why in the commit. The settings are spelt out here, so that other defaults or configs move no curve.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch

from datamodules.faces import ProceduralFaces
from lightning_modules import Adversarial, MaximumLikelihood
from lightning_modules.clock import ClockedModule
from networks import dcgan, glow, pggan
from training.metrics_file import MetricsFile

FOLDER = Path(__file__).parent
STEPS, BATCH = 50, 8
IMAGES = STEPS * BATCH


def a_glow() -> MaximumLikelihood:
    return MaximumLikelihood(
        glow.Glow(8, steps=2, levels=2, hidden=16, last_level_steps=2),
        total_images=IMAGES,
        bits=5,
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        warmup_images=80,
        decay_fraction=0.3,
        clip_norm=50.0,
        initialization_images=32,
    )


def a_dcgan() -> Adversarial:
    return Adversarial(
        dcgan.Generator(8, latent_dim=8, width=8),
        dcgan.Discriminator(8, width=8),
        total_images=IMAGES,
        loss="logistic",
        learning_rate=2e-3,
        betas=(0.5, 0.999),
        instance_noise=0.1,
    )


def a_pggan() -> Adversarial:
    """4px for 16 steps, a fade for 18, 8px from there."""
    return Adversarial(
        pggan.Generator(8, latent_dim=8, base=32, growing=True),
        pggan.Discriminator(8, base=32),
        total_images=IMAGES,
        loss="wasserstein",
        growth=pggan.Growth(stabilise_images=16 * BATCH, fade_images=18 * BATCH),
        learning_rate=5e-4,
        betas=(0.5, 0.99),
        penalty_weight=10.0,
        drift=1e-3,
    )


GAN_LOSSES = ["discriminator_loss", "generator_loss"]
CURVES: dict[str, tuple[Callable[[], ClockedModule], list[str]]] = {
    "glow": (a_glow, ["bits_per_dim"]),
    "dcgan": (a_dcgan, GAN_LOSSES),
    "pggan": (a_pggan, GAN_LOSSES),
}

Curve = dict[int, list[float]]  # losses by images seen


def train(name: str, folder: Path) -> Curve:
    """The curve as today's code trains it; `folder` takes what a run leaves."""
    make, losses = CURVES[name]
    torch.manual_seed(0)
    module = make()
    data = ProceduralFaces(
        image_size=8, batch_size=BATCH, training_images=64, held_out_images=1, seed=0, flip=True
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision="32-true",
        max_epochs=-1,
        logger=MetricsFile(folder / "metrics.jsonl"),
        log_every_n_steps=1,
        limit_val_batches=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        int(line["images_seen"]): [line[f"train/{loss}"] for loss in losses]
        for line in lines
        if f"train/{losses[0]}" in line
    }


def read(name: str) -> Curve:
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    numbers = (line.split() for line in lines if not line.startswith("#"))
    return {int(images): [float(loss) for loss in losses] for images, *losses in numbers}


def write(name: str, curve: Curve) -> None:
    """Nine digits tell any two float32 apart."""
    header = f"# {' '.join(['images_seen', *CURVES[name][1]])}; see tests/golden/__init__.py"
    lines = [" ".join([str(n), *(f"{loss:.9g}" for loss in losses)]) for n, losses in curve.items()]
    (FOLDER / f"{name}.txt").write_text("\n".join([header, *lines]) + "\n")
