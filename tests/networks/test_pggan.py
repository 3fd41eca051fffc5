"""Progressive GANs: growing, fading, and what a minibatch tells the discriminator."""

import math

import pytest
import torch
import torch.nn.functional as F

from networks import pggan
from networks.pggan import Growth


def test_pggan_has_karras_channels_at_128px() -> None:
    widths = [pggan.channels_at(stage, 2048, 512) for stage in range(6)]
    assert widths == [512, 512, 256, 128, 64, 32]


@pytest.fixture
def grown() -> tuple[pggan.Generator, pggan.Discriminator]:
    torch.manual_seed(0)
    small = {"base": 64, "most": 16}
    generator = pggan.Generator(16, latent_dim=12, growing=True, **small)
    return generator, pggan.Discriminator(16, **small)


def test_layers_start_with_unit_variance() -> None:
    """Equalised learning rate: He's gain, applied when used."""
    torch.manual_seed(0)
    x = torch.randn(64, 128, 4, 4)
    out = pggan.EqualisedConv(128, 256, 3, 1)(x)[:, :, 1:-1, 1:-1]
    assert out.square().mean().item() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_new_size_begins_as_the_one_before(
    grown: tuple[pggan.Generator, pggan.Discriminator], stage: int
) -> None:
    generator, discriminator = grown
    z = torch.randn(4, 12)
    images = generator(z, stage)
    assert images.shape == (4, 3, 4 << stage, 4 << stage)
    if stage < 2:
        larger = generator(z, stage + 1, 0.0)
        assert torch.equal(larger, pggan.double(images))
        scores = discriminator(larger, stage + 1, 0.0)
        assert torch.allclose(scores, discriminator(images, stage), atol=1e-5)
    if stage > 0:
        ends = generator(z, stage, 0.0), generator(z, stage, 1.0)
        assert torch.allclose(generator(z, stage, 0.3), torch.lerp(*ends, 0.3), atol=1e-6)


def test_the_last_stage_is_the_default(
    grown: tuple[pggan.Generator, pggan.Discriminator],
) -> None:
    generator, discriminator = grown
    z = torch.randn(4, 12)
    assert torch.equal(generator(z), generator(z, 2, 1.0))
    assert torch.equal(discriminator(generator(z)), discriminator(generator(z), 2, 1.0))
    assert generator.at(2, 1.0) is generator


def test_an_unfinished_generator_makes_images_of_the_final_size(
    grown: tuple[pggan.Generator, pggan.Discriminator],
) -> None:
    z = torch.randn(4, 12)
    unfinished = grown[0].at(1, 0.5)
    assert unfinished.image_shape == (3, 16, 16)
    images = unfinished(z)
    assert images.shape == (4, 3, 16, 16)
    assert torch.equal(F.avg_pool2d(images, 2), grown[0](z, 1, 0.5))


def test_reals_fade_as_the_generator_does() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(pggan.fade(images, 2, 1.0), images)
    assert torch.allclose(pggan.fade(images, 0, 1.0), F.avg_pool2d(images, 4))
    at_8 = F.avg_pool2d(images, 2)
    before = pggan.double(pggan.half(at_8))
    assert torch.allclose(pggan.fade(images, 1, 0.0), before)
    assert torch.allclose(pggan.fade(images, 1, 0.25), 0.75 * before + 0.25 * at_8, atol=1e-6)


def test_the_length_of_a_latent_does_not_matter(
    grown: tuple[pggan.Generator, pggan.Discriminator],
) -> None:
    z = torch.randn(4, 12)
    assert torch.allclose(grown[0](z), grown[0](7 * z), atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3, 4, 6, 8])
def test_minibatch_deviation(batch: int) -> None:
    x = torch.randn(batch, 5, 4, 4)
    out = pggan.append_deviation(x)
    assert torch.equal(out[:, :5], x)
    of_group = math.gcd(4, batch)
    number = batch // of_group
    for image in range(batch):
        group = x[image % number :: number]
        expected = (group.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        assert torch.allclose(out[image, 5], expected.expand(4, 4), atol=1e-6)
    alike = pggan.append_deviation(x[:1].expand(4, -1, -1, -1))
    assert alike[:, 5].abs().max() < 1e-3


def test_growth_by_images_seen() -> None:
    growth = Growth(stabilise_images=600, fade_images=400)
    expected = {
        0: (0, 1.0),
        599: (0, 1.0),
        600: (1, 0.0),
        700: (1, 0.25),
        1000: (1, 1.0),
        1599: (1, 1.0),
        1600: (2, 0.0),
        1900: (2, 0.75),
        2000: (2, 1.0),
        10**9: (2, 1.0),
    }
    assert {images: growth.at(images, 2) for images in expected} == expected
    assert Growth().stabilise_images == Growth().fade_images == 600_000
