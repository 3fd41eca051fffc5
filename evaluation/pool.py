"""Tasks on one process or many. Each appends to a rows file of its own; readers merge them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import save_image

from core.files import whole_file
from core.memory import keep_freed_memory
from core.parent import end_with_parent
from evaluation.plan import Bench, Task
from evaluation.share import Share
from recovery.methods import Progress
from results.identity import ConfigTexts
from results.pictures import measurement_as_image, pictures_of
from results.rows import RowFile
from results.trial import Trial, run_trials


@dataclass(frozen=True)
class Done:
    """A task that ended: the seconds per image, or why it has no rows."""

    task: Task
    seconds: float = 0.0
    failure: str = ""


class Worker:
    """Performs tasks: rows into its file, the first images of a set as pictures.

    Args:
        bench: what the tasks name.
        rows: its own file.
        pictures: folder of recovered images as PNG.
    """

    def __init__(self, bench: Bench, rows: Path, pictures: Path) -> None:
        self.bench = bench
        self.rows = RowFile(rows)
        self.texts = ConfigTexts(None)
        self.pictures = pictures

    def perform(self, task: Task, progress: Progress | None = None) -> Done:
        """Recover a task's images; their rows are on disk when this returns.

        Raises OSError if they cannot be written.
        """
        try:
            job = self.bench.job(task.template, task.dataset, self.texts)
            if task.template.config not in (job.template.config, job.config_before):
                raise RuntimeError("changed since the evaluation began: run the same command again")
            trials = run_trials(
                job.images.subset(task.images),
                job.operator,
                job.method,
                task.template,
                device=self.bench.device,
                batch_size=len(task.images),
                progress=progress,
            )
            trial = next(trials)  # one, because a task's images are recovered at once
            seen = measurement_as_image(trial.y, job.operator)
        except torch.AcceleratorError as error:
            # a GPU that has failed once fails every task at once, and would empty the queue
            raise RuntimeError(
                f"{self.bench.device} failed at {task.method} on {task.problem}: {error}. Every "
                "finished row is kept: run the same command again, without this device perhaps "
                "(CUDA_VISIBLE_DEVICES)"
            ) from error
        except torch.OutOfMemoryError:  # its text differs from task to task
            memory = f"{self.bench.device.type} out of memory at {len(task.images)} images at once"
            return Done(task, failure=f"{memory}: lower batch_size")
        except Exception as error:
            # a failing method must not stop the others; a rerun tries it again
            return Done(task, failure=f"{type(error).__name__}: {error}")
        # pictures first: a rerun does not recover an image that has a row
        self.save_pictures(task, trial, seen)
        self.rows.append(trial.rows)
        return Done(task, trial.rows[-1].seconds)

    def save_pictures(self, task: Task, trial: Trial, measurement: Tensor | None) -> None:
        """Save truth, measurement and recovery of the first images.

        As <problem>/<set>/<image>/<config>-<seed>/{truth,measurement,recovery}.png, and more of
        posterior samples (see `results.pictures`).
        """
        for i, index in enumerate(task.images):
            if index >= task.pictured:
                continue
            place = f"{task.template.config}-{task.template.seed}"
            folder = self.pictures / task.problem / task.dataset / f"{index:05d}" / place
            columns = {
                "truth": trial.truth,
                "measurement": measurement,
                **pictures_of(trial.recovery),
            }
            for name, images in columns.items():
                if images is not None:
                    with whole_file(folder / f"{name}.png") as file:
                        save_image(images[i].clamp(0, 1), file, format="png")


def perform_all(
    tasks: Sequence[Task],
    make: Callable[[torch.device], Bench],
    devices: Sequence[torch.device],
    folder: Path,
    share: Share,
    progress: Progress | None = None,
) -> Iterator[Done]:
    """Yield tasks as they end; one process per device, this one alone if there is one device.

    Args:
        tasks: what to do.
        make: makes the bench on a device; must be picklable for several devices.
        devices: of the processes.
        folder: of rows and pictures.
        share: whose tasks they are; names the files of rows.
        progress: of this process alone.

    Raises:
        OSError: rows cannot be written.
        RuntimeError: a process was killed, for lack of memory, say.
    """
    if len(devices) == 1:
        rows = folder / share.file("rows", ".csv")
        worker = Worker(make(devices[0]), rows, folder / "pictures")
        yield from (worker.perform(task, progress) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    places = context.SimpleQueue()
    for index, device in enumerate(devices):
        rows = folder / share.file("rows", f"-{index}.csv")
        RowFile(rows)  # meet a full disk here, where the user gets to know
        places.put((str(rows), str(device)))
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    with ProcessPoolExecutor(
        len(devices),
        mp_context=context,
        initializer=_start,
        initargs=(places, threads, make, folder),
    ) as pool:
        try:
            futures = [pool.submit(_perform, task) for task in tasks]
            yield from (future.result() for future in as_completed(futures))
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process of the evaluation ended before its time (out of memory?). Every "
                "finished row is kept: run the same command again, with fewer processes perhaps"
            ) from error
        except BaseException:  # Ctrl-C, a full disk: no process may write here once this returns
            processes = list((pool._processes or {}).values())  # shutdown forgets them
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
            pool.shutdown(cancel_futures=True)
            raise


_worker: Worker


def _start(
    places: "multiprocessing.queues.SimpleQueue[tuple[str, str]]",
    threads: int,
    make: Callable[[torch.device], Bench],
    folder: Path,
) -> None:
    """Set up a new process: it ends with its parent, and leaves Ctrl-C to it."""
    global _worker
    parent = multiprocessing.parent_process()
    end_with_parent(lambda: parent is None or parent.is_alive())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    rows, device = places.get()
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    _worker = Worker(make(torch.device(device)), Path(rows), folder / "pictures")


def _perform(task: Task) -> Done:
    return _worker.perform(task)
