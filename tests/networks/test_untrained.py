"""Deep Decoder and Deep Image Prior: their published sizes, shapes and range."""

from collections.abc import Callable
from functools import partial

import pytest
from torch import nn

from core.seeds import generator
from networks.deep_decoder import DeepDecoder
from networks.deep_image_prior import DeepImagePrior
from recovery.operators import Denoising
from recovery.untrained import Untrained

decoder = partial(DeepDecoder, width=16)
image_prior = partial(DeepImagePrior, width=8, input_channels=4)
each_network = pytest.mark.parametrize("network", [decoder, image_prior], ids=["decoder", "dip"])
NetworkFactory = Callable[[int], nn.Module]


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (lambda: DeepDecoder(64, 250), 253_753),
        (lambda: DeepDecoder(128, 700), 2_462_603),
        (lambda: DeepImagePrior(128), 2_217_831),
    ],
)
def test_published_parameter_counts(network: Callable[[], nn.Module], count: int) -> None:
    assert sum(p.numel() for p in network().parameters()) == count


@pytest.mark.parametrize("size", [8, 32, 64])
@each_network
def test_images_have_their_size_and_range(network: NetworkFactory, size: int) -> None:
    net = network(size)
    image = net(net.draw_input(generator("input")))  # type: ignore[operator]
    assert image.shape == (1, 3, size, size)
    assert image.min() > 0 and image.max() < 1


@each_network
def test_sizes_that_are_no_powers_of_two_are_refused(network: NetworkFactory) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Untrained(network).check(Denoising((3, 24, 24), 0.1))
