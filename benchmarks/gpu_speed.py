"""How fast a device multiplies, trains, decodes and recovers, in each precision it has.

float32 is without TF32; bf16 and fp16 are the coupling networks' alone, by autocast, as training
has them. A CUDA graph is `model.cuda_graph`. Products are of that type throughout.
"""

import json
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.decode import gradient
from benchmarks.gpu_kit import Kit, Result
from benchmarks.networks import load_prior, perturbed
from benchmarks.training import step
from core.errors import out_of_memory
from datamodules.procedural import faces
from lightning_modules.maximum_likelihood import record_encoding
from networks.glow import Glow
from priors.prior import FlowPrior
from recovery.latent_search import LatentSearch
from recovery.metrics import psnr
from recovery.operators import GaussianSensing

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("float32", "TF32", *HALVES)
GRAPH = "bf16, CUDA graph"  # model.cuda_graph
TRAINED = ("float32", "TF32", "bf16", GRAPH)  # fp16 would need its loss scaled
CLOSE = 0.05  # dB
COARSE = 0.5  # of a search's evaluations in bf16 or fp16; the others finish it in float32
FRACTIONS = {"cs-10%": 0.1, "cs-50%": 0.5}  # of n

Call = Callable[[], object]


def set_tf32(precision: str) -> None:
    """Let float32 products and convolutions of this process use TF32, or not."""
    allowed = precision == "TF32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, HALVES.get(precision), enabled=precision in HALVES)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_per_call(call: Call, device: torch.device, seconds: float) -> float:
    """Time calls for so many seconds, two at least, after two untimed ones; return their mean."""
    for _ in range(2):
        call()
    synchronise(device)
    began, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - began < seconds:
        call()
        synchronise(device)
        calls += 1
    return (time.perf_counter() - began) / calls


# --- products


def products(kit: Kit) -> Result:
    """TFLOP/s of square matrix products and of 3x3 convolutions, channels last."""
    side, (images, channels, pixels) = kit.sizes.product, kit.sizes.convolution
    matrix = torch.randn(side, side, device=kit.device)
    x = torch.randn(images, channels, pixels, pixels, device=kit.device)
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randn(channels, channels, 3, 3, device=kit.device)
    w = w.contiguous(memory_format=torch.channels_last)
    rates: dict[str, dict[str, float]] = {}
    for precision in PRECISIONS:
        set_tf32(precision)
        a, b, c = (t.to(HALVES.get(precision, torch.float32)) for t in (matrix, x, w))
        rates[precision] = {
            "matrix": rate(lambda a=a: a @ a, kit),  # type: ignore[misc]
            "convolution": rate(lambda b=b, c=c: F.conv2d(b, c, padding=1), kit),  # type: ignore[misc]
        }
    return {"tflops": rates}


def rate(call: Call, kit: Kit) -> float:
    return flops_of(call) / seconds_per_call(call, kit.device, kit.sizes.seconds) / 1e12


def flops_of(call: Call) -> int:
    """Count the floating-point operations of a call's products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


# --- training steps and decodes


def steps(kit: Kit) -> Result:
    """Images per second of a training step, and of a decode with its gradient, by batch."""
    path = kit.out / "products.json"
    peaks = json.loads(path.read_text())["tflops"] if path.exists() else {}
    rows: list[Result] = []
    for name, options in kit.sizes.networks.items():
        glow = Glow(**options)
        glow.initialize(faces(range(16), image_size=glow.image_shape[-1]).float() / 255 - 0.5)
        perturbed(glow, 0.001).to(kit.device)
        trained = TRAINED if kit.device.type == "cuda" else TRAINED[:-1]
        works = [("train", precision, trains(glow, precision)) for precision in trained]
        works += [("decode", precision, decodes(glow, precision)) for precision in PRECISIONS]
        flops = {  # of an image
            "train": flops_of(trains(glow, "float32")(1, kit.device)),
            "decode": flops_of(decodes(glow, "float32")(1, kit.device)),
        }
        for what, precision, work in works:
            set_tf32(precision)
            case = {"network": name, "what": what, "precision": precision}
            peak = max(peaks.get("bf16" if precision == GRAPH else precision, {"": 0.0}).values())
            rows += [case | row for row in by_batch(work, flops[what], kit, peak)]
    return {"cases": rows}


def by_batch(
    work: Callable[[int, torch.device], Call], flops: int, kit: Kit, peak: float
) -> Iterator[Result]:
    """Time one kind of work at each batch, until memory or the part's minutes end."""
    for batch in kit.sizes.batches:
        if kit.seconds_left < 10 * kit.sizes.seconds:
            yield {"batch": batch, "failed": "no time left"}
            return
        if kit.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds = seconds_per_call(work(batch, kit.device), kit.device, kit.sizes.seconds)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            yield {"batch": batch, "failed": "out of memory"}
            return
        tflops = flops * batch / seconds / 1e12
        used = torch.cuda.max_memory_allocated() if kit.device.type == "cuda" else None
        yield {
            "batch": batch,
            "images_per_second": batch / seconds,
            "mebibytes": used and used / 2**20,
            "tflops": tflops,
            "share_of_peak": tflops / peak if peak else None,
        }


def trains(glow: Glow, precision: str) -> Callable[[int, torch.device], Call]:
    def forward(glow: Glow, x: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(precision, x.device):
            return glow(x)

    def work(batch: int, device: torch.device) -> Call:
        x = torch.rand(batch, *glow.image_shape, device=device) - 0.5
        if precision != GRAPH:
            return step(glow, forward, x)
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            encode = record_encoding(glow, x)

        def replay(glow: Glow, x: Tensor) -> tuple[Tensor, Tensor]:
            z, log_det = encode(x)
            return z, log_det + glow.log_det()

        return step(glow, replay, x)

    return work


def decodes(glow: Glow, precision: str) -> Callable[[int, torch.device], Call]:
    with autocast(precision, glow.initialized.device):  # which decides the layout
        frozen = glow.frozen()

    def decode(z: Tensor) -> Tensor:
        with autocast(precision, z.device):
            return frozen.inverse(z)

    def work(batch: int, device: torch.device) -> Call:
        latents = 0.5 * torch.randn(batch, frozen.latent_dim, device=device)
        cotangent = torch.randn(batch, *frozen.image_shape, device=device)
        return lambda: gradient(decode, latents, cotangent)

    return work


# --- recovery


class InHalf(FlowPrior):
    """A prior that decodes with its coupling networks in bf16 or fp16."""

    def __init__(self, prior: FlowPrior, precision: str) -> None:
        super().__init__(prior.network, prior.name, prior.fingerprint, prior.images_seen)
        self.precision = precision

    def decode(self, latent: Tensor) -> Tensor:
        with autocast(self.precision, latent.device):
            return super().decode(latent)


def recovery(kit: Kit) -> Result:
    """PSNR, evaluations and seconds of latent search, in each precision that there is time for."""
    prior = load_prior(kit.weights, kit.device)
    drawn = faces(range(kit.sizes.images), seed=1, image_size=prior.image_shape[-1])
    truth = drawn.to(kit.device).float() / 255
    rows, left_out, longest = list[Result](), list[str](), 0.0
    for problem, fraction in FRACTIONS.items():
        best = float("inf")
        for precision in PRECISIONS:
            if kit.seconds_left < 1.5 * longest:
                left_out.append(f"{problem} in {precision}")
                continue
            began = time.monotonic()
            row = searched(prior, precision, truth, fraction, kit)
            longest = max(longest, time.monotonic() - began)
            best = row["psnr"] if precision == "float32" else best
            close = row["psnr"] >= best - CLOSE
            rows.append({"problem": problem, "precision": precision, **row, "close": close})
    found = {"prior": kit.weights, "images": kit.sizes.images, "searches": rows}
    return found | {"left_out": left_out}


def searched(prior: FlowPrior, precision: str, truth: Tensor, fraction: float, kit: Kit) -> Result:
    """Measure a fraction of n values of images, and search them in a precision."""
    operator = GaussianSensing(prior.image_shape, fraction)
    y = operator(truth)
    set_tf32(precision)
    search(prior, precision, y, operator, 4)  # the first calls choose algorithms
    synchronise(kit.device)
    began = time.perf_counter()
    image, evaluations = search(prior, precision, y, operator, kit.sizes.evaluations)
    synchronise(kit.device)
    seconds = time.perf_counter() - began
    quality = psnr(image, truth)
    return {
        "psnr": quality.mean().item(),
        "psnr_by_image": quality.tolist(),
        "evaluations": evaluations.double().mean().item(),
        "seconds": seconds,
    }


def search(
    prior: FlowPrior, precision: str, y: Tensor, operator: GaussianSensing, evaluations: int
) -> tuple[Tensor, Tensor]:
    """Search in a precision, and from bf16 or fp16 finish in float32.

    Returns images (B, C, H, W) and evaluations (B,), those of both searches.
    """
    if precision not in HALVES:
        found = LatentSearch(prior, evaluations=evaluations).recover(y, operator)
        return found.image, found.evaluations
    coarsely = round(COARSE * evaluations)
    coarse = LatentSearch(InHalf(prior, precision), evaluations=coarsely).recover(y, operator)
    assert coarse.latent is not None
    finish = LatentSearch(prior, evaluations=evaluations - coarsely)
    found = finish.search(y, coarse.latent, operator, None)
    return found.image, coarse.evaluations + found.evaluations
