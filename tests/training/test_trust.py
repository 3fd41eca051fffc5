"""What a run's folder says runs no code, and holds no secret."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml

from core.secrets import HIDDEN, without_secrets
from priors import load_prior
from results.identity import describe
from tests.helpers import refused, run
from tests.test_saved import SAVED, resume
from training.metrics_file import MetricsFile


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module trap.py that leaves a file once it is imported."""
    mark = tmp_path / "imported"
    code = (
        f"open({str(mark)!r}, 'w').close()\nfrom networks.glow import Glow\nclass Trap(Glow): pass"
    )
    (tmp_path / "trap.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return mark


def change(run: Path, key: str, value: object) -> None:
    """Change a key of a run's config.yaml."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    *above, last = key.split(".")
    inner = config
    for name in above:
        inner = inner[name]
    inner[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_runs_network_is_imported_only_if_its_module_is_allowed(
    trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(SAVED / "run", tmp_path / "foreign"))
    refusal = r"config\.yaml: trap\.Trap is no network of networks/"
    change(folder, "model.init_args.network.init_args.stability", {"class_path": "trap.Trap"})
    with pytest.raises(ValueError, match=refusal):
        load_prior(folder)
    shutil.copy(SAVED / "run" / "config.yaml", folder)
    change(folder, "model.init_args.network.class_path", "trap.Trap")
    with pytest.raises(ValueError, match=refusal):
        load_prior(folder)
    assert not trap.exists()
    monkeypatch.setenv("INVERTIBLE_PRIORS_NETWORKS", "mine,trap")
    assert load_prior(folder).images_seen == 64
    assert trap.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.callbacks", [{"class_path": "trap.Trap"}]),
        ("recovery.methods.x", {"method": {"class_path": "trap.Trap"}}),
    ],
)
def test_resuming_imports_no_class_that_the_command_does_not_name(
    trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: object
) -> None:
    folder = Path(shutil.copytree(SAVED / "run", tmp_path / "old"))
    change(folder, key, value)
    said = refused(capsys, resume(folder, "--model.bits=4"))
    assert "trap.Trap" in said and "bits: 5 -> 4" in said
    assert "channels" not in said  # an option that is new since then is no change
    assert not trap.exists()


class Sends(pl.Callback):
    """Needs a key."""

    def __init__(self, api_key: str) -> None:
        self.api_key = api_key


def test_secrets_are_neither_written_nor_sent(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "s3cr3t-0123456789"
    sends = f"{{class_path: tests.training.test_trust.Sends, init_args: {{api_key: {secret}}}}}"
    options = ["--model.total_images=8", "--recovery.at_end.problems=[]"]
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(MetricsFile, "log_hyperparams", lambda _, config: sent.append(config))
    directory = run(tiny, f"--trainer.callbacks=[{sends}]", *options)
    assert secret not in str(sent) and HIDDEN in str(sent)
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert HIDDEN in (directory / "config.yaml").read_text()


def test_what_a_secret_is() -> None:
    config = {"a": [{"API_KEY": "x", "hub_token": "y", "token": None, "tokens": 3, "key": "k"}]}
    hidden = {"API_KEY": HIDDEN, "hub_token": HIDDEN, "token": None, "tokens": 3, "key": "k"}
    assert without_secrets(config) == {"a": [hidden]}
    assert "api_key" not in describe(Sends("x"))
