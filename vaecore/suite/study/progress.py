"""How far work has come, for those who use a study in Python: a bar in a terminal or a notebook."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from vaecore.suite.study.plan import Meter
from vaecore.toolkit import Progress


def bars() -> Meter:
    """A meter that shows a bar, and nothing where output goes neither to a terminal nor to a notebook."""
    console = Console(file=sys.stdout)  # as it is now: what is printed later may be captured
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())

    @contextmanager
    def bar(task: str) -> Iterator[Progress]:
        if console.is_jupyter:  # where rich asks for ipywidgets
            from IPython.display import display  # noqa: PLC0415

            cell = display({"text/plain": task}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
            yield lambda done, of: cell.update(_in_notebook(task, done, of), raw=True)
            cell.update({"text/plain": "", "text/html": ""}, raw=True)
            return
        with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
            line = shown.add_task(task, total=None)
            yield lambda done, of: shown.update(line, completed=done, total=of)

    return bar


def _in_notebook(task: str, done: int, of: int) -> dict[str, str]:
    text = f"{task}: {done} of {of}"
    return {"text/plain": text, "text/html": f'<progress value="{done}" max="{of}"></progress> {escape(text)}'}
