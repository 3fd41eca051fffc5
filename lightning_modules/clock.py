"""What every way of training shares: the clock of training, and stopping and resuming by it."""

import copy
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from core.seeds import normal, seed_from
from lightning_modules.average import move_average
from priors.prior import FlowPrior, GanPrior, decode_in_parts


class ClockedModule(pl.LightningModule):
    """A LightningModule whose time is `images_seen`: images consumed by all ranks together.

    The position in the data, schedules, noise and the end of training are functions of it. Resuming
    ignores Lightning's own loop counters: they count batches, whose size may change.

    Args:
        trained: the network whose prior it hands out.
        total_images: training stops once this many images have been seen.
        ema_half_life: images after which an old weight of that network counts half in the moving
            average that evaluation, samples and the prior use; None to use the weights themselves.
        sample_temperature: standard deviation of the latents of samples.
        seed: of all that is random in training.
    """

    takes_bfloat16 = False  # whether bf16-mixed leaves what needs it in float32
    # of a loss that is not finite
    remedies = "a lower model.learning_rate or model.clip_norm, or a longer warm-up"

    def __init__(
        self,
        trained: nn.Module,
        total_images: int,
        ema_half_life: int | None,
        sample_temperature: float,
        seed: int,
    ) -> None:
        super().__init__()
        if total_images < 1:
            raise ValueError(f"model.total_images must be at least 1, got {total_images}")
        if ema_half_life is not None and ema_half_life < 1:
            raise ValueError(f"model.ema_half_life must be at least 1 image, got {ema_half_life}")
        self.total_images = total_images
        self.average = None
        if ema_half_life is not None:
            self.average = copy.deepcopy(trained).requires_grad_(False)
        self.ema_half_life = ema_half_life
        self.sample_temperature = sample_temperature
        self.seed = seed
        self.images_seen = 0
        self.begun_from: str | None = None  # the prior whose weights training began from
        self._stop_asked = False  # within a step
        self._averaged_at = 0  # images_seen when the moving average was last moved

    # --- the prior -------------------------------------------------------------------------

    @property
    def trained(self) -> nn.Module:
        """The network whose prior it hands out, as training changes it."""
        raise NotImplementedError

    @property
    def averaged(self) -> nn.Module:
        """The network to evaluate: the moving average where there is one."""
        return self.trained if self.average is None else self.average

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it trains on."""
        return self.trained.image_shape  # type: ignore[return-value]

    def prior(self) -> FlowPrior | GanPrior:
        """Take a frozen float32 snapshot of the prior, on the module's device."""
        raise NotImplementedError

    @torch.no_grad()
    def samples(self, count: int) -> Tensor:
        """Decode (count, C, H, W), in [0, 1], from the same latents at every call."""
        seeds = [seed_from("samples", self.seed, index) for index in range(count)]
        prior = self.prior()
        latents = self.sample_temperature * normal(seeds, (prior.latent_dim,))
        return decode_in_parts(prior, latents.to(self.device))

    def update_average(self) -> None:
        """Move the average by the images seen since its last move."""
        if self.average is None or self.ema_half_life is None:
            return
        images, self._averaged_at = self.images_seen - self._averaged_at, self.images_seen
        move_average(self.average, self.trained, images, self.images_seen, self.ema_half_life)

    def take_weights(self, network: nn.Module) -> None:
        """Begin training from a prior's network, on the CPU.

        Raises ValueError if its weights do not make this module's network the same function.
        """
        raise ValueError(f"{type(self).__name__} cannot begin from a prior's weights alone")

    def require_trainer(self, trainer: pl.Trainer) -> None:
        """Raise ValueError, before any data is read, if this trainer cannot train this module."""

    # --- the clock -------------------------------------------------------------------------

    def clock_positions(self, batch_size: int) -> range:
        """Count, for each image of this rank's micro-batch, how many images came before it."""
        first = self.images_seen + self.global_rank * batch_size
        return range(first, first + batch_size)

    def advance_clock(self, batch_size: int) -> None:
        """Count a micro-batch of `batch_size` images on every rank."""
        self.images_seen += batch_size * self.trainer.world_size
        self.log_clock()

    def images_per_step(self, batch_size: int, accumulate: int, processes: int) -> list[int]:
        """Count the images of all ranks together in a step of the optimiser, at each growth size.

        Of `batch_size` images a device and micro-batch.
        """
        return [batch_size * accumulate * processes]

    def log_clock(self, sync_dist: bool = False) -> None:
        """Log `images_seen`, in float64: Lightning's own float32 holds no count past 2^24.

        From the CPU, as long as ranks need not exchange it: moving it to a GPU waits for the GPU.
        """
        exchanged = sync_dist and self.trainer.world_size > 1
        device = self.device if exchanged else None
        seen = torch.tensor(self.images_seen, dtype=torch.float64, device=device)
        self.log("images_seen", seen, reduce_fx="max", sync_dist=sync_dist)  # the same on all ranks

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop when due, after a whole optimiser step, so that no image counted is lost."""
        step_taken = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        asked = self.trainer.should_stop or self._stop_asked  # by trainer.max_time or a callback
        whole = step_taken or self.trainer.is_last_batch
        self.trainer.should_stop = whole and (asked or self.images_seen >= self.total_images)
        self._stop_asked = asked and not whole

    def require_finite(self, gradient_norm: Tensor) -> None:
        """Raise FloatingPointError on every rank at once, before the step reaches the weights."""
        if not torch.isfinite(gradient_norm):
            raise FloatingPointError(
                f"The loss or its gradient is not finite after {self.images_seen:,} images "
                f"(gradient norm {gradient_norm.item()}). This step was not taken, and no "
                "checkpoint holds it. Run the command again with --run.accept_changes true and "
                f"{self.remedies}."
            )

    def broadcast(self, module: nn.Module) -> None:
        """Give every rank rank 0's parameters and buffers."""
        if self.trainer.world_size > 1:
            for tensor in module.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)

    def average_over_ranks(self, tensors: list[Tensor]) -> None:
        """Average tensors in place, in one message.

        DDP would send one with every backward pass, and a step may have several.
        """
        if self.trainer.world_size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            torch.distributed.all_reduce(flat)
            flat /= self.trainer.world_size
            for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def require_one_time(self) -> None:
        """Raise ValueError on every rank if they resume at different times.

        Each rank looked for the newest checkpoint itself; DDP would copy rank 0's weights to all
        and hide the difference.
        """
        if self.trainer.world_size == 1:
            return
        seen = [self.images_seen] * self.trainer.world_size
        torch.distributed.all_gather_object(seen, self.images_seen)
        if len(set(seen)) > 1:
            raise ValueError(
                f"processes resume at different times, {min(seen):,} to {max(seen):,} images seen: "
                f"is {self.trainer.default_root_dir} on a file system that all nodes share? Run "
                "the command again once all of them see its checkpoints"
            )

    def on_fit_start(self) -> None:
        self.require_one_time()

    def on_train_start(self) -> None:
        if self.images_seen >= self.total_images:  # a finished run, started again
            self.trainer.should_stop = True

    def require_finite_weights(self) -> None:
        """Raise FloatingPointError, on every rank, if a weight or an average is not finite."""
        for name, tensor in self.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(
                    f"{name} is not finite after {self.images_seen:,} images: no checkpoint holds "
                    "it. Run the command again, which resumes from the last one, with "
                    "--run.accept_changes true and a lower model.learning_rate."
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.require_finite_weights()
        trainer: Any = self.trainer
        checkpoint["images_per_step"] = self.images_per_step(
            trainer.datamodule.batch_size, trainer.accumulate_grad_batches, trainer.world_size
        )
        checkpoint["images_seen"] = self.images_seen
        checkpoint["begun_from"] = self.begun_from

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]
        self.begun_from = checkpoint.get("begun_from")
        self._averaged_at = self.images_seen  # checkpoints are written after whole steps
        checkpoint["loops"] = None
        # trainer.max_time is each start's own: a run resumed by the same command trains on
        for name in [key for key in checkpoint.get("callbacks", {}) if key.startswith("Timer")]:
            del checkpoint["callbacks"][name]


def warmup_then_decay(
    images_seen: int, total_images: int, warmup_images: int, decay_fraction: float
) -> float:
    """Compute the rate's factor: linear from 0 over the warm-up, linear to 0 over the last part.

    Counts images to the end of the present batch, so that the first step is not lost.
    """
    warmup = min(1.0, images_seen / warmup_images) if warmup_images else 1.0
    remaining = max(0.0, 1 - images_seen / total_images)
    decay = min(1.0, remaining / decay_fraction) if decay_fraction else 1.0
    return warmup * decay
