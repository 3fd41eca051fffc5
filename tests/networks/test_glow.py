"""Glow: the paper's sizes, exact inverses, exact log-determinants, safe initialisation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import networks.glow
from benchmarks.plain_glow import plain_forward, plain_inverse
from core.precision import require_full_precision
from datamodules.procedural import faces
from networks.glow import ActNorm, Affine, Glow, Stability
from tests.made import images_to_initialize, perturbed, small

PAPER_NETWORKS = [(64, 18, 4, 25_771_456), (64, 48, 4, 67_159_936), (128, 32, 6, 129_402_368)]


def kinds_of_image(size: int) -> dict[str, Tensor]:
    """What a user may hand in, (1, 3, size, size) in [-0.5, 0.5]."""
    generator = torch.Generator().manual_seed(2)
    face = faces([7], image_size=size).float() / 255 - 0.5
    noise = torch.randn(face.shape, generator=generator)
    return {
        "random": torch.rand(face.shape, generator=generator) - 0.5,
        "constant": torch.full(face.shape, 0.25),
        "saturated": (8 * face).clamp(-0.5, 0.5),  # nearly all pixels at 0 or 1
        "black": torch.full(face.shape, -0.5),
        "noisy": (face + 0.1 * noise).clamp(-0.5, 0.5),
    }


@pytest.mark.parametrize(("size", "steps", "levels", "count"), PAPER_NETWORKS)
def test_parameter_counts_of_the_paper(size: int, steps: int, levels: int, count: int) -> None:
    with torch.device("meta"):
        network = Glow(size, steps=steps, levels=levels)
    assert sum(p.numel() for p in network.parameters()) == count
    assert network.latent_dim == 3 * size**2


@pytest.mark.slow
@pytest.mark.parametrize(("size", "steps", "levels", "count"), PAPER_NETWORKS)
def test_paper_networks_invert(size: int, steps: int, levels: int, count: int) -> None:
    torch.manual_seed(0)
    network = Glow(size, steps=steps, levels=levels)
    network.initialize(images_to_initialize(size, 4))
    perturbed(network, 0.001)
    kinds = kinds_of_image(size)
    x = torch.cat(list(kinds.values()) if size == 64 else [kinds["random"], kinds["saturated"]])
    with torch.no_grad():
        z, log_det = network(x)
        assert log_det.isfinite().all()
        assert (network.inverse(z) - x).abs().max() < 5e-5
        network, x = network.double(), x.double()
        assert (network.inverse(network(x)[0]) - x).abs().max() < 1e-10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_encodes_as_the_cpu_does_and_inverts() -> None:
    require_full_precision()
    network = small(image_size=16, levels=3, hidden=32)
    network.initialize(images_to_initialize(16, 16))
    perturbed(network, 0.01)
    x = torch.cat(list(kinds_of_image(16).values()))
    with torch.no_grad():
        z, log_det = network(x)
        network.cuda()
        there, log_det_there = network(x.cuda())
        assert torch.allclose(there.cpu(), z, rtol=1e-4, atol=1e-4)
        assert torch.allclose(log_det_there.cpu(), log_det, rtol=1e-4)
        for flow in (network, network.frozen()):
            assert (flow.inverse(there).cpu() - x).abs().max() < 5e-5


def test_inverts_every_kind_of_image() -> None:
    network = small(image_size=16, levels=3, hidden=32)
    network.initialize(images_to_initialize(16, 16))
    perturbed(network, 0.01)
    for kind, x in kinds_of_image(16).items():
        with torch.no_grad():
            assert (network.inverse(network(x)[0]) - x).abs().max() < 2e-5, kind


def test_log_det_is_that_of_the_jacobian() -> None:
    network = small(image_size=8, levels=2, stability=Stability(0.2, 0.01)).double()
    network.initialize(images_to_initialize(8, 8).double())
    perturbed(network, 0.02)
    x = images_to_initialize(8, 3).double()[2:]
    jacobian = torch.autograd.functional.jacobian(lambda v: network(v.view(x.shape))[0], x.view(-1))
    expected = torch.linalg.slogdet(jacobian.view(192, 192)).logabsdet
    assert torch.allclose(network(x)[1][0], expected, atol=1e-9)


def test_folded_arithmetic_equals_the_plain_formulas() -> None:
    network = small(image_size=16, levels=3).double()
    network.initialize(images_to_initialize(16, 8).double())
    perturbed(network, 0.02)
    x = images_to_initialize(16, 4).double()
    z, log_det = network(x)
    plain_z, plain_log_det = plain_forward(network, x)
    assert torch.allclose(z, plain_z, atol=1e-10)
    assert torch.allclose(log_det, plain_log_det, atol=1e-9)
    assert torch.allclose(network.inverse(z), plain_inverse(network, z), atol=1e-8)


def test_folding_keeps_the_gradients() -> None:
    network = small().double()
    network.initialize(images_to_initialize(8, 8).double())
    perturbed(network, 0.05)
    x = images_to_initialize(8, 4).double()
    for network_forward in (network.forward, lambda v: plain_forward(network, v)):
        network.zero_grad()
        z, log_det = network_forward(x)
        (z.square().sum() - log_det.sum()).backward()
        gradients = [parameter.grad.clone() for parameter in network.parameters()]
        if network_forward == network.forward:
            folded = gradients
    for ours, plain in zip(folded, gradients, strict=True):
        assert torch.allclose(ours, plain, atol=1e-8, rtol=1e-6)


def test_what_a_cuda_graph_records_and_what_it_does_not_make_the_whole() -> None:
    network = small(levels=2).double()
    network.initialize(images_to_initialize(8, 8).double())
    perturbed(network, 0.05)
    x = images_to_initialize(8, 4).double()
    z, log_det = network.encode(x)
    whole_z, whole_log_det = network(x)
    assert torch.equal(z, whole_z)
    assert torch.allclose(log_det + network.log_det(), whole_log_det, atol=1e-12)
    assert (log_det - whole_log_det).abs().min() > 0.1  # both parts count


@pytest.mark.parametrize("shape", [(3, 64, 16, 16), (1, 128, 20, 16), (5, 160, 7, 7)])
def test_a_1x1_convolution_of_few_images_is_that_of_many(shape: tuple[int, ...]) -> None:
    """The first two go as 16 images; the pixels of the last are no multiple of 16."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    assert networks.glow._few_images(x) == (shape[-1] == 16)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not networks.glow._few_images(x)
    weight = torch.randn(24, shape[1], 1, 1, generator=generator)
    inputs = [t.requires_grad_() for t in (x, weight, torch.randn(24, generator=generator))]
    cotangent = torch.randn(shape[0], 24, *shape[2:], generator=generator)

    def all_of(y: Tensor) -> list[Tensor]:
        assert y.is_contiguous(memory_format=torch.channels_last)
        return [y, *torch.autograd.grad(y, inputs, cotangent)]

    ours = all_of(Affine(*inputs[1:])(x))
    for one, other in zip(ours, all_of(F.conv2d(*inputs)), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)


def test_recomputation_changes_memory_only() -> None:
    network = small()
    network.initialize(images_to_initialize(8, 8))
    x = images_to_initialize(8, 4)
    gradients = []
    for network.recompute in (False, True):
        network.zero_grad()
        z, log_det = network(x)
        (z.square().sum() - log_det.sum()).backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_latent_order_is_shallow_first_each_flattened_chw() -> None:
    network = small(image_size=8, levels=3)
    network.initialize(images_to_initialize(8, 8))
    assert network.latent_dim == 192
    x = images_to_initialize(8, 1)
    # Changing the deepest latent reaches every pixel; the last entry of level 1's part, a corner.
    with torch.no_grad():
        z = network(x)[0]
        moved = z.clone()
        moved[0, 95] += 1.0  # the end of level 1's (6, 4, 4): its last channel's last pixel
        change = (network.inverse(moved) - network.inverse(z)).abs().sum(dim=(0, 1))
    assert change[-2:, -2:].min() > 0
    assert change[:4, :4].max() < 1e-6


def test_a_level_puts_each_block_of_2_by_2_pixels_into_one_place() -> None:
    """Before training, where couplings do not look at neighbours yet."""
    network = small(image_size=8, levels=2, steps=1)
    network.initialize(images_to_initialize(8, 8))
    x = images_to_initialize(8, 1)
    for row, column in ((0, 1), (2, 3), (7, 4)):
        moved = x.clone()
        moved[0, 1, row, column] += 0.1
        with torch.no_grad():
            change = (network(moved)[0] - network(x)[0]).abs()
        shallow = change[0, :96].view(6, 4, 4).sum(dim=0)
        deep = change[0, 96:].view(24, 2, 2).sum(dim=0)
        assert shallow.nonzero().tolist() == [[row // 2, column // 2]]
        assert deep.nonzero().tolist() == [[row // 4, column // 4]]


def test_initialisation_normalises() -> None:
    network = small(image_size=16, hidden=16)
    images = images_to_initialize(16, 64)
    network.initialize(images)
    with torch.no_grad():
        z, _ = network(images)
    # couplings start as y = s x with s = sigmoid(2) bounded: unit variance up to that scale
    assert 0.7 < z.std() < 1.05
    with pytest.raises(RuntimeError, match="already"):
        network.initialize(images)


def test_a_constant_channel_or_a_single_image_does_not_break_initialisation() -> None:
    grey = images_to_initialize(8, 8)[:, :1].expand(-1, 3, -1, -1).clone()
    constant = torch.full((4, 3, 8, 8), 0.1)
    single = images_to_initialize(8, 1)
    one_channel_off = images_to_initialize(8, 8)
    one_channel_off[:, 1] = 0.3
    for images in (grey, constant, single, one_channel_off):
        network = small()
        network.initialize(images)
        with torch.no_grad():
            z, log_det = network(images)
            assert z.isfinite().all() and log_det.isfinite().all()
            assert (network.inverse(z) - images).abs().max() < 1e-5
    norm = ActNorm(2, epsilon=0.0)
    x = torch.stack([torch.full((4, 4), 3.0), torch.randn(4, 4)])[None]
    y = norm.initialize(x)
    assert torch.equal(y[:, 0], torch.zeros(1, 4, 4))
    assert math.isclose(y[:, 1].std(correction=0).item(), 1.0, rel_tol=1e-4)


def test_a_reload_does_not_initialise_again() -> None:
    network = small()
    network.initialize(images_to_initialize(8, 8))
    loaded = small()
    loaded.load_state_dict(network.state_dict())
    assert loaded.initialized
    loaded.train()
    x = 3 * images_to_initialize(8, 4)
    assert torch.equal(loaded(x)[0], network(x)[0])
    with pytest.raises(RuntimeError, match="already"):
        loaded.initialize(x)


def test_frozen_is_a_snapshot_without_gradients_to_the_weights() -> None:
    network = small()
    network.initialize(images_to_initialize(8, 8))
    frozen = network.frozen()
    z = torch.randn(2, network.latent_dim, requires_grad=True)
    before = frozen.inverse(z)
    assert torch.allclose(before, network.inverse(z), atol=1e-6)
    before.sum().backward()
    assert z.grad is not None
    assert all(parameter.grad is None for parameter in network.parameters())
    perturbed(network, 0.1)
    assert torch.equal(frozen.inverse(z), before)


def test_log_det_stays_in_float32_under_bf16() -> None:
    network = small(image_size=16, hidden=32)
    network.initialize(images_to_initialize(16, 8))
    perturbed(network, 0.05)
    x = images_to_initialize(16, 4)
    z, log_det = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z_bf16, log_det_bf16 = network(x)
    assert z_bf16.dtype == log_det_bf16.dtype == torch.float32
    assert not torch.equal(z, z_bf16)  # the coupling networks do run in bf16
    assert (log_det - log_det_bf16).abs().max() < 0.02 * network.latent_dim


def test_scales_are_bounded_as_the_options_say() -> None:
    network = small(stability=Stability(min_scale=0.3))
    network.initialize(images_to_initialize(8, 8))
    perturbed(network, 2.0)
    step = network.fold().steps[0][0]
    scale, _ = step.coupling(100 * torch.randn(4, 6, 4, 4))
    assert scale.min() >= 0.3 and scale.max() <= 1
    step.stability = Stability.paper()
    assert step.coupling(100 * torch.randn(4, 6, 4, 4))[0].min() < 0.1
    clipped = small(stability=Stability(activation_clip=2.0))
    clipped.initialize(images_to_initialize(8, 8))
    assert clipped(100 * images_to_initialize(8, 2))[0].abs().max() <= 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": 20, "levels": 3}, "20 is not divisible by 2.levels = 8"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_bad_sizes_are_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Glow(**options)


@pytest.mark.parametrize(
    "options", [{"min_scale": 1.0}, {"actnorm_epsilon": -1.0}, {"activation_clip": 0.0}]
)
def test_bad_stability_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Stability(**options)


def test_wrongly_shaped_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, 8, 8\), got \(1, 3, 16, 16\)"):
        small()(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"expected \(B, 192\)"):
        small().inverse(torch.zeros(1, 12))
