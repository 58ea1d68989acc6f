"""The plan: tasks whose results are asked for, the store that keeps them, and the executor that computes the rest."""

import heapq
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from filelock import Timeout

from vaecore import Store
from vaecore.suite.study.entries import code_of
from vaecore.suite.study.executors import AgainError, Executor, Here, LostError, Outcome, peak_memory
from vaecore.suite.study.tasks import Given, Task, make
from vaecore.suite.study.waiting import Waiting
from vaecore.toolkit import Tensors


@dataclass(frozen=True)
class Work:
    """How far a plan has come: tasks done, of how many, the stage of the last that started, and seconds left.

    left: by what tasks of the same titles took; None where those of a title have not run on this machine yet. failed:
    of those that are done. note: what the executor has to say.
    """

    done: int
    of: int
    stage: str
    left: float | None
    failed: int = 0
    note: str = ""


Meter = Callable[[str], AbstractContextManager[Callable[[Work], None]]]
"""Shows how far work has come: given its title, a context manager that gives a function to call with a `Work`."""

_FIRST = {"models": 0, "attacks": 1, "trials": 2}  # stages, in the order in which they start
_WAIT = 0.2  # seconds between looks at what another process computes
_LOOK = 1.0  # seconds between looks at how far work has come
_HANDING = 0.001  # seconds to hand out a task and to keep what it gives
_SAMPLES = 101  # tasks of a title, the latest, by which it is told how long another takes
_KEPT = 64  # results that stay in memory, as tasks to come may need them


class NotComputedError(LookupError):
    """A result is asked for while a plan is only made."""


class WorkerDiedError(RuntimeError):
    """A process that computed a task ended before it gave a result."""


@contextmanager
def silent(_: str) -> Iterator[Callable[[Work], None]]:
    """A meter that shows nothing."""
    yield lambda _: None


@dataclass(frozen=True)
class Cost:
    """Of the tasks under a title: how many there are, how many the store has, and the seconds that the rest may take.

    seconds: summed over tasks; None where no task of this title has run on this machine. peak: bytes that a worker took
    at most while it ran one of them; 0 where that is not known.
    """

    title: str
    tasks: int
    stored: int
    seconds: float | None
    peak: int = 0


@dataclass
class Plan:
    """Asks the store for results, and the executor for what the store lacks.

    study: its data set, by which the store's entries are told apart. planning: tasks that are asked for are only noted
    in `asked`, and NotComputedError is raised. seconds: that tasks of each stage took here, over all processes; wall:
    that computing took. failures: errors of tasks, by key, which are raised again whenever the result is asked for.
    peaks: bytes that a worker took at most, by the title of what it ran.
    """

    store: Store
    executor: Executor = field(default_factory=Here)
    meter: Meter = silent
    study: str = ""
    planning: bool = False
    asked: dict[str, Task] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    wall: float = 0.0
    failures: dict[str, Exception] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    _used: dict[str, Task] = field(default_factory=dict)  # what was asked for, by key
    _times: "dict[str, deque[float]] | None" = None
    _memory: dict[str, Tensors] = field(default_factory=dict)
    _damaged: set[str] = field(default_factory=set)  # keys of entries that can't be read
    _unstored: dict[str, Tensors] = field(default_factory=dict)

    def results(self, tasks: Sequence[Task], title: str = "") -> list[Tensors]:
        """The result of each task, in order; computes what is not there. Raises the error of one that failed."""
        self.note(tasks)
        if self.planning:
            raise NotComputedError(title)
        results = self._stored(tasks)
        if missing := [task for task in tasks if task.key not in results]:
            self.compute(missing, title or missing[0].title)
            results |= self._stored(missing)
        if lost := [task.title for task in tasks if task.key not in results]:
            raise OSError(f"{self.store.folder} must give back what it has just kept; it does not, of {lost[0]}")
        return [results[task.key] for task in tasks]

    def _stored(self, tasks: Iterable[Task]) -> dict[str, Tensors]:
        """Results that are there already, by key; raises the error of a task that failed."""
        results = {}
        for task in tasks:
            if task.key in self.failures:
                raise self.failures[task.key]
            if task.key not in results and (result := self._read(task)) is not None:
                results[task.key] = result
        return results

    def note(self, tasks: Iterable[Task]) -> None:
        """Note tasks as asked for."""
        (self.asked if self.planning else self._used).update({task.key: task for task in tasks})

    def compute(self, tasks: Iterable[Task], title: str) -> None:
        """Have all tasks computed that the store lacks, and what they need. Errors are kept in `failures`."""
        tasks = list(tasks)
        self.note(tasks)
        if self.planning:
            raise NotComputedError(title)
        self.store.hold((task.stage, task.key) for task in self._missing(tasks, stored=True).values() if task.stage)
        waiting = self._missing(tasks)
        if not waiting:
            return
        of, start, took = len(waiting), time.perf_counter(), self._took()
        unfinished = Counter(task.title for task in waiting.values())
        queue = Waiting(_longest_first(waiting, took))
        running: dict[Future[Outcome], tuple[Task, ExitStack]] = {}
        failed = 0

        def end(task: Task, seconds: float | None) -> None:
            """Count a task as done; seconds: None where another process did the work."""
            nonlocal failed
            unfinished[task.title] -= 1
            failed += task.key in self.failures
            queue.done(task)
            if seconds is not None:
                took.setdefault(task.title, deque(maxlen=_SAMPLES)).append(seconds)

        def work(stage: str) -> Work:
            done = of - unfinished.total()
            return Work(done, of, stage, self._left(unfinished, took), failed, self.executor.note)

        stage = ""
        try:
            with self.meter(title) as advance:
                looked = time.monotonic()
                while queue.left or running:
                    while len(running) < self.executor.slots and (task := queue.next()) is not None:
                        stage = task.stage
                        advance(work(stage))
                        if (started := self._start(task)) is None:
                            queue.put_off(task)
                        elif started[0] is None:
                            end(task, None)
                        else:
                            running[started[0]] = task, started[1]
                    if running:
                        for future in wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED).done:
                            task, lock = running.pop(future)
                            if isinstance(future.exception(), AgainError):
                                lock.close()
                                queue.again(task)
                            else:
                                end(task, self._end(task, lock, future))
                        advance(work(stage))
                    elif queue.left:
                        time.sleep(_WAIT)  # another process computes what is left
                    if time.monotonic() - looked > _WAIT:
                        looked = time.monotonic()
                        queue.look_again()
        except LostError as error:
            self.executor.cancel()
            raise WorkerDiedError(f"{error}; what was finished is kept, and the same command goes on") from error
        except BrokenProcessPool as error:
            self.executor.cancel()
            titles = dict.fromkeys(task.title for task, _ in running.values())
            raise WorkerDiedError(
                f"a process ended without a result, as when memory runs out, while it computed {' or '.join(titles)};"
                f"{peak_memory()} what was finished is kept, and the same command goes on (--workers 1 takes the least"
                " memory)"
            ) from error
        except BaseException:
            self.executor.cancel()
            raise
        finally:
            self.wall += time.perf_counter() - start
            for future, (task, lock) in running.items():
                with lock:  # which ends here
                    if future.done() and not future.cancelled() and future.exception() is None:
                        self._keep(task, future.result())

    def make(self, task: Task) -> Any:
        """The result of a task without a stage, made in this process."""
        self.results([need for need in task.needs if isinstance(need, Task)], task.title)
        return make(task, {need.key: self._need(need) for need in task.needs})

    def task_seconds(self) -> dict[str, float]:
        """Seconds that all that was asked for, and what that needs, took when it was computed, by stage.

        Of what an earlier run computed, the store tells them; of what could not be kept, nobody does.
        """
        seconds: dict[str, float] = {}
        for task in self._missing(self._used.values(), stored=True).values():
            header = self.store.header(task.stage, task.key) or {}
            with suppress(KeyError, ValueError):  # another program's entry
                seconds[task.stage] = seconds.get(task.stage, 0.0) + float(header["seconds"])
        return seconds

    def costs(self, tasks: Iterable[Task]) -> list[Cost]:
        """What tasks, and all that they need, would cost; by title, in the order in which they would run."""
        every = self._missing(tasks, stored=True)
        missing = self._missing(tasks)
        took = self._took()
        titles = dict.fromkeys(task.title for task in every.values())
        costs = []
        for title in titles:
            count = sum(task.title == title for task in every.values())
            left = sum(task.title == title for task in missing.values())
            needed = left * median(took[title]) if title in took else None if left else 0.0
            costs.append(Cost(title, count, count - left, needed, self.peaks.get(title, 0)))
        return costs

    def duration(self, tasks: Iterable[Task], workers: int) -> float:
        """Seconds that so many workers may take for tasks and all that they need; those of unknown titles take none.

        A simulation of the queue, in which handing out a task takes a moment.
        """
        took = self._took()
        seconds = {title: median(of) for title, of in took.items()}
        queue = Waiting(_longest_first(self._missing(tasks), took))
        running: list[tuple[float, int]] = []  # when a task ends, and its place
        started: list[Task] = []
        now = handed = 0.0
        while queue.left or running:
            while len(running) < workers and (task := queue.next()) is not None:
                handed = max(now, handed) + _HANDING
                heapq.heappush(running, (handed + seconds.get(task.title, 0.0), len(started)))
                started.append(task)
            now, place = heapq.heappop(running)
            queue.done(started[place])
        return now

    def _took(self) -> "dict[str, deque[float]]":
        """Seconds that tasks took whose results the store has, by title; of this study's own, where there are any."""
        if self._times is not None:
            return self._times
        own: dict[str, deque[float]] = {}
        others: dict[str, deque[float]] = {}
        for entry in self.store.entries():
            notes = entry.notes or {}
            with suppress(KeyError, ValueError):  # no task's, or damaged
                seconds, took = float(notes["seconds"]), own if notes["study"] == self.study else others
                took.setdefault(notes["title"], deque(maxlen=_SAMPLES)).append(seconds)
                self._note_peak(notes["title"], int(notes.get("peak", 0)))
        self._times = others | own
        return self._times

    def _note_peak(self, title: str, peak: int) -> None:
        self.peaks[title] = max(self.peaks.get(title, 0), peak)

    def _left(self, unfinished: Mapping[str, int], took: Mapping[str, Iterable[float]]) -> float | None:
        """Seconds that unfinished tasks, counted by title, may take on all workers; None where a title has not run."""
        counts = {title: count for title, count in unfinished.items() if count}
        workers = self.executor.workers  # which may leave a cluster at any time
        if not counts.keys() <= took.keys() or not workers:
            return None
        return sum(count * median(took[title]) for title, count in counts.items()) / workers

    def _missing(self, tasks: Iterable[Task], *, stored: bool = False) -> dict[str, Task]:
        """Tasks that must run, each after what it needs; stored: also those that the store has."""
        missing: dict[str, Task] = {}

        def visit(task: Task) -> None:
            done = self._is_there(task) or task.key in self.failures
            if task.key in missing or (done and not stored):
                return
            for need in task.needs:
                if isinstance(need, Task):
                    visit(need)
            missing[task.key] = task

        for task in tasks:
            visit(task)
        return dict(sorted(missing.items(), key=lambda item: _FIRST.get(item[1].stage, len(_FIRST))))

    def _is_there(self, task: Task) -> bool:
        stored = task.key not in self._damaged and self.store.has(task.stage, task.key)
        return stored or task.key in self._unstored

    def _start(self, task: Task) -> "tuple[Future[Outcome] | None, ExitStack] | None":
        """Submit a task under its lock: the future and the lock.

        The future is None where nothing is left to compute. Returns None where another process holds the lock.
        """
        try:
            lock = self.store.lock(task.key, blocking=False)
        except Timeout:
            return None
        future = None
        try:
            if self._is_there(task) and self._read(task) is not None:
                return None, lock  # another process has done the work
            if failed := [need for need in task.needs if need.key in self.failures]:
                self.failures[task.key] = self.failures[failed[0].key]
                return None, lock
            executor = Here() if task.local else self.executor
            future = executor.submit(task, {need.key: partial(self._need, need) for need in task.needs})
            return future, lock
        finally:
            if future is None:
                lock.close()

    def _need(self, need: Task | Given) -> Tensors:
        """A result that a task needs; computed in this process where the store's entry turns out to be damaged."""
        if isinstance(need, Given):
            return need.tensors
        if need.key not in self._memory:
            result = self._read(need)
            if result is None:
                outcome = Here().submit(need, {part.key: partial(self._need, part) for part in need.needs}).result()
                result = self._keep(need, outcome)
            self._remember(need.key, result)
        return self._memory[need.key]

    def _remember(self, key: str, result: Tensors) -> None:
        self._memory[key] = result
        if len(self._memory) > _KEPT:
            del self._memory[next(iter(self._memory))]

    def _end(self, task: Task, lock: ExitStack, future: "Future[Outcome]") -> float | None:
        """Keep what a task gave, or its error; returns the seconds that it took, if it gave something."""
        error = future.exception()
        with lock:  # which ends here
            if error is None:
                self._keep(task, future.result())
                return future.result().seconds
            if isinstance(error, BrokenProcessPool | LostError) or not isinstance(error, Exception):
                raise error
            self.failures[task.key] = error
            return None

    def _keep(self, task: Task, outcome: Outcome) -> Tensors:
        result, stage = outcome.result, task.stage
        self._damaged.discard(task.key)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + outcome.seconds
        notes = {"title": task.title, "study": self.study, "code": json.dumps(code_of(task)), "peak": str(outcome.peak)}
        self._note_peak(task.title, outcome.peak)
        if not self.store.write(stage, task.key, result, seconds=outcome.seconds, notes=notes):
            self._unstored[task.key] = result
        return result

    def _read(self, task: Task) -> Tensors | None:
        if task.key in self._unstored:
            return self._unstored[task.key]
        stored, result = self.store.has(task.stage, task.key), self.store.read(task.stage, task.key)
        if stored and result is None:
            self._damaged.add(task.key)
        return result


def _longest_first(tasks: Mapping[str, Task], took: Mapping[str, Iterable[float]]) -> dict[str, Task]:
    """In each stage, what takes longest first, so that no worker is left alone with it at the end."""
    seconds = {title: median(of) for title, of in took.items()}

    def order(item: tuple[str, Task]) -> tuple[int, float]:
        return _FIRST.get(item[1].stage, len(_FIRST)), -seconds.get(item[1].title, 0.0)

    return dict(sorted(tasks.items(), key=order))
