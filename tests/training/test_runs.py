"""A run and its files: what training leaves, on one process and on two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.inversion import inversion_errors
from priors import load_prior
from results.rows import read_rows
from tests.conftest import REPOSITORY
from tests.helpers import losses, newest, refused, run
from training.cli import Train


def test_a_run_leaves_rows_pictures_samples_and_checkpoints(tiny: list[str]) -> None:
    directory = run(tiny)
    rows = read_rows(directory)
    assert sorted(rows["images_seen"].unique()) == [64, 128, 192]
    during = rows[rows["images_seen"] == 64]
    assert set(during["problem"]) == {"cs-10%", "denoise-0.1"}
    assert len(during) == 2 * 2 * 3
    at_end = rows[rows["images_seen"] == 192]
    assert len(at_end) == 3 * 2 * 5
    assert set(at_end["distribution"]) == {"in", "out"}
    assert at_end.loc[at_end["problem"] == "inpaint-centre", "psnr_hole"].notna().all()
    assert rows["epoch"].tolist() == (rows["images_seen"] // 64).tolist()
    for path in (
        "config.yaml",
        "configs.jsonl",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "samples/000000192.png",
        "pictures/cs-25%/faces-ood/000000192.png",
    ):
        assert (directory / path).exists(), path
    logged = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert all("images_seen" in line for line in logged)
    names = {name for line in logged for name in line}
    inversions = [line["inversion/faces-val"] for line in logged if "inversion/faces-val" in line]
    assert len(inversions) == 3 and 0 < max(inversions) < 1e-5
    assert {
        "bits_per_dim/faces-val",
        "bits_per_dim/faces-ood",
        "inversion/faces-ood",
        "recovery/cs-25%/faces-val/latent-search/psnr",
        "recovery/cs-25%/gap/latent-search/psnr",
        "recovery/seconds",
        "recovery/share_of_time",
    } <= names


def test_a_finished_run_recovers_other_sets_from_its_checkpoint(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(tiny, "--model.total_images=64")
    again = [f"--ckpt_path={newest(directory)}", "--run.name=again", "--model.total_images=64"]
    other = run(tiny, *again, "--recovery.at_end.problems=[denoise-0.2]")
    assert set(read_rows(other)["problem"]) == {"denoise-0.2"}
    assert not losses(other)
    said = refused(capsys, [*tiny, *again, "--model.bits=3"])
    assert "bits: 5 -> 3" in said
    foreign = directory / "foreign.ckpt"
    torch.save({"weights": torch.zeros(1)}, foreign)
    said = refused(capsys, [*tiny, f"--ckpt_path={foreign}", "--run.name=other"])
    assert "foreign.ckpt is damaged or no checkpoint of train.py" in said


def test_a_cut_metrics_file_is_mended(tiny: list[str]) -> None:
    directory = run(tiny, "--model.total_images=64")
    path = directory / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run(tiny, "--model.total_images=128")
    assert max(losses(directory)) == 128
    assert (directory / "curves.png").exists()


@pytest.mark.slow
def test_two_processes_train_and_recover(tiny: list[str], tmp_path: Path) -> None:
    """With the cluster overlay: equal steps, every image once, the same weights on both ranks."""
    arguments = [
        *tiny[:2],
        "--config=configs/cluster.yaml",
        *tiny[2:],
        "--trainer.devices=2",
        "--trainer.callbacks+=tests.helpers.SaveRank",
        f"--trainer.callbacks.folder={tmp_path}",
    ]
    subprocess.run(
        [sys.executable, "train.py", *arguments],
        check=True,
        cwd=REPOSITORY,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0]["steps"] == ranks[1]["steps"] == 12
    assert ranks[0]["indices"].isdisjoint(ranks[1]["indices"])
    assert len(ranks[0]["indices"]) == len(ranks[1]["indices"])
    for moment in ("initial", "final"):
        assert ranks[0][moment].keys() == ranks[1][moment].keys()
        for name, tensor in ranks[0][moment].items():
            assert torch.equal(tensor, ranks[1][moment][name]), (moment, name)
    directory = tmp_path / "runs" / "demo"
    rows = read_rows(directory)
    at_end = rows[rows["images_seen"] == 192]
    assert len(at_end) == 3 * 2 * 5
    assert not at_end.duplicated(["problem", "dataset", "image"]).any()
    assert (directory / "rows-rank1.csv").exists()
    metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    name = "recovery_at_end/cs-25%/faces-val/latent-search/psnr"
    logged = [m[name] for m in metrics if name in m]
    of_set = at_end[(at_end["problem"] == "cs-25%") & (at_end["dataset"] == "faces-val")]
    assert logged == [pytest.approx(of_set["psnr"].mean(), abs=1e-3)]  # over both ranks


def test_a_prior_is_loaded_from_its_run(tiny: list[str]) -> None:
    cli = Train(tiny)
    prior = load_prior(cli.run.directory)
    trained = cli.model.prior()
    latent = torch.randn(2, prior.latent_dim)
    assert torch.equal(prior.decode(latent), trained.decode(latent))
    assert prior.fingerprint == trained.fingerprint
    rows = read_rows(cli.run.directory)
    texts = (cli.run.directory / "configs.jsonl").read_text()
    assert prior.fingerprint in texts and rows["config"].iloc[-1] in texts
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_prior(cli.run.directory / "checkpoints/first.ckpt")


@pytest.mark.slow
def test_a_trained_prior_inverts_every_kind_of_image(tmp_path: Path) -> None:
    """By default; how often the paper's formulas fail is measured in docs/performance.md."""
    directory = run(
        [
            "fit",
            "--config=configs/demo.yaml",
            f"--run.root={tmp_path}",
            "--run.wandb=disabled",
            "--trainer.accelerator=cpu",
            "--data.training_images=1600",
            "--model.total_images=1600",
            "--recovery.during.problems=[]",
            "--recovery.at_end.problems=[]",
        ]
    )
    errors = inversion_errors(load_prior(directory))
    assert len(errors) == 7
    assert all(error.max() < 1e-4 for error in errors.values()), errors
