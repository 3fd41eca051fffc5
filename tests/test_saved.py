"""What version 0.1 wrote goes on working: its run, its export, its evaluation (tests/saved)."""

import csv
import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

import evaluate
import train
from evaluation.config import read_evaluation
from priors import load_prior
from results.rows import COLUMNS, read_rows
from tests.conftest import REPOSITORY
from tests.helpers import refused

SAVED = REPOSITORY / "tests" / "saved"
BEFORE_KINDS = [column for column in COLUMNS if column != "kind"]


def cells(path: Path) -> list[dict[str, str]]:
    """The rows of a file as text, to the digit."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_kept(before: Path, after: Path) -> None:
    """Every row is there, digit for digit and in order, with the kind of its problem."""
    old, new = cells(before), cells(after)
    assert list(old[0]) == BEFORE_KINDS and list(new[0]) == COLUMNS
    assert [{name: row[name] for name in BEFORE_KINDS} for row in new[: len(old)]] == old
    assert all(row["kind"] == row["problem"].split("-")[0] for row in new)


# --- the run


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAVED / "run", tmp_path / "old"))


def resume(directory: Path, *options: str) -> list[str]:
    """The command that made the run, for more images."""
    config, root = SAVED / "run" / "config.yaml", directory.parent
    return ["fit", f"--config={config}", f"--run.root={root}", "--model.total_images=192", *options]


def forget(path: Path, option: str) -> None:
    """Take an option of the model out of a config, as if it had not existed yet."""
    config = yaml.safe_load(path.read_text())
    del config["model"]["init_args"][option]
    path.write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.slow
def test_its_run_resumes(old_run: Path) -> None:
    """Although an option is new since then."""
    forget(old_run / "config.yaml", "sample_temperature")
    command = [sys.executable, "train.py", *resume(old_run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"Resuming from {old_run / 'checkpoints' / 'last.ckpt'}" in done.stdout
    assert "model.init_args.total_images: 64 -> 192" in done.stdout
    assert "sample_temperature" not in done.stdout
    assert_kept(SAVED / "run" / "rows.csv", old_run / "rows.csv")
    recovered = read_rows(old_run).groupby("images_seen").size().to_dict()
    assert recovered == {64: 36, 128: 12, 192: 30}
    trained = [
        line["images_seen"]
        for line in map(json.loads, (old_run / "metrics.jsonl").read_text().splitlines())
        if "train/bits_per_dim" in line
    ]
    assert trained == [*range(8, 200, 8)]
    assert load_prior(old_run).images_seen == 192


def test_its_run_refuses_another_meaning(old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forget(old_run / "config.yaml", "sample_temperature")
    said = refused(capsys, resume(old_run, "--model.bits=4"))
    assert "model.init_args.bits: 5 -> 4" in said and "changes what the run is" in said
    said = refused(capsys, resume(old_run, "--model.sample_temperature=0.5"))
    assert "model.init_args.sample_temperature: 0.7 -> 0.5" in said
    assert (old_run / "rows.csv").read_bytes() == (SAVED / "run" / "rows.csv").read_bytes()


# --- its priors


@pytest.mark.parametrize(
    ("name", "kind", "means"),
    [  # of the images of two latents, as version 0.1 decoded them
        ("run", "glow", [0.479604, 0.4714899]),
        ("export", "glow", [0.479604, 0.4714899]),
        ("gan-run", "pggan", [0.4522451, 0.4375064]),
    ],
)
def test_its_priors_decode_as_they_did(name: str, kind: str, means: list[float]) -> None:
    prior = load_prior(SAVED / name)
    assert (prior.name, prior.images_seen, prior.image_shape) == (kind, 64, (3, 8, 8))
    decoded = prior.decode(prior.initial_latent([1, 2], 0.7))
    assert decoded.mean(dim=(1, 2, 3)).tolist() == pytest.approx(means, abs=1e-5)


@pytest.mark.parametrize("name", ["run", "gan-run"])
def test_its_rows_are_of_the_weights_that_are_loaded(name: str) -> None:
    lines = (SAVED / name / "configs.jsonl").read_text().splitlines()
    recorded = {json.loads(line)["config"]["weights"] for line in lines}
    assert recorded == {load_prior(SAVED / name).fingerprint}


def test_its_run_and_its_export_are_one_prior() -> None:
    run, export = load_prior(SAVED / "run"), load_prior(SAVED / "export")
    assert run.fingerprint == export.fingerprint
    latent = run.initial_latent([3, 4, 5], 0.7)
    assert torch.equal(run.decode(latent), export.decode(latent))


# --- its evaluation

CONFIG = f"""
name: old
image_size: 8
device: cpu
pictures: 1
priors: {{glow: {SAVED / "export"}}}
sets: {{faces-val: in, faces-ood: out}}
trials:
  problems: [cs-25%, denoise-0.1]
  methods: [glow, lasso-dct]
  sets: [faces-val, faces-ood]
  images: 3
"""


def test_its_evaluation_has_nothing_left_to_recover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(SAVED / "evaluation", tmp_path / "old"))
    (tmp_path / "old.yaml").write_text(CONFIG)
    command = [f"--config={tmp_path / 'old.yaml'}", f"--root={tmp_path}"]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("recovered again")

    monkeypatch.setattr("evaluation.pool.run_trials", never)
    evaluate.main(command)
    assert (folder / "configs.jsonl").read_text() == (
        SAVED / "evaluation/configs.jsonl"
    ).read_text()
    assert_kept(SAVED / "evaluation" / "rows.csv", folder / "rows.csv")
    assert len(cells(folder / "rows.csv")) == len(cells(SAVED / "evaluation" / "rows.csv")) == 24
    assert "lasso-dct" in (folder / "report.md").read_text()


# --- its configs

CLASSES = {
    "datamodules.faces": "ProceduralFaces ShardedFaces",
    "lightning_modules": "Adversarial MaximumLikelihood",
    "networks.dcgan": "Discriminator Generator",
    "networks.deep_decoder": "DeepDecoder",
    "networks.deep_image_prior": "DeepImagePrior",
    "networks.glow": "Glow",
    "networks.pggan": "Discriminator Generator",
    "networks.resize_gan": "Discriminator Generator",
    "recovery.bm3d": "BM3D",
    "recovery.csgm": "Csgm generator_surgery iagan_stage_1",
    "recovery.deepinv": "TotalVariation",
    "recovery.image_adaptive": "ImageAdaptive ia_dcgan iagan",
    "recovery.lasso": "Lasso",
    "recovery.latent_search": "LatentSearch",
    "recovery.linear": "Adjoint PseudoInverse",
    "recovery.operators": "Denoising GaussianSensing Inpainting",
    "recovery.starts": "Encoded Normal OnSphere",
    "recovery.untrained": "Untrained",
    "studies.bias": "Bias",
    "studies.jacobian": "Jacobian",
    "studies.latent_norm": "LatentNorm",
    "studies.latent_step": "LatentStep",
    "studies.samples": "Samples",
    "studies.theorem1": "Theorem1",
    "studies.toy": "RealNVPToy",
}


def test_what_its_configs_name_is_still_there() -> None:
    for module, names in CLASSES.items():
        for name in names.split():
            assert callable(getattr(import_module(module), name, None)), f"{module}.{name}"


def test_its_way_through_deepinvs_channels_is_still_named(tmp_path: Path) -> None:
    pytest.importorskip("deepinv", reason="deepinv is not installed")
    mask = "{class_path: deepinv.physics.generator.GaussianMaskGenerator}"
    mri = f"{{class_path: deepinv.physics.MRI, init_args: {{mask: {mask}}}}}"
    (tmp_path / "mri.yaml").write_text(
        f"""
name: mri
problems:
  mri:
    operator:
      class_path: recovery.deepinv.PerChannel
      init_args: {{complex: true, physics: {mri}}}
"""
    )
    found, _ = read_evaluation([f"--config={tmp_path / 'mri.yaml'}"])
    assert found.problems["mri"].operator((3, 16, 16)).measurements > 0


# --- what needs no Lightning


@pytest.mark.parametrize(
    "program",
    [
        "import priors; priors.load_prior('tests/saved/export')",
        "import evaluation.config, evaluation.run",
    ],
)
def test_a_prior_is_used_without_what_trains_it(program: str) -> None:
    unwanted = ["pytorch_lightning", "lightning", "wandb"]
    check = f"import sys; {program}; print([name for name in {unwanted} if name in sys.modules])"
    command = [sys.executable, "-c", check]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_run_whose_config_names_a_class_that_is_gone_goes_on(
    old_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = old_run / "config.yaml"
    path.write_text(path.read_text().replace("latent_search.LatentSearch", "latent_search.Gone"))
    train.main(resume(old_run, "--recovery.at_end.problems=[]", "--recovery.during.problems=[]"))
    said = capfd.readouterr().out
    assert "recovery.latent_search.Gone" in said  # shown as what has changed
    assert "Resuming from" in said
