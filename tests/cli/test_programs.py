"""Whole commands, as a user types them."""

from pathlib import Path

import pytest

from results.rows import read_rows
from tests.cli.programs import REPOSITORY, program
from tests.conftest import TINY

DEEPINV = """
name: blur
image_size: 32
device: cpu
sets: {faces-val: in}
problems:
  blur:
    operator: {class_path: deepinv.physics.Downsampling, init_args: {factor: 2, filter: bilinear}}
  mri:
    operator:
      class_path: recovery.deepinv.PerChannel
      init_args: {complex: true, physics: {class_path: deepinv.physics.MRI}}
methods:
  median:
    class_path: deepinv.models.ArtifactRemoval
    init_args: {backbone_net: {class_path: deepinv.models.MedianFilter}}
  few: {method: recovery.linear.PseudoInverse, images: 1}
trials: {problems: [blur, mri], methods: [adjoint, median, few], sets: [faces-val], images: 2}
"""


@pytest.mark.slow
def test_deepinvs_operators_and_reconstructors_in_an_evaluation(tmp_path: Path) -> None:
    (tmp_path / "blur.yaml").write_text(DEEPINV)
    config, root = f"--config={tmp_path / 'blur.yaml'}", f"--root={tmp_path}"
    ended = program("evaluate.py", config, root, "--processes=2")  # each reads the config anew
    assert ended.returncode == 0, ended.stderr
    rows = read_rows(tmp_path / "blur")
    assert rows.groupby(["problem", "method"]).size().to_dict() == {
        **{(problem, method): 2 for problem in ("blur", "mri") for method in ("adjoint", "median")},
        **{(problem, "few"): 1 for problem in ("blur", "mri")},
    }
    assert (rows["status"] != "diverged").all()


@pytest.mark.slow
def test_home_in_a_config_is_one_folder(tmp_path: Path) -> None:
    """A run that a file puts under ~ is begun and resumed there, and leaves no folder called ~."""
    (tmp_path / "mine.yaml").write_text("run: {root: ~/glow-runs, name: mine}\n")
    command = ["train.py", "fit", *TINY, "--config=~/mine.yaml"]
    begun = program(*command, "--model.total_images=64", HOME=str(tmp_path))
    assert begun.returncode == 0, begun.stderr
    checkpoint = tmp_path / "glow-runs" / "mine" / "checkpoints" / "last.ckpt"
    assert checkpoint.exists()
    again = program(*command, "--model.total_images=128", HOME=str(tmp_path))
    assert f"Resuming from {checkpoint}" in again.stdout, again.stderr
    assert not (REPOSITORY / "~").exists()
    assert [path.name for path in (tmp_path / "glow-runs").iterdir()] == ["mine"]
