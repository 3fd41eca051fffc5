"""Bias by attribute."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from datamodules.tables import read_attributes
from results.rows import COLUMNS
from studies.bias import Bias
from studies.study import Given


def test_bias_names_the_problem_its_reference_lacks(given: Given) -> None:
    recovered = [
        {"dataset": "a", "image": f"i{i}", "problem": problem, "method": method, "psnr": 20.0 + i}
        for problem, methods in (("p", ["r", "m"]), ("q", ["m"]))
        for method in methods
        for i in range(4)
    ]
    attributes = pd.DataFrame({"Hat": [0, 1, 0, 1]}, index=[f"i{i}" for i in range(4)])
    rows = pd.DataFrame(recovered).reindex(columns=COLUMNS, fill_value="")
    study = Bias(["Hat"], reference="r", dataset="a")
    known = replace(given, rows=rows, attributes=attributes)
    with pytest.raises(ValueError, match="q: no image of a was recovered by the reference 'r'"):
        study.compute(known, print)


def test_a_name_of_digits_alone_keeps_its_zeros(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("name,Hat\n000083,1\n000084,-1\n")
    table = read_attributes(tmp_path / "table.csv")
    assert table["Hat"].to_dict() == {"000083": 1, "000084": 0}


def test_images_that_the_table_lacks_are_counted(given: Given) -> None:
    rows = pd.DataFrame({"image": [f"i{i}" for i in range(5)], "psnr": 20.0})
    rows = rows.assign(dataset="a", problem="p", method="r").reindex(columns=COLUMNS, fill_value="")
    table = pd.DataFrame({"Hat": [0, 1, 0]}, index=["i0", "i1", "i2"])
    study = Bias(["Hat"], reference="r", dataset="a")
    tables = study.compute(replace(given, rows=rows, attributes=table), print)
    assert "Left out: 2 images of a that the attribute table lacks." in study.findings(tables)
    tables["bias"] = tables["bias"].drop(columns="unknown")  # as an earlier version saved it
    assert not any("Left out" in sentence for sentence in study.findings(tables))
