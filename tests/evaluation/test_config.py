"""An evaluation's config: what is refused before anything is computed."""

from pathlib import Path

import pytest
import yaml

import evaluate
from evaluation.config import read_evaluation
from results.rows import read_rows
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs" / "evaluate").glob("*.yaml"))
EXPERIMENTS = [path for path in CONFIGS if path.stem not in ("defaults", "small")]


def test_drawn_faces_need_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_DATA", raising=False)
    options = ["--config=configs/evaluate/demo.yaml", f"--root={tmp_path}", "--trials.images=2"]
    options += ["--trials.methods=[pseudo-inverse]", "--trials.problems=[cs-10%]"]
    options.append("--trials.sets=[faces-val, faces-ood]")
    evaluate.main(options)
    rows = read_rows(tmp_path / "demo")
    assert rows.groupby(["dataset", "distribution"]).size().to_dict() == {
        ("faces-ood", "out"): 2,
        ("faces-val", "in"): 2,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--priors={glow: nowhere}"], "priors.glow: "),
        (["--image_size=16", "--data=DATA"], "16px"),
        (
            ["--sets={faces: in, absent: out}", "--trials.sets=[absent]"],
            "absent: no set; python -m datamodules.prepare",
        ),
        (["--trials.problems=[cs-1%]"], "no problem is named 'cs-1%'; defined are cs-10%"),
        (["--trials.methods=[blow]"], "no method is named 'blow'"),
        (["--trials.sets=[elsewhere]"], "no set is named 'elsewhere'"),
        (["--priors={}"], "no prior is named 'glow'"),
        (["--trials.problems=[hole]", "--trials.methods=[bm3d]"], "bm3d on hole: BM3D removes"),
        (["--trials.balance=[Hat]"], "trials.balance needs the attribute table"),
        (["--trials.balance=[Hat]", "--attributes=no.csv"], "there is no file no.csv"),
        (["--trials.balance=[Cat]", "--attributes=TABLE"], "no attribute 'Cat' in the table"),
        (["--batch_size=0"], "batch_size must be at least 1"),
        (["--trials.seeds=[0, 0]"], "trials.seeds: 0 is named twice"),
        (["--trials.methods=[lasso, lasso]"], "trials.methods: 'lasso' is named twice"),
        (["--trials.seeds=[]"], "trials.seeds: name at least one"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str],
    options: list[str],
    message: str,
    workshop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_TRACEBACK", raising=False)
    monkeypatch.delenv("INVERTIBLE_PRIORS_ATTRIBUTES", raising=False)
    table = workshop / "attributes.csv"
    options = [
        option.replace("DATA", str(workshop / "data")).replace("TABLE", str(table))
        for option in options
    ]
    with pytest.raises(SystemExit) as ended:
        evaluate.main([*arguments, *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("results/tiny/rows-*.csv"))


def test_an_attribute_table_of_other_images_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "others.csv"
    table.write_text("name,Hat\n000001.jpg,1\n")
    options = ["--trials.balance=[Hat]", f"--attributes={table}"]
    with pytest.raises(SystemExit):
        evaluate.main([*arguments, *options])
    assert "names none of the 10 images" in capsys.readouterr().err


def test_deepinv_is_needed_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recovery.physics.importlib.util.find_spec", lambda name: None)
    found, _ = read_evaluation(["--config=configs/evaluate/denoising64.yaml"])
    operator = found.problems["denoise-0.1"].operator((3, 64, 64))
    with pytest.raises(ValueError, match="BM3D needs deepinv, which is not installed"):
        found.methods["bm3d"].method.check(operator)  # type: ignore[union-attr]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", ["full", "small"])
def test_every_config_names_what_is_defined(path: Path, size: str) -> None:
    if size == "small" and "image_size: 32" in path.read_text():
        pytest.skip("has a size of its own")
    small = [f"--config={CONFIGS[0].parent / 'small.yaml'}"] if size == "small" else []
    found, _ = read_evaluation([f"--config={path}", *small])
    assert found.name == path.stem.replace("_", "-")
    trials = found.trials
    for names, defined in (
        (trials.problems, found.problems),
        (trials.methods, found.methods),
        (trials.sets or [], found.sets),
    ):
        assert set(names) <= set(defined)
    for name in trials.methods:
        prior = found.methods[name].prior
        assert prior is None or prior in found.priors
    for problem in trials.problems:
        shape = (3, found.image_size, found.image_size)
        assert found.problems[problem].operator(shape).measurements > 0
    assert trials.problems or found.studies
    assert yaml.safe_load(path.read_text()).keys() >= {"name"}
    if size == "small":
        assert found.image_size == 32
