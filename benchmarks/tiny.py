"""`train.py` and `evaluate.py` at a tiny size on drawn faces: started, waited for, compared."""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from callbacks.checkpoints import newest_checkpoint
from priors.checkpoint import read_checkpoint
from results.rows import KEY, read_rows

ANY_MODEL = [
    *("--data=datamodules.faces.ProceduralFaces", "--data.image_size=8", "--data.batch_size=8"),
    *("--data.training_images=262", "--data.held_out_images=5"),  # an epoch is 256 images
    *("--model.total_images=1024", "--model.ema_half_life=32"),
    *("--recovery.during.problems=[cs-10%]", "--recovery.during.images=3"),
    *("--recovery.at_end.problems=[cs-25%]", "--recovery.at_end.images=5"),
    *("--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1", "--samples.count=4"),
    *("--checkpoints.every_minutes=0", "--run.wandb=disabled"),
]
GLOW = [
    *("train.py", "fit", "--config=configs/demo.yaml", *ANY_MODEL),
    *("--model.network.image_size=8", "--model.network.steps=1", "--model.network.levels=2"),
    *("--model.network.hidden=8", "--model.network.last_level_steps=1"),
    *("--model.warmup_images=16", "--model.initialization_images=16"),
]
GAN = [
    *("train.py", "fit", "--config=configs/pggan_celeba32.yaml", *ANY_MODEL),
    *("--model.generator.image_size=8", "--model.generator.latent_dim=8"),
    *("--model.generator.base=32", "--model.discriminator.base=32"),
    *("--model.discriminator.image_size=8", "--recovery.methods.csgm.init_args.steps=20"),
    "--model.growth={stabilise_images: 300, fade_images: 400}",  # 4px, a fade, 8px
]
COMMANDS = {
    "glow": GLOW,
    "gan": GAN,
    "two": [*GLOW, "--config=configs/cluster.yaml", "--trainer.devices=2"],
    "wandb": [*GLOW, "--run.wandb=offline"],
    "evaluation": [
        *("evaluate.py", "--config=configs/evaluate/demo.yaml", "--image_size=8"),
        *("--trials.methods=[glow, pseudo-inverse]", "--trials.problems=[cs-25%]"),
        *("--trials.images=16", "--methods.glow.method.init_args.evaluations=60"),
        *("--batch_size=2", "--device=cpu"),
    ],
}
Process = subprocess.Popen[bytes]
WAIT = 600.0  # seconds without a sign of work after which a program counts as hanging


class Program:
    """A program that runs in a folder of its own, again and again until it has ended by itself."""

    def __init__(self, kind: str, folder: Path, prior: Path | None = None) -> None:
        self.folder, self.log = folder, folder.with_suffix(".log")
        self.command = [sys.executable, *COMMANDS[kind]]
        if kind == "evaluation":
            self.command += [f"--root={folder.parent}", f"--name={folder.name}"]
            self.command += [f"--priors={{glow: {prior}}}"]
        else:
            self.command += [f"--run.root={folder.parent}", f"--run.name={folder.name}"]

    def start(self) -> Process:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
        with self.log.open("wb") as log:  # through cat, which no limit of the program's concerns
            self.cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        assert self.cat.stdin is not None
        with self.cat.stdin as to:
            return subprocess.Popen(self.command, stdout=to, stderr=to, env=environment)

    def until_at_work(self, process: Process) -> float:
        """Wait until it has written a number or a row more, or has ended; returns seconds."""
        began, before = time.monotonic(), self.written()
        while self.written() <= before and process.poll() is None:
            if time.monotonic() - began > WAIT:
                process.kill()
            time.sleep(0.02)
        return time.monotonic() - began

    def written(self) -> int:
        files = [*self.folder.glob("metrics.jsonl"), *self.folder.glob("rows*.csv")]
        return sum(max(0, path.stat().st_size - 500) for path in files)  # more than a header

    def finish(self, process: Process) -> str:
        """Wait for its end; returns what was wrong with it, or ""."""
        try:
            status = process.wait(WAIT)
            self.cat.wait(WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"hangs for {WAIT:.0f} s"
        return f"status {status}: {self.log.read_text()[-200:]}" if status else ""

    def ended(self, process: Process, how: str, *names: str) -> str:
        """What was wrong with its end: it should have that status and say one of the names."""
        wrong, said = self.finish(process), self.log.read_text()
        if "rows.csv: one row per" in said:  # it had come to its end before: nothing can be lost
            return "" if wrong.startswith(how) else wrong
        named = not names or any(name in said for name in names)
        return "" if named and wrong.startswith(how) else wrong or "status 0"


def differences(one: Path, other: Path) -> str:
    """What two finished runs or evaluations differ in, or ""."""
    found = []
    saved = [
        read_checkpoint(path) for folder in (one, other) if (path := newest_checkpoint(folder))
    ]
    for part in ("images_seen", "state_dict", "optimizer_states") if saved else ():
        found += [] if same(saved[0][part], saved[1][part]) else [f"{part} differ"]
    found += ["rows twice"] if read_rows(one, every=True).duplicated(KEY).any() else []
    found += ["rows differ"] if rows_as_text(one) != rows_as_text(other) else []
    files = {str(path.relative_to(one)) for path in one.rglob("*")}
    files ^= {str(path.relative_to(other)) for path in other.rglob("*")}
    return ", ".join([*found, *(f"file {name}" for name in sorted(files) if "wandb" not in name)])


def rows_as_text(folder: Path) -> str:
    rows = read_rows(folder).drop(columns=["run", "seconds"])
    return str(rows.sort_values(KEY[1:]).to_csv(index=False))


def same(one: object, other: object) -> bool:
    """Equal in every bit, however nested."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
