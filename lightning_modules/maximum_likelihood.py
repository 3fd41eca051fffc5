"""Training a flow by maximum likelihood on dequantised images, by gradient."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from core.seeds import normal, seed_from, uniform
from lightning_modules.clock import warmup_then_decay
from lightning_modules.likelihood import Likelihood
from priors.weights import require_same_architecture

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


class MaximumLikelihood(Likelihood):
    """Minimises bits per dimension of an invertible network; hands out a `FlowPrior`.

    Args:
        network: a flow with the contract of `networks.glow.Glow`, on images in [-0.5, 0.5].
        total_images: length of training, in images consumed by all ranks together.
        bits: images have 2^bits levels before dequantisation (paper: 5).
        learning_rate: Adam's peak learning rate.
        betas: Adam's.
        warmup_images: linear warm-up from 0 (paper: 10,000 iterations at batch 6 = 60,000).
        decay_fraction: the last part of training over which the rate falls linearly to 0.
        clip_value: largest absolute gradient entry, applied first; None for none.
        clip_norm: largest total gradient norm; None for none.
        ema_half_life: images after which an old weight counts half in the average that
            validation, samples and the prior use; None to use the trained weights themselves.
        initialization_images: images that set ActNorm before the first step.
        cuda_graph: record the encoding and its gradient as a CUDA graph when the run starts, and
            replay it at every step: a GPU then need not wait for the CPU to launch every operation
            of a deep flow. For Glow on one GPU, without trainer.accumulate_grad_batches.
        sample_temperature: standard deviation of the latents of the sample grid.
        seed: of dequantisation noise and samples.
    """

    def __init__(
        self,
        network: nn.Module,
        total_images: int,
        bits: int = 5,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_images: int = 60_000,
        decay_fraction: float = 0.0,
        clip_value: float | None = None,
        clip_norm: float | None = 100.0,
        ema_half_life: int | None = None,
        initialization_images: int = 128,
        cuda_graph: bool = False,
        sample_temperature: float = 0.7,
        seed: int = 0,
    ) -> None:
        super().__init__(network, total_images, bits, ema_half_life, sample_temperature, seed)
        if hasattr(network, "fit"):
            raise ValueError(
                f"model.network: {type(network).__name__} is not trained by gradient; "
                "lightning_modules.ClosedForm fits a linear flow"
            )
        if not 0 <= decay_fraction <= 1:
            raise ValueError(f"model.decay_fraction must be in [0, 1], got {decay_fraction}")
        if initialization_images < 1:
            raise ValueError(
                f"model.initialization_images must be at least 1 image, got {initialization_images}"
            )
        if cuda_graph and not hasattr(network, "encode"):
            raise ValueError(f"model.cuda_graph is for Glow, not for {type(network).__name__}")
        self.takes_bfloat16 = getattr(network, "takes_bfloat16", False)  # else all of it would be
        self.learning_rate = learning_rate
        self.betas = betas
        self.warmup_images = warmup_images
        self.decay_fraction = decay_fraction
        self.clip_value = clip_value
        self.clip_norm = clip_norm
        self.initialization_images = initialization_images
        self.cuda_graph = cuda_graph
        self.recorded: Encode | None = None
        self._positions = range(0)  # of the batch that comes next
        self._ahead: tuple[range, Tensor] | None = None  # its noise, once drawn

    @torch.no_grad()
    def take_weights(self, network: nn.Module) -> None:
        if network.image_shape != self.image_shape:
            raise ValueError(
                f"The weights are of images {network.image_shape}, and this config's are "
                f"{self.image_shape}"
            )
        require_same_architecture(self.network.state_dict(), network.state_dict())
        for ours in (self.network, self.average):
            if ours is not None:
                ours.load_state_dict(network.state_dict())
        require_same_flow(self.network, network)

    # --- optimisation ------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        images = batch["image"]
        x = self.dequantise(images, self.noise_at(self.clock_positions(len(images))))
        if self.recorded is None:
            with self.autocast_if_taken():
                loss = self.bits_per_dimension(self.network, x).mean()
        else:
            z, log_det = self.recorded(x)
            loss = self.in_bits(z, log_det + self.network.log_det()).mean()  # type: ignore[operator]
        self.log("train/bits_per_dim", loss, prog_bar=True)
        self.advance_clock(len(images))
        self._positions = self.clock_positions(len(images))
        return loss

    def autocast_if_taken(self) -> AbstractContextManager[object]:
        """Keep a flow that does not say which part of it takes bfloat16 in float32."""
        if self.takes_bfloat16:
            return nullcontext()
        return torch.autocast(self.device.type, enabled=False)

    def on_after_backward(self) -> None:
        """Draw the next batch's noise now, while a GPU is still at work."""
        self._ahead = (self._positions, self.noise_at(self._positions))

    def noise_at(self, positions: range) -> Tensor:
        """Give the noise of the images that come at these times of the clock."""
        if self._ahead is not None and self._ahead[0] == positions:
            return self._ahead[1]
        return self.noise([seed_from("dequantise", self.seed, position) for position in positions])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            self.network.parameters(),
            lr=self.learning_rate,
            betas=self.betas,
            fused=True,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        for optimizer in checkpoint["optimizer_states"]:
            for group in optimizer["param_groups"]:
                group["fused"] = True  # of checkpoints from before it always was

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self.network.initialized:
            self.initialize_network()
        if self.cuda_graph:
            self.record()

    def initialize_network(self) -> None:
        """Set ActNorm from data, the same images on every rank."""
        images = self.trainer.datamodule.first_images(self.initialization_images)  # type: ignore[attr-defined]
        seeds = [seed_from("initialize", self.seed, index) for index in range(len(images))]
        x = self.dequantise(images.to(self.device), self.noise(seeds))
        self.network.initialize(x)  # type: ignore[operator]
        self.broadcast(self.network)  # GPUs of one kind may still round differently
        if self.average is not None:
            self.average.load_state_dict(self.network.state_dict())

    def require_trainer(self, trainer: Any) -> None:
        device = trainer.strategy.root_device.type
        if not self.takes_bfloat16 and "16" in str(trainer.precision):
            rank_zero_warn(
                f"trainer.precision = {trainer.precision}: {type(self.network).__name__} does not "
                "say takes_bfloat16, so it trains in float32"
            )
        if not self.cuda_graph:
            return
        if device != "cuda":
            raise ValueError(f"model.cuda_graph needs a GPU, and this run is on the {device}")
        if getattr(self.network, "recompute", False):
            raise ValueError(
                "model.cuda_graph records no step that is computed again: set "
                "model.network.recompute to false, or leave one of the two out"
            )
        if trainer.world_size > 1 or trainer.accumulate_grad_batches > 1:
            raise ValueError(
                "model.cuda_graph is for one GPU and steps of one batch: set trainer.devices and "
                "trainer.accumulate_grad_batches to 1, or leave it out"
            )

    def record(self) -> None:
        """Record the encoding of a batch and its gradient, before loaders use the GPU."""
        trainer: Any = self.trainer
        batch = torch.zeros(trainer.datamodule.batch_size, *self.image_shape, device=self.device)
        with trainer.precision_plugin.forward_context(), self.autocast_if_taken():
            self.recorded = record_encoding(self.network, batch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate, clip, and stop before a bad gradient reaches the weights."""
        rate = self.learning_rate * warmup_then_decay(
            self.images_seen, self.total_images, self.warmup_images, self.decay_fraction
        )
        for group in optimizer.param_groups:
            group["lr"], group["betas"] = rate, self.betas
        parameters = list(self.network.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.require_finite(norm)  # before clipping makes infinity finite
        clipped = norm
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.clip_value)
            clipped = torch.nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, clipped)
        # a tensor on the CPU: a number would be moved to the GPU, and wait for it
        self.log_dict({"train/learning_rate": torch.tensor(rate), "train/gradient_norm": norm})

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_average()


class Encoding(nn.Module):
    """A network's `encode` as a module of its own: recording replaces a module's forward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.encode(x)  # type: ignore[operator]


def record_encoding(network: nn.Module, x: Tensor) -> Encode:
    """Record `network.encode` and its gradient as CUDA graphs, for batches of the shape of x.

    Autocast must not cache the weights it converts.
    """
    recorded: Any = torch.cuda.make_graphed_callables(Encoding(network), (x,))
    return lambda x: recorded(x)  # not a module: it would be one of those that are trained


def require_same_flow(ours: nn.Module, theirs: nn.Module) -> None:
    """Raise ValueError unless two flows of equal weights, on one device, are the same function."""
    x = uniform([0], theirs.image_shape) - 0.5  # type: ignore[arg-type]
    z = normal([0], (x[0].numel(),))
    for a, b in zip((*ours(x), ours.inverse(z)), (*theirs(x), theirs.inverse(z)), strict=True):  # type: ignore[operator]
        if not torch.allclose(a, b, rtol=0, atol=0, equal_nan=True):
            raise ValueError(
                "The weights make another flow in this config than where they were trained: use "
                "the same model.network (its stability, too)."
            )
