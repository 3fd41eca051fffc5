"""The project's programs on a GPU: its tests, a training of the paper's network, rows through it.

Everything is in the kit's folder: the run in runs/kit, its export in kit/, its weights in pieces.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from xml.etree import ElementTree

from benchmarks.gpu_kit import Kit, Result
from callbacks.checkpoints import newest_checkpoint
from core.files import whole_lines
from core.parent import end_with_parent
from priors.checkpoint import read_checkpoint
from results.rows import read_rows

PIECE = 15 * 2**20  # bytes of a piece of the weights, at most
UNKNOWN = 10**9  # images, of a training whose length is not known yet
FILLED = 0.93  # of the time that is left, with training; its last epoch's end takes the others
TIME_IS_UP = 3  # status of train.py stopped by trainer.max_time
OUT_OF_MEMORY = "out of memory. Lower data.batch_size"  # in what train.py says
TEST_SET = "celeba-test-12"
SHOWN = 2000  # characters of a test's failure, at most
POINTS = 50  # of a curve, at most


def said(*command: str) -> tuple[int, str]:
    """Run a Python program, print what it says as it says it; return its status and all of that.

    It ends with this process, so that a kit that was killed leaves no training behind.
    """
    lines, arguments = [], [sys.executable, *command]
    with Popen(arguments, stdout=PIPE, stderr=STDOUT, text=True, preexec_fn=tied) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def tied() -> None:
    end_with_parent(lambda: True)


def require(*command: str) -> None:
    """Run a Python program. Raises RuntimeError if it fails."""
    status, _ = said(*command)
    if status:
        raise RuntimeError(f"{' '.join(command[:2])} ended with status {status}")


# --- tests


def tests(kit: Kit) -> Result:
    """Run the tests that need a GPU; count passed, failed and skipped ones."""
    files = [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if needs_gpu(path)]
    report = kit.out / "tests.xml"
    options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    if kit.device.type == "cuda":
        options.append("-n4")  # each waits for the CPU more than for the GPU
    status, _ = said("-m", "pytest", *options, *files)
    if status not in (0, 1):  # 1: some have failed
        raise RuntimeError(f"pytest ended with status {status}")
    cases = list(ElementTree.parse(report).iter("testcase"))
    report.unlink()
    skipped = [case for case in cases if case.find("skipped") is not None]
    failures = {
        f"{case.get('classname')}::{case.get('name')}": (wrong.text or "")[-SHOWN:]
        for case in cases
        for wrong in (*case.findall("failure"), *case.findall("error"))
    }
    return {
        "passed": len(cases) - len(skipped) - len(failures),
        "failed": len(failures),
        "skipped": len(skipped),
        "failures": failures,
    }


def needs_gpu(path: Path) -> bool:
    return "pytest.mark.gpu" in path.read_text()


# --- training


def training(kit: Kit) -> Result:
    """Train the paper's 64px Glow for the minutes there are; export it, its weights in pieces.

    A first start finds out how many images there is time for, so that the rate decays to 0 in time.
    """
    run, began = kit.out / "runs" / "kit", time.monotonic()
    before, seconds = images_seen(run), kit.sizes.first * seconds_to_train(kit)
    graph, batch_size = train(
        kit, seconds, UNKNOWN, kit.device.type == "cuda", kit.sizes.batch_size
    )
    rate = (images_seen(run) - before) / seconds
    if rate <= 0:
        raise RuntimeError("the first start saw no image: give it more minutes")
    seconds = seconds_to_train(kit)
    train(kit, seconds, images_seen(run) + round(FILLED * seconds * rate), graph, batch_size)
    seconds = time.monotonic() - began
    half = export(run, kit.out / "kit")
    record = json.loads((kit.out / "kit" / "prior.json").read_text())
    return {
        "data": training_set(kit.sets()) if kit.sets() else "drawn faces",
        "begun_from": record["begun_from"],
        "batch_size": batch_size,
        "cuda_graph": graph,
        "images_seen": record["images_seen"],
        "images_per_second": rate,
        "seconds_of_training": seconds,
        "bits_per_dim": record["bits_per_dim"],
        "curve": curve(run),
        "precision": "float16" if half else "float32",
        "pieces": cut(kit.out / "kit" / "weights.safetensors", kit.out),
        "join": "cat kit.safetensors.?? > kit/weights.safetensors",
    }


def seconds_to_train(kit: Kit) -> float:
    return max(2.0, min(kit.sizes.longest, kit.seconds_left - kit.sizes.reserve))


def train(
    kit: Kit, seconds: float, total_images: int, graph: bool, batch_size: int
) -> tuple[bool, int]:
    """Train until the time or the images are over, with a CUDA graph or, if that fails, without.

    Returns whether with one, and the batch size, halved until it fits. Raises RuntimeError if
    training fails otherwise.
    """
    status, text = said(*train_command(kit, seconds, total_images, graph, batch_size))
    while status not in (0, TIME_IS_UP):
        if OUT_OF_MEMORY in text and batch_size > 1:
            batch_size //= 2
            print(f"out of memory: now with batches of {batch_size}", flush=True)
        elif graph and "captur" in text:
            graph = False
            print("failed: now without a CUDA graph", flush=True)
        else:
            raise RuntimeError(f"train.py ended with status {status}")
        status, text = said(*train_command(kit, seconds, total_images, graph, batch_size))
    return graph, batch_size


def train_command(
    kit: Kit, seconds: float, total_images: int, graph: bool, batch_size: int
) -> list[str]:
    minutes, left = divmod(max(1, round(seconds)), 60)
    command = [
        *("train.py", "fit", "--config=configs/glow_celebahq64.yaml"),
        *("--run.name=kit", f"--run.root={kit.out / 'runs'}", "--run.wandb=disabled"),
        "--run.accept_changes=true",  # a smaller batch than of a start that was cut off
        f"--trainer.max_time=00:{minutes // 60:02d}:{minutes % 60:02d}:{left:02d}",
        *("--trainer.precision=bf16-mixed", "--trainer.enable_progress_bar=false"),
        f"--model.cuda_graph={graph}",
        *("--recovery.during.problems=[]", "--recovery.at_end.problems=[]"),
        *("--checkpoints.every_minutes=2", *data_options(kit), f"--data.batch_size={batch_size}"),
        *(f"--model.total_images={total_images}", *kit.sizes.training),
    ]
    return command + ([f"--run.begin_from={kit.weights64}"] if kit.weights64 else [])


def data_options(kit: Kit) -> list[str]:
    """Choose the sets: held out are all whose names end with -val, or else all but -train."""
    sets = kit.sets()
    if not sets:
        return ["--data=datamodules.faces.ProceduralFaces", *kit.sizes.drawn]
    others = [name for name in sets if not name.endswith("-train")]
    held_out = [name for name in others if name.endswith("-val")] or others
    near = [name for name in held_out if name.startswith("celeba")]
    far = [name for name in held_out if name not in near]
    return [
        *(f"--data.root={kit.data}", f"--data.train={training_set(sets)}"),
        *("--data.num_workers=8", "--data.window=2"),  # shards, read before their first image is
        *(f"--data.in_distribution={listed(near)}", f"--data.out_of_distribution={listed(far)}"),
    ]


def training_set(sets: list[str]) -> str:
    """Find the first set whose name ends with -train. Raises ValueError if there is none."""
    for name in sets:
        if name.endswith("-train"):
            return name
    raise ValueError(f"no prepared set of 64px has a name that ends with -train, only {sets}")


def listed(names: list[str]) -> str:
    return f"[{', '.join(names)}]"


def metrics(run: Path) -> list[Result]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in whole_lines(path).splitlines()] if path.exists() else []


def images_seen(run: Path) -> int:
    """Read the clock of the run's newest checkpoint: a start that was cut off has logged more."""
    checkpoint = newest_checkpoint(run)
    return int(read_checkpoint(checkpoint, check=False)["images_seen"]) if checkpoint else 0


def curve(run: Path) -> list[tuple[int, float]]:
    """Read bits per dimension of training batches by images seen, at some points of training."""
    name = "train/bits_per_dim"
    points = [(int(line["images_seen"]), line[name]) for line in metrics(run) if name in line]
    every = max(1, -(-len(points) // POINTS))
    return points[::-every][::-1]


def export(run: Path, out: Path) -> bool:
    """Export a run in half precision, or in full if half would change it; return which."""
    status, _ = said("-m", "priors.export", str(run), str(out), "--half")
    if status:
        require("-m", "priors.export", str(run), str(out))
    return not status


def cut(path: Path, out: Path) -> list[str]:
    """Cut a file into pieces kit.safetensors.00, .01, ... in `out`; return their names."""
    for earlier in out.glob("kit.safetensors.*"):
        earlier.unlink()
    content, names = path.read_bytes(), list[str]()
    for start in range(0, len(content), PIECE):
        names.append(f"kit.safetensors.{len(names):02d}")
        (out / names[-1]).write_bytes(content[start : start + PIECE])
    return names


# --- rows


def rows(kit: Kit) -> Result:
    """Recover a few images through the trained run with evaluate.py; its rows.csv is kept."""
    name = TEST_SET if TEST_SET in kit.sets() else "faces-val"
    folder = kit.out / "runs" / "evaluate" / "kit"
    require(
        *("evaluate.py", "--config=configs/evaluate/cs64.yaml", "--name=kit"),
        *(f"--root={folder.parent}", f"--priors={{glow: {kit.out / 'runs' / 'kit'}}}"),
        *("--trials.problems=[cs-8%, cs-20%]", "--trials.methods=[glow]"),
        *(f"--sets={{{name}: in}}", f"--trials.sets=[{name}]", f"--device={kit.device.type}"),
        *((f"--data={kit.data}",) if kit.data else ()),
        *kit.sizes.rows,
    )
    shutil.copy(folder / "rows.csv", kit.out / "rows.csv")
    found = read_rows(folder).groupby("problem", sort=False)
    return {
        "set": name,
        "images_seen": images_seen(kit.out / "runs" / "kit"),
        "problems": {
            problem: {
                "images": len(group),
                "psnr": float(group["psnr"].mean()),
                "ssim": float(group["ssim"].mean()),
                "evaluations": float(group["evaluations"].mean()),
                "seconds": float(group["seconds"].sum()),
            }
            for problem, group in found
        },
    }
