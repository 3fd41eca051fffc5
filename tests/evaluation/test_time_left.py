"""The time an evaluation has left."""

import pandas as pd

from evaluation.plan import Task
from evaluation.pool import Done
from evaluation.time_left import TimeLeft
from results.rows import Row


def test_the_time_left_counts_each_method_by_its_own_speed() -> None:
    row = Row("run", "", 0, 0)
    slow, fast = (
        [Task("p", name, "s", row, (0, 1), 0) for _ in range(2)] for name in ("slow", "fast")
    )
    left = TimeLeft([*slow, *fast], pd.DataFrame(), processes=2)
    assert str(left) == "time left not known yet"
    left.count(Done(slow[0], seconds=30.0))
    assert str(left) == "more than 30 s left"
    left.count(Done(fast[0], seconds=1.0))
    assert str(left) == "about 31 s left"
    left.count(Done(slow[1], failure="no"))
    assert str(left) == "about 1 s left"
