"""The clock of training: images seen, the same on every process."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_modules import MaximumLikelihood
from lightning_modules.clock import warmup_then_decay


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


@pytest.mark.parametrize(
    ("seen", "factor"), [(0, 0.0), (50, 0.5), (100, 1.0), (700, 1.0), (850, 0.5), (1000, 0.0)]
)
def test_learning_rate_schedule(seen: int, factor: float) -> None:
    assert warmup_then_decay(seen, 1000, 100, 0.3) == pytest.approx(factor)
