"""The latent convolutional model: its published sizes, and a latent network for every row."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.latent_convolutional import LatentConvolutional


def small() -> LatentConvolutional:
    torch.manual_seed(0)
    return LatentConvolutional(16, width=4, latent_widths=(2, 2, 3, 4))


@pytest.mark.parametrize(
    ("image_size", "width", "generator"),
    # 38.7 million: published; of the others, what this family has
    [(128, 64, 38_696_227), (64, 64, 14_545_187), (32, 64, 3_124_515), (32, 32, 883_859)],
)
def test_it_has_the_published_number_of_weights(
    image_size: int, width: int, generator: int
) -> None:
    network = LatentConvolutional(image_size, width)
    assert sum(parameter.numel() for parameter in network.parameters()) == generator
    assert network.latent_dim == 24_448
    latents = network.latent_map(torch.zeros(1, network.latent_dim))
    assert latents.shape == (1, 64, image_size // 4, image_size // 4)


def test_a_latent_network_is_the_published_one_in_training_mode() -> None:
    """Four unpadded convolutions, BatchNorm of one image after the first three, LeakyReLU 0.2."""
    network = LatentConvolutional(32, width=8)
    z = torch.randn(2, network.latent_dim, generator=torch.Generator().manual_seed(0))
    maps = network.latent_map(z)
    for row in range(2):
        weights = [weight[row] for weight in network.latent_network(z)]
        x: Tensor = network.input
        for layer in range(4):
            kernel = weights[2 * layer]
            convolution = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, bias=False)
            convolution.weight = nn.Parameter(kernel)
            x = convolution(x)
            if layer < 3:
                norm = nn.BatchNorm2d(len(kernel)).train()
                scale, shift = weights[2 * layer + 1]
                norm.weight, norm.bias = nn.Parameter(1 + scale), nn.Parameter(shift)
                x = norm(x)
            x = F.leaky_relu(x, 0.2)
        assert torch.allclose(x[0], maps[row], atol=1e-5)


def test_all_images_start_from_one_network_within_the_bound() -> None:
    network = LatentConvolutional(32, width=8)
    again = LatentConvolutional(32, width=8)
    kernels = network.latent_network(torch.zeros(1, network.latent_dim))[::2]
    assert all(kernel.abs().max() <= 0.01 for kernel in kernels)
    assert max(kernel.abs().max() for kernel in kernels) > 0.009
    assert torch.equal(network.start, again.start) and torch.equal(network.input, again.input)
    assert network.input.shape == (1, 2, 16, 16) and network.input.min() >= 0
    assert 0.09 < network.input.max() <= 0.1


def test_only_convolution_weights_are_bounded() -> None:
    network = small()
    z = 5 * torch.randn(3, network.latent_dim, generator=torch.Generator().manual_seed(0))
    double = z.double()
    before = network.latent_network(z)
    network.bound(z)
    after = network.latent_network(z)
    network.double().bound(double)
    assert torch.allclose(double.float(), z, atol=1e-6)
    for i in range(7):
        expected = before[i].clamp(-0.01, 0.01) if i % 2 == 0 else before[i]
        assert torch.allclose(after[i], expected, atol=1e-8)


def test_rows_do_not_know_of_each_other_once_trained() -> None:
    network = small().eval()
    z = torch.randn(3, network.latent_dim, generator=torch.Generator().manual_seed(0))
    images = network(z)
    assert images.shape == (3, 3, 16, 16) and images.abs().max() < 1
    for row in range(3):
        assert torch.allclose(network(z[row : row + 1])[0], images[row], atol=1e-6)


@pytest.mark.parametrize("image_size", [16, 32, 64])
def test_every_weight_takes_part(image_size: int) -> None:
    network = LatentConvolutional(image_size, width=4)
    z = torch.randn(2, network.latent_dim).requires_grad_()
    wanted = [z, *network.parameters()]
    gradients = torch.autograd.grad(network(z).square().sum(), wanted)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_sizes_it_cannot_have_are_named() -> None:
    with pytest.raises(ValueError, match="image_size must be at least 16, got 8"):
        LatentConvolutional(8)
    with pytest.raises(ValueError, match="image_size must be a power of two"):
        LatentConvolutional(48)
    for widths in ([8, 16], [8, 16, 0, 64], [8, 16, 32, 63]):
        with pytest.raises(ValueError, match="latent_widths must be four numbers of channels"):
            LatentConvolutional(32, latent_widths=widths)
    for width in (0, 7):
        with pytest.raises(ValueError, match=f"width must be even and at least 2, got {width}"):
            LatentConvolutional(32, width)
