"""Where a latent search begins."""

import pytest
import torch

from core.seeds import generator
from networks.glow import Glow
from networks.resize_gan import Generator
from priors.prior import FlowPrior, GanPrior
from recovery.diagnostic import Diagnostic, NullSpaceSearch
from recovery.lasso import Lasso
from recovery.latent_search import LatentSearch
from recovery.linear import Adjoint
from recovery.operators import Denoising, GaussianSensing
from recovery.starts import Encoded, Normal, OnSphere, Start
from results.identity import describe

SHAPE = (3, 8, 8)
IMAGES = torch.rand(2, *SHAPE, generator=generator("starts"))


def glow() -> FlowPrior:
    torch.manual_seed(0)
    network = Glow(image_size=8, steps=2, levels=2, hidden=8)
    network.initialize(torch.rand(16, *SHAPE) - 0.5)
    return FlowPrior(network.frozen(), "glow")


def test_a_sphere_has_its_radius_in_units_of_a_typical_latent() -> None:
    operator = Denoising(SHAPE, 0.0)
    z = OnSphere(0.5)(glow(), IMAGES, operator, [1, 2])
    assert torch.allclose(z.norm(dim=1), torch.tensor(0.5 * 192**0.5))
    assert torch.equal(OnSphere(0.5)(glow(), IMAGES, operator, [2])[0], z[1])


def test_an_encoded_start_is_the_latent_of_what_the_other_method_recovers() -> None:
    prior, operator = glow(), Denoising(SHAPE, 0.0)
    z = Encoded(Adjoint())(prior, IMAGES, operator, [1, 2])
    assert torch.allclose(prior.decode(z), IMAGES, atol=1e-4)


def test_the_null_space_start_fits_y_and_is_as_far_from_the_truth_as_asked() -> None:
    prior, operator = glow(), GaussianSensing(SHAPE, m=60)
    y = operator.A(IMAGES)
    z = NullSpaceSearch(prior, distance=2.0).starts(IMAGES, operator, [1, 2])
    x = prior.decode(z)
    assert torch.allclose(operator.A(x), y, atol=1e-3)
    assert torch.allclose((x - IMAGES).flatten(1).norm(dim=1), torch.tensor(2.0), atol=1e-3)


def test_the_null_space_start_does_not_depend_on_the_batch() -> None:
    prior, operator = glow(), GaussianSensing(SHAPE, m=60)
    images = torch.rand(3, *SHAPE, generator=generator("three"))
    y = operator.A(images)
    found = [
        NullSpaceSearch(prior, evaluations=2, batch_size=size)
        .shown(images)
        .recover(y, operator)
        .image
        for size in (1, 2, 3)
    ]
    assert torch.allclose(found[0], found[2], atol=1e-3)
    assert torch.allclose(found[1], found[2], atol=1e-3)


def test_where_everything_is_seen_the_null_space_start_is_the_truth() -> None:
    prior, operator = glow(), Denoising(SHAPE, 0.0)
    z = NullSpaceSearch(prior).starts(IMAGES, operator, [1, 2])
    assert torch.allclose(prior.decode(z), IMAGES, atol=1e-4)


def test_a_search_is_not_shown_the_truth_unless_it_is_a_diagnostic() -> None:
    prior, operator = glow(), GaussianSensing(SHAPE, m=60)
    y = operator.A(IMAGES)
    search = NullSpaceSearch(prior, evaluations=2)
    with pytest.raises(ValueError, match="was not shown"):
        search.recover(y, operator)
    found = search.shown(IMAGES).recover(y, operator)
    assert found.status == ("converged", "converged")  # it begins at an image that fits y
    with pytest.raises(ValueError, match="was not shown"):
        search.recover(y, operator)  # it is itself as it was
    assert not isinstance(LatentSearch(prior), Diagnostic)


class Saturated(Denoising):
    """Not linear."""

    linear = False


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (Encoded(Lasso()), "the Lasso"),
        (Encoded(Adjoint()), "the adjoint"),
    ],
)
def test_a_start_that_cannot_serve_is_refused_before_the_search(start: Start, what: str) -> None:
    LatentSearch(glow(), start=start).check(Denoising(SHAPE, 0.1))
    with pytest.raises(ValueError, match=f"{what} needs a linear operator"):
        LatentSearch(glow(), start=start).check(Saturated(SHAPE, 0.1))
    gan = GanPrior(Generator(image_size=8, latent_dim=4), "gan")
    with pytest.raises(ValueError, match="needs an invertible prior, and gan is not one"):
        LatentSearch(gan, start=start).check(Denoising(SHAPE, 0.1))


def test_a_start_in_the_null_space_that_cannot_serve_is_refused_before_the_search() -> None:
    NullSpaceSearch(glow()).check(Denoising(SHAPE, 0.1))
    with pytest.raises(ValueError, match="a start in the null space needs a linear operator"):
        NullSpaceSearch(glow()).check(Saturated(SHAPE, 0.1))
    gan = GanPrior(Generator(image_size=8, latent_dim=4), "gan")
    with pytest.raises(ValueError, match="needs an invertible prior, and gan is not one"):
        NullSpaceSearch(gan).check(Denoising(SHAPE, 0.1))


def test_starts_are_told_apart_in_the_configuration() -> None:
    starts: list[Start] = [
        *(Normal(0.0), Normal(0.1), OnSphere(0.1)),
        *(Encoded(Lasso(basis="dct")), Encoded(Lasso(basis="haar"))),
    ]
    described = {str(describe(LatentSearch(glow(), start=start))["start"]) for start in starts}
    assert len(described) == len(starts)


def test_a_negative_deviation_is_refused() -> None:
    with pytest.raises(ValueError, match="std must be at least 0, got -1"):
        Normal(-1.0)
