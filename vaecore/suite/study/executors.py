"""Executors: where tasks run. In this process, or in processes of one thread each.

An executor takes a task with what it needs, and gives a future of its result; whoever asked stores it. Tensors and
plain values go to and fro, so an executor needs no shared folder.
"""

import gc
import shutil
import tempfile
import time
import weakref
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from loky import get_reusable_executor

from vaecore import keep_freed_memory
from vaecore.suite.study.tasks import Results, Task, one_thread, run
from vaecore.toolkit import Tensors

MOST_WORKERS = 8  # processes: each holds PyTorch and models, about a gigabyte
_LARGE = 1 << 20  # bytes; inputs of that size go to the workers by a file, written once
_KEPT_INPUTS = 64  # large inputs that a worker keeps for its next tasks


@dataclass(frozen=True)
class Outcome:
    """What a task gave, and the seconds that it took."""

    result: Tensors
    seconds: float


class Executor(Protocol):
    """Runs tasks. workers: how many run at once. slots: how many it takes at once."""

    workers: int
    slots: int

    def submit(self, task: Task, needs: Results) -> "Future[Outcome]":
        """Run a task; needs: the results of all that it needs."""
        ...

    def cancel(self) -> None:
        """Drop what is running, and free what was held."""
        ...


class Here:
    """This process, one task at a time; submit waits until the task is done."""

    workers = slots = 1

    def submit(self, task: Task, needs: Results) -> "Future[Outcome]":
        """Run a task at once."""
        future: Future[Outcome] = Future()
        try:
            future.set_result(timed(task, needs))
        except Exception as error:  # noqa: BLE001  # whoever asks for the result gets it
            future.set_exception(error)
        return future

    def cancel(self) -> None:
        """Nothing runs between tasks."""


class Processes:
    """Processes of this machine, each with one thread. PyTorch splits a small product among threads that then wait."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.slots = workers + 1  # so that no worker waits for its next task
        self._pool: Any = None
        self._folder: Path | None = None  # of large inputs
        self._sent: dict[str, Path] = {}

    def submit(self, task: Task, needs: Results) -> "Future[Outcome]":
        """Have a worker run a task; large inputs are written to a file once, which all workers read."""
        sent = {key: self._send(key, tensors) for key, tensors in needs.items()}
        self._pool = get_reusable_executor(
            max_workers=self.workers,
            timeout=60,
            initializer=_start,
            env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        future: Future[Outcome] = self._pool.submit(_work, task, sent)
        return future

    def cancel(self) -> None:
        """End the workers, and remove the files."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._pool, self._folder, self._sent = None, None, {}

    def _send(self, key: str, tensors: Tensors) -> Any:
        if key in self._sent:
            return self._sent[key]
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        if sum(array.nbytes for array in arrays.values()) < _LARGE:
            return arrays
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="vaecore-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._sent[key] = folder = self._folder / key
        folder.mkdir()
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        return folder


def default_workers(device: torch.device) -> int:
    """One for each thread that PyTorch would use, at most MOST_WORKERS. One process keeps a GPU busy."""
    return min(torch.get_num_threads(), MOST_WORKERS) if device.type == "cpu" else 1


def timed(task: Task, needs: Results) -> Outcome:
    """Run a task here, with one thread."""
    start = time.perf_counter()
    with one_thread():
        result = run(task, needs)
    return Outcome(result, time.perf_counter() - start)


def _start() -> None:
    """Set up a worker: one thread, and a garbage collector that leaves alone what has been imported."""
    torch.set_num_threads(1)
    keep_freed_memory()
    gc.collect()
    gc.freeze()


def _work(task: Task, sent: dict[str, Any]) -> Outcome:
    """Run a task in a worker."""
    return timed(task, {key: _received(key, value) for key, value in sent.items()})


_inputs: OrderedDict[str, Tensors] = OrderedDict()


def _received(key: str, sent: Any) -> Tensors:
    if not isinstance(sent, Path):
        return {name: torch.from_numpy(array) for name, array in sent.items()}
    if key not in _inputs:
        # Copy on write: torch wants memory that may be written to.
        _inputs[key] = {
            file.stem: torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False)) for file in sent.iterdir()
        }
        if len(_inputs) > _KEPT_INPUTS:
            _inputs.popitem(last=False)
    _inputs.move_to_end(key)
    return _inputs[key]
