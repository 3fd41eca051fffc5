"""Training a generator against a discriminator: DCGAN, and progressive growing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from core.seeds import normal, seed_from, uniform
from lightning_modules import losses
from lightning_modules.clock import ClockedModule
from networks.pggan import Growth, fade
from priors.prior import GanPrior, gan_prior, generator_of_prior

COLLAPSED = 1e-3  # below this deviation over a minibatch, of images from -1 to 1, all are alike


class MicroBatch(NamedTuple):
    """What one pass through the networks takes: images, latents and noise."""

    real: Tensor  # (B, C, h, w) in [-1, 1]
    z: Tensor  # (B, latent_dim)
    noise_on_real: Tensor
    noise_on_fake: Tensor  # like real, or (B, 1, 1, 1)
    mix: Tensor  # (B,) in [0, 1): where between real and fake the gradient is penalised


class Adversarial(ClockedModule):
    """Trains a generator and a discriminator in turn; hands out a `GanPrior`.

    One step takes a minibatch: the loader's batch, or a part of it while growing.

    Args:
        generator: z (B, latent_dim) -> images in [-1, 1]; see `networks.dcgan.Generator`.
        discriminator: images -> logits or scores (B,).
        total_images: length of training, in images consumed by all ranks together.
        loss: logistic (DCGAN: binary cross-entropy, non-saturating) or wasserstein (WGAN-GP).
        growth: when to grow; both networks must take stages, as those of `networks.pggan` do.
        learning_rate: Adam's, of both networks.
        discriminator_learning_rate: where it differs.
        betas: Adam's.
        penalty_weight: of the gradient penalty (wasserstein).
        drift: weight of D(x)^2 (wasserstein).
        accumulate: micro-batches per step, which averages their gradients; bounds memory. BatchNorm
            and minibatch deviation see a micro-batch.
        clip_norm: largest total gradient norm of each network; None for none.
        instance_noise: standard deviation of noise on all images the discriminator sees, falling
            linearly to 0 over training (Sønderby et al. 2017).
        ema_half_life: images after which an old generator weight counts half in the average that
            samples and the prior use; None to use the trained weights themselves.
        seed: of latents and noise.

    Raises:
        ValueError: a value is wrong; names its key, before training.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        total_images: int,
        loss: Literal["logistic", "wasserstein"] = "logistic",
        growth: Growth | None = None,
        learning_rate: float = 2e-4,
        discriminator_learning_rate: float | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        penalty_weight: float = 10.0,
        drift: float = 1e-3,
        accumulate: int = 1,
        clip_norm: float | None = None,
        instance_noise: float = 0.0,
        ema_half_life: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(generator, total_images, ema_half_life, sample_temperature=1.0, seed=seed)
        if generator.image_shape != discriminator.image_shape:
            raise ValueError(
                f"model.generator makes images {generator.image_shape} and model.discriminator "
                f"takes {discriminator.image_shape}: give both the same image_size"
            )
        grow = getattr(generator, "growing", False) and hasattr(discriminator, "final_stage")
        if growth is not None and not grow:
            raise ValueError(
                "model.growth needs networks that grow: networks.pggan.Generator with "
                "growing: true, and networks.pggan.Discriminator"
            )
        if accumulate < 1:
            raise ValueError(f"model.accumulate must be at least 1, got {accumulate}")
        self.automatic_optimization = False
        self.generator: Any = generator  # nn.Module knows nothing of its stage, size and latents
        self.discriminator = discriminator
        self.loss = loss
        self.growth = growth
        self.learning_rate = learning_rate
        self.discriminator_learning_rate = discriminator_learning_rate or learning_rate
        self.betas = betas
        self.penalty_weight = penalty_weight
        self.drift = drift
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.instance_noise = instance_noise
        self.optimised_stage = 0  # the optimisers' state belongs to it

    # --- what others use -------------------------------------------------------------------

    @property
    def trained(self) -> nn.Module:
        return self.generator

    def prior(self) -> GanPrior:
        """Take a frozen float32 snapshot of the prior, on the module's device."""
        return gan_prior(generator_of_prior(self.averaged, self.stage), self.images_seen)

    # --- growth --------------------------------------------------------------------------------

    @property
    def stage(self) -> tuple[int, float] | tuple[()]:
        """What the networks take besides their input: (stage, blend), or nothing."""
        if self.growth is None:
            return ()
        return self.growth.at(self.images_seen, self.generator.final_stage)

    @property
    def size(self) -> int:
        """Pixels of the present stage."""
        return 4 << self.stage[0] if self.stage else self.image_shape[-1]

    def minibatches(self, images: Tensor) -> Iterator[Tensor]:
        """Cut the loader's batch into minibatches, as large as growth wants them at this size."""
        while len(images):
            count = len(images)
            if self.growth is not None:
                count = min(count, self.growth.minibatch.get(self.size, count))
            yield images[:count]
            images = images[count:]

    def images_per_step(self, batch_size: int, accumulate: int, processes: int) -> list[int]:
        sizes = self.growth.minibatch.values() if self.growth is not None else ()
        return [min(count, batch_size) * processes for count in (batch_size, *sizes)]

    def reset_optimizers_if_grown(self) -> None:
        """Start Adam afresh at a new size, as Karras does."""
        if self.stage and self.stage[0] != self.optimised_stage:
            for optimizer in self.adams:
                optimizer.state.clear()
            self.optimised_stage = self.stage[0]

    # --- training --------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # in float32 whatever the precision: a gradient penalty differentiates twice
        with torch.autocast(self.device.type, enabled=False):
            for images in self.minibatches(batch["image"]):
                self.reset_optimizers_if_grown()
                parts = self.sample(images)
                fakes = self.discriminator_step(parts)
                self.generator_step(parts, fakes)
                self.advance_clock(len(images))
                self.update_average()

    def sample(self, images: Tensor) -> list[MicroBatch]:
        """Scale reals to the present stage; draw latents and noise by the position in training."""
        real = images.float() / 127.5 - 1
        if self.stage:
            real = fade(real, *self.stage)
        positions = self.clock_positions(len(images))

        def seeds(what: str) -> list[int]:
            return [seed_from(what, self.seed, position) for position in positions]

        z = normal(seeds("latent"), (self.generator.latent_dim,))
        noises = [torch.zeros(len(real), 1, 1, 1)] * 2
        mix = torch.zeros(len(real))
        std = self.instance_noise * max(0.0, 1 - self.images_seen / self.total_images)
        if std > 0:
            shape = tuple(real.shape[1:])
            noises = [std * normal(seeds(f"noise-{what}"), shape) for what in ("real", "fake")]
        if self.loss == "wasserstein":
            mix = uniform(seeds("mix"), ())
        parts = [tensor.to(self.device, non_blocking=True) for tensor in (real, z, *noises, mix)]
        return [
            MicroBatch(*part)
            for part in zip(*(tensor.chunk(self.accumulate) for tensor in parts), strict=True)
        ]

    def discriminator_step(self, parts: list[MicroBatch]) -> list[Tensor]:
        """Update the discriminator; return the images generated for it."""
        fakes, logged = [], []
        for part in parts:
            with torch.set_grad_enabled(self.accumulate == 1):  # else it generates again: memory
                fake = self.generate(part.z)
            loss, metrics = self.discriminator_loss(part, fake.detach())
            (loss / self.accumulate).backward()
            fakes.append(fake)
            logged.append(metrics)
        means = {
            f"train/{name}": torch.stack([metrics[name].detach() for metrics in logged]).mean()
            for name in logged[0]
        }
        self.require_diverse(means["train/fake_deviation"])
        means["train/discriminator_gradient_norm"] = self.apply_gradients(1)
        if self.metrics_are_due:
            loss = means.pop("train/discriminator_loss")
            self.log("train/discriminator_loss", loss, prog_bar=True)
            self.log_dict(means)
        return fakes

    def discriminator_loss(
        self, part: MicroBatch, fake: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss to minimise, and what to log of it."""
        of_real = self.judge(part.real + part.noise_on_real)
        of_fake = self.judge(fake + part.noise_on_fake)
        metrics = {"fake_deviation": fake.float().std(dim=0, unbiased=False).mean()}
        if self.loss == "logistic":
            middle = torch.zeros((), device=self.device)
            loss = losses.logistic_discriminator(of_real, of_fake)
            metrics["discriminator_loss"] = loss
        else:
            middle = (of_real.mean() + of_fake.mean()) / 2  # a critic's scores have no zero
            loss = losses.wasserstein_critic(of_real, of_fake, self.drift)
            between = losses.interpolate(part.real, fake.float(), part.mix)
            penalty = losses.gradient_penalty(self.judge(between), between)
            metrics |= {"discriminator_loss": loss, "gradient_penalty": penalty}
            loss = loss + self.penalty_weight * penalty
        metrics["accuracy_real"] = (of_real > middle).float().mean()
        metrics["accuracy_fake"] = (of_fake < middle).float().mean()
        return loss, metrics

    def generator_step(self, parts: list[MicroBatch], fakes: list[Tensor]) -> None:
        """Update the generator against the discriminator as it is now."""
        total = torch.zeros((), device=self.device)
        with held_fixed(self.discriminator):
            for part, fake in zip(parts, fakes, strict=True):
                fake = fake if fake.requires_grad else self.generate(part.z)
                loss = self.generator_loss(self.judge(fake + part.noise_on_fake))
                (loss / self.accumulate).backward()
                total += loss.detach() / self.accumulate
        norm = self.apply_gradients(0)
        if self.metrics_are_due:
            self.log("train/generator_loss", total, prog_bar=True)
            self.log("train/generator_gradient_norm", norm)

    @property
    def metrics_are_due(self) -> bool:
        """Whether Lightning logs this batch. Computing metrics takes a tenth of a small network's
        step."""
        batches = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and batches % every == 0

    def generate(self, z: Tensor) -> Tensor:
        return self.generator(z, *self.stage)

    def judge(self, images: Tensor) -> Tensor:
        return self.discriminator(images, *self.stage).float()

    def generator_loss(self, fake: Tensor) -> Tensor:
        if self.loss == "logistic":
            return losses.logistic_generator(fake)
        return losses.wasserstein_generator(fake)

    # --- optimisation ----------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(n.parameters()) for n in (self.generator, self.discriminator)]

    @property
    def adams(self) -> list[LightningOptimizer]:
        """The generator's and the discriminator's."""
        return cast(list[LightningOptimizer], self.optimizers())

    def on_train_start(self) -> None:
        super().on_train_start()
        rates = self.learning_rate, self.discriminator_learning_rate
        for optimizer, rate in zip(self.adams, rates, strict=True):
            for group in optimizer.param_groups:  # a resumed run has the checkpoint's
                group["lr"], group["betas"] = rate, self.betas

    def apply_gradients(self, which: int) -> Tensor:
        """Average over ranks, check, clip and step; return the gradient's norm before clipping."""
        optimizer = self.adams[which]
        parameters = list((self.generator, self.discriminator)[which].parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.average_over_ranks(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        self.require_finite(norm)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        optimizer.step()
        optimizer.zero_grad()
        return norm

    def require_diverse(self, deviation: Tensor) -> None:
        """Raise FloatingPointError on every rank at once if all generated images are alike."""
        deviation = self.trainer.strategy.reduce(deviation, reduce_op="mean")
        if deviation < COLLAPSED:
            raise FloatingPointError(
                f"The generator has collapsed after {self.images_seen:,} images: all its images "
                f"are alike (standard deviation over a minibatch {deviation.item():.1e}). The "
                "last checkpoint was written before this step. Lower "
                "model.discriminator_learning_rate or raise model.instance_noise, and start "
                "again with another run.name; or run the same command to retry from the checkpoint."
            )

    def take_weights(self, network: nn.Module) -> None:
        raise ValueError(
            "A GAN cannot begin from a prior's weights: a prior has no discriminator. Begin from a "
            "checkpoint of a run (--ckpt_path)."
        )

    # --- checks and checkpoints ------------------------------------------------------------------

    def on_fit_start(self) -> None:
        super().on_fit_start()
        batch = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        sizes = self.growth.minibatch if self.growth is not None else {}
        for count in {batch, *sizes.values()}:
            if batch % count:
                raise ValueError(
                    f"data.batch_size {batch} is not a multiple of model.growth.minibatch {count}"
                )
            if count % self.accumulate or count // self.accumulate < 2:
                raise ValueError(
                    f"a minibatch of {count} images cannot be cut into model.accumulate "
                    f"{self.accumulate} equal parts of at least 2"
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["stage"] = self.stage[0] if self.stage else None
        checkpoint["optimised_stage"] = self.optimised_stage

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        ours = self.stage[0] if self.stage else None
        theirs = checkpoint.get("stage")
        if ours != theirs:
            raise ValueError(
                f"The checkpoint was written at growth stage {theirs} after "
                f"{self.images_seen:,} images; by model.growth of this config it would be at "
                f"{ours}. Use the growth it was trained with."
            )
        self.optimised_stage = checkpoint["optimised_stage"]


@contextmanager
def held_fixed(network: nn.Module) -> Iterator[None]:
    """Let gradients pass through the network and leave none in it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
