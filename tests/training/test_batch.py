"""The images of a step, however many devices and micro-batches share them, stay a run's own."""

import pytest
import torch

from lightning_modules import Adversarial, MaximumLikelihood
from networks.pggan import Discriminator, Generator, Growth
from tests.helpers import refused, run, saved
from training.run import require_same_batch

QUIET = ["--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]


def test_a_resumed_run_may_share_out_its_steps_anew_and_no_more(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [*tiny, *QUIET]
    directory = run(tiny, "--model.total_images=16")
    more = [*tiny, "--model.total_images=32"]
    said = refused(capsys, [*more, "--data.batch_size=16"])
    assert "a step of this run takes 8 images of all devices together, and would take 16" in said
    run(more, "--data.batch_size=4", "--trainer.accumulate_grad_batches=2")
    last = saved(directory)
    assert (last["images_seen"], last["images_per_step"]) == (32, [8])


def test_two_devices_take_half_each() -> None:
    flow = MaximumLikelihood(torch.nn.Linear(2, 1), total_images=10)
    one, two = flow.images_per_step(16, 1, 1), flow.images_per_step(8, 1, 2)
    require_same_batch(two, {"images_per_step": one}, alike=two)
    with pytest.raises(ValueError, match=r"takes 16 images of all devices together, and .* 32:"):
        require_same_batch(flow.images_per_step(16, 1, 2), {"images_per_step": one}, alike=one)
    require_same_batch(one, {}, alike=one)  # of version 0.1


def test_a_growing_gans_minibatches_count() -> None:
    networks = Generator(image_size=8, base=8), Discriminator(image_size=8, base=8)
    gan = Adversarial(*networks, total_images=10)
    assert gan.images_per_step(16, 1, 2) == [32]
    gan.growth = Growth(minibatch={8: 4, 4: 32})
    assert gan.images_per_step(16, 1, 1) == [16, 4, 16]
    assert gan.images_per_step(8, 1, 2) == [16, 8, 16]
