"""A computation leaves busy cores to what keeps them busy."""

import os
from collections.abc import Iterator

import pytest
import torch

from core.threads import leave_busy_cores


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(
    ("load", "threads", "said"),
    [
        (0.1, 4, ""),
        (1.1, 3, "Computing on 3 of 4 cores"),
        (9.0, 1, "Computing on 1 of 4 cores"),
    ],
)
def test_busy_cores_are_left(
    load: float,
    threads: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert leave_busy_cores() == torch.get_num_threads() == threads
    told = capsys.readouterr().err
    assert said in told and bool(said) == bool(told)


@pytest.mark.usefixtures("four_threads")
def test_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    assert leave_busy_cores() == 4
