"""GAN networks: the published counts, shapes and ranges."""

import pytest
import torch
from torch import nn

from networks import dcgan, pggan, resize_gan
from networks.sizes import doublings


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_published_parameter_counts() -> None:
    assert count(dcgan.Generator()) == 3_576_704  # paper's table: 3,576,804 with z
    assert count(dcgan.Discriminator()) == 2_765_568
    with torch.device("meta"):
        generator, growing = pggan.Generator(), pggan.Generator(growing=True)
    # 13,625,904 in the paper's table: with 13 scales (here constants) and z's 512
    assert count(generator) == 13_625_904 - 13 - 512 == 13_625_379
    heads = sum(3 * width + 3 for width in (512, 512, 256, 128, 64))
    assert count(growing) == count(generator) + heads


@pytest.mark.parametrize("family", [dcgan, resize_gan])
@pytest.mark.parametrize("size", [8, 32])
def test_shapes_and_range(family: type, size: int) -> None:
    generator, discriminator = family.Generator(size), family.Discriminator(size)
    images = generator(torch.randn(3, generator.latent_dim))
    assert images.shape == (3, *generator.image_shape) == (3, 3, size, size)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)
    assert discriminator.image_shape == generator.image_shape


@pytest.mark.parametrize("size", [0, 4, 12, 48, 63])
@pytest.mark.parametrize("family", [dcgan, pggan, resize_gan])
def test_other_sizes_are_refused(family: type, size: int) -> None:
    for network in (family.Generator, family.Discriminator):
        with pytest.raises(ValueError, match=f"power of two and at least 8, got {size}"):
            network(size)


def test_doublings() -> None:
    assert [doublings(size) for size in (8, 16, 32, 64, 128)] == [1, 2, 3, 4, 5]


def test_dcgan_initialisation() -> None:
    torch.manual_seed(0)
    convolutions = [m for m in dcgan.Generator().modules() if isinstance(m, nn.ConvTranspose2d)]
    for convolution in convolutions:
        assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert convolution.bias is None
