"""Training as a user runs it: resuming, recovering, refusing, on one process and on two."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import wandb
import yaml
from PIL import Image
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy

from benchmarks.inversion import inversion_errors
from callbacks.checkpoints import Checkpoints, WholeFiles, newest_checkpoint
from callbacks.recovery import RecoveryDuringTraining
from datamodules import prepare
from datamodules.procedural import faces
from lightning_modules import Adversarial, MaximumLikelihood
from lightning_modules.clock import warmup_then_decay
from networks.glow import Glow, Stability
from priors import load_prior
from priors.export import export_prior
from priors.prior import GanPrior
from results.rows import KEY, RowFile, read_rows
from tests.helpers import Killed, kill_at, refused
from training.cli import Train, plugins_with
from training.run import flatten

REPOSITORY = Path(__file__).parent.parent
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
OVERLAYS = {"defaults.yaml", "baselines.yaml", "cluster.yaml", "paper_parity.yaml"}
OVERLAYS |= {"glow_celeba32_deep.yaml"}
EXPERIMENTS = [path for path in CONFIGS if path.name not in OVERLAYS]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("INVERTIBLE_PRIORS_TRACEBACK", "1")


def run(arguments: list[str], *more: str) -> Path:
    """Train as from the command line; returns the run directory."""
    return Train([*arguments, *more]).run.directory


def losses(directory: Path) -> dict[int, float]:
    """Training loss by images_seen; a later line (a resumed run's) replaces an earlier one."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return {
        int(line["images_seen"]): line["train/bits_per_dim"]
        for line in lines
        if "train/bits_per_dim" in line
    }


def assert_same_checkpoint(one: Path, other: Path) -> None:
    a, b = (torch.load(newest(path), weights_only=True) for path in (one, other))
    assert a["images_seen"] == b["images_seen"]
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert all(
        torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"]
    )
    moments_a, moments_b = (c["optimizer_states"][0]["state"] for c in (a, b))
    for index in moments_a:
        assert all(
            torch.equal(moments_a[index][key], moments_b[index][key]) for key in moments_a[index]
        )


def newest(directory: Path) -> Path:
    path = newest_checkpoint(directory)
    assert path is not None
    return path


# --- a run -----------------------------------------------------------------------------------


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
    assert {
        "bits_per_dim/faces-val",
        "bits_per_dim/faces-ood",
        "recovery/cs-25%/faces-val/latent-search/psnr",
        "recovery/cs-25%/gap/latent-search/psnr",
        "recovery/seconds",
        "recovery/share_of_time",
    } <= names


def test_the_same_images_noise_and_operators_every_epoch(tiny: list[str]) -> None:
    rows = read_rows(run(tiny, "--model.learning_rate=0"))
    problem = rows[(rows["problem"] == "cs-10%")]
    by_epoch = problem.pivot_table(index=["dataset", "image"], columns="images_seen", values="psnr")
    assert by_epoch.shape == (6, 2)
    assert (by_epoch[64] - by_epoch[128]).abs().max() < 0.02  # only the average still settles


def test_recovery_leaves_training_untouched(tiny: list[str], tmp_path: Path) -> None:
    on = run(tiny)
    off = run(
        tiny,
        "--run.name=off",
        "--recovery.during.problems=[]",
        "--recovery.at_end.problems=[]",
    )
    assert len(losses(on)) == 24
    assert losses(on) == losses(off)
    assert_same_checkpoint(on, off)


# --- resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("killed_at", [32, 64, 112])  # in the first epoch, at its end, in the next
def test_resumes_bit_for_bit(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, killed_at: int, accumulate: int
) -> None:
    options = [
        f"--trainer.accumulate_grad_batches={accumulate}",
        "--data.flip=true",
        "--checkpoints.every_minutes=0",
        "--recovery.during.problems=[]",
        "--recovery.at_end.problems=[]",
    ]
    whole = run(tiny, *options, "--run.name=whole")
    with monkeypatch.context() as patch:
        kill_at(patch, killed_at)
        with pytest.raises(Killed):
            run(tiny, *options, "--run.name=resumed")
    resumed = run(tiny, *options, "--run.name=resumed")
    assert_same_checkpoint(whole, resumed)
    assert losses(whole) == losses(resumed)


def test_a_run_killed_between_its_last_checkpoints_hands_out_the_last_weights(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tiny, "--run.name=whole")
    save = Checkpoints.save

    def killed(self: Checkpoints, trainer: pl.Trainer, name: str) -> None:
        if name == "last" and trainer.lightning_module.images_seen == 192:
            raise Killed
        save(self, trainer, name)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(Killed):
            run(tiny, "--run.name=resumed")
    resumed = run(tiny, "--run.name=resumed")
    assert load_prior(resumed).fingerprint == load_prior(whole).fingerprint
    assert (resumed / "samples" / "000000192.png").exists()
    assert set(read_rows(resumed)["images_seen"]) == set(read_rows(whole)["images_seen"])


def test_the_best_inside_an_epoch_is_saved_there() -> None:
    class Validated:
        """As much of a trainer as `Checkpoints` asks."""

        def __init__(self, value: float, last: bool) -> None:
            self.callback_metrics, self.is_last_batch = {"bits": value}, last

    saved: list[tuple[float, str]] = []
    checkpoints = Checkpoints(monitor="bits")
    checkpoints.save = lambda trainer, name: saved.append(  # type: ignore[method-assign,assignment]
        (trainer.callback_metrics["bits"], name)
    )
    for value, last in ((1.0, False), (3.0, True), (0.5, True)):
        trainer: Any = Validated(value, last)
        checkpoints.on_validation_end(trainer, None)  # type: ignore[arg-type]
        if last:
            checkpoints.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert saved == [(1.0, "best"), (3.0, "last"), (0.5, "best"), (0.5, "last")]


def test_a_recovery_that_was_due_is_finished_first(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_rows(run(tiny, "--run.name=whole"))
    append = RowFile.append
    calls = 0

    def dying(self: RowFile, rows: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RowFile, "append", dying)
        with pytest.raises(Killed):
            run(tiny, "--run.name=resumed")
    directory = run(tiny, "--run.name=resumed")
    text = (directory / "rows.csv").read_text().splitlines()
    resumed = read_rows(directory)
    assert len(text) == 1 + len(resumed) == 1 + len(whole)  # none lost, none computed twice
    key = [name for name in KEY if name != "run"]
    both = whole.merge(resumed, on=key, suffixes=("", "_resumed"))
    assert len(both) == len(whole)
    assert (both["psnr"] - both["psnr_resumed"]).abs().max() < 0.02


def test_a_finished_run_trains_nothing_and_shows_its_table(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(tiny)
    first = (directory / "rows.csv").read_text()
    count = len(losses(directory))
    capsys.readouterr()
    before = newest(directory).stat().st_mtime_ns
    run(tiny)
    assert "after 192 images" in capsys.readouterr().out
    assert newest(directory).stat().st_mtime_ns == before
    assert (directory / "rows.csv").read_text() == first
    assert len(losses(directory)) == count


def test_more_images_continue_a_finished_run(tiny: list[str]) -> None:
    run(tiny)
    directory = run(tiny, "--model.total_images=256", "--model.decay_fraction=0.3")
    assert max(losses(directory)) == 256


def test_a_damaged_checkpoint_is_left_out(tiny: list[str]) -> None:
    directory = run(tiny, "--model.total_images=64")
    last = directory / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    for left in (0, 1000, len(whole) // 2, len(whole) - 1000):
        last.write_bytes(whole[:left])
        with pytest.warns(UserWarning, match="damaged"):
            assert newest_checkpoint(directory) == directory / "checkpoints" / "best.ckpt"


def test_a_run_with_damaged_checkpoints_alone_does_not_begin_anew(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(tiny, "--model.total_images=64")
    (directory / "checkpoints" / "best.ckpt").unlink()
    (directory / "checkpoints" / "last.ckpt").write_bytes(b"")
    said = refused(capsys, tiny)
    assert "last.ckpt is damaged" in said and "move the file away to begin anew" in said
    assert (directory / "checkpoints" / "last.ckpt").read_bytes() == b""


def test_a_machine_that_dies_while_saving_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeFiles().save_checkpoint({"images_seen": 1}, path)

    def dying(checkpoint: Any, file: Any) -> None:
        file.write(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dying)
        with pytest.raises(Killed):
            WholeFiles().save_checkpoint({"images_seen": 2}, path)
    assert torch.load(path, weights_only=True) == {"images_seen": 1}
    WholeFiles().save_checkpoint({"images_seen": 3}, path)
    assert torch.load(path, weights_only=True) == {"images_seen": 3}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_slurm_requeues_to_the_runs_own_checkpoint(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("NTASKS", "1"), ("PROCID", "0"), ("LOCALID", "0"), ("NODEID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_NAME", "glow")

    def check(cli: Train) -> None:
        environment = cli.trainer._accelerator_connector.cluster_environment
        assert isinstance(environment, SLURMEnvironment) and not environment.auto_requeue
        assert isinstance(cli.trainer.strategy.checkpoint_io, WholeFiles)

    configured(monkeypatch, [*tiny[1:], "--trainer.devices=1"], check)
    named = LightningEnvironment()  # a config's own choice stands
    assert [type(plugin) for plugin in plugins_with(named)] == [type(named), WholeFiles]


@pytest.mark.parametrize("asked", ["auto", "online"])
def test_a_wandb_out_of_reach_is_named_or_done_without(
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    init = wandb.init

    def without_network(**options: Any) -> Any:
        if "WANDB_MODE" not in os.environ:
            raise wandb.errors.CommError("no route to api.wandb.ai")
        return init(**options)

    monkeypatch.setattr(wandb, "init", without_network)
    monkeypatch.delenv("WANDB_MODE")
    arguments = [*tiny, f"--run.wandb={asked}", "--model.total_images=64"]
    if asked == "online":
        assert "no route to api.wandb.ai. --run.wandb offline" in refused(capsys, arguments)
        return
    directory = run(arguments)
    wandb.finish()
    assert "This run is logged offline" in capsys.readouterr().out
    assert list((directory / "wandb").glob("offline-run-*"))


def test_wandb_keeps_its_run_and_its_axis(tiny: list[str]) -> None:
    directory = run(tiny, "--run.wandb=offline", "--model.total_images=64")
    identity = (directory / "wandb_id").read_text()
    wandb.finish()  # as the end of the process does
    run(tiny, "--run.wandb=offline", "--model.total_images=128")
    wandb.finish()
    assert (directory / "wandb_id").read_text() == identity
    folders = sorted(path.name for path in (directory / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert all(name.endswith(identity) for name in folders)


def test_a_recovery_that_was_due_is_finished_on_other_devices(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A global batch of 12 after one of 8: the resumed run is in the middle of an epoch."""
    append = RowFile.append

    def dying(self: RowFile, rows: Any) -> None:
        append(self, rows)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RowFile, "append", dying)
        with pytest.raises(Killed):
            run(tiny)
    rows = read_rows(run(tiny, "--data.batch_size=12", "--run.accept_changes=true"))
    due = rows[rows["images_seen"] == 64]
    assert len(due) == 2 * 2 * 3 and set(due["epoch"]) == {1}  # problems, sets, images


def test_recovery_goes_on_with_another_number_of_devices(tiny: list[str]) -> None:
    """A global batch of 12 after one of 8: epochs end off the multiples of an epoch's images."""
    run(tiny, "--model.total_images=64")
    more = ["--model.total_images=264", "--data.batch_size=12", "--run.accept_changes=true"]
    rows = read_rows(run(tiny, *more))
    watched = rows[rows["problem"] == "cs-10%"]
    assert sorted(watched["images_seen"].unique()) == [64, 124, 184, 244]  # 5 steps of 12 apart


@pytest.mark.parametrize("method_batches", [2, 16])
def test_pictures_of_several_methods(tiny: list[str], tmp_path: Path, method_batches: int) -> None:
    search = "class_path: recovery.latent_search.LatentSearch"
    methods = f"{{short: {{{search}, init_args: {{evaluations: 2}}}}, long: {{{search}}}}}"
    directory = run(
        tiny,
        "--model.total_images=64",
        f"--recovery.methods={methods}",
        "--recovery.at_end.problems=[denoise-0.1]",
        f"--recovery.batch_size={method_batches}",
        "--recovery.pictures=5",
    )
    with Image.open(directory / "pictures/denoise-0.1/faces-val/000000064.png") as picture:
        assert picture.size == (4 * 9 + 1, 5 * 9 + 1)  # truth, measurement, short, long
    assert set(read_rows(directory)["method"]) == {"short", "long"}


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


@pytest.mark.parametrize("origin", ["run", "checkpoint", "half"])
def test_a_run_begins_from_the_weights_of_a_flow(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], origin: str
) -> None:
    """Of a learning rate of 0 the weights stay those; the clock, the data and noise begin anew."""
    directory = run(tiny, "--model.total_images=64")
    path = {"run": directory, "checkpoint": newest(directory), "half": tmp_path / "half"}[origin]
    if origin == "half":
        export_prior(directory, path, half=True)
    begun = [*tiny, "--run.name=begun", "--model.learning_rate=0", f"--run.begin_from={path}"]
    if origin == "run":
        begun.append("--model.ema_half_life=null")
    again = run(begun, "--model.total_images=16")
    prior, theirs = load_prior(again), load_prior(path)
    assert prior.images_seen == 16
    assert prior.fingerprint == theirs.fingerprint
    name = "half" if origin == "half" else "demo"
    said = f"{name} (64 images, fingerprint {theirs.fingerprint})"
    assert f"Beginning from the weights of {said}" in capsys.readouterr().out
    changed = refused(capsys, begun[:-1] if origin == "half" else [*begun, "--run.begin_from=null"])
    assert "run.begin_from changes what the run is" in changed

    with torch.no_grad():  # where the run has a checkpoint, it goes on from that
        moved = torch.load(newest(again), weights_only=True)
        for name in ("network", "average"):
            if f"{name}.levels.0.0.norm.bias" in moved["state_dict"]:
                moved["state_dict"][f"{name}.levels.0.0.norm.bias"] += 1
        torch.save(moved, newest(again))
    run(begun, "--model.total_images=32")
    assert load_prior(again).images_seen == 32
    assert load_prior(again).fingerprint != theirs.fingerprint
    export_prior(again, card := tmp_path / "card")
    assert f"| 32, begun from the weights of {said} |" in (card / "README.md").read_text()
    assert "and the prior it began from as `--run.begin_from`" in (card / "README.md").read_text()
    assert json.loads((card / "prior.json").read_text())["begun_from"] == said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.network.hidden=4"], "of another architecture: levels.0.0.net.conv1.weight is"),
        (["--model.network.stability.min_scale=0.499"], "make another flow in this config"),
        (["--model.network.stability.activation_clip=0.1"], "make another flow in this config"),
        (["--model.network.image_size=16", "--data.image_size=16"], "are of images (3, 8, 8)"),
        (["--ckpt_path=some.ckpt"], "--ckpt_path and run.begin_from cannot both"),
        (["--run.begin_from=nowhere"], "nowhere is missing: nowhere is no run of train.py"),
    ],
)
def test_weights_that_a_run_cannot_begin_from_are_refused(
    tiny: list[str], capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """Before the run leaves a trace, in its folder or in W&B."""
    directory = run(tiny, "--model.total_images=16")
    begun = ["--run.name=begun", "--run.wandb=offline", f"--run.begin_from={directory}"]
    assert message in refused(capsys, [*tiny, *begun, *options])
    assert not (directory.parent / "begun").exists()


def test_a_gan_cannot_begin_from_a_flow(tiny: list[str], capsys: Any, tmp_path: Path) -> None:
    directory = run(tiny, "--model.total_images=16")
    gan = ["fit", "--config=configs/demo_gan.yaml", f"--run.root={tmp_path}", "--run.name=begun"]
    assert "no discriminator" in refused(capsys, [*gan, f"--run.begin_from={directory}"])
    assert not (tmp_path / "begun").exists()


def test_the_same_flow_has_the_same_bounds_even_where_its_inverse_is_not_finite() -> None:
    torch.manual_seed(0)
    network = Glow(8, steps=1, levels=2, hidden=8, stability=Stability.paper())
    network.initialize(torch.rand(16, 3, 8, 8) - 0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
        network.levels[0][0].net.conv3.bias.fill_(-200.0)  # type: ignore[index, union-attr]
    assert not network.inverse(torch.randn(1, 192)).isfinite().all()
    MaximumLikelihood(copy.deepcopy(network), total_images=1).take_weights(network)


def test_a_cut_metrics_file_is_mended(tiny: list[str]) -> None:
    directory = run(tiny, "--model.total_images=64")
    path = directory / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run(tiny, "--model.total_images=128")
    assert max(losses(directory)) == 128
    assert (directory / "curves.png").exists()


def test_infinite_gradients_never_reach_the_weights() -> None:
    network = torch.nn.Linear(2, 1)
    module = MaximumLikelihood(network, total_images=1, clip_value=5.0)
    module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    optimizer = module.configure_optimizers()
    for bad in (torch.inf, torch.nan):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, bad)
        with pytest.raises(FloatingPointError, match=r"not taken.*accept_changes true and a lower"):
            module.on_before_optimizer_step(optimizer)


@pytest.mark.slow
def test_resumes_from_shards_read_by_workers(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, distribution, count in (("a", "in", 70), ("b", "in", 5), ("c", "out", 5)):
        folder = tmp_path / name
        folder.mkdir()
        for index, face in enumerate(faces(range(count), distribution=distribution)):
            Image.fromarray(face.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
        out = str(tmp_path / "data/8px" / name)
        assert prepare.main([str(folder), out, "--image-size=8", "--shard-size=16"]) == 0
    options = [
        "--data=datamodules.faces.ShardedFaces",
        "--data.image_size=8",
        "--data.batch_size=8",
        f"--data.root={tmp_path / 'data'}",
        "--data.train=a",
        "--data.in_distribution=[b]",
        "--data.out_of_distribution=[c]",
        "--data.window=2",
        "--data.num_workers=2",
        "--checkpoints.every_minutes=0",
        "--recovery.during.problems=[]",
        "--recovery.at_end.problems=[]",
    ]
    arguments = [argument for argument in tiny if not argument.startswith("--data.")]
    whole = run(arguments, *options, "--run.name=whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 104)
        with pytest.raises(Killed):
            run(arguments, *options, "--run.name=resumed")
    resumed = run(arguments, *options, "--run.name=resumed")
    assert_same_checkpoint(whole, resumed)
    assert losses(whole) == losses(resumed)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.learning_rat=1", "learning_rat"),
        ("--model.learning_rate=fast", "learning_rate"),
        ("--model.bits=9", "model.bits must be in 1..8, got 9"),
        ("--recovery.during.problems=[cs-11%]", "no problem is named 'cs-11%'"),
        ("--trainer.max_epochs=3", "Set model.total_images instead"),
        ("--trainer.precision=bf16-true", "bf16-true' is not supported"),
        ("--data.image_size=16", "image_size is 8 and data.image_size is 16"),
        ("--data.batch_size=100", "70 training images are fewer than one global batch of 100"),
        ("--model.learning_rate=1e30", "not finite after"),
        ("--samples.count=0", "samples.count must be at least 1"),
        ("--recovery.pictures=0", "recovery.pictures must be at least 1"),
        ("--recovery.batch_size=0", "recovery.batch_size must be at least 1"),
        ("--recovery.during.images=-1", "recovery.during.images must be at least 1"),
        ("--model.ema_half_life=0", "model.ema_half_life must be at least 1"),
        ("--optimizer=SGD", "optimizer"),
        ("--trainer.precision=64-true", "64-true' is not supported"),
    ],
)
def test_bad_values_are_named(
    tiny: list[str], capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    assert said in refused(capsys, [*tiny, option])


def test_missing_data_is_named(
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_DATA", raising=False)
    arguments = ["fit", "--config=configs/glow_celeba32.yaml", f"--run.root={tmp_path}"]
    arguments += ["--run.wandb=disabled", "--trainer.accelerator=cpu"]
    assert "INVERTIBLE_PRIORS_DATA" in refused(capsys, arguments)
    assert "INVERTIBLE_PRIORS_DATA" in refused(capsys, [*arguments, "--run.wandb=offline"])
    assert not list(tmp_path.iterdir())  # nor did W&B hear of it
    said = refused(capsys, [*arguments, f"--data.root={tmp_path / 'nowhere'}"])
    assert "nowhere/32px/celeba-train" in said and "datamodules.prepare" in said


def test_a_changed_config_is_shown_and_refused_or_accepted(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(tiny, "--model.total_images=64")
    said = refused(capsys, [*tiny, "--model.total_images=64", "--model.network.hidden=16"])
    assert "network.init_args.hidden: 8 -> 16" in said and "--run.accept_changes" in said
    said = refused(capsys, [*tiny, "--model.network.hidden=16", "--run.accept_changes=true"])
    assert "another architecture" in said and "conv1.weight" in said
    assert max(losses(directory)) == 64
    run(tiny, "--model.total_images=128")  # a length may change
    assert max(losses(directory)) == 128


# --- several processes -----------------------------------------------------------------------


def test_processes_that_resume_at_different_times_are_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = torch.nn.Linear(2, 1)
    network.initialized = torch.tensor(True)
    module = MaximumLikelihood(network, total_images=10)
    module.images_seen = 4
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=2, default_root_dir=tmp_path, precision="32-true"
    )
    for others, agreed in ((4, True), (0, False)):

        def gather(found: list[int], mine: int, others: int = others) -> None:
            found[:] = [mine, others]

        monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
        if agreed:
            module.on_fit_start()
            continue
        with pytest.raises(ValueError, match="different times, 0 to 4 images seen"):
            module.on_fit_start()


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


# --- configs ---------------------------------------------------------------------------------


def configured(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], check: Callable[[Train], None]
) -> None:
    """Instantiate everything a command names, without data and training."""
    monkeypatch.setattr(Train, "fit", lambda self, model, **kwargs: None)
    monkeypatch.setattr(Train, "after_fit", lambda self: None)
    check(Train(["fit", *arguments, "--run.wandb=disabled", "--trainer.accelerator=cpu"]))


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if p.name not in OVERLAYS], ids=lambda p: p.stem
)
def test_every_config_instantiates(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def check(cli: Train) -> None:
        assert cli.model.image_shape[-1] == cli.datamodule.image_size
        assert cli.run.name == path.stem.replace("_", "-")
        if isinstance(cli.model, Adversarial):
            prior = GanPrior(cli.model.generator, "gan")
            for name, method in cli.config_init.fit.recovery.methods.items():
                assert callable(method.make(prior, 0.0).recover), name

    configured(monkeypatch, [f"--config={path}", f"--run.root={tmp_path}"], check)


def test_an_overlay_does_not_drop_callbacks(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kinds: list[list[str]] = []

    def check(cli: Train) -> None:
        kinds.append([type(callback).__name__ for callback in cli.trainer.callbacks])
        recovery = next(c for c in cli.trainer.callbacks if isinstance(c, RecoveryDuringTraining))
        assert "cs-10%" in recovery.problems

    plain = ["--config=configs/demo.yaml", f"--run.root={tmp_path}"]
    configured(monkeypatch, plain, check)
    overlay = ["--config=configs/cluster.yaml", "--trainer.devices=1", "--trainer.strategy=auto"]
    configured(monkeypatch, [*plain, *overlay, "--run.accept_changes=true"], check)
    assert kinds[0] == kinds[1]
    assert {"ImageProgress", "Samples", "Checkpoints", "RecoveryDuringTraining"} <= set(kinds[0])
    assert kinds[0].index("Checkpoints") < kinds[0].index("RecoveryDuringTraining")


def test_a_cluster_waits_for_the_recoveries_of_others(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(cli: Train) -> None:
        assert isinstance(cli.trainer.strategy, DDPStrategy)
        assert cli.trainer.strategy._timeout == timedelta(hours=6)

    overlay = ["--config=configs/cluster.yaml", "--trainer.devices=1"]
    configured(monkeypatch, [*tiny[1:], *overlay], check)


def test_the_deep_overlay_changes_depth_and_schedule_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = ["--config=configs/glow_celeba32.yaml", f"--run.root={tmp_path}"]
    texts: list[dict[str, Any]] = []

    def check(cli: Train) -> None:
        assert {len(level) for level in cli.model.network.levels} == {(8, 12)[len(texts)]}
        texts.append(flatten(yaml.safe_load(cli.config_text())))

    configured(monkeypatch, plain, check)
    configured(monkeypatch, [*plain, "--config=configs/glow_celeba32_deep.yaml"], check)
    changed = {key: (texts[0][key], texts[1][key]) for key in texts[0]}
    assert {key: values for key, values in changed.items() if values[0] != values[1]} == {
        "run.name": ("glow-celeba32", "glow-celeba32-deep"),
        "model.init_args.network.init_args.steps": (8, 12),
        "model.init_args.network.init_args.last_level_steps": (8, 12),
        "model.init_args.total_images": (580_000, 400_000),
        "model.init_args.warmup_images": (3200, 12_800),
    }


def test_configs_are_named_for_their_runs() -> None:
    for path in EXPERIMENTS:
        assert yaml.safe_load(path.read_text())["run"]["name"] == path.stem.replace("_", "-")


@pytest.mark.parametrize(
    ("seen", "factor"), [(0, 0.0), (50, 0.5), (100, 1.0), (700, 1.0), (850, 0.5), (1000, 0.0)]
)
def test_learning_rate_schedule(seen: int, factor: float) -> None:
    assert warmup_then_decay(seen, 1000, 100, 0.3) == pytest.approx(factor)


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
            "--model.total_images=4800",
            "--recovery.during.problems=[]",
            "--recovery.at_end.problems=[]",
        ]
    )
    errors = inversion_errors(load_prior(directory))
    assert len(errors) == 7
    assert all(error.max() < 1e-4 for error in errors.values()), errors
