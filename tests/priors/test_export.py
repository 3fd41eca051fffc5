"""Exporting a trained prior, loading it again, and what is refused."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from benchmarks.inversion import inversion_errors
from priors import export, load_prior
from priors.format import network_class
from priors.prior import FlowPrior
from priors.run import load_run
from priors.weights import first_difference
from tests.conftest import REPOSITORY, TINY
from training.cli import Train

SHORT = [
    "--data.training_images=20",
    "--recovery.during.problems=[]",
    "--recovery.at_end.problems=[]",
]  # epochs of 16
GAN = [
    "--config=configs/demo_gan.yaml",
    *(option for option in TINY if option.startswith(("--data.", "--trainer.", "--run."))),
    "--model.ema_half_life=32",
    "--samples.count=4",
]
DCGAN = [
    *("--model.generator=networks.dcgan.Generator", "--model.generator.image_size=8"),
    *("--model.generator.latent_dim=6", "--model.generator.width=4"),
    *("--model.discriminator=networks.dcgan.Discriminator", "--model.discriminator.image_size=8"),
    "--model.discriminator.width=4",
]
PGGAN = [
    *("--model.generator=networks.pggan.Generator", "--model.generator.image_size=8"),
    *("--model.generator.latent_dim=6", "--model.generator.base=32"),
    "--model.generator.growing=true",
    *("--model.discriminator=networks.pggan.Discriminator", "--model.discriminator.image_size=8"),
    "--model.discriminator.base=32",
    "--model.growth={stabilise_images: 8, fade_images: 24}",  # 8px alone from 32 images
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/glow, runs/dcgan, runs/pggan."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setenv("INVERTIBLE_PRIORS_TRACEBACK", "1")
        for name, options, images in (
            ("glow", TINY, 32),
            ("dcgan", [*GAN, *DCGAN], 16),
            ("pggan", [*GAN, *PGGAN], 32),
        ):
            where = [f"--run.root={root}", f"--run.name={name}", f"--model.total_images={images}"]
            Train(["fit", *options, *SHORT, *where])
    return root


@pytest.fixture
def exported(runs: Path, tmp_path: Path) -> Path:
    """A good export of the Glow, to be spoilt."""
    export.export_prior(runs / "glow", tmp_path / "out")
    return tmp_path / "out"


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "prior.json").read_text())


def change(folder: Path, **values: Any) -> None:
    (folder / "prior.json").write_text(json.dumps(record_of(folder) | values))


def store(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Other weights, with a prior.json that agrees."""
    content = safetensors.torch.save(tensors)
    (folder / "weights.safetensors").write_bytes(content)
    change(folder, sha256=sha256(content).hexdigest())


def yaml_of_card(folder: Path) -> list[str]:
    """The card's architecture and config.yaml."""
    return re.findall(r"```yaml\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


# --- there and back --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["glow", "dcgan", "pggan"])
def test_an_export_is_the_prior_of_its_run(runs: Path, tmp_path: Path, name: str) -> None:
    record = export.export_prior(runs / name, tmp_path / "out")
    trained, loaded = load_prior(runs / name), load_prior(str(tmp_path / "out"))
    latent = trained.initial_latent([1, 2, 3], 1.0)
    with torch.no_grad():
        assert torch.equal(loaded.decode(latent), trained.decode(latent))
    assert type(loaded) is type(trained)
    assert loaded.fingerprint == trained.fingerprint == record["fingerprint"]
    assert loaded.images_seen == trained.images_seen == (16 if name == "dcgan" else 32)
    assert (loaded.name, loaded.image_shape) == (trained.name, (3, 8, 8))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "weights.safetensors",
        "prior.json",
        "README.md",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing left beside


@pytest.mark.parametrize("name", ["glow", "dcgan"])
def test_half_precision_is_half_the_size_and_nearly_the_prior(
    runs: Path, tmp_path: Path, name: str
) -> None:
    export.export_prior(runs / name, tmp_path / "whole")
    record = export.export_prior(runs / name, tmp_path / "half", half=True)
    whole, half = load_prior(tmp_path / "whole"), load_prior(tmp_path / "half")
    stored = safetensors.torch.load_file(tmp_path / "half" / "weights.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    latent = 0.7 * whole.initial_latent([1, 2, 3], 1.0)
    with torch.no_grad():
        images = whole.decode(latent)
        assert 0 < export.worst_error(half.decode(latent), images) < 1e-2
        if isinstance(half, FlowPrior):
            assert export.worst_error(half.decode(half.encode(images)[0]), images) < 1e-3
    assert half.fingerprint == record["fingerprint"] != whole.fingerprint
    assert record["precision"] == "float16"


def test_half_precision_that_changes_the_prior_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, what in (
        ("DECODING_ERROR", "decoding"),
        ("INVERSION_ERROR", "encoding and decoding"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(export, limit, 1e-12)
            said = (
                rf"^half precision changes this prior: {what} is off by \S+ \(root mean square "
                r"over the worst image\), allowed 1e-12. Export without --half$"
            )
            with pytest.raises(ValueError, match=said):
                export.export_prior(runs / "glow", tmp_path / "out", half=True)
    run = shutil.copytree(runs / "dcgan", tmp_path / "run")
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["state_dict"]["average.layers.0.weight"][0] = 1e5
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    with pytest.raises(
        ValueError, match=r"cannot hold layers.0.weight, whose largest value is 1e\+05"
    ):
        export.export_prior(run, tmp_path / "out", half=True)
    assert not (tmp_path / "out").exists()


def test_prior_json_and_the_card_say_what_it_is(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = runs / "glow" / "checkpoints" / "best.ckpt", tmp_path / "a" / "glow-8px"
    stated = ["--data=faces, drawn", "--licence=CC0 | MIT", "--hardware=a laptop, 1 s"]
    assert export.main([str(checkpoint), str(out), *stated]) == 0
    record = record_of(out)
    assert record["init_args"]["stability"] == {
        "min_scale": 0.5,
        "actnorm_epsilon": 1e-4,
        "activation_clip": None,
    }
    lines = [json.loads(line) for line in (runs / "glow/metrics.jsonl").read_text().splitlines()]
    bits = {
        name.split("/")[1]: value
        for line in lines
        for name, value in line.items()
        if line["images_seen"] == record["images_seen"] and name.startswith("bits_per_dim/")
    }
    assert record["bits_per_dim"] == bits and set(bits) == {"faces-val", "faces-ood"}
    assert f"fingerprint {record['fingerprint']}" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    for said in (
        "faces, drawn",
        r"CC0 \| MIT",
        "a laptop, 1 s",
        f"| images seen in training | {record['images_seen']:,} |",
        f"{bits['faces-val']:.3f} on faces-val",
        f"{record['parameters']:,} parameters",
        record["sha256"],
        'load_prior("glow-8px")',
        "bias",
    ):
        assert said in card, said
    architecture, config = yaml_of_card(out)
    assert yaml.safe_load(architecture)["class_path"] == record["class_path"]
    assert yaml.safe_load(config)["model"]["init_args"]["total_images"] == 32
    export.export_prior(runs / "dcgan", out)  # what is not stated is said to be
    assert "| training data | not stated |" in (out / "README.md").read_text()


def test_the_config_on_the_card_trains(
    runs: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    _, config = yaml_of_card(exported)
    (tmp_path / "config.yaml").write_text(config)
    monkeypatch.setattr(Train, "fit", lambda self, model, **kwargs: None)
    monkeypatch.setattr(Train, "after_fit", lambda self: None)
    options = ["--trainer.accelerator=cpu", "--run.wandb=disabled", f"--run.root={tmp_path}"]
    cli = Train(["fit", f"--config={tmp_path / 'config.yaml'}", *options])
    of_run = load_run(runs / "glow").network.state_dict()
    assert first_difference(cli.model.network.state_dict(), of_run) is None


# --- what is not exported ----------------------------------------------------------------------


def test_a_growing_generator_is_not_exported(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "pggan", tmp_path / "run")
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    torch.save(checkpoint | {"images_seen": 16, "stage": 1}, run / "checkpoints/last.ckpt")
    said = (
        f"the generator of {run} is still growing after 16 images: it can be exported once it has "
        "its final size"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        export.export_prior(run, tmp_path / "out")
    load_prior(run)  # recovery can use it


def test_an_export_is_replaced_and_nothing_else(
    runs: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(runs / "dcgan"), str(exported)]) == 0
    assert record_of(exported)["kind"] == "gan"
    (exported / "notes.txt").touch()  # no longer an export alone
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for place in (exported, tmp_path / "file", tmp_path / "empty", runs / "glow"):
        before = sorted(place.rglob("*"))
        capsys.readouterr()
        assert export.main([str(runs / "glow"), str(place)]) == 2
        said = f"error: {place} exists and is not an export alone: name another folder\n"
        assert capsys.readouterr().err == said
        assert sorted(place.rglob("*")) == before
    assert record_of(exported)["kind"] == "gan"


def test_a_failure_leaves_the_export_before_it(
    runs: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError("No space left on device")

    before = record_of(exported)
    monkeypatch.setattr(export, "read_network", full)
    with pytest.raises(OSError, match="No space"):
        export.export_prior(runs / "dcgan", exported)
    assert record_of(exported) == before
    assert [path.name for path in exported.parent.iterdir()] == ["out"]


def test_a_stop_while_an_export_is_replaced_leaves_the_one_before(
    runs: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if target == exported and self.name == exported.name:
            raise KeyboardInterrupt
        return rename(self, target)

    before = record_of(exported)
    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        export.export_prior(runs / "dcgan", exported)
    assert record_of(exported) == before
    assert [path.name for path in exported.parent.iterdir()] == ["out"]


# --- the priors of this repository ---------------------------------------------------------------

PRETRAINED = REPOSITORY / "pretrained"


def test_configs_name_priors_that_are_here() -> None:
    configs = (REPOSITORY / "configs" / "evaluate").glob("*.yaml")
    text = "".join(path.read_text() for path in configs)
    named = set(re.findall(r"pretrained/([\w-]+)", text))
    assert named == {path.name for path in PRETRAINED.iterdir()}


@pytest.mark.parametrize("name", sorted(path.name for path in PRETRAINED.iterdir()))
def test_a_published_prior_is_what_its_card_says(name: str) -> None:
    prior = load_prior(PRETRAINED / name)  # checked there: its hashes, and an image it decodes
    weights = (PRETRAINED / name / "weights.safetensors").read_bytes()
    card = (PRETRAINED / name / "README.md").read_text()
    for said in (prior.fingerprint, sha256(weights).hexdigest(), "non-commercial"):
        assert said in card
    assert f"{prior.images_seen:,}" in card and "not stated" not in card


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glow-celeba32", "glow-celeba32-deep-6bits"])
def test_a_published_glow_inverts_every_kind_of_image(name: str) -> None:
    """All but noise that is like no image within 1e-4, that within 1e-3 (docs/performance.md)."""
    errors = inversion_errors(load_prior(PRETRAINED / name))
    assert errors.pop("black and white noise").max() < 1e-3
    assert len(errors) == 6
    assert all(error.max() < 1e-4 for error in errors.values()), errors


# --- what is not loaded --------------------------------------------------------------------------


def cut(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def other_values(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "weights.safetensors")
    store(folder, {name: -tensor if "bias" in name else tensor for name, tensor in tensors.items()})


def without_a_weight(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "weights.safetensors")
    del tensors["levels.0.0.matrix"]
    store(folder, tensors)


def in_init_args(folder: Path, **values: Any) -> None:
    change(folder, init_args=record_of(folder)["init_args"] | values)


NO_NETWORK = "OUT: {!r} is no network of networks/: no other is exported or loaded"
BAD: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no weights": (
        lambda folder: (folder / "weights.safetensors").unlink(),
        FileNotFoundError,
        "OUT/weights.safetensors is missing",
    ),
    "no record": (
        lambda folder: (folder / "prior.json").unlink(),
        FileNotFoundError,
        "OUT/prior.json is missing",
    ),
    "cut weights": (
        cut,
        ValueError,
        "OUT/weights.safetensors is damaged, cut or no safetensors file (*)",
    ),
    "empty weights": (
        lambda folder: (folder / "weights.safetensors").write_bytes(b""),
        ValueError,
        "OUT/weights.safetensors is damaged, cut or no safetensors file (*)",
    ),
    "another sha256": (
        flip_a_bit,
        ValueError,
        "OUT/weights.safetensors is not the file that prior.json describes: "
        "its sha256 is *, expected *",
    ),
    "another format": (
        lambda folder: change(folder, format=2),
        ValueError,
        "OUT/prior.json is of format 2; this version reads format 1",
    ),
    "cut record": (
        lambda folder: (folder / "prior.json").write_text('{"format": 1,'),
        ValueError,
        "OUT/prior.json is damaged: *",
    ),
    "no object": (
        lambda folder: (folder / "prior.json").write_text("[1]"),
        ValueError,
        "OUT/prior.json is damaged: *",
    ),
    "no kind": (
        lambda folder: change(folder, kind=None),
        ValueError,
        "OUT/prior.json is damaged: kind is missing or no str",
    ),
    "another kind": (
        lambda folder: change(folder, kind="gan"),
        ValueError,
        "OUT: networks.glow.Glow makes no prior of the kind 'gan'",
    ),
    "another image shape": (
        lambda folder: change(folder, image_shape=[3, 9, 9]),
        ValueError,
        "OUT: networks.glow.Glow has image shape and latent length ((3, 8, 8), 192), "
        "and prior.json says ((3, 9, 9), 192)",
    ),
    "another architecture": (
        lambda folder: in_init_args(folder, hidden=16),
        ValueError,
        "OUT: weights.safetensors is of another architecture than prior.json: "
        "levels.0.0.net.conv1.weight is (8, 6, 3, 3) in the weights and (16, 6, 3, 3) in the "
        "network",
    ),
    "a weight too few": (
        without_a_weight,
        ValueError,
        "OUT: weights.safetensors is of another architecture than prior.json: "
        "levels.0.0.matrix is absent in the weights and (12, 12) in the network",
    ),
    "an unknown argument": (
        lambda folder: in_init_args(folder, deep=True),
        ValueError,
        "OUT: networks.glow.Glow cannot be built from its init_args: * argument 'deep'",
    ),
    "an argument of another type": (
        lambda folder: in_init_args(folder, stability={"class_path": "os.system"}),
        ValueError,
        "OUT: networks.glow.Glow cannot be built from its init_args: * argument 'class_path'",
    ),
    "another stability": (
        lambda folder: in_init_args(
            folder, stability={"min_scale": 0.9, "actnorm_epsilon": 0.1, "activation_clip": None}
        ),
        ValueError,
        "OUT: the sample is another image than when it was exported: off by *, allowed 0.001. "
        "Has networks.glow.Glow changed since?",
    ),
    "other values": (
        other_values,
        ValueError,
        "OUT: the sample is another image than when it was exported: off by *, allowed 0.001. "
        "Has networks.glow.Glow changed since?",
    ),
    "a command": (
        lambda folder: change(folder, class_path="os.system", init_args={"command": "exit 1"}),
        ValueError,
        NO_NETWORK.format("os.system"),
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_export_is_refused(exported: Path, what: str) -> None:
    spoil, error, said = BAD[what]
    spoil(exported)
    pattern = re.escape(said.replace("OUT", str(exported), 1)).replace(r"\*", ".*")
    with pytest.raises(error, match=f"^{pattern}$"):
        load_prior(exported)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("save", [pickle.dump, torch.save])
def test_a_pickle_is_refused_without_being_read(
    exported: Path, tmp_path: Path, save: Callable[[Any, Any], None]
) -> None:
    path, mark = exported / "weights.safetensors", tmp_path / "unpickled"
    with path.open("wb") as file:
        save(Payload(mark), file)
    change(exported, sha256=sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"is damaged, cut or no safetensors file"):
        load_prior(exported)
    assert not mark.exists()


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "networks.glow.nn.Linear",
        "networks.glow.NamedTuple",
        "networks.glow.Stability",
        "networks.glow.FoldedGlow",
        "networks.nowhere.Glow",
        "networks.__init__.Glow",
        "networks...os.system",
        "lightning_modules.Adversarial",
        "",
    ],
)
def test_only_networks_are_named(class_path: str) -> None:
    with pytest.raises(ValueError, match=r"^.* is no network of networks/"):
        network_class(class_path)


def test_a_missing_or_damaged_checkpoint_is_named(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "dcgan", tmp_path / "run")
    best, last = run / "checkpoints/best.ckpt", run / "checkpoints/last.ckpt"
    for path, missing in (
        (best, best),  # a GAN has none
        (tmp_path / "nowhere", tmp_path / "nowhere"),
        (tmp_path, tmp_path / "checkpoints/last.ckpt"),
    ):
        said = f"{missing} is missing: {path} is no run of train.py, checkpoint of one or export"
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(said)}$"):
            load_prior(path)
    for content in (b"", last.read_bytes()[:1000], pickle.dumps(Payload(tmp_path / "mark"))):
        last.write_bytes(content)
        with pytest.raises(ValueError, match=r"last.ckpt is damaged or no checkpoint of train.py"):
            load_prior(run)
    assert not (tmp_path / "mark").exists()
