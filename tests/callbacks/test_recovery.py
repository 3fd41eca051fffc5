"""Recovery while training: which methods, when, and what is refused before."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import train
from lightning_modules.clock import ClockedModule
from results.means import compared, latest, means
from results.rows import KEY, RowFile, read_rows
from tests.helpers import Killed, assert_same_checkpoint, losses, refused, run, without_recovery
from training.cli import Train


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


def test_options_changed_back_show_their_own_rows_again(tiny: list[str]) -> None:
    """And a method keeps its own where another one takes its settings."""
    options = ["--model.total_images=64", "--recovery.at_end.problems=[cs-25%]"]
    search = "class_path: recovery.latent_search.LatentSearch"

    def evaluations(quick: int, full: int) -> dict[str, int]:
        two = {"quick": quick, "full": full}
        methods = [f"{n}: {{{search}, init_args: {{evaluations: {k}}}}}" for n, k in two.items()]
        rows = read_rows(run(tiny, *options, f"--recovery.methods={{{', '.join(methods)}}}"))
        assert len(rows) == 2 * 2 * 5
        return dict(rows.groupby("method")["evaluations"].max())

    for quick, full in [(2, 4), (4, 5), (2, 4), (2, 4), (4, 2), (4, 2), (2, 2), (4, 2)]:
        assert evaluations(quick, full) == {"quick": quick, "full": full}


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


def test_a_plan_names_its_methods(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    search = "class_path: recovery.latent_search.LatentSearch, init_args"
    methods = f"{{few: {{{search}: {{evaluations: 2}}}}, more: {{{search}: {{evaluations: 4}}}}}}"
    options = ["--model.total_images=128", f"--recovery.methods={methods}"]
    rows = read_rows(run(tiny, *options, "--recovery.during.methods=[few]"))
    assert set(rows[rows["images_seen"] == 64]["method"]) == {"few"}
    assert set(rows[rows["images_seen"] == 128]["method"]) == {"few", "more"}
    said = refused(capsys, [*tiny, *options, "--recovery.at_end.methods=[best]"])
    assert "no method is named 'best'; defined are few, more" in said


METHODS = """
recovery:
  problems:
    cs-10%: {operator: {class_path: recovery.operators.GaussianSensing, init_args: {m: 0.1}}}
    inpaint: {operator: {class_path: recovery.operators.Inpainting}}
    blur:
      operator:
        class_path: deepinv.physics.Blur
        init_args:
          filter: {class_path: deepinv.physics.blur.gaussian_blur, init_args: {sigma: [1, 1]}}
          padding: circular
    phase:
      operator: {class_path: deepinv.physics.RandomPhaseRetrieval, init_args: {m: 300}}
  methods:
    latent-search: {class_path: recovery.latent_search.LatentSearch, init_args: {evaluations: 3}}
    deep-decoder:
      class_path: recovery.untrained.Untrained
      init_args:
        network: {class_path: networks.deep_decoder.DeepDecoder, init_args: {width: 8}}
        steps: 3
    lasso: {class_path: recovery.lasso.Lasso, init_args: {steps: 5}}
    adjoint: {class_path: recovery.linear.Adjoint}
    bm3d: {class_path: recovery.bm3d.BM3D}
    median:
      class_path: deepinv.models.ArtifactRemoval
      init_args: {backbone_net: {class_path: deepinv.models.MedianFilter}}
  during: {problems: [cs-10%, blur], images: 2, methods: [latent-search, deep-decoder, median]}
  at_end: {problems: [cs-10%, blur], images: 2, methods: [latent-search, deep-decoder, lasso]}
"""


def with_methods(tiny: list[str], folder: Path, *options: str) -> list[str]:
    config = folder / "methods.yaml"
    config.write_text(METHODS)
    return [*without_recovery(tiny), f"--config={config}", *options]


@pytest.mark.slow
def test_methods_without_a_prior_are_recovered_once(tiny: list[str], tmp_path: Path) -> None:
    for name, images, seed in (("one", 128, 0), ("two", 64, 1)):
        options = [f"--model.total_images={images}", f"--run.name={name}"]
        train.main(with_methods(tiny, tmp_path, *options, f"--seed_everything={seed}"))
    one, two = tmp_path / "runs" / "one", tmp_path / "runs" / "two"
    rows = read_rows(one)
    free = rows[rows["prior"] == ""]
    assert set(free["method"]) == {"deep-decoder", "lasso", "median"}
    assert (free["images_seen"] == 0).all()
    # two problems, two sets, two images; the decoder's two iterates are told apart
    counts = free.groupby(["method", "variant"]).size().to_dict()
    assert counts == {
        ("deep-decoder", "last"): 8,
        ("deep-decoder", "least-residual"): 8,
        ("lasso", ""): 8,
        ("median", ""): 8,
    }
    of_prior = rows[rows["prior"] == "glow"]
    assert sorted(of_prior["images_seen"].unique()) == [64, 128]
    # their curves are level: logged at every recovery
    logged = [json.loads(line) for line in (one / "metrics.jsonl").open()]
    name = "recovery/blur/faces-val/deep-decoder (last)/psnr"
    values = [line[name] for line in logged if name in line]
    assert len(values) == 2 and len(set(values)) == 1
    named = means(latest(rows))["method"]
    assert {"deep-decoder (last)", "deep-decoder (least-residual)"} <= set(named)

    # a second run's rows of them equal the first's: one column in a comparison
    others = read_rows(two)
    untrained = others.loc[others["method"] == "deep-decoder", "config"]
    assert set(untrained) == set(free.loc[free["method"] == "deep-decoder", "config"])
    both = pd.concat([rows, others], ignore_index=True)
    names = list(compared(both)["recovery"].unique())
    assert names.count("deep-decoder (last)") == 1
    assert {"one: glow, latent-search", "two: glow, latent-search"} <= set(names)


def one_method(class_path: str, init_args: str) -> list[str]:
    method = f"{{class_path: {class_path}, init_args: {{{init_args}}}}}"
    every = [f"--recovery.{plan}.methods=null" for plan in ("during", "at_end")]
    return [f"--recovery.methods={{x: {method}}}", *every]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--recovery.at_end.problems=[inpaint]", "--recovery.at_end.methods=[bm3d]"],
            "recovery.problems.inpaint: BM3D removes noise of known sigma",
        ),
        (
            ["--recovery.at_end.problems=[phase]"],
            "recovery.problems.phase: the Lasso needs a linear operator",
        ),
        (
            one_method("recovery.image_adaptive.ImageAdaptive", ""),
            "recovery.problems.cs-10%: image-adaptive recovery adapts a generator's weights",
        ),
        (
            one_method("recovery.latent_search.LatentSearch", "evaluations: 0"),
            "evaluations must be",
        ),
        (one_method("recovery.csgm.Csgm", "learning_rate: 0"), "learning_rate must be above 0"),
        (one_method("recovery.csgm.Csgm", "patience: 3"), "patience"),
        (one_method("recovery.lasso.Lasso", "weight: 0"), "weight must be above 0, got 0"),
        (
            one_method("deepinv.models.MedianFilter", ""),
            "MedianFilter is a denoiser of deepinv, not a reconstructor",
        ),
        (
            one_method("deepinv.models.ArtifactRemoval", ""),
            "deepinv.models.ArtifactRemoval cannot be made",
        ),
    ],
)
def test_a_method_that_cannot_serve_a_problem_is_refused_before_training(
    options: list[str],
    message: str,
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(capsys, with_methods(tiny, tmp_path, *options))
    assert not (tmp_path / "runs" / "demo").exists()


def test_methods_that_need_deepinv_say_so_where_it_is_missing(
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "deepinv" else find_spec(name, *rest),
    )
    arguments = [*tiny, *one_method("recovery.bm3d.BM3D", "")]
    assert "BM3D needs deepinv, which is not installed" in refused(capsys, arguments)


def test_an_argument_a_physics_does_not_have_is_named(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = with_methods(tiny, tmp_path)
    text = (tmp_path / "methods.yaml").read_text().replace("padding: circular", "kernel: 3")
    (tmp_path / "methods.yaml").write_text(text)
    error = refused(capsys, arguments)
    assert "deepinv.physics.Blur has no argument 'kernel'; it takes filter, padding" in error


def test_the_baselines_overlay_serves_its_problems(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = []

    def check_only(cli: Train, model: ClockedModule, **_: Any) -> None:
        """In place of training: `before_fit` has asked every planned method."""
        served.append(cli.config_init.fit.recovery)

    monkeypatch.setattr(Train, "fit", check_only)
    monkeypatch.setattr(Train, "after_fit", lambda _: None)
    Train([arg for arg in [*tiny, "--config=configs/baselines.yaml"] if "at_end" not in arg])
    assert len(served[0].at_end.problems) == 5 and "deep-decoder" in served[0].at_end.methods
