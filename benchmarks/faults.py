"""The faults of a bad day, brought about on purpose: what is lost, and how soon work goes on.

`train.py` and `evaluate.py` run as a user runs them, at a tiny size on drawn faces. They are
killed, starved of disk, handed damaged files; then the same command runs again until it ends. Its
weights (bit for bit), its rows and the names of its files are compared with those of an undisturbed
run. Disturbances come at random moments (`--seed`), while training saves at every step.
"""

import argparse
import inspect
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch

from benchmarks.measure import table
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
        *("--trials.methods=[glow, lasso-dct, pseudo-inverse]", "--trials.images=32"),
        *("--methods.glow.method.init_args.evaluations=60", "--batch_size=2", "--device=cpu"),
    ],
}
WAIT = 300.0  # seconds after which a program that should have done something is said to hang
ENDS = 10.0  # seconds within which the other processes of a killed one end


@dataclass
class Outcome:
    """What came of a fault: how often it was tried, what was lost, seconds until work went on."""

    tries: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def note(self, lost: str) -> None:
        if lost:
            self.lost.append(lost)


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

    def start(self, *before: str) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
        with self.log.open("wb") as log:
            command = [*before, *self.command]
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def until_at_work(self, process: "subprocess.Popen[bytes]") -> float:
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

    def finish(self, process: "subprocess.Popen[bytes]") -> str:
        """Wait for its end; returns what was wrong with it, or ""."""
        try:
            status = process.wait(WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"hangs for {WAIT:.0f} s"
        return f"status {status}: {self.said()}" if status else ""

    def said(self) -> str:
        return (self.log.read_text(errors="replace").strip().splitlines() or [""])[-1][:200]


class Campaign:
    """Faults that take turns until the time is over.

    Args:
        folder: of all that it makes.
        seed: of moments, places and sizes.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.most, self.deadline = 25, 0.0
        self.whole: dict[str, Path] = {}
        self.made = 0

    def allow(self, minutes: float, tries: int) -> None:
        self.most, self.deadline = tries, time.monotonic() + 60 * minutes

    def goes_on(self, outcome: Outcome) -> bool:
        """At least one try, then as long as there are time and tries."""
        return not outcome.tries or (outcome.tries < self.most and time.monotonic() < self.deadline)

    def new(self, kind: str) -> Program:
        self.made += 1
        prior = self.undisturbed("glow") if kind == "evaluation" else None
        return Program(kind, self.folder / f"{kind}-{self.made}", prior)

    def undisturbed(self, kind: str) -> Path:
        """The folder of a program that nothing happened to."""
        if kind not in self.whole:
            program = self.new(kind)
            wrong = program.finish(program.start())
            if wrong:
                raise RuntimeError(f"{kind} fails undisturbed: {wrong}")
            self.whole[kind] = program.folder
        return self.whole[kind]


Harm = Callable[[Campaign, Program, "subprocess.Popen[bytes]"], str]


def disturbed(campaign: Campaign, kind: str, harm: Harm) -> Outcome:
    """Harm a program at random moments, start it again each time, compare it once it has ended.

    `harm` returns once the process has ended, with what was wrong with the way it did.
    """
    outcome, whole = Outcome(), campaign.undisturbed(kind)
    while campaign.goes_on(outcome):
        program, harmed = campaign.new(kind), False
        while True:
            process = program.start()
            seconds = program.until_at_work(process)
            if harmed:
                outcome.seconds.append(seconds)
            if campaign.goes_on(outcome):
                time.sleep(campaign.random.uniform(0, 3))
            if not campaign.goes_on(outcome) or process.poll() is not None:
                break
            outcome.note(harm(campaign, program, process))
            outcome.tries, harmed = outcome.tries + 1, True
        outcome.note(program.finish(process) or differences(program.folder, whole))
    return outcome


def differences(one: Path, other: Path) -> str:
    """What two finished runs or evaluations differ in, or ""."""
    found = []
    paths = [newest_checkpoint(folder) for folder in (one, other)]
    if all(paths):
        a, b = (read_checkpoint(path) for path in paths if path)
        parts = [
            p for p in ("images_seen", "state_dict", "optimizer_states") if not same(a[p], b[p])
        ]
        found += [f"{part} differ" for part in parts]
    rows = [read_rows(folder, every=True) for folder in (one, other)]
    if rows[0].duplicated(KEY).any():
        found.append("rows twice")
    columns = [column for column in rows[0] if column not in ("run", "seconds")]
    tables = [frame.drop_duplicates(KEY)[columns].sort_values(KEY[1:]) for frame in rows]
    if tables[0].to_csv(index=False) != tables[1].to_csv(index=False):
        found.append(f"rows differ ({len(tables[0])} and {len(tables[1])})")
    files = [
        {str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (one, other)
    ]
    found += [f"file {name}" for name in sorted(files[0] ^ files[1]) if "wandb" not in name]
    return ", ".join(found)


def same(one: object, other: object) -> bool:
    """Equal in every bit, however nested."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


# --- what happens to a process


def kill(campaign: Campaign, program: Program, process: "subprocess.Popen[bytes]") -> str:
    process.kill()
    process.wait()
    return ""


def terminate(campaign: Campaign, program: Program, process: "subprocess.Popen[bytes]") -> str:
    process.terminate()
    wrong = program.finish(process)
    return "" if wrong.startswith(("status 143", "status -15")) else wrong or "status 0"


def fill_disk(campaign: Campaign, program: Program, process: "subprocess.Popen[bytes]") -> str:
    size = campaign.random.choice([1, 1000, 100_000])  # every file, larger ones, checkpoints
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    wrong = program.finish(process)
    named = "File too large" in program.log.read_text() and wrong.startswith("status 2")
    return "" if named or not wrong else wrong


def kill_one_of_two(
    campaign: Campaign, program: Program, process: "subprocess.Popen[bytes]"
) -> str:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    began = time.monotonic()
    os.kill(int(children[0]), signal.SIGKILL)
    wrong, seconds = program.finish(process), time.monotonic() - began
    named = "rank 1" in program.log.read_text() or "rank: 1" in program.log.read_text()
    return "" if wrong and named and seconds < ENDS else f"{wrong or 'status 0'}, {seconds:.0f} s"


# --- the faults


def kill_glow(campaign: Campaign) -> Outcome:
    """kill -9 of a Glow's training"""
    return disturbed(campaign, "glow", kill)


def kill_gan(campaign: Campaign) -> Outcome:
    """kill -9 of a growing GAN's training"""
    return disturbed(campaign, "gan", kill)


def kill_evaluation(campaign: Campaign) -> Outcome:
    """kill -9 of an evaluation"""
    return disturbed(campaign, "evaluation", kill)


def kill_rank(campaign: Campaign) -> Outcome:
    """kill -9 of one of two training processes"""
    return disturbed(campaign, "two", kill_one_of_two)


def sigterm(campaign: Campaign) -> Outcome:
    """SIGTERM in training"""
    return disturbed(campaign, "glow", terminate)


def full_disk_training(campaign: Campaign) -> Outcome:
    """a full disk in training (RLIMIT_FSIZE)"""
    return disturbed(campaign, "glow", fill_disk)


def full_disk_evaluation(campaign: Campaign) -> Outcome:
    """a full disk in an evaluation (RLIMIT_FSIZE)"""
    return disturbed(campaign, "evaluation", fill_disk)


def kill_wandb(campaign: Campaign) -> Outcome:
    """kill -9 of wandb-core in training"""
    outcome = Outcome()
    while campaign.goes_on(outcome):
        program = campaign.new("wandb")
        process = program.start()
        program.until_at_work(process)
        time.sleep(campaign.random.uniform(0, 2))
        group = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "wandb-core"], capture_output=True, text=True
        )
        for child in group.stdout.split():
            os.kill(int(child), signal.SIGKILL)
        outcome.note("" if group.stdout else "no wandb-core found")
        outcome.tries += 1
        outcome.note(
            program.finish(process) or differences(program.folder, campaign.undisturbed("glow"))
        )
    return outcome


def cut_checkpoint(campaign: Campaign) -> Outcome:
    """last.ckpt cut short or empty"""
    return damaged(campaign, lambda whole: whole[: campaign.random.randrange(len(whole))])


def flipped_checkpoint(campaign: Campaign) -> Outcome:
    """a bit of last.ckpt flipped"""

    def flip(whole: bytes) -> bytes:
        content, place = bytearray(whole), campaign.random.randrange(len(whole))
        content[place] ^= 1 << campaign.random.randrange(8)
        return bytes(content)

    return damaged(campaign, flip)


def damaged(campaign: Campaign, damage: Callable[[bytes], bytes]) -> Outcome:
    """Damage last.ckpt: a resuming run must take best.ckpt, or the very content of last.ckpt."""
    outcome, folder = Outcome(), campaign.folder / "damaged"
    shutil.copytree(campaign.undisturbed("glow") / "checkpoints", folder / "checkpoints")
    last = folder / "checkpoints" / "last.ckpt"
    whole, content = last.read_bytes(), read_checkpoint(last)
    for number in range(40 * campaign.most):
        last.write_bytes(damage(whole) if number else b"")
        with warnings.catch_warnings(action="ignore"):
            taken = newest_checkpoint(folder)
        if taken == last and not same(read_checkpoint(last), content):
            outcome.note(f"damage {number} resumed")
        outcome.tries += 1
    shutil.rmtree(folder)
    return outcome


FAULTS = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(cut_checkpoint, flipped_checkpoint, sigterm, kill_wandb, kill_rank),
        *(full_disk_training, full_disk_evaluation, kill_evaluation, kill_gan, kill_glow),
    )
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=30.0, help="for all faults together")
    parser.add_argument("--tries", type=int, default=25, help="of each fault, at most")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="faults.md, .json")


def run(options: argparse.Namespace) -> None:
    ends, outcomes = time.monotonic() + 60 * options.minutes, {}
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), options.seed)
        for number, name in enumerate(options.only):
            left = (ends - time.monotonic()) / 60 / (len(options.only) - number)
            campaign.allow(left, options.tries)
            outcomes[name] = FAULTS[name](campaign)
            print(f"{name}: {asdict(outcomes[name])}", file=sys.stderr, flush=True)
    rows = [[inspect.getdoc(FAULTS[name]), *cells(outcome)] for name, outcome in outcomes.items()]
    text = table(["fault", "tried", "lost", "seconds until work goes on"], rows)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "faults.md").write_text(text + "\n")
    found = {name: asdict(outcome) for name, outcome in outcomes.items()}
    (options.out / "faults.json").write_text(json.dumps(found, indent=1) + "\n")
    if any(outcome.lost for outcome in outcomes.values()):
        sys.exit(1)


def cells(outcome: Outcome) -> tuple[int, str, str]:
    lost = "; ".join(dict.fromkeys(outcome.lost)) or "nothing"
    seconds = outcome.seconds
    took = f"{median(seconds):.0f}, at most {max(seconds):.0f}" if seconds else ""
    return outcome.tries, lost, took
