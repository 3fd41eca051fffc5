"""A quarter of an hour on one GPU: tests, speed, recovery and training there, in one command.

Parts run one after the other, each in a process of its own: `tests` that need a GPU; the rate of
`products`; training and decoding `steps`; `recovery` in each precision; `training` of the paper's
64px Glow for the minutes left; `rows` of images recovered through it. A part writes OUT/PART.json
as it ends. One that fails, or takes more than its share of the minutes, leaves OUT/PART.log and
stops no other. The same command again makes what is missing. OUT/report.md has it all.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.gpu_kit import FULL, TOY, Kit, Result
from benchmarks.gpu_report import page
from benchmarks.gpu_runs import rows, tests, training
from benchmarks.gpu_speed import products, recovery, steps
from benchmarks.measure import processor
from core.files import write_whole
from core.parent import end_with_parent

PARTS: dict[str, Callable[[Kit], Result]] = {
    part.__name__: part for part in (tests, products, steps, recovery, training, rows)
}
MINUTES = {  # of twelve; what a part leaves is shared by those after it
    "tests": 1.5,
    "products": 0.5,
    "steps": 2.5,
    "recovery": 1.5,
    "training": 4.5,
    "rows": 1.5,
}
PASSED = ("out", "data", "weights", "weights64")  # options, from the kit to its parts
STARTS = 10.0  # seconds that the process of a part may need to start


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--minutes", type=float, default=12.0, help="for all parts together (default: 12)")
    add("--out", type=Path, default=Path("runs/gpu"), help="folder of all results")
    add("--data", type=Path, help="folder of prepared sets, <data>/64px/NAME; else drawn faces")
    weights = "pretrained/glow-celeba32-deep-6bits"
    add("--weights", default=weights, metavar="PRIOR", help="the prior that recovers")
    add("--weights64", metavar="PRIOR", help="a 64px prior, from whose weights training begins")
    add("--toy", action="store_true", help="toy sizes, on any device, with drawn faces")
    add("--part", choices=PARTS, help="one part alone, in this process, with all the minutes")


def run(options: argparse.Namespace) -> None:
    if not options.toy and not torch.cuda.is_available():
        print("no CUDA device: this measures one; --toy rehearses on the CPU", file=sys.stderr)
        sys.exit(2)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        write_result(options.part, options)
        return
    end = time.monotonic() + 60 * options.minutes
    missing = [name for name in PARTS if not (options.out / f"{name}.json").exists()]
    for number, name in enumerate(missing):
        share = MINUTES[name] / sum(MINUTES[left] for left in missing[number:])
        start(name, max(0.0, share * (end - time.monotonic())), options)
        write_whole(options.out / "report.md", page(options.out, PARTS))
    report = page(options.out, PARTS)
    write_whole(options.out / "report.md", report)
    print(report)
    if any(not (options.out / f"{name}.json").exists() for name in PARTS):
        sys.exit(1)


def start(name: str, seconds: float, options: argparse.Namespace) -> None:
    """Run a part in a process of its own, which leaves its log unless it ends well and in time."""
    given = [f"--{key}={value}" for key, value in vars(options).items() if key in PASSED and value]
    command = [sys.executable, "-m", "benchmarks", "gpu", *given, *["--toy"] * options.toy]
    command += [f"--part={name}", f"--minutes={seconds / 60}"]
    environment = {**os.environ, "WANDB_MODE": "disabled", "WANDB_SILENT": "true"}
    log = options.out / f"{name}.log"
    print(f"{name}: {seconds / 60:.1f} minutes at most", file=sys.stderr, flush=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:  # with whatever it has started
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status == 0:
        log.unlink()
    elif status is None:
        with log.open("a") as file:
            file.write(f"\nended after {seconds:.0f} s, its share of the minutes\n")


def write_result(name: str, options: argparse.Namespace) -> None:
    """Run a part and write OUT/NAME.json."""
    end_with_parent()
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kit = Kit(
        out=options.out.absolute(),
        data=None if options.toy or options.data is None else options.data.absolute(),
        weights=options.weights,
        weights64=options.weights64,
        sizes=TOY if options.toy else FULL,
        device=device,
        deadline=began + 60 * options.minutes - STARTS,
    )
    result = PARTS[name](kit)
    shared = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "torch": str(torch.__version__),
        "seconds": time.monotonic() - began,
    }
    write_whole(options.out / f"{name}.json", json.dumps(shared | result, indent=1) + "\n")
