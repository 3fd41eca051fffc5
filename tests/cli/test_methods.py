"""One schema for methods: a class alone, or {method, prior, images}, while training and after."""

import pytest
import yaml

from evaluation.config import evaluation_of, read_evaluation
from recovery.deepinv import Reconstructor
from recovery.lasso import Lasso
from recovery.linear import Adjoint
from results.rows import read_rows
from results.trial import NamedMethod
from tests.cli.programs import REPOSITORY
from tests.helpers import refused
from training.cli import Train

MEDIAN = (
    "{class_path: deepinv.models.ArtifactRemoval, init_args: "
    "{backbone_net: {class_path: deepinv.models.MedianFilter}}}"
)
METHODS = (
    "{path: recovery.linear.Adjoint, "
    "bare: {class_path: recovery.lasso.Lasso, init_args: {basis: haar}}, "
    "named: {method: {class_path: recovery.lasso.Lasso, init_args: {basis: haar}}, images: 2}, "
    "function: {method: recovery.csgm.iagan_stage_1, prior: dcgan}, "
    f"foreign: {MEDIAN}, both: {{method: {MEDIAN}, images: 1}}}}"
)


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_both_forms_are_one_in_an_evaluation() -> None:
    found, text = read_evaluation(["--name=x", f"--methods={METHODS}"])
    for evaluation in (found, evaluation_of(text)):  # a process of its own reads the text
        named = evaluation.methods
        assert all(isinstance(method, NamedMethod) for method in named.values())
        assert isinstance(named["path"].make, Adjoint)
        assert isinstance(named["bare"].make, Lasso) and isinstance(named["named"].make, Lasso)
        assert named["bare"].make.basis == named["named"].make.basis == "haar"
        assert named["function"].prior == "dcgan"
        assert isinstance(named["foreign"].make, Reconstructor)
        assert isinstance(named["both"].make, Reconstructor)
        assert [named[name].images for name in ("bare", "named", "both")] == [None, 2, 1]


def test_a_method_recovers_its_images_while_training(tiny: list[str]) -> None:
    methods = (
        "--recovery.methods={every: {class_path: recovery.linear.Adjoint}, "
        "few: {method: recovery.linear.PseudoInverse, images: 2}}"
    )
    directory = Train([*tiny, methods, "--recovery.at_end.problems=[cs-25%]"]).run.directory
    rows = read_rows(directory)
    at_end = rows[rows["problem"] == "cs-25%"]
    assert at_end.groupby(["dataset", "method"]).size().to_dict() == {
        ("faces-ood", "every"): 5,
        ("faces-ood", "few"): 2,
        ("faces-val", "every"): 5,
        ("faces-val", "few"): 2,
    }
    few = at_end[(at_end["method"] == "few") & (at_end["dataset"] == "faces-val")]
    every = at_end[(at_end["method"] == "every") & (at_end["dataset"] == "faces-val")]
    assert list(few["image"]) == list(every["image"])[:2]


def test_a_run_of_before_resumes(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of before have methods by their class alone in config.yaml; that is no other method."""
    path = Train(tiny).run.directory / "config.yaml"
    config = yaml.safe_load(path.read_text())
    methods = config["recovery"]["methods"]
    config["recovery"]["methods"] = {name: named["method"] for name, named in methods.items()}
    assert methods["latent-search"]["method"]["init_args"]["evaluations"] == 10
    path.write_text(yaml.safe_dump(config))
    capsys.readouterr()
    Train(tiny)
    said = capsys.readouterr().out
    assert "Resuming from" in said and "The config has changed" not in said


@pytest.mark.parametrize(
    "option",
    [
        "--recovery.methods.latent-search.evaluations=7",
        "--recovery.methods.latent-search.init_args.evaluations=7",
        "--recovery.methods.latent-search.method.evaluations=7",
        "--recovery.methods={latent-search: {class_path: recovery.latent_search.LatentSearch, "
        "init_args: {evaluations: 7}}}",
    ],
)
def test_an_argument_of_a_method_is_an_option(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        Train(["fit", "--config=configs/demo.yaml", option, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    method = config["recovery"]["methods"]["latent-search"]["method"]
    assert method["class_path"] == "recovery.latent_search.LatentSearch"
    assert (method["init_args"]["evaluations"], method["init_args"]["history"]) == (7, 50)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            "{x: {method: recovery.csgm.Csgm, prior: dcgan}}",
            "recovery.methods.x: leave out prior: dcgan; while training, methods go through the "
            "prior that is trained",
        ),
        ("{x: {method: recovery.linear.Adjoint, images: 0}}", "images must be at least 1, got 0"),
    ],
)
def test_what_a_method_cannot_be_while_training(
    methods: str, message: str, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, [*tiny, f"--recovery.methods={methods}"])
