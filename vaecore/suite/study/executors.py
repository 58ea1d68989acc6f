"""Executors: where tasks run. In this process, or in processes of one thread each.

An executor takes a task with what it needs, and gives a future of its result; whoever asked stores it. Tensors and
plain values go to and fro, so an executor needs no shared folder.
"""

import gc
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from loky import get_reusable_executor
from loky.backend import resource_tracker
from numpy.typing import NDArray

from vaecore import keep_freed_memory
from vaecore.suite.study.sources import look_again
from vaecore.suite.study.tasks import Given, Results, Task, one_thread, run
from vaecore.toolkit import Tensors

Packed: TypeAlias = dict[str, tuple[NDArray[np.uint8], torch.dtype, torch.Size]]

LARGE = 1 << 20  # bytes; inputs of that size go to the workers once, and not with each task
_KEPT_INPUTS = 64  # large inputs that a worker keeps for its next tasks
_LOOK = 1.0  # seconds between a worker's looks at the process above it


@dataclass(frozen=True)
class Outcome:
    """What a task gave, the seconds that it took, and the most bytes that a worker's process took meanwhile.

    peak: 0 where it is not known: outside Linux, and in the process that asks, which is not a worker.
    """

    result: Tensors
    seconds: float
    peak: int = 0


Needs: TypeAlias = Mapping[str, Callable[[], Tensors]]
"""How to get the result of each task or given tensor, by its key: an executor may have it already."""


class LostError(RuntimeError):
    """What computes was lost, or cannot be used: no task can run on it any more."""


class AgainError(RuntimeError):
    """A task was lost on its way, and can be submitted again."""


class Executor(Protocol):
    """Runs tasks.

    workers: how many run at once. slots: how many it takes at once. place: where they run, if that is worth a line.
    note: what there is to say while it computes.
    """

    @property
    def workers(self) -> int: ...

    @property
    def slots(self) -> int: ...

    @property
    def place(self) -> str: ...

    @property
    def note(self) -> str: ...

    def submit(self, task: Task, needs: Needs) -> "Future[Outcome]":
        """Run a task; needs: of all that it needs."""
        ...

    def cancel(self) -> None:
        """Drop what is running, and free what was held."""
        ...

    def close(self) -> None:
        """End what was started to compute."""
        ...


class Here:
    """This process, one task at a time; submit waits until the task is done."""

    workers = slots = 1
    place = note = ""

    def submit(self, task: Task, needs: Needs) -> "Future[Outcome]":
        """Run a task at once."""
        future: Future[Outcome] = Future()
        results = {key: get() for key, get in needs.items()}
        try:
            future.set_result(timed(task, results))
        except Exception as error:  # noqa: BLE001  # whoever asks for the result gets it
            future.set_exception(error)
        return future

    def cancel(self) -> None:
        """Nothing runs between tasks."""

    def close(self) -> None:
        """Nothing was started."""


class WorkersWarning(UserWarning):
    """There can be no processes beside this one, which computes alone."""


class Processes:
    """Processes of this machine, each with one thread. PyTorch splits a small product among threads that then wait.

    Where the system gives no semaphores or no further process, this one computes, with a WorkersWarning.
    """

    place = note = ""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.slots = workers + 1  # so that no worker waits for its next task
        self._alone: Here | None = None
        self._pool: Any = None
        self._folder: Path | None = None  # of large inputs
        self._sent: dict[str, Any] = {}
        try:
            multiprocessing.get_context("fork" if os.name == "posix" else "spawn").Lock()
        except OSError as error:
            self._give_up(error)

    def submit(self, task: Task, needs: Needs) -> "Future[Outcome]":
        """Have a worker run a task; large inputs are written to a file once, which all workers read."""
        if self._alone is not None:
            return self._alone.submit(task, needs)
        once = once_of(task)
        sent = {key: self._send(key, get, kept=key not in once) for key, get in needs.items()}
        try:
            self._pool = get_reusable_executor(
                max_workers=self.workers,
                timeout=60,
                initializer=_start,
                initargs=(os.getpid(), look_again()),  # others for code that was edited
                env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
            future: Future[Outcome] = self._pool.submit(_work, task, sent)
        except OSError as error:
            self._give_up(error)
            return self.submit(task, needs)
        return future

    def cancel(self) -> None:
        """End the workers, and remove the files."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
        if self._folder is not None:
            _remove(self._folder)
        self._pool, self._folder, self._sent = None, None, {}

    def close(self) -> None:
        """The workers stay for the next plan, and end when they have waited for long."""

    def _give_up(self, error: OSError) -> None:
        self._alone, self.workers, self.slots = Here(), Here.workers, Here.slots
        message = (
            f"no processes can be started beside this one, which computes alone: {error.strerror or error}"
            " (they need semaphores, so a /dev/shm that can be written to, and memory; --workers 1 does without)"
        )
        with warnings.catch_warnings():  # it costs time and is no failure, even where a project makes warnings errors
            warnings.simplefilter("default", WorkersWarning)
            warnings.warn(WorkersWarning(message), stacklevel=3)

    def _send(self, key: str, get: Callable[[], Tensors], *, kept: bool) -> Any:
        if key in self._sent:
            return self._sent[key]
        packed = pack(get())
        if size_of(packed) < LARGE or not kept:
            return packed
        try:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="vaecore-"))
                resource_tracker.register(str(self._folder), "folder")  # which removes it if this process is killed
                weakref.finalize(self, _remove, self._folder)
            folder = self._folder / key
            folder.mkdir()
            for name, (array, *_) in packed.items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
        except OSError:  # no room for files: they go with every task
            return packed
        self._sent[key] = {name: (folder / f"{name}.npy", *form) for name, (_, *form) in packed.items()}
        return self._sent[key]


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        resource_tracker.unregister(str(folder), "folder")


def exact_on_gpu() -> None:
    """Have a GPU compute in this process as exactly and as repeatably as a CPU does."""
    # TF32 keeps ten bits of a float: too few for images that sit on a decision boundary.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def once_of(task: Task) -> set[str]:
    """Keys of the inputs that no other task takes, and that nobody need keep."""
    return {need.key for need in task.needs if isinstance(need, Given) and need.once}


def pack(tensors: Tensors) -> Packed:
    """Each tensor's bytes, type and shape, as NumPy lacks some types."""
    host = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return {name: (value.flatten().view(torch.uint8).numpy(), value.dtype, value.shape) for name, value in host.items()}


def unpack(packed: Packed) -> Tensors:
    """The tensors themselves, in the same memory where it may be written to."""
    return {
        name: torch.from_numpy(array if array.flags.writeable else array.copy()).view(dtype).view(shape)
        for name, (array, dtype, shape) in packed.items()
    }


def size_of(packed: Packed) -> int:
    """Bytes of all tensors."""
    return sum(array.nbytes for array, *_ in packed.values())


def timed(task: Task, needs: Results) -> Outcome:
    """Run a task here, with one thread."""
    start = time.perf_counter()
    with one_thread():
        result = run(task, needs)
    return Outcome(result, time.perf_counter() - start)


def timed_by_worker(task: Task, needs: Results) -> Outcome:
    """The same in a worker's process, whose memory is of this task, and of what it keeps for others."""
    forget_peak()
    return replace(timed(task, needs), peak=_peak_by_linux())


def forget_peak() -> None:
    """Make Linux count the most memory of this process from now on, as far as it can; see proc(5)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_by_linux() -> int:
    """The most bytes that this process took; 0 on other systems."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return 0


def peak_bytes() -> tuple[int, int] | None:
    """The most memory that this process took, and one that it started and that has ended; None where not known."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    this, ended = (unit * resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return _peak_by_linux() or this, ended  # Linux counts in `ru_maxrss` what the one that started this one had taken


def peak_memory() -> str:
    """The same in words; empty where not known."""
    if (peaks := peak_bytes()) is None:
        return ""
    this, ended = (peak / 2**30 for peak in peaks)
    return f" processes took up to {ended:.1f} GiB each, and this one {this:.1f} GiB;"


def _start(parent: int, _edits: int) -> None:
    """Set up a worker: one thread, and a garbage collector that leaves alone what has been imported."""
    if os.name == "posix":
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    exact_on_gpu()
    keep_freed_memory()
    gc.collect()
    gc.freeze()


def _end_with(parent: int) -> None:
    """End this process once the one that asks for results has ended: where that is killed, it ends no workers."""
    above = os.getppid()  # the parent, or what launches Python between the two
    try:
        while os.getppid() == above:
            os.kill(parent, 0)  # raises where it is gone
            time.sleep(_LOOK)
    except OSError:
        pass
    os._exit(1)


def _work(task: Task, sent: dict[str, Any]) -> Outcome:
    """Run a task in a worker."""
    return timed_by_worker(task, {key: _received(key, value) for key, value in sent.items()})


_inputs: OrderedDict[str, Tensors] = OrderedDict()


def _received(key: str, packed: dict[str, Any]) -> Tensors:
    if not any(isinstance(array, Path) for array, *_ in packed.values()):
        return unpack(packed)
    if key not in _inputs:
        # Copy on write: torch wants memory that may be written to.
        loaded = {name: np.load(file, mmap_mode="c", allow_pickle=False) for name, (file, *_) in packed.items()}
        _inputs[key] = unpack({name: (array, *packed[name][1:]) for name, array in loaded.items()})
        if len(_inputs) > _KEPT_INPUTS:
            _inputs.popitem(last=False)
    _inputs.move_to_end(key)
    return _inputs[key]
