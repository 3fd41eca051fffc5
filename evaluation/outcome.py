"""From rows and studies to what a reader gets: tables on disk, one page, Weights & Biases."""

import hashlib
import itertools
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.utils import make_grid, save_image

from cli.wandb import split_project
from core.files import write_whole
from evaluation.config import Mode
from evaluation.plan import Trials
from evaluation.share import Share
from report.page import Section
from results.identity import describe
from results.means import GROUP, image_means, per_image
from results.pictures import OF_SAMPLES
from results.rows import KEY
from studies.study import Given, Study, Tables, names_in, read_table

MACHINES = "machines"  # files of the machines that made the rows, one of each process


def study_tables(
    study: Study,
    given: Given,
    folder: Path,
    fingerprints: Mapping[str, str],
    progress: Callable[[str], None],
) -> Tables:
    """Read a study's tables from disk if all that it depends on is the same, else compute them,
    from the parts on that an interrupted run has finished.

    Args:
        study, given: the study and what it works on.
        folder: of its tables.
        fingerprints: of the priors it uses, by name.
        progress: takes what the study is doing.

    Raises:
        OSError: the tables cannot be written.
    """
    depends: dict[str, Any] = {
        "study": describe(study),
        "priors": fingerprints,
        # a study sees images through a prior: without one it reads none
        "sets": {
            name: _digest(given.sets[name].images)
            for name in (names_in(study, given.sets) if fingerprints else ())
        },
    }
    if study.reads_rows:
        psnrs = given.rows.sort_values(KEY, ignore_index=True)[[*KEY, "config", "psnr"]]
        depends |= {"rows": _digest(psnrs), "attributes": _digest(given.attributes)}
    identity = json.dumps(depends, sort_keys=True, default=str)
    parts = folder / f"parts-{_digest(identity)}"
    about = folder / "study.json"
    saved = _read_json(about)
    if saved.get("identity") != identity or not all(
        path.exists()
        for path in (
            *(folder / f"{name}.csv" for name in saved["tables"]),
            *(given.folder / picture for picture in saved["pictures"]),
        )
    ):
        about.unlink(missing_ok=True)  # or a kill could leave unfinished tables that pass for whole
        for old in given.folder.glob("*.png"):
            old.unlink()
        tables = study.compute(replace(given, parts=parts), progress)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
        pictures = sorted(path.name for path in given.folder.glob("*.png"))
        saved = {"identity": identity, "tables": list(tables), "pictures": pictures}
        write_whole(about, json.dumps(saved))
        for done in folder.glob("parts-*"):  # of other options too
            shutil.rmtree(done, ignore_errors=True)
    return {name: read_table(folder / f"{name}.csv") for name in saved["tables"]}


def _read_json(path: Path) -> dict[str, Any]:
    """Read a file; {} if it is missing or damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _digest(data: pd.DataFrame | Tensor | str | None) -> str:
    if data is None:
        return ""
    if isinstance(data, Tensor):
        content = data.numpy().tobytes()
    else:
        content = (data if isinstance(data, str) else data.to_csv()).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def study_section(study: Study, tables: Tables, pictures: Path) -> Section:
    small = {name: table for name, table in tables.items() if len(table) <= 60}
    return Section(
        title=study.title,
        sentences=study.findings(tables),
        tables=small,
        figures=lambda: study.figures(tables),
        pictures={path.stem.replace("-", " "): path for path in sorted(pictures.glob("*.png"))},
    )


def sample_sheets(folder: Path, rows: pd.DataFrame, trials: Trials) -> dict[str, Path]:
    """Draw sheets (caption -> PNG), one per problem and set: truth, measurement and recoveries.

    A line per image that every method has recovered. `rows` are those of the trials; of several
    seeds it draws the first.
    """
    sheets = {}
    seed = trials.seeds[0]
    columns = ["problem", "dataset", "method", "config"]
    configs = rows.loc[rows["seed"] == seed, columns].drop_duplicates()
    of_method = configs.set_index(columns[:3])["config"]
    for problem, dataset in itertools.product(trials.problems, trials.sets):
        places = {
            method: f"{of_method[problem, dataset, method]}-{seed}"
            for method in trials.methods
            if (problem, dataset, method) in of_method.index
        }
        tiles = sorted((folder / "pictures" / problem / dataset).glob("*/"))
        pictured = [
            p for p in places.values() if any((t / p / "truth.png").exists() for t in tiles)
        ]
        if not pictured:
            continue
        first = pictured[0]
        files = {what: f"{first}/{what}.png" for what in ("truth", "measurement")}
        for method, place in places.items():
            files[method] = f"{place}/recovery.png"
            files |= {f"{method}, {what}": f"{place}/{what}.png" for what in OF_SAMPLES}
        files = {
            name: file for name, file in files.items() if any((t / file).exists() for t in tiles)
        }
        whole = [tile for tile in tiles if all((tile / file).exists() for file in files.values())]
        if not whole:
            continue
        cells = [
            decode_image(str(tile / file), ImageReadMode.RGB)
            for tile in whole
            for file in files.values()
        ]
        size = max(1, 96 // cells[0].shape[-1])
        grid = make_grid(torch.stack(cells), nrow=len(files), padding=1, pad_value=255)
        grid = grid.repeat_interleave(size, 1).repeat_interleave(size, 2)
        path = folder / "sheets" / f"{problem}-{dataset}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(grid.float() / 255, path)
        sheets[f"{problem}, {dataset}: {' | '.join(files)}"] = path
    return sheets


def this_machine(devices: Sequence[torch.device], share: Share) -> dict[str, str]:
    """Name the versions and the hardware that make recoveries now."""
    names = {
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        for device in devices
    }
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    if find_spec("deepinv"):
        versions.append(f"deepinv {version('deepinv')}")
    return {
        "versions": ", ".join(versions),
        "hardware": f"{', '.join(sorted(names))}, {os.cpu_count()} cores",
        "processes": str(share.count * len(devices)),
    }


def remember_machine(folder: Path, devices: Sequence[torch.device], share: Share) -> None:
    """Note on disk what makes the rows to come: a later run may only draw them."""
    path = folder / share.file(MACHINES, ".json")
    known = _read_json(path).get("machines", [])
    now = this_machine(devices, share)
    if now not in known:
        write_whole(path, json.dumps({"machines": [*known, now]}))


def details(
    rows: pd.DataFrame,
    folder: Path,
    devices: Sequence[torch.device],
    share: Share,
    seeds: Sequence[int],
) -> dict[str, str]:
    """Collect what a reader needs to judge and repeat it: command, versions, seeds, hardware.

    Versions and hardware are those that made the rows, all of them.
    """
    files = sorted(folder.glob(f"{MACHINES}*.json"))
    machines = [machine for file in files for machine in _read_json(file).get("machines", [])]
    machines = machines or [this_machine(devices, share)]
    found = {"command": f"python {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}"}
    found |= {key: "; ".join(dict.fromkeys(m[key] for m in machines)) for key in machines[0]}
    if rows.empty:  # studies alone
        del found["processes"]
        return found
    medians = rows.groupby("method", sort=False)["seconds"].median()
    return found | {
        "seeds": ", ".join(map(str, seeds)),
        "recoveries": f"{len(rows):,}",
        "seconds per image": ", ".join(f"{method} {s:.2g}" for method, s in medians.items()),
    }


def require_login() -> None:
    """Raise ValueError if W&B finds no key for its server."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise ValueError("wandb is online, and W&B finds no key: run `wandb login`")


def to_wandb(
    project: str,
    name: str,
    mode: Mode,
    folder: Path,
    rows: pd.DataFrame,
    page: Path,
    tables: Tables,
) -> None:
    """Send the summary as one run: scalars, tables, the page."""
    import wandb

    entity, project = split_project("project", project)
    with wandb.init(
        entity=entity, project=project, name=name, mode=mode, dir=folder, job_type="evaluate"
    ) as run:
        if len(rows):
            by = [*GROUP, "gamma"]
            table = image_means(per_image(rows, by), by)
            swept = table.duplicated(GROUP, keep=False)
            for row, several in zip(table.itertuples(), swept, strict=True):
                at = f"/gamma-{row.gamma:g}" if several else ""
                run.summary[f"{row.problem}/{row.dataset}/{row.method}{at}/psnr"] = row.psnr
            run.log({"means": wandb.Table(dataframe=table)})
            run.log({"rows": wandb.Table(dataframe=rows)})
        for label, table in tables.items():
            run.log({label: wandb.Table(dataframe=table)})
        run.log({"report": wandb.Html(page.read_text(), inject=False)})
