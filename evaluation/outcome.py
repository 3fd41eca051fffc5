"""From rows and studies to what a reader gets: tables on disk, one page, Weights & Biases."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.utils import make_grid, save_image

from recovery.page import Section
from recovery.report import means
from recovery.rows import describe
from studies.study import Given, Study, Tables

TABLE = "{}.csv"
Mode = Literal["online", "offline", "disabled"]  # of W&B


def study_tables(
    study: Study,
    given: Given,
    folder: Path,
    fingerprints: Mapping[str, str],
    progress: Callable[[str], None],
) -> Tables:
    """A study's tables: those on disk if it, its priors and its rows are the same, else computed.

    Args:
        study, given: what and from what.
        folder: of its tables.
        fingerprints: of the priors it uses, by name.
        progress: is told what the study is doing.
    """
    depends: dict[str, Any] = {"study": describe(study), "priors": fingerprints}
    if study.reads_rows:
        depends["rows"] = sorted(given.rows["config"].unique()), len(given.rows)
    identity = json.dumps(depends, sort_keys=True, default=str)
    about = folder / "study.json"
    if about.exists() and (saved := json.loads(about.read_text()))["identity"] == identity:
        return {name: pd.read_csv(folder / TABLE.format(name)) for name in saved["tables"]}
    tables = study.compute(given, progress)
    folder.mkdir(parents=True, exist_ok=True)
    about.unlink(missing_ok=True)  # so that no table of an interrupted save is taken for whole
    for name, table in tables.items():
        table.to_csv(folder / TABLE.format(name), index=False)
    about.write_text(json.dumps({"identity": identity, "tables": list(tables)}))
    return {name: pd.read_csv(folder / TABLE.format(name)) for name in tables}


def names_in(study: Study, names: Iterable[str]) -> list[str]:
    """Which of these (of priors, of sets) are among the options of a study."""
    text = json.dumps(describe(study), default=str)
    return [name for name in names if json.dumps(name) in text]


def study_section(study: Study, tables: Tables, pictures: Path) -> Section:
    small = {name: table for name, table in tables.items() if len(table) <= 60}
    return Section(
        title=study.title,
        sentences=study.findings(tables),
        tables=small,
        figures=lambda: study.figures(tables),
        pictures={path.stem.replace("-", " "): path for path in sorted(pictures.glob("*.png"))},
    )


def sample_sheets(folder: Path, methods: Sequence[str], problems: Sequence[str]) -> dict[str, Path]:
    """Caption -> PNG: truth, measurement, recoveries; a row an image, a sheet a problem and set.

    Only images that every method has recovered.
    """
    sheets = {}
    for problem in problems:
        for dataset in sorted((folder / "pictures" / problem).glob("*/")):
            tiles = sorted(path for path in dataset.iterdir() if path.is_dir())
            names = [
                name
                for name in ("truth", "measurement", *methods)
                if any((tile / f"{name}.png").exists() for tile in tiles)
            ]
            whole = [t for t in tiles if all((t / f"{name}.png").exists() for name in names)]
            if not whole:
                continue
            cells = [
                decode_image(str(tile / f"{name}.png"), ImageReadMode.RGB)
                for tile in whole
                for name in names
            ]
            size = max(1, 96 // cells[0].shape[-1])
            grid = make_grid(torch.stack(cells), nrow=len(names), padding=1, pad_value=255)
            grid = grid.repeat_interleave(size, 1).repeat_interleave(size, 2)
            path = folder / "sheets" / f"{problem}-{dataset.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(grid.float() / 255, path)
            sheets[f"{problem}, {dataset.name}: {' | '.join(names)}"] = path
    return sheets


def details(
    rows: pd.DataFrame, devices: Sequence[torch.device], seeds: Sequence[int]
) -> dict[str, str]:
    """What a reader needs to judge and repeat it: command, versions, seeds, hardware."""
    names = {
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        for device in devices
    }
    return {
        "command": f"python {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "hardware": f"{', '.join(sorted(names))}, {os.cpu_count()} cores",
        "processes": str(len(devices)),
        "seeds": ", ".join(map(str, seeds)),
        "recovered images": f"{len(rows):,}",
        "seconds per image": ", ".join(
            f"{method} {seconds:.2g}"
            for method, seconds in rows.groupby("method", sort=False)["seconds"].median().items()
        ),
    }


def to_wandb(
    project: str,
    name: str,
    mode: Mode,
    folder: Path,
    rows: pd.DataFrame,
    page: Path,
    tables: Tables,
) -> None:
    """The summary as one run: scalars, tables, the page."""
    import wandb

    with wandb.init(project=project, name=name, mode=mode, dir=folder, job_type="evaluate") as run:
        if len(rows):
            table = means(rows)
            for row in table.itertuples():
                run.summary[f"{row.problem}/{row.dataset}/{row.method}/psnr"] = row.psnr
            run.log({"means": wandb.Table(dataframe=table)})
            run.log({"rows": wandb.Table(dataframe=rows)})
        for label, table in tables.items():
            run.log({label: wandb.Table(dataframe=table)})
        run.log({"report": wandb.Html(page.read_text(), inject=False)})
