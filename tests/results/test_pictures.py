"""What a recovery looks like."""

import torch

from recovery.operators import GaussianSensing
from recovery.posterior import PosteriorSamples
from results.pictures import BRIGHTEST, OF_SAMPLES, SPREAD, in_colour, pictures_of
from tests.made import flow_prior, held_out


def test_samples_show_their_spread_and_the_first_of_them() -> None:
    operator = GaussianSensing((3, 8, 8), m=20)
    y = operator(held_out()[:2])
    found = PosteriorSamples(flow_prior(), samples=4, evaluations=20).recover(y, operator)
    shown = pictures_of(found)
    assert tuple(shown) == ("recovery", *OF_SAMPLES)
    assert found.samples is not None
    assert torch.equal(shown["recovery"], found.image)
    assert torch.equal(shown["sample 2"], found.samples[:, 1])
    spread = found.samples.std(dim=1).mean(dim=1)
    assert torch.equal(shown[SPREAD], in_colour(spread / BRIGHTEST))


def test_colours_grow_brighter_with_the_spread() -> None:
    values = torch.linspace(-0.5, 1.5, 50).view(1, 1, 50)
    brightness = in_colour(values).mean(dim=1).flatten()
    assert (brightness.diff() >= 0).all() and brightness[0] < 0.05 and brightness[-1] > 0.7
    assert torch.equal(in_colour(torch.full((1, 1, 1), torch.nan)), in_colour(torch.ones(1, 1, 1)))
