"""Progress of a run: a bar on a terminal, lines in a log."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from vaecore.suite.study.plan import Work

FIRST, EACH = 2.0, 30.0  # seconds until the first line of a log, and between lines at most


@contextmanager
def bar(title: str) -> Iterator[Callable[[Work], None]]:
    """A bar that goes away at the end, with the stage, tasks done, time gone and time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with rich.progress.Progress(*columns, transient=True) as progress:
        task = progress.add_task(title, total=None, told="")

        def advance(work: Work) -> None:
            progress.update(task, completed=work.done, total=work.of, told=_told(work))

        yield advance


@contextmanager
def lines(title: str, write: Callable[[str], None]) -> Iterator[Callable[[Work], None]]:
    """Lines: one for each stage, and one for each EACH seconds; none where all is done before FIRST seconds."""
    start, end, told = time.monotonic(), threading.Event(), threading.Lock()
    seen, last = set[str](), Work(0, 0, "", None)

    def say() -> None:
        with told:
            seen.add(last.stage)
            write(f"{title}: {_told(last)}; {duration(time.monotonic() - start)} gone")

    def advance(work: Work) -> None:
        nonlocal last
        last = work
        if work.stage not in seen and time.monotonic() - start >= FIRST:
            say()

    def keep_saying() -> None:
        wait = FIRST
        while not end.wait(wait):
            wait = EACH
            say()

    thread = threading.Thread(target=keep_saying, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        end.set()
        thread.join()
        if time.monotonic() - start >= FIRST:
            say()


def _told(work: Work) -> str:
    stage = f", {work.stage}" if work.stage else ""
    left = "" if work.left is None or work.done == work.of else f"; about {duration(work.left)} left"
    return f"{work.done:,} of {work.of:,} tasks{stage}{left}"


def duration(seconds: float) -> str:
    """Seconds in words, as "5 s", "2 min 10 s" or "1 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
