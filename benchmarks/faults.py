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

from benchmarks.measure import print_table
from benchmarks.tiny import Process, Program, differences, same
from callbacks.checkpoints import newest_checkpoint
from priors.checkpoint import read_checkpoint

ENDS = 10.0  # seconds within which the other processes of a killed one end


@dataclass
class Outcome:
    """What came of a fault: how often it was tried, what was lost, seconds until work went on."""

    tries: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def note(self, lost: str) -> None:
        self.lost += [lost] if lost else []


class Campaign:
    """What faults share: a folder, random moments and places, the tries and the time of each."""

    def __init__(self, folder: Path, seed: int, tries: int) -> None:
        self.folder, self.random, self.tries = folder, random.Random(seed), tries
        self.deadline = 0.0  # of the present fault, which is tried once at least
        self.whole: dict[str, Path] = {}
        self.made = 0

    def goes_on(self, outcome: Outcome) -> bool:
        late = time.monotonic() > self.deadline
        return outcome.tries < (1 if late else self.tries)

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


Harm = Callable[[Campaign, Program, Process], str]


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
            outcome.seconds += [seconds] if harmed else []
            if not campaign.goes_on(outcome):
                break
            time.sleep(campaign.random.uniform(0, 3))
            if process.poll() is not None:
                break
            outcome.note(harm(campaign, program, process))
            outcome.tries, harmed = outcome.tries + 1, True
        outcome.note(program.finish(process) or differences(program.folder, whole))
    return outcome


# --- what happens to a process


def kill(campaign: Campaign, program: Program, process: Process) -> str:
    process.kill()
    return program.ended(process, "status -9")


def terminate(campaign: Campaign, program: Program, process: Process) -> str:
    process.terminate()
    return program.ended(process, "status 143", "Stopped by SIGTERM")


def fill_disk(campaign: Campaign, program: Program, process: Process) -> str:
    size = campaign.random.choice([1, 1000, 100_000])  # every file, larger ones, checkpoints
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    return program.ended(process, "status 2", "File too large")


def kill_one_of_two(campaign: Campaign, program: Program, process: Process) -> str:
    began = time.monotonic()
    kill_child(process, "train.py")
    wrong = program.ended(process, "status", "rank 1", "rank: 1")
    seconds = time.monotonic() - began
    return wrong if seconds < ENDS else f"the other ended after {seconds:.0f} s"


def kill_child(process: Process, name: str) -> None:
    found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", name], capture_output=True)
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)


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
    """kill -9 of wandb-core in training, which goes on"""
    outcome = Outcome()
    while campaign.goes_on(outcome):
        program = campaign.new("wandb")
        process = program.start()
        program.until_at_work(process)
        kill_child(process, "wandb-core")
        outcome.tries += 1
        wrong = program.finish(process)
        outcome.note(wrong or differences(program.folder, campaign.undisturbed("glow")))
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
    for number in range(40 * campaign.tries):
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
    parser.add_argument("--out", type=Path, default=Path("runs/faults.json"))


def run(options: argparse.Namespace) -> None:
    end = time.monotonic() + 60 * options.minutes
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), options.seed, options.tries)
        for number, name in enumerate(options.only):
            now = time.monotonic()
            campaign.deadline = now + (end - now) / (len(options.only) - number)
            outcome = FAULTS[name](campaign)
            found[name] = asdict(outcome)
            print(name, found[name], file=sys.stderr, flush=True)
            lost = "; ".join(dict.fromkeys(outcome.lost)) or "nothing"
            seconds = [
                f"{f(outcome.seconds):.0f}" if outcome.seconds else "" for f in (median, max)
            ]
            rows.append([inspect.getdoc(FAULTS[name]), outcome.tries, lost, *seconds])
    print_table(["fault", "tried", "lost", "seconds until work goes on", "at most"], rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    if any(outcome["lost"] for outcome in found.values()):
        sys.exit(1)
