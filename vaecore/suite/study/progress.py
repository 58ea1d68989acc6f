"""Progress of a plan: a bar in a terminal or a notebook, lines in a log."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from vaecore.suite.study.plan import Meter, Work
from vaecore.suite.text import duration

FIRST, EACH = 2.0, 30.0  # seconds until the first line of a log, and between lines at most


def bars() -> Meter:
    """A meter that shows a bar in a terminal or a notebook, and lines on the error output elsewhere."""
    console = Console(file=sys.stdout)  # as it is now: what is printed later may be captured
    errors = sys.stderr
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())

    @contextmanager
    def bar(title: str) -> Iterator[Callable[[Work], None]]:
        if console.is_jupyter:  # where rich asks for ipywidgets
            from IPython.display import display  # noqa: PLC0415

            cell = display({"text/plain": title}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
            yield lambda work: cell.update(_in_notebook(title, work), raw=True)
            cell.update({"text/plain": "", "text/html": ""}, raw=True)
            return
        if not console.is_terminal:
            with lines(title, lambda line: print(line, file=errors, flush=True)) as advance:
                yield advance
            return
        with rich.progress.Progress(*columns, console=console, transient=True) as shown:
            line = shown.add_task(title, total=None, told="")
            yield lambda work: shown.update(line, completed=work.done, total=work.of, told=_told(work))

    return bar


def _in_notebook(title: str, work: Work) -> dict[str, str]:
    text = f"{title}: {_told(work)}"
    return {
        "text/plain": text,
        "text/html": f'<progress value="{work.done}" max="{work.of}"></progress> {escape(text)}',
    }


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
    failed = f", {work.failed:,} failed" if work.failed else ""
    note = f"; {work.note}" if work.note else ""
    return f"{work.done:,} of {work.of:,} tasks{failed}{stage}{note}{left}"
