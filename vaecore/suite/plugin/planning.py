"""The plan of a run: what tests of claims ask for, noted while they are called on a study that computes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from rich import box
from rich.table import Table as Grid

from vaecore.suite.plugin.items import asks_for_study
from vaecore.suite.report import terminal
from vaecore.suite.statistics.estimates import Estimate
from vaecore.suite.statistics.intervals import Pick
from vaecore.suite.study.plan import Cost, NotComputedError
from vaecore.suite.study.study import Study
from vaecore.suite.study.tasks import Task
from vaecore.suite.text import counted, printable


class _NoClaim:
    """A claim that is concluded only when its test runs."""

    def conclude(self, *_: Estimate, pick: Pick = "smallest") -> None:
        """Nothing: the estimates would have to be computed."""


@dataclass(frozen=True)
class Asked:
    """What tests ask for. conditions: full names of those that they look at. mistakes: by test, what it raised."""

    tasks: list[Task]
    conditions: set[str]
    mistakes: dict[str, str]


def asked(items: Sequence[pytest.Item], study: Study) -> Asked:
    """What tests ask for before they first look at a number; the rest is computed when they run."""
    studies, mistakes = [], {}
    for item in items:
        if asks_for_study(item):
            studies.append(planning := study.planning())
            if mistake := _call(item, planning):
                mistakes[item.nodeid] = mistake
    tasks = [task for one in studies for task in one.plan.asked.values()]
    return Asked(tasks, {name for one in studies for name in one.conditions}, mistakes)


def _call(item: pytest.Item, planning: Study) -> str:
    """Call a test on a study that is only planned; what it raised, in words, where that is a mistake."""
    given = {"study": planning, "claim": _NoClaim(), **getattr(getattr(item, "callspec", None), "params", {})}
    names = item._fixtureinfo.argnames  # type: ignore[attr-defined]  # noqa: SLF001  # what the test takes
    if set(names) <= set(given):
        try:
            item.obj(**{name: given[name] for name in names})  # type: ignore[attr-defined]
        except (NotComputedError, pytest.skip.Exception, pytest.fail.Exception):
            pass
        except Exception as error:  # noqa: BLE001  # it will be raised again, and be shown, when the test runs
            return f"{type(error).__name__}: {error}"
    return ""


_NUMBERS = 52  # columns of the terminal that the numbers of a plan take


def table(
    costs: Sequence[Cost], mistakes: Mapping[str, str], workers: int, seconds: float, *, width: int, unicode: bool
) -> str:
    """What a run would compute, as text for the terminal; seconds: that it may take with so many workers.

    GiB: that a worker took at most while it ran such a task.
    """
    grid = Grid(box=box.SIMPLE if unicode else terminal.ASCII, show_edge=False)
    grid.add_column("tasks", no_wrap=True, max_width=max(width, 60) - _NUMBERS)  # long ones are cut, never a number
    for title in ("needed", "cached", "to compute", "seconds", "GiB"):
        grid.add_column(title, justify="right", no_wrap=True)
    for cost in costs:
        left = cost.tasks - cost.stored
        each = "-" if not left else "unknown" if cost.seconds is None else _rounded(cost.seconds)
        memory = f"{cost.peak / 2**30:.1f}" if cost.peak else "-"
        grid.add_row(printable(cost.title), f"{cost.tasks:,}", f"{cost.stored:,}", f"{left:,}", each, memory)
    console = terminal.recording(max(width, 60), color=False)
    console.print(grid)
    console.print(f"\n{_estimate(costs, workers, seconds)} Nothing was computed.", soft_wrap=True)
    for test, mistake in mistakes.items():
        console.print(printable(f"Not planned: {test} raises {mistake}"), soft_wrap=True)
    return "\n" + terminal.printed(console)


def _estimate(costs: Sequence[Cost], workers: int, seconds: float) -> str:
    left = sum(cost.tasks - cost.stored for cost in costs)
    unknown = sum(cost.tasks - cost.stored for cost in costs if cost.seconds is None)
    if not left:
        return "The cache has all that is needed."
    if left == unknown:
        tasks = counted(left, "task")
        return f"{tasks} to compute; as none of their kind has run on this machine yet, there is no estimate."
    processes = "one process" if workers == 1 else f"{workers} workers"
    others = f", and {counted(unknown, 'task')} of kinds that have not run on this machine yet" if unknown else ""
    return f"{counted(left, 'task')} to compute: about {_rounded(seconds)} s with {processes}{others}."


def _rounded(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 1 else "1"
