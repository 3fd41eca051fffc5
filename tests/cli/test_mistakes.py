"""What a mistyped command or config says: one line, the key, where it is, the nearest there is."""

import shlex
from pathlib import Path

import pytest

import train
from cli.configs import Mistake
from evaluation.config import read_evaluation
from tests.cli.programs import REPOSITORY, program
from tests.helpers import refused

DEMO = ["fit", "--config", "configs/demo.yaml"]
EVALUATION = ["--config", "configs/evaluate/demo.yaml"]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        # keys
        (
            "--model.netwrok.steps 3",
            "--model.netwrok.steps: MaximumLikelihood has no key 'netwrok'; "
            "did you mean 'network'?",
        ),
        (
            "--model.network.stpes=3",
            "--model.network.stpes: Glow has no key 'stpes'; did you mean 'steps'?",
        ),
        (
            "--model.network.stability.min_scal 0",
            "--model.network.stability.min_scal: there is "
            "no key 'min_scal'; did you mean 'min_scale'?",
        ),
        ("--recovry.seed 3", "--recovry.seed: there is no key 'recovry'; did you mean 'recovery'?"),
        (
            "--recovery.during.imges 3",
            "--recovery.during.imges: there is no key 'imges'; did you mean 'images'?",
        ),
        (
            "--trainer.devics 3",
            "--trainer.devics: there is no key 'devics'; did you mean 'devices'?",
        ),
        ("--run.nam x", "--run.nam: there is no key 'nam'; did you mean 'name'?"),
        ("--name x", "--name: there is no key 'name'; did you mean 'run.name'?"),
        (
            "--data datamodules.faces.ShardedFaces --data.trian x",
            "--data.trian: ShardedFaces has no key 'trian'; did you mean 'train'?",
        ),
        (
            "--recovery.methods '{x: {class_path: recovery.latent_search.LatentSearch, init_args: "
            "{evalutions: 3}}}'",
            "--recovery.methods.x.method.evalutions: LatentSearch has no key "
            "'evalutions'; did you mean 'evaluations'?",
        ),
        (
            "--recovery.methods '{x: {method: recovery.linear.Adjoint, imges: 3}}'",
            "--recovery.methods.x.imges: there is no key 'imges'; did you mean 'images'?",
        ),
        # classes
        (
            "--model lightning_modules.MaximumLikelihod",
            "--model: there is no "
            "'lightning_modules.MaximumLikelihod'; did you mean "
            "'lightning_modules.MaximumLikelihood'?",
        ),
        (
            "--data ProceduralFace",
            "--data: there is no class 'ProceduralFace'; did you mean 'ProceduralFaces'?",
        ),
        (
            "--model.network networks.glw.Glow",
            "--model.network: there is no 'networks.glw'; did you mean 'networks.glow'?",
        ),
        (
            "--recovery.methods '{x: recovery.csgm.iagan_stage}'",
            "--recovery.methods.x.method: there is "
            "no 'recovery.csgm.iagan_stage'; did you mean 'recovery.csgm.iagan_stage_1'?",
        ),
        (
            "--recovery.methods '{x: networks.glow.Glow}'",
            "--recovery.methods.x.method: expected "
            "Deepinv, PriorFree or PriorBased, got 'networks.glow.Glow'",
        ),
        # values
        ("--model.network.steps many", "--model.network.steps: expected int, got 'many'"),
        (
            "--run.wandb onlin",
            "--run.wandb: expected auto, online, offline or disabled, got "
            "'onlin'; did you mean 'online'?",
        ),
        ("--model.betas [a,b]", "--model.betas.0: expected float, got 'a'"),
        ("--trainer.accelerator", "--trainer.accelerator: give it a value"),
        # what is missing
        (
            "--recovery.problems '{x: {operator: recovery.operators.GaussianSensing}}'",
            "--recovery.problems.x.operator: m is missing",
        ),
        ("--recovery.methods '{x: {images: 3}}'", "--recovery.methods.x: method is missing"),
    ],
)
def test_a_mistake_in_training_is_one_line(
    options: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_TRACEBACK", raising=False)
    assert refused(capsys, [*DEMO, *shlex.split(options)]) == f"error: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--config", "configs/demo.yaml"], "the command is train.py fit --config FILE"),
        (["fti"], "the command is train.py fit --config FILE, not 'fti'"),
        (
            ["fit", "--config", "configs/glow_celeba32_deep.yaml"],
            "configs/glow_celeba32_deep.yaml: model: class_path is missing: name a ClockedModule",
        ),
        (["fit", "--run.name=x"], "data is missing: name it in a config file or as --data"),
        (
            ["fit", "--help", "networks.glow.Glw"],
            "--help networks.glow.Glw: there is no "
            "'networks.glow.Glw'; did you mean 'networks.glow.Glow'?",
        ),
    ],
)
def test_a_command_that_cannot_be_is_one_line(
    arguments: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_TRACEBACK", raising=False)
    assert refused(capsys, arguments) == f"error: {line}\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--trials.imges 3", "--trials.imges: there is no key 'imges'; did you mean 'images'?"),
        ("--trails.images 3", "--trails.images: there is no key 'trails'; did you mean 'trials'?"),
        ("--images 3", "--images: there is no key 'images'; did you mean 'trials.images'?"),
        ("--trials.images many", "--trials.images: expected int, got 'many'"),
        ("--trials null", "--trials: expected keys and values, got None"),
        (
            "--sets.faces-val inn",
            "--sets.faces-val: expected in or out, got 'inn'; did you mean 'in'?",
        ),
        (
            "--methods.glow.method.evalutions 3",
            "--methods.glow.method.evalutions: LatentSearch "
            "has no key 'evalutions'; did you mean 'evaluations'?",
        ),
        (
            "--studies '{x: {class_path: studies.bis.Bias}}'",
            "--studies.x: there is no 'studies.bis'; did you mean 'studies.bias'?",
        ),
        ("--studies '{x: {class_path: studies.bias.Bias}}'", "--studies.x: attributes is missing"),
        (
            "--problems.x.operator '{class_path: deepinv.physics.Blur, init_args: {fliter: 1}}'",
            "--problems.x.operator: deepinv.physics.Blur has no argument 'fliter'; it takes ",
        ),
    ],
)
def test_a_mistake_in_an_evaluation_is_one_line(options: str, line: str) -> None:
    with pytest.raises(Mistake) as mistake:
        read_evaluation([*EVALUATION, *shlex.split(options)])
    assert str(mistake.value).startswith(line) and "\n" not in str(mistake.value)
    assert str(mistake.value) == line or line.endswith("it takes ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("trials: {imges: 3}", "trials.imges: there is no key 'imges'; did you mean 'images'?"),
        ("trials:\nname: x", "trials: expected keys and values, found none"),
        (
            "methods: {glow: {method: {init_args: {evalutions: 3}}}}",
            "methods.glow.method."
            "evalutions: LatentSearch has no key 'evalutions'; did you mean 'evaluations'?",
        ),
        (
            "methods: {glow: {method: {init_args: {start: {class_path: recovery.starts.Normal, "
            "init_args: {sdt: 1}}}}}}",
            "methods.glow.method.start.sdt: Normal has no key 'sdt'; did you mean 'std'?",
        ),
        (
            "methods: {mine: {prior: glow, method: recovery.csgm.Csg}}",
            "methods.mine.method: there "
            "is no 'recovery.csgm.Csg'; did you mean 'recovery.csgm.Csgm'?",
        ),
        (
            "problems: {mine: {operator: recovery.operators.Inpainting, gama: 1}}",
            "problems.mine.gama: there is no key 'gama'; did you mean 'gamma'?",
        ),
        ("pictures: some", "pictures: expected int, got 'some'"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(text: str, line: str, tmp_path: Path) -> None:
    path, later = tmp_path / "mine.yaml", tmp_path / "later.yaml"
    path.write_text(text)
    later.write_text("title: another file, which is right\n")
    with pytest.raises(Mistake) as mistake:
        read_evaluation([*EVALUATION, "--config", str(path), "--config", str(later)])
    assert str(mistake.value) == f"{path}: {line}"


def test_a_mistake_in_the_model_of_a_file_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_TRACEBACK", raising=False)
    path = tmp_path / "mine.yaml"
    path.write_text("model: {init_args: {network: {init_args: {stpes: 3}}}}")
    said = refused(capsys, [*DEMO, "--config", str(path), "--model.total_images=64"])
    line = "model.network.stpes: Glow has no key 'stpes'; did you mean 'steps'?"
    assert said == f"error: {path}: {line}\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--recovery.pictures 0", "recovery.pictures must be at least 1, got 0"),
        (
            "--recovery.methods '{x: {class_path: recovery.lasso.Lasso, init_args: {weight: 0}}}'",
            "weight must be above 0, got 0.0",
        ),
    ],
)
def test_our_own_errors_are_left_as_they_are(
    options: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVERTIBLE_PRIORS_TRACEBACK", raising=False)
    said = refused(capsys, [*DEMO, *shlex.split(options)])
    assert said.startswith(f"error: {line}\n") and "INVERTIBLE_PRIORS_TRACEBACK=1" in said


def test_without_arguments_a_program_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main([])
    assert str(ended.value).startswith("Train a prior")


# ---- as a user types it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            "train.py fit --config configs/demo.yaml --model.netwrok.steps 3",
            "--model.netwrok.steps: MaximumLikelihood has no key 'netwrok'; "
            "did you mean 'network'?",
        ),
        (
            "evaluate.py --config configs/evaluate/demo.yaml --trials.imges 3",
            "--trials.imges: there is no key 'imges'; did you mean 'images'?",
        ),
        (
            "evaluate.py --config configs/evaluate/nowhere.yaml",
            "--config configs/evaluate/nowhere.yaml: No such file or directory",
        ),
    ],
)
def test_a_program_ends_with_status_2_and_one_line(command: str, line: str) -> None:
    ended = program(*command.split())
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"error: {line}\n")


def test_a_module_of_the_users_that_fails_is_told_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_broken_methods.py").write_text("class Landweber:\n    steps = undefined\n")
    monkeypatch.syspath_prepend(tmp_path)
    method = "--recovery.methods={x: {class_path: my_broken_methods.Landweber}}"
    said = refused(capsys, [*DEMO, f"--run.root={tmp_path}", method])
    assert "name 'undefined' is not defined" in said
