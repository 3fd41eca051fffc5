"""Numbers that are not finite warn and reach no checkpoint; an inverse that drifts warns."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_modules.clock import ClockedModule
from networks.glow import Glow
from priors.checkpoint import read_checkpoint
from tests.helpers import refused, run

QUIET = ["--recovery.during.problems=[]", "--recovery.at_end.problems=[]"]


def test_a_moving_average_that_is_not_finite_ends_training_before_a_checkpoint_has_it(
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    update = ClockedModule.update_average

    def spoil(self: ClockedModule) -> None:
        update(self)
        if self.images_seen == 128:
            next(self.average.parameters()).data.fill_(torch.nan)  # type: ignore[union-attr]

    monkeypatch.setattr(ClockedModule, "update_average", spoil)
    with pytest.warns(UserWarning, match="dimension are nan on faces-val after 128 images"):
        said = refused(capsys, [*tiny, *QUIET])
    assert "error: average." in said and "is not finite after 128 images" in said
    for name in ("best", "last"):
        path = tmp_path / "runs" / "demo" / "checkpoints" / f"{name}.ckpt"
        assert read_checkpoint(path)["images_seen"] == 64


def test_the_inverse_is_watched(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*QUIET, "--model.total_images=16", "--data.training_images=20"]
    inverse = Glow.inverse

    def drifts(self: Glow, z: Tensor) -> Tensor:
        return inverse(self, z) + 0.01

    monkeypatch.setattr(Glow, "inverse", drifts)
    told = "decoding does not undo encoding on faces-ood after 16 images: off by 1.0e-02"
    with pytest.warns(UserWarning, match=told):
        run(tiny, *options)
