"""What pytest-benchmark doesn't know of its machine, and the table at the end of `pytest bench`."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.table import plain, tables
from vaecore import keep_freed_memory


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--long`."""
    told = "measure all rows: every batch and number of draws, and attacks of hundreds of steps"
    parser.getgroup("benchmark").addoption("--long", action="store_true", help=told)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of rows that `--long` adds."""
    config.addinivalue_line("markers", "long: a row of the benchmark that is measured with --long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked as long unless it is asked for."""
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="one of many rows (--long measures them)"))


@pytest.fixture(scope="session", autouse=True)
def _memory() -> None:
    """Measure with the allocator set as `pytest claims` sets it."""
    keep_freed_memory()


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add torch's version and threads, and the GPU's name; leave out the machine's, as results are to be shown."""
    machine_info["node"] = ""
    machine_info["torch"] = torch.__version__
    machine_info["torch_threads"] = torch.get_num_threads()
    machine_info["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-benchmark's own wrapper
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Leave out what Ctrl-C stopped before its first round, or pytest-benchmark fails and saves nothing of the rest."""
    benchmarks: list[Any] = session.config._benchmarksession.benchmarks  # type: ignore[attr-defined]  # noqa: SLF001  # there is no other way
    benchmarks[:] = [entry for entry in benchmarks if entry.stats.data]
    return (yield)


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's own tables
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Speed and quality of all that was measured, and why the rest was not."""
    session: Any = config._benchmarksession  # type: ignore[attr-defined]  # noqa: SLF001  # there is no other way
    measured = [{"group": entry.group, "extra_info": entry.extra_info} for entry in session.benchmarks]
    for title, grid in tables(measured).items():
        terminalreporter.section(title)
        terminalreporter.write_line(plain(grid))
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if _is_ours(report)]
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.items():
        terminalreporter.write_line(f"not measured ({count}): {reason}")


def _is_ours(report: pytest.TestReport) -> bool:
    return Path(report.nodeid.partition("::")[0]).parent.name == Path(__file__).parent.name
