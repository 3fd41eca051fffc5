"""Training a generator together with a latent of every image: no discriminator, no likelihood."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_modules import losses
from lightning_modules.clock import ClockedModule, warmup_then_decay
from lightning_modules.latent_table import LatentTable, Precision
from priors.format import make_prior
from priors.prior import FlowPrior, GanPrior
from priors.weights import require_same_architecture

FORGETTING = 0.05  # share of a batch in BatchNorm's running statistics
TABLE = "latents.bin"  # in the run's folder


class LatentOptimization(ClockedModule):
    """Minimises, over G and a latent z_i for every training image x_i,

        sum_i MSE(G(z_i), x_i) + sum_l 4^-l mean |L_l(G(z_i)) - L_l(x_i)|,   l = 0..3,

    L_l the levels of the Laplacian pyramid, as generative latent optimization does (Bojanowski et
    al. 2018; Athar et al. 2019 for latent convolutional models). One batch takes
    `steps_per_batch` steps of both; then its latents go back to a table in the run's folder.

    BatchNorm sees the batch while training. Its running statistics take in the last step of every
    batch alone: those of a batch that is fitted for many steps would forget all others.

    Args:
        network: z (B, latent_dim) -> images in [-1, 1], from z = 0 on; see
            `networks.latent_convolutional`.
        total_images: length of training, in images consumed by all ranks together; a batch counts
            once, however many steps it takes.
        optimizer: sgd as published, without momentum, or adam, whose moments of latents start
            afresh with every batch.
        learning_rate: of the network. Published: 1, with sgd.
        latent_learning_rate: of the latents: with sgd of the weights that they stand for
            (published: 1), with adam of the latents in their own units.
        steps_per_batch: joint steps (published: 50).
        decay_fraction: the last part of training over which the network's rate falls linearly to 0.
        table_precision: of the latents in the table; float16 halves it.
        sample_temperature: standard deviation of the latents of the sample grid. The model has no
            distribution of latents: what it draws are latent networks near the common start.
        seed: of samples.

    Raises:
        ValueError: a value is out of range; names its key, before training.
    """

    table: LatentTable  # once training starts
    remedies = "a lower model.learning_rate or model.latent_learning_rate"

    def __init__(
        self,
        network: nn.Module,
        total_images: int,
        optimizer: Literal["sgd", "adam"] = "adam",
        learning_rate: float = 2e-3,
        latent_learning_rate: float = 0.05,
        steps_per_batch: int = 10,
        decay_fraction: float = 0.3,
        table_precision: Precision = "float32",
        sample_temperature: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__(network, total_images, None, sample_temperature, seed)
        if not hasattr(network, "bound"):
            raise ValueError(
                f"model.network: {type(network).__name__} has no latent network to fit; "
                "networks.latent_convolutional.LatentConvolutional has"
            )
        if steps_per_batch < 1:
            raise ValueError(f"model.steps_per_batch must be at least 1, got {steps_per_batch}")
        if not 0 <= decay_fraction <= 1:
            raise ValueError(f"model.decay_fraction must be in [0, 1], got {decay_fraction}")
        self.automatic_optimization = False
        self.network: Any = network
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.latent_learning_rate = latent_learning_rate
        self.steps_per_batch = steps_per_batch
        self.decay_fraction = decay_fraction
        self.table_precision = table_precision

    @property
    def trained(self) -> nn.Module:
        return self.network

    def prior(self) -> FlowPrior | GanPrior:
        """Take a frozen float32 snapshot of the prior, on the module's device."""
        return make_prior(copy.deepcopy(self.network), self.images_seen)

    def take_weights(self, network: nn.Module) -> None:
        require_same_architecture(self.network.state_dict(), network.state_dict())
        self.network.load_state_dict(network.state_dict())

    # --- the table -----------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.flip:
            raise ValueError(
                "data.flip must be false: every image has a latent, and its mirror image would "
                "need another"
            )
        if getattr(data, "passes", 1) > 1:
            raise ValueError(
                "data.passes must be 1: a run goes on from the latents of its last checkpoint, "
                "which an image that comes twice before the next one would overwrite"
            )
        if self.trainer.num_nodes > 1:
            raise ValueError(
                "trainer.num_nodes must be 1: the processes share a file of latents that is mapped "
                "into memory, which network file systems do not keep the same on all nodes"
            )
        drawn = {"class": type(data).__name__, "seed": data.seed}  # it has no identity on disk
        self.table = LatentTable(
            Path(self.trainer.default_root_dir) / TABLE,
            sum(data.train_images.shard_sizes),
            self.network.latent_dim,
            self.table_precision,
            data.identities.get("train") or drawn,
        )
        if self.images_seen < self.total_images:
            self.open_table()

    def open_table(self) -> None:
        """Make the table if training begins, and open it; raise on every rank what rank 0 meets."""
        problem: Exception | None = None
        if self.trainer.is_global_zero:
            try:
                if self.images_seen == 0:
                    self.table.create()
                self.table.open()
            except (OSError, ValueError) as error:
                problem = error
        problem = self.trainer.strategy.broadcast(problem)
        if problem is not None:
            raise problem
        self.table.open()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        self.table.flush()
        self.trainer.strategy.barrier()  # all rows are on disk before the checkpoint tells of them

    # --- training ------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        now = self.images_seen
        # in float32 whatever the precision: a latent changes by little at a step
        with torch.autocast(self.device.type, enabled=False):
            z = self.table.read(batch["index"], now).to(self.device)
            before, after = self.fit_batch(z, batch["image"].float() / 255)
        self.log("train/loss", after, prog_bar=True)
        self.log("train/loss_before", before)
        self.advance_clock(len(z))
        self.table.write(batch["index"], z, now, self.images_seen)

    def fit_batch(self, z: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Take the joint steps of a batch, z (B, latent_dim) in place.

        Returns the mean loss before the first step and before the last.
        """
        z.requires_grad_()
        take_step = self.latent_steps(z)
        weights = list(self.network.parameters())
        optimizer = cast(LightningOptimizer, self.optimizers())
        self.set_rate(optimizer)
        before = after = torch.zeros(())
        for step in range(self.steps_per_batch):
            remember_batch(self.network, step == self.steps_per_batch - 1)
            values = losses.reconstruction(self.network(z) / 2 + 0.5, images)
            of_z, *of_weights = torch.autograd.grad(values.sum(), [z, *weights])
            gradients = [gradient / len(z) for gradient in of_weights]
            norm = of_z.norm()
            self.average_over_ranks([*gradients, norm])
            self.require_finite(torch.nn.utils.get_total_norm([*gradients, norm]))
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
            take_step(of_z)
            after = values.detach().mean()
            before = after if step == 0 else before
        self.average_over_ranks(statistics_of(self.network))
        z.requires_grad_(False)
        return before, after

    def latent_steps(self, z: Tensor) -> Callable[[Tensor], None]:
        """Make what takes a step of the latents against a gradient, and keeps them in bounds."""
        kind = torch.optim.SGD if self.optimizer == "sgd" else torch.optim.Adam
        optimizer = kind([z], lr=self.latent_learning_rate)
        # the gradient of weights phi = start + units z, and their step, in terms of z
        scale = self.network.units**-2 if self.optimizer == "sgd" else 1.0

        def step(gradient: Tensor) -> None:
            z.grad = gradient * scale
            optimizer.step()
            self.network.bound(z)

        return step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD(self.network.parameters(), lr=self.learning_rate)
        return torch.optim.Adam(self.network.parameters(), lr=self.learning_rate, betas=(0.9, 0.99))

    def set_rate(self, optimizer: LightningOptimizer) -> None:
        rate = self.learning_rate * warmup_then_decay(
            self.images_seen, self.total_images, 0, self.decay_fraction
        )
        for group in optimizer.param_groups:
            group["lr"] = rate


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def remember_batch(network: nn.Module, wanted: bool) -> None:
    """Let BatchNorm's running statistics take in the batches to come, or leave them as they are."""
    for norm in norms_of(network):
        norm.momentum = FORGETTING if wanted else 0.0


def statistics_of(network: nn.Module) -> list[Tensor]:
    """Give BatchNorm's running means and variances."""
    pairs = ((norm.running_mean, norm.running_var) for norm in norms_of(network))
    return [one for pair in pairs for one in pair if one is not None]
