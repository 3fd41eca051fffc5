"""--help: pages that a person reads."""

import io
from contextlib import redirect_stdout

import pytest

import evaluate
import train
from cli.help import options
from tests.cli.programs import REPOSITORY, program
from training.cli import Train
from training.store_help import STORED


def shown(main: object, *arguments: str) -> str:
    """What a program prints before it ends in peace."""
    with redirect_stdout(io.StringIO()) as page, pytest.raises(SystemExit) as ended:
        main(list(arguments))  # type: ignore[operator]
    assert not ended.value.code
    return page.getvalue()


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_the_stored_page_is_that_of_today() -> None:
    """If not: python -m training.store_help"""
    assert STORED.read_text() == shown(Train, "fit", "--help")
    for arguments in (["--help"], ["fit", "-h"], ["fit", "--config=configs/demo.yaml", "--help"]):
        assert shown(train.main, *arguments) == STORED.read_text()


@pytest.mark.parametrize("page", ["train", "evaluate"])
def test_a_page_is_readable(page: str) -> None:
    text = STORED.read_text() if page == "train" else shown(evaluate.main, "--help")
    lines = text.splitlines()
    assert 60 < len(lines) < 230
    assert max(map(len, lines)) <= 100
    assert not any(word in text for word in ("Namespace", "__", "known subclasses", "object at"))
    assert lines[0].startswith(f"python {page}.py ") and "--config" in lines[0]


def test_ours_come_first_and_lightnings_last() -> None:
    text = STORED.read_text()
    order = ["--run.name", "--model.total_images", "--data.train", "--recovery.problems"]
    places = [text.index(f"  {key} ") for key in [*order, "--samples.count", "--trainer.devices"]]
    assert places == sorted(places)
    assert text.count("--trainer.") < 15 and "--print_config" in text[places[-1] :]


class Parsed(Exception):
    """Carries a parser out of its program."""


def test_every_key_of_ours_is_on_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the parsers' keys, those left out are Lightning's."""

    def parsed(self: Train, parser: object, args: object) -> None:
        raise Parsed(self._parser("fit"))

    monkeypatch.setattr(Train, "parse_arguments", parsed)
    with pytest.raises(Parsed) as stopped:
        Train(["fit"])
    keys = {action.dest for action in options(stopped.value.args[0])}
    assert len(keys) > 50
    left_out = {key for key in keys if f"  --{key} " not in STORED.read_text()}
    assert {key.split(".")[0] for key in left_out} == {"trainer", "weights_only"}


def test_keys_come_with_what_they_mean() -> None:
    text = " ".join(shown(evaluate.main, "--help").split())
    assert "--trials.images int of each set, the first so many (all where there are fewer)." in text
    assert "--image_size int of priors and sets. (default: 64)" in text
    assert "methods.NAME.images int recover at most so many of each set" in text


@pytest.mark.parametrize(("main", "command"), [(train.main, ["fit"]), (evaluate.main, [])])
def test_the_arguments_of_a_class(main: object, command: list[str]) -> None:
    text = shown(main, *command, "--help", "recovery.latent_search.LatentSearch")
    assert "  evaluations int " in text and "(default: 200)" in text
    assert " prior" not in text.split("\n  ", 1)[1].split("evaluations")[0]  # no config gives it
    assert "sigma float" in shown(main, *command, "--help", "recovery.operators.Denoising")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.py", "evaluate.py"])
def test_help_imports_nothing_slow(name: str) -> None:
    """What took most of 6 s: Lightning, torchmetrics, torchvision, wandb, deepinv."""
    code = (
        "import runpy, sys, contextlib, io\n"
        f"sys.argv = ['{name}', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    runpy.run_path('{name}', run_name='__main__')\n"
        "print(sorted(sys.modules.keys() & {'pytorch_lightning', 'torchmetrics', 'torchvision', "
        "'wandb', 'deepinv', 'scipy'}))"
    )
    ended = program("-c", code)
    assert ended.stdout.strip() == "[]", ended.stderr
