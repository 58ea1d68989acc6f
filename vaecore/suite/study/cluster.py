"""An executor of a dask cluster: the same tasks on the workers of a scheduler, here or on other machines.

The workers need no folder in common with the one who asks. A task goes to a worker as its function's name, plain
values and keys. Small inputs go with it, large ones once, and data sets that the workers have not at all. What a task
gives comes back, to be stored by the one who asks; a large result also stays with the worker that made it, for tasks
that need it. Dask pickles what it sends: a scheduler, its workers and the one who asks must trust each other.
"""

import asyncio
import gc
import threading
import time
import uuid
import warnings
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, TypeAlias

from vaecore import keep_freed_memory, load_images
from vaecore.suite.study.addresses import LOCAL, check_address
from vaecore.suite.study.executors import (
    LARGE,
    AgainError,
    LostError,
    Needs,
    Outcome,
    Packed,
    exact_on_gpu,
    once_of,
    pack,
    size_of,
    timed_by_worker,
    unpack,
)
from vaecore.suite.study.sources import code_digest
from vaecore.suite.study.tasks import Given, Task
from vaecore.suite.text import counted, duration
from vaecore.toolkit import Tensors

PATIENCE = 600.0  # seconds that a run waits for a worker
_CONNECT = 10.0  # seconds to reach a scheduler
_RESULT = 60.0  # seconds to fetch a result; a worker that is lost then has it computed once more
_COLLECTORS = 4  # threads that fetch results
_LOOK = 1.0  # seconds between looks at the cluster
_AHEAD = 3  # tasks for each worker that the scheduler has: one that runs, and others so that no worker waits
_HELD = 1 << 30  # bytes of large inputs that stay on the cluster
Sent: TypeAlias = tuple[Packed, float, int]  # a result, the seconds and the memory that it took (`Outcome`)
_TRIES = 5  # times that a task is submitted whose inputs were lost


_ONE_THREAD = "workers of the cluster must have one thread each, as results depend on it"
_START = "(dask worker --nthreads 1, and --nworkers for more of them)"


class WorkerError(LostError):
    """A worker that cannot be used, as it has other code or more than one thread."""


class AbsentError(LookupError):
    """A worker lacks a data set, whose images must be sent."""


@dataclass(frozen=True)
class Named:
    """A data set in place of its images, for workers that have it. digest: of the images that it must have."""

    name: str
    split: str
    digest: str


class Cluster:
    """Workers of a dask cluster, of one thread each, which may come and go.

    address: of a scheduler, or a scheduler file; or `local:N`, processes of this machine, which listen on its loopback
    alone. gpu: ask for the resource GPU for each task, so that a worker takes as many at once as it has GPUs. patience:
    seconds that work waits where no worker is left. report: file for dask's performance report.
    Raises ValueError where there is no such cluster, or its workers cannot be used.
    """

    def __init__(
        self, address: str, *, gpu: bool = False, patience: float = PATIENCE, report: str | None = None
    ) -> None:
        check_address(address)
        distributed = _distributed()
        self.workers, self.address, self.dashboard = 0, address, ""
        self._patience, self._resources = patience, {"GPU": 1} if gpu else {}
        self._kind = "GPU worker" if gpu else "worker"
        self._stack, self._lock = ExitStack(), threading.RLock()
        self._pending: dict[Future[Outcome], Any] = {}  # with dask's future of the same
        self._held: OrderedDict[str, tuple[Any, int]] = OrderedDict()  # large inputs on the cluster, and their bytes
        self._absent: set[Named] = set()  # data sets that a worker lacks
        self._tries: Counter[str] = Counter()
        self._name, self._submitted = uuid.uuid4().hex[:8], 0
        self._received = self._peak = 0  # bytes: of all results, and that a worker took at most
        self._alone_since: float | None = None
        self._pool = ThreadPoolExecutor(_COLLECTORS, thread_name_prefix="vaecore-cluster")
        try:
            self._client = self._connect(distributed, address)
            self._check_workers()
            if report is not None:
                self._stack.enter_context(_reported(distributed, self._client, report))
        except BaseException:
            self._stack.close()
            raise
        ended = threading.Event()
        self._stack.callback(ended.set)
        self._stack.callback(self._pool.shutdown, wait=False, cancel_futures=True)
        threading.Thread(target=_watch, args=(weakref.ref(self), ended), daemon=True).start()

    def _connect(self, distributed: Any, address: str) -> Any:
        target: Any = address
        if address.startswith(LOCAL):
            import dask  # noqa: PLC0415  # few need it

            # Or it would set variables of the process that asks, among them one by which memory is given back at once.
            with dask.config.set({"distributed.nanny.pre-spawn-environ": {}}):
                target = distributed.LocalCluster(
                    n_workers=int(address.removeprefix(LOCAL)),
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    memory_limit=0,  # as of other processes: the system's
                    env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                )
            self._stack.enter_context(target)
        told = {"scheduler_file": target} if isinstance(target, str) and "://" not in target else {"address": target}
        try:
            client = distributed.Client(**told, timeout=_CONNECT, set_as_default=False)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"--cluster {address} must lead to a running scheduler; it does not: {error} (start one with `dask"
                " scheduler`, and workers with `dask worker ADDRESS --nthreads 1`)"
            ) from error
        self._stack.enter_context(client)
        self.dashboard = str(client.dashboard_link or "")
        return client

    def _count_workers(self) -> dict[str, int]:
        """Threads of each worker that can take a task."""
        threads: dict[str, int] = self._client.nthreads()
        if self._resources:
            there = self._client.scheduler_info(n_workers=-1)["workers"]
            threads = {
                name: count for name, count in threads.items() if "GPU" in there.get(name, {}).get("resources", {})
            }
        self.workers = len(threads)
        return threads

    def _check_workers(self) -> None:
        """Refuse workers of several threads; of one that comes later its first task tells."""
        for name, count in self._count_workers().items():
            if count != 1:
                raise ValueError(f"{_ONE_THREAD}; {name} has {count} {_START}")

    @property
    def slots(self) -> int:
        """Tasks that the scheduler has at most, however many a plan has."""
        return max(2, _AHEAD * self.workers)

    @property
    def place(self) -> str:
        """The scheduler, its workers, and where to watch them."""
        watched = f"; dashboard: {self.dashboard}" if self.dashboard else ""
        return f"cluster: {self.address}, {self._counted}{watched}"

    @property
    def _counted(self) -> str:
        return counted(self.workers, self._kind)

    @property
    def note(self) -> str:
        """Workers, the memory that they took, tasks that they have, and what came back; or that none is there."""
        if (since := self._alone_since) is not None:
            left = self._patience - (time.monotonic() - since)
            return f"no {self._kind} is left on the cluster; waiting for one, {duration(max(left, 0))} more"
        peak = f" of up to {self._peak / 2**30:.1f} GiB" if self._peak else ""
        received = f"{self._received / 2**20:,.1f} MiB received"
        return f"{self._counted}{peak}, {len(self._pending):,} on the cluster, {received}"

    def submit(self, task: Task, needs: Needs) -> "Future[Outcome]":
        """Have a worker run a task."""
        future: Future[Outcome] = Future()
        keys, once, named = [*needs], once_of(task), _named(task)
        try:
            inputs = [self._input(key, needs[key], named.get(key), kept=key not in once) for key in keys]
            with self._lock:
                self._submitted += 1
                remote = self._client.submit(
                    _work,
                    task,
                    code_digest(task.function),
                    keys,
                    *inputs,
                    key=f"{task.stage}-{self._name}-{self._submitted}",  # dask groups by what is before the first dash
                    pure=False,
                    resources=self._resources or None,
                )
                self._pending[future] = remote
        except Exception as error:
            if self._client.status == "running":
                raise
            future.set_exception(self._gone(error))  # dask raises this and that where a client is closed
            return future
        # Dask calls back in one thread for all clients, which may never wait.
        here, pool = weakref.ref(self), self._pool
        remote.add_done_callback(lambda remote: _hand_on(pool, here, task.key, future, remote))
        return future

    def cancel(self) -> None:
        """Drop what the cluster has of this plan, queued or running, and free what it held."""
        with self._lock:
            remotes, self._pending = [*self._pending.values()], {}
            held, self._held = [remote for remote, _ in self._held.values()], OrderedDict()
            self._tries.clear()
        self._cancel(remotes + held)

    def _cancel(self, remotes: list[Any]) -> None:
        with suppress(Exception):  # of many kinds, where the scheduler is gone: then nothing is queued
            self._client.cancel(remotes, force=True)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._held.clear()
        self._stack.close()

    def _input(self, key: str, get: Callable[[], Any], named: Named | None, *, kept: bool) -> Any:
        """What stands for an input: dask's future of what the cluster holds, a set's name, or the tensors' bytes."""
        with self._lock:
            if key in self._held and self._held[key][0].status in ("finished", "pending"):
                self._held.move_to_end(key)
                return self._held[key][0]
        packed = pack(get())
        if size_of(packed) < LARGE or not kept or not self.workers:
            return packed, 0.0, 0
        if named is not None and named not in self._absent:
            return named
        try:
            (remote,) = self._client.scatter([(packed, 0.0, 0)], hash=False)
        except OSError:  # no worker at present, or one that just went: the scheduler keeps it until there is one
            return packed, 0.0, 0
        self._hold(key, remote, size_of(packed))
        return remote

    def _hold(self, key: str, remote: Any, size: int) -> None:
        with self._lock:
            self._held[key] = remote, size
            while sum(size for _, size in self._held.values()) > _HELD and len(self._held) > 1:
                self._held.popitem(last=False)

    def finish(self, key: str, future: "Future[Outcome]", remote: Any) -> None:
        """Hand on what became of a task."""
        if future not in self._pending:
            return  # cancelled
        try:
            self._take(key, future, remote, remote.result(timeout=_RESULT))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # whoever asks for the result gets it
            if isinstance(error, AbsentError):
                self._absent.add(error.args[0])
                self._end(future, AgainError(key))
            elif remote.status == "error":
                self._end(future, error)
            elif isinstance(error, TimeoutError) and self._client.status == "running":
                self._pool.submit(_finish, weakref.ref(self), key, future, remote)  # it is computed once more, say
            else:
                self._end(future, self._lost(key))

    def _take(self, key: str, future: "Future[Outcome]", remote: Any, sent: Sent) -> None:
        packed, seconds, peak = sent
        size = size_of(packed)
        with self._lock:
            self._received += size
            self._peak = max(self._peak, peak)
        if size >= LARGE:
            self._hold(key, remote, size)
        self._end(future, Outcome(unpack(packed), seconds, peak))

    def _lost(self, key: str) -> RuntimeError:
        """Why a task has no result that did not fail, and that nobody here cancelled."""
        end = time.monotonic() + 2 * _CONNECT
        while self._client.status == "connecting" and time.monotonic() < end:
            time.sleep(0.1)  # dask tries to reach the scheduler again
        if self._client.status != "running":
            return self._gone()
        with self._lock:
            self._held.clear()  # an input went with its worker
            self._tries[key] += 1
            if self._tries[key] < _TRIES:
                return AgainError(key)
        return LostError(f"the cluster {self.address} lost a task {_TRIES} times")

    def _gone(self, error: BaseException | None = None) -> LostError:
        why = f" ({error})" if error is not None and str(error) else ""
        return LostError(f"the connection to the scheduler {self.address} was lost{why}")

    def _end(self, future: "Future[Outcome]", result: Outcome | BaseException) -> None:
        with self._lock:
            if self._pending.pop(future, None) is None:
                return  # cancelled, or told to have failed
        if isinstance(result, Outcome):
            future.set_result(result)
        else:
            future.set_exception(result)

    def look(self) -> None:
        """See how many workers there are, and give up where work has waited for one for too long."""
        try:
            self._count_workers()
        except Exception:  # noqa: BLE001  # of many kinds, where the scheduler is gone
            if self._client.status == "closed":
                self._give_up(self._gone())
            return
        since = self._alone_since
        if self.workers or not self._pending:
            self._alone_since = None
        elif since is None:
            self._alone_since = time.monotonic()
        elif time.monotonic() - since > self._patience:
            waited = duration(self._patience)
            self._give_up(LostError(f"no {self._kind} was left on the cluster {self.address} for {waited}"))

    def _give_up(self, error: LostError) -> None:
        with self._lock:
            pending = dict(self._pending)
        for future in pending:
            self._end(future, error)
        self._cancel([*pending.values()])


def _finish(cluster: "weakref.ref[Cluster]", *of: Any) -> None:
    if (there := cluster()) is not None:
        there.finish(*of)


def _hand_on(pool: ThreadPoolExecutor, *of: Any) -> None:
    with suppress(RuntimeError):  # it has ended with the cluster
        pool.submit(_finish, *of)


def _watch(cluster: "weakref.ref[Cluster]", ended: threading.Event) -> None:
    """Look at a cluster as long as it is used."""
    while not ended.wait(_LOOK):
        if (there := cluster()) is None:
            return
        there.look()
        del there


@contextmanager
def _reported(distributed: Any, client: Any, file: str) -> Iterator[None]:
    """Within, dask notes what happens for its performance report, and writes that at the end."""
    if find_spec("bokeh") is None:
        raise ValueError("--cluster-report needs bokeh (python -m pip install bokeh)")
    report = distributed.performance_report(file)
    with client.as_current():  # the report asks for the current client when it starts, and when it ends
        report.__enter__()
    try:
        yield
    finally:
        try:
            with client.as_current():
                report.__exit__(None, None, None)
        except Exception as error:  # noqa: BLE001  # of many kinds, where the scheduler is gone
            warnings.warn(f"dask's performance report could not be written to {file}: {error}", stacklevel=2)


def _named(task: Task) -> dict[str, Named]:
    """The data sets among what a task needs, by key."""
    given = [need for need in task.needs if isinstance(need, Given)]
    return {need.key: Named(*need.named, need.content) for need in given if need.named is not None}


def _work(task: Task, code: str, keys: list[str], *inputs: Sent | Named) -> Sent:
    """Run a task in a worker; inputs: as this function gives results, or data sets."""
    from distributed import get_worker  # noqa: PLC0415  # which the worker has

    _prepare()
    if (threads := get_worker().state.nthreads) != 1:
        raise WorkerError(f"{_ONE_THREAD}; one has {threads} {_START}")
    if code_digest(task.function) != code:
        raise WorkerError(
            "the workers of the cluster must have this package and its libraries as they are here; one has others"
            " (install the same versions there, and start its workers anew)"
        )
    outcome = timed_by_worker(task, {key: _received(value) for key, value in zip(keys, inputs, strict=True)})
    return pack(outcome.result), outcome.seconds, outcome.peak


def _received(value: Sent | Named) -> Tensors:
    if not isinstance(value, Named):
        return unpack(value[0])
    images = _loaded(value)
    if images is None:
        raise AbsentError(value)
    return images


@lru_cache(maxsize=4)
def _loaded(named: Named) -> Tensors | None:
    """A data set of this machine's data folder, with these very images; None where there is none. Downloads nothing."""
    try:
        images = load_images(named.name, named.split, download=False)
    except (OSError, ValueError):
        return None
    if images.digest != named.digest:
        return None
    return {"pixels": images.pixels} | ({} if images.labels is None else {"labels": images.labels})


@lru_cache(maxsize=1)
def _prepare() -> None:
    """Set up a worker's process once: its GPU, its allocator, and a garbage collector that leaves alone imports."""
    exact_on_gpu()
    keep_freed_memory()
    gc.collect()
    gc.freeze()


def _distributed() -> Any:
    try:
        import distributed  # noqa: PLC0415  # few need it
    except ImportError as error:
        raise ValueError(f"--cluster needs dask: {error} (python -m pip install 'vaecore[cluster]')") from error
    return distributed
