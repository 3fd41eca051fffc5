"""Rows of an experiment, made by hand."""

import pandas as pd

from report.experiments import recovery_section
from report.page import Section
from report.published import read_published
from results.rows import Row

N = 12_288
NOTHING = read_published().iloc[:0]
IN = {"dataset": "celeba-test", "distribution": "in"}


def rows_of(method: str, psnr: list[float], **columns: object) -> list[Row]:
    """One row per PSNR, images named by their place."""
    values = {**IN, "problem": "denoise-0.1", "m": N, "sigma": 0.1, "status": "converged"}
    values |= {"ssim": 0.9, "seconds": 2.0, "method": method, **columns}
    values.setdefault("kind", str(values["problem"]).split("-")[0])
    return [
        Row("run", "prior", 100, 1, image=str(i), psnr=p, **values)  # type: ignore[arg-type]
        for i, p in enumerate(psnr)
    ]


def frame(*parts: list[Row]) -> pd.DataFrame:
    return pd.DataFrame([vars(row) for part in parts for row in part])


def section(*parts: list[Row], published: pd.DataFrame = NOTHING) -> Section:
    return recovery_section("Experiment", frame(*parts), published, N)
