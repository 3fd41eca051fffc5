"""A small GAN that trains in a minute: resize-convolutions (Odena, Dumoulin & Olah 2016).

The generator doubles its feature maps by nearest neighbours and convolves them, at one width
throughout; the discriminator strides. DCGAN is another network, and needs hours: see
`networks.dcgan`.
"""

from torch import Tensor, nn

from networks.sizes import SMALLEST, doublings


class Generator(nn.Module):
    """z (B, latent_dim) -> image (B, channels, H, W) in (-1, 1).

    Raises:
        ValueError: `image_size` is not a power of two from 8.
    """

    def __init__(
        self, image_size: int = 32, latent_dim: int = 32, width: int = 32, channels: int = 3
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_shape = (channels, image_size, image_size)
        blocks: list[nn.Module] = [
            nn.Linear(latent_dim, width * SMALLEST**2),
            nn.Unflatten(1, (width, SMALLEST, SMALLEST)),
        ]
        for _ in range(doublings(image_size)):
            blocks += [nn.BatchNorm2d(width), nn.ReLU(), nn.Upsample(scale_factor=2)]
            blocks += [nn.Conv2d(width, width, 3, padding=1)]
        blocks += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, channels, 3, padding=1)]
        self.layers = nn.Sequential(*blocks, nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class Discriminator(nn.Module):
    """image (B, channels, H, W) in [-1, 1] -> logit (B,) that it is real.

    Raises:
        ValueError: `image_size` is not a power of two from 8.
    """

    def __init__(self, image_size: int = 32, width: int = 24, channels: int = 3) -> None:
        super().__init__()
        self.image_shape = (channels, image_size, image_size)
        widths = [width << i for i in range(doublings(image_size))]
        blocks: list[nn.Module] = []
        for here, there in zip([channels, *widths[:-1]], widths, strict=True):
            blocks += [nn.Conv2d(here, there, 4, stride=2, padding=1)]
            blocks += [nn.BatchNorm2d(there)] if here != channels else []
            blocks += [nn.LeakyReLU(0.2)]
        last = nn.Linear(widths[-1] * SMALLEST**2, 1)
        self.layers = nn.Sequential(*blocks, nn.Flatten(), last)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)
