"""The plan of a run: what tests of claims ask for, found by calling them on a study that only notes it."""

import io
from collections.abc import Iterable, Sequence

import pytest
from rich.console import Console
from rich.table import Table as Grid

from vaecore.suite.plugin.items import asks_for_study
from vaecore.suite.statistics.estimates import Estimate
from vaecore.suite.study.plan import Cost, NotComputedError
from vaecore.suite.study.study import Study
from vaecore.suite.study.tasks import Task


class _NoClaim:
    """A claim that is concluded only when its test runs."""

    def conclude(self, *_: Estimate) -> None:
        """Nothing: the estimates would have to be computed."""


def tasks(items: Sequence[pytest.Item], study: Study) -> list[Task]:
    """The tasks that tests ask for before they first look at a number; later ones are computed when they run."""
    asked: dict[str, Task] = {}
    for item in items:
        if asks_for_study(item) and item.get_closest_marker("skip") is None:
            asked |= _asked_by(item, study)
    return list(asked.values())


def _asked_by(item: pytest.Item, study: Study) -> dict[str, Task]:
    planning = study.planning()
    given = {"study": planning, "claim": _NoClaim(), **getattr(getattr(item, "callspec", None), "params", {})}
    names = item._fixtureinfo.argnames  # type: ignore[attr-defined]  # noqa: SLF001  # what the test takes
    if set(names) <= set(given):
        try:
            item.obj(**{name: given[name] for name in names})  # type: ignore[attr-defined]
        except (NotComputedError, pytest.skip.Exception, pytest.fail.Exception):
            pass
        except Exception:  # noqa: BLE001, S110  # a mistake in the test shows when it runs
            pass
    return planning.plan.asked


def table(costs: Iterable[Cost], workers: int) -> str:
    """What a run would compute, as a table for the terminal."""
    grid = Grid("tasks", "needed", "in the cache", "to compute", "seconds, by past runs")
    costs = [*costs]
    for cost in costs:
        left = cost.tasks - cost.stored
        seconds = "-" if not left else "unknown" if cost.seconds is None else f"{cost.seconds:,.0f}"
        grid.add_row(cost.title, f"{cost.tasks:,}", f"{cost.stored:,}", f"{left:,}", seconds)
    console = Console(file=io.StringIO(), width=100, highlight=False, markup=False)
    console.print(grid)
    left = sum(cost.tasks - cost.stored for cost in costs)
    unknown = sum(cost.tasks - cost.stored for cost in costs if cost.seconds is None)
    wall = sum(cost.seconds or 0.0 for cost in costs) / workers
    notes = f" and {unknown:,} tasks that have not run on this machine yet" if unknown else ""
    console.print(
        f"{left:,} tasks to compute: about {wall:,.0f} s with {workers} workers{notes}. Nothing was computed."
    )
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n" + output.getvalue()
