"""How fast a run trains, as it is logged."""

from types import SimpleNamespace

import pytest

from callbacks import throughput
from callbacks.throughput import Throughput
from tests.helpers import logged, run


def one_step(every: int) -> SimpleNamespace:
    return SimpleNamespace(log_every_n_steps=every, accumulate_grad_batches=1)


class Module:
    def __init__(self) -> None:
        self.images_seen = 0
        self.logged: list[float] = []

    def log(self, name: str, value: float) -> None:
        assert name == "train/images_per_second"
        self.logged.append(float(value))


def test_it_is_of_the_last_interval_and_without_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now)
    callback, module, trainer = Throughput(), Module(), one_step(every=2)

    def batches(count: int, seconds: float) -> None:
        nonlocal now
        for index in range(count):
            now, module.images_seen = now + seconds, module.images_seen + 8
            callback.on_train_batch_end(trainer, module, None, None, index)  # type: ignore[arg-type]

    batches(3, seconds=0.5)
    assert module.logged == [16, 16]  # of the second and the third: the first has no beginning
    batches(1, seconds=1.5)
    assert module.logged[-1] == 8  # two batches in two seconds
    now += 1000
    callback.on_validation_start(trainer, module)  # type: ignore[arg-type]
    batches(2, seconds=0.25)
    assert module.logged[3:] == [32]
    callback.on_train_epoch_start(trainer, module)  # type: ignore[arg-type]
    now += 1000
    batches(2, seconds=0.125)
    assert module.logged[4:] == [64]


def test_a_run_logs_it(tiny: list[str]) -> None:
    directory = run(tiny, "--recovery.during.problems=[]", "--recovery.at_end.problems=[]")
    rates = logged(directory, "train/images_per_second")
    assert len(rates) > 2 and all(rate > 0 for rate in rates.values())
