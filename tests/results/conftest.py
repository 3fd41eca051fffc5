"""A prior whose images are its latents."""

from torch import Tensor

from core.seeds import normal

SHAPE, N = (3, 12, 12), 432


class FlatPrior:
    """G(z) = 0.3 z as an image."""

    name, fingerprint, latent_dim, image_shape = "flat", "", N, SHAPE

    def decode(self, latent: Tensor) -> Tensor:
        return 0.3 * latent.unflatten(1, SHAPE)

    def initial_latent(self, seeds: list[int], std: float) -> Tensor:
        return std * normal(seeds, (N,))
