"""Where a run lives, what it was, and what it leaves to look at."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from cli.wandb import split_project
from core.files import whole_file
from report.curves import training_curves
from report.terminal import show, summary_table
from results.identity import ConfigTexts
from results.rows import read_rows

# What a resumed run may change: lengths, logging and the machine it runs on.
CHANGEABLE = (
    "trainer.",
    "run.",
    "recovery.",
    "checkpoints.",
    "samples.",
    "quality.",
    "ckpt_path",
    "weights_only",
    "model.init_args.total_images",
    "model.init_args.cuda_graph",
    "data.init_args.batch_size",  # and devices, and accumulate_grad_batches: see require_same_batch
    "data.init_args.root",
    "data.init_args.overlap",
    "data.init_args.damaged",
    "data.held_out.",  # which sets these are, by `identities` of the data
    "data.init_args.num_workers",
    "data.init_args.passes",
    "data.init_args.validation_batch_size",
)
PINNED = ("run.begin_from",)  # exceptions: it may not change them


@dataclass
class Run:
    """Where a run lives and reports to.

    Attributes:
        name: its folder is <root>/<name>; a run that exists there is resumed.
        root: folder of all runs.
        wandb: auto is online if W&B finds a key and its server answers, else offline.
        project: W&B project, or entity/project.
        accept_changes: resume even if architecture, data, optimisation or seed have changed.
        begin_from: a run, a checkpoint or an exported prior whose flow a new run begins from, at
            0 images seen; to go on with a run's optimiser and clock, --ckpt_path.
    """

    name: str
    root: str = "runs"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "invertible-priors"
    accept_changes: bool = False
    begin_from: str | None = None

    def __post_init__(self) -> None:
        folder = Path(self.name)
        if not folder.name or folder.is_absolute() or ".." in folder.parts:
            raise ValueError(f"run.name {self.name!r} must name a folder inside run.root")
        split_project("run.project", self.project)

    @property
    def directory(self) -> Path:
        return Path(self.root) / self.name


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compare two configs of a run: a line per difference, and the keys a run may not change."""
    old, new = flatten(before), flatten(after)
    changed = sorted(key for key in {**old, **new} if old.get(key) != new.get(key))
    lines = [f"  {key}: {old.get(key)} -> {new.get(key)}" for key in changed]
    refused = [key for key in changed if not key.startswith(CHANGEABLE) or key in PINNED]
    return lines, refused


def classes_in(tree: Any) -> Iterator[str]:
    """The class paths in a config."""
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, dict | list):
            yield from classes_in(value)
    if isinstance(tree, dict) and "class_path" in tree:
        yield str(tree["class_path"])


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested config to {dotted key: value}."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def require_same_batch(now: list[int], saved: Mapping[str, Any], alike: list[int]) -> None:
    """Raise ValueError if steps have another number of images than a run's checkpoint was made of.

    `now` and its own come from `images_per_step`; a checkpoint of version 0.1 has none, and is
    taken to have `alike`.
    """
    before = saved.get("images_per_step", alike)
    if now != before:
        a, b = (", ".join(map(str, counts)) for counts in (before, now))
        raise ValueError(
            f"a step of this run takes {a} images of all devices together, and would take {b}: "
            "devices x data.batch_size x trainer.accumulate_grad_batches must stay the same. "
            "Change one to make up for another, or pass --run.accept_changes true"
        )


def require_whole_rows(directory: Path) -> None:
    """Raise ValueError, naming the file, for rows that a recovery would meet hours later."""
    with suppress(FileNotFoundError):
        read_rows(directory)
    for path in directory.glob("configs*.jsonl"):
        ConfigTexts(path)


def earlier_sets(path: Path) -> dict[str, Any] | None:
    """Read which prepared sets a run has used; None where it has not told.

    Raises ValueError, naming the file, if it is damaged.
    """
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}. Move it away") from error


def show_results(directory: Path) -> None:
    """Print the last recovery as a table, and where everything is."""
    console = Console()
    try:
        rows = read_rows(directory)
        if len(rows):
            show(summary_table(rows))
            with whole_file(directory / "curves.png") as file:
                training_curves(directory).savefig(file, format="png", dpi=110)
    except FileNotFoundError:
        console.print("No image has been recovered yet.")
    for name, what in (
        ("curves.png", "likelihood and recovery while training"),
        ("rows.csv", "one row per recovered image"),
        ("metrics.jsonl", "every number logged while training"),
        ("pictures", "truth | measurement | recovery"),
        ("samples", "samples from the prior"),
        ("latents.bin", "a latent of every training image, to resume with"),
        ("checkpoints", "to resume from, and to load the prior from"),
    ):
        if (directory / name).exists():
            console.print(f"{directory / name}: {what}", highlight=False, soft_wrap=True)
