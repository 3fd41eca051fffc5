"""Export a trained prior: python -m priors.export runs/NAME OUT

OUT is a folder with the weights (safetensors), what they are (prior.json) and a model card.
`load_prior(OUT)` reads it; see docs/export.md.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from core.files import naming, whole_lines
from priors.card import model_card
from priors.format import (
    CARD,
    FORMAT,
    RECORD,
    SAMPLE_TOLERANCE,
    WEIGHTS,
    build_exported,
    decode_samples,
    kind_of,
    make_prior,
    network_class,
    pooled,
    read_network,
)
from priors.prior import FlowPrior, GanPrior
from priors.run import TrainedRun, load_run, trained_key

# of the sample's latent, by the kind of prior
TEMPERATURES = {"flow": 0.7, "gan": 1.0, "latent-convolutional": 1.0}
COMPARED = 4  # images that test half precision
# Largest root mean square error of an image that half precision may make, of values from 0 to 1:
DECODING_ERROR = 1e-2  # a PSNR of 40 dB
INVERSION_ERROR = 1e-3  # 60 dB, for encoding and then decoding an image


def export_prior(
    checkpoint: str | Path,
    out: str | Path,
    half: bool = False,
    data: str = "not stated",
    licence: str = "not stated",
    hardware: str = "not stated",
) -> dict[str, Any]:
    """Write the prior of a run to the folder `out`, and return what its prior.json says.

    The folder appears whole or not at all, and only after it has been read back.

    Args:
        checkpoint: a run of train.py (its last checkpoint counts) or a checkpoint of one.
        out: folder to make; replaces an export that is there.
        half: store weights in float16, half the size.
        data, licence, hardware: for the model card: the training data, the licence of the weights,
            and the machine that trained them.

    Raises:
        FileNotFoundError: no such run or checkpoint.
        FileExistsError: `out` holds something other than an export.
        ValueError: a generator is still growing, a network is not in `networks/`, half precision
            changes the prior by more than `DECODING_ERROR` or `INVERSION_ERROR`, or samples are
            not finite.
    """
    out = Path(out)
    require_replaceable(out)
    run = load_run(Path(checkpoint).expanduser())
    record = describe(run)
    exact = {name: tensor.contiguous() for name, tensor in run.network.state_dict().items()}
    stored = halved(exact) if half else exact

    def prior_of(tensors: dict[str, Tensor]) -> FlowPrior | GanPrior:
        return make_prior(build_exported(record, tensors), run.images_seen)

    prior = prior_of(stored)
    if half:
        require_close(prior_of(exact), prior, TEMPERATURES[record["kind"]])
    content = safetensors.torch.save(stored)
    record |= {
        "precision": "float16" if half else "float32",
        "fingerprint": prior.fingerprint,
        "sha256": sha256(content).hexdigest(),
        **describe_sample(prior, TEMPERATURES[record["kind"]]),
    }
    card = model_card(out.name, record, run.config, data, licence, hardware)
    write(out, content, record, card)
    return record


def describe(run: TrainedRun) -> dict[str, Any]:
    """Describe a run's network as prior.json does, but for its weights."""
    arguments = run.config["model"]["init_args"]
    named = arguments[trained_key(run.config)]
    if type(run.network) is not network_class(named["class_path"]):
        raise ValueError(
            f"the generator of {run.directory} is still growing after "
            f"{run.images_seen:,} images: it can be exported once it has its final size"
        )
    return {
        "format": FORMAT,
        "kind": kind_of(run.network),
        "class_path": named["class_path"],
        "init_args": named["init_args"],
        "image_shape": list(run.network.image_shape),  # type: ignore[arg-type]
        "latent_dim": run.network.latent_dim,
        "parameters": sum(parameter.numel() for parameter in run.network.parameters()),
        "images_seen": run.images_seen,
        "begun_from": run.begun_from,
        "bits_per_dim": validation_bits(run.directory / "metrics.jsonl", run.images_seen),
        "bits": arguments.get("bits"),
        "project": project_version(),
        "torch": str(torch.__version__),
    }


def validation_bits(path: Path, images_seen: int) -> dict[str, float]:
    """Read bits per dimension by held-out set at that number of images seen; {} if not known."""
    bits: dict[str, float] = {}
    lines = whole_lines(path).splitlines() if path.exists() else []
    for line in map(json.loads, lines):
        if line.get("images_seen") == images_seen:
            found = {k: v for k, v in line.items() if k.startswith("bits_per_dim/")}
            bits |= {name.removeprefix("bits_per_dim/"): value for name, value in found.items()}
    return bits


def project_version() -> str:
    path = Path(__file__).parent.parent / "pyproject.toml"
    project = tomllib.loads(path.read_text())["project"]
    return f"{project['name']} {project['version']}"


def describe_sample(prior: FlowPrior | GanPrior, temperature: float) -> dict[str, Any]:
    """Record a sample by which another machine can recognise the prior (`require_same_sample`)."""
    image = decode_samples(prior, temperature)
    if not image.isfinite().all():
        raise ValueError("cannot export this prior: its samples are not finite")
    return {
        "sample_temperature": temperature,
        "sample_tolerance": SAMPLE_TOLERANCE,
        "sample_sha256": sha256(image.contiguous().numpy().tobytes()).hexdigest(),
        "sample": [round(value, 6) for value in pooled(image).tolist()],
    }


# --- half precision ----------------------------------------------------------------------------


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round floats to float16; leave counts and flags as they are."""
    half = {k: t.half() if t.is_floating_point() else t for k, t in tensors.items()}
    for name, tensor in half.items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"half precision cannot hold {name}, whose largest value is "
                f"{tensors[name].abs().max().item():.3g}: export without --half"
            )
    return half


@torch.no_grad()
def require_close(
    exact: FlowPrior | GanPrior, half: FlowPrior | GanPrior, temperature: float
) -> None:
    """Raise ValueError, with the worst image's error, if half precision changes the prior.

    Errors are root mean squares over an image, as in a PSNR: by that much an image in a GAN's range
    moves out of reach. A flow still reaches every image if it inverts as well as before.
    """
    images = decode_samples(exact, temperature, COMPARED)
    decoded = decode_samples(half, temperature, COMPARED)
    errors = [("decoding", worst_error(decoded, images), DECODING_ERROR)]
    if isinstance(half, FlowPrior):
        images = images.clamp(0, 1)
        inverted = half.decode(half.encode(images)[0])
        error = worst_error(inverted, images)
        errors.append(("encoding and decoding", error, INVERSION_ERROR))
    for what, error, allowed in errors:
        if not error <= allowed:
            raise ValueError(
                f"half precision changes this prior: {what} is off by {error:.2g} (root mean "
                f"square over the worst image), allowed {allowed:g}. Export without --half"
            )


def worst_error(images: Tensor, truth: Tensor) -> float:
    return (images - truth).square().mean(dim=(1, 2, 3)).sqrt().max().item()


# --- the folder ----------------------------------------------------------------------------------


def require_replaceable(out: Path) -> None:
    """Raise FileExistsError unless `out` is free, or an export and nothing else."""
    if out.exists() or out.is_symlink():
        found = {path.name for path in out.iterdir()} if out.is_dir() else set()
        if RECORD not in found or found - {RECORD, WEIGHTS, CARD}:
            raise FileExistsError(f"{out} exists and is not an export alone: name another folder")


def write(out: Path, content: bytes, record: dict[str, Any], card: str) -> None:
    """Write the folder next to its place, read it back, and move it there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming(out), TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
        new = Path(beside) / out.name
        new.mkdir()
        (new / WEIGHTS).write_bytes(content)
        lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
        (new / RECORD).write_text("{\n" + ",\n".join(lines) + "\n}\n")
        (new / CARD).write_text(card)
        read_network(new)
        replaced = Path(beside) / "replaced"
        try:
            if out.exists():
                out.rename(replaced)
            new.rename(out)
        except BaseException:
            if replaced.exists() and not out.exists():
                replaced.rename(out)
            raise


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    about = "Writes a trained prior to a folder that load_prior reads: see docs/export.md."
    parser = argparse.ArgumentParser("python -m priors.export", description=about)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="runs/NAME, or a checkpoint file in it")
    add("out", type=Path, metavar="OUT", help="folder to make; replaces an export that is there")
    add("--half", action="store_true", help="float16 weights; refuses if that changes the prior")
    stated: dict[str, Any] = {"metavar": "TEXT", "default": "not stated"}
    add("--data", **stated, help="for the model card: the training data")
    add("--licence", **stated, help="for the model card: of the weights and the data")
    add("--hardware", **stated, help="for the model card: the machine, and how long it trained")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Export; return 0, or 2 after an error that the message explains."""
    args = parse(argv)
    try:
        record = export_prior(**vars(args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = (args.out / WEIGHTS).stat().st_size / 1e6
    print(
        f"{args.out}: {record['class_path']}, {record['images_seen']:,} images seen, "
        f"{record['precision']}, {size:.1f} MB, fingerprint {record['fingerprint']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
