"""`python -m bench`: table or plots of benchmark runs, from pytest-benchmark's JSON; of several runs, their medians.

`python -m bench scaling` measures executors, `python -m bench growth` how time and memory grow.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench import growth, scaling
from bench.plot import plot
from bench.table import machine, markdown, medians, tables


def main() -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="speed and quality in Markdown")
    drawn = commands.add_parser(
        "plot",
        help="throughput of reconstruction against batch and draws, and L2 norms against time: what was measured",
    )
    for command in (table, drawn):
        command.add_argument(
            "results",
            type=Path,
            nargs="+",
            help="what `pytest bench --benchmark-json=RESULTS` wrote, once or repeatedly",
        )
    drawn.add_argument("--figure", type=Path, required=True, help="a .png, .svg or .pdf to write")
    measured = commands.add_parser("scaling", help="what executors cost", description=scaling.__doc__)
    measured.add_argument("what", choices=tuple(scaling.WHAT))
    measured.add_argument("--on", default="2", metavar="WHERE", help="1, 2, ... processes, or a cluster (default: 2)")
    measured.add_argument("--count", type=int, metavar="N", help="of tasks, repeats or images")
    grown = commands.add_parser("growth", help="time and memory against sizes", description=growth.__doc__)
    grown.add_argument("--axis", choices=tuple(growth.NAMES), nargs="*", help="only what grows with these")
    grown.add_argument("--figure", type=Path, help="a .png, .svg or .pdf to write")
    options = parser.parse_args()
    if options.command == "growth":
        points = []
        for point in growth.growth([line for line in growth.LINES if line.axis in (options.axis or growth.NAMES)]):
            points.append(point)
            said = f"{point.call}, {point.axis} {point.value:,}: {point.seconds:.2f} s, {point.mib:,.0f} MiB more"
            print(said, file=sys.stderr, flush=True)  # noqa: T201  # minutes pass
        print(markdown(growth.table(points)))  # noqa: T201  # the command's output
        if options.figure:
            growth.plot(points, options.figure)
        return 0
    if options.command == "scaling":
        function, count = scaling.WHAT[options.what]
        print(f"{options.what}, on {options.on}:", function(options.on, options.count or count))  # noqa: T201
        return 0
    runs = [_read(parser, path) for path in options.results]
    names, hosts = ", ".join(str(path) for path in options.results), {machine(run["machine_info"]) for run in runs}
    if len(hosts) > 1:
        parser.error(f"{names} must come from one machine and one torch; got: {' '.join(sorted(hosts))}")
    benchmarks = medians([run["benchmarks"] for run in runs])
    measured_on = hosts.pop() + (f" Medians of {len(runs)} runs." if len(runs) > 1 else "")
    if options.command == "plot":
        if not (paths := plot(benchmarks, measured_on, options.figure)):
            parser.error(f"{names} holds no timings of test_errors or test_nearest (were they skipped?)")
        print(*paths, sep="\n")  # noqa: T201  # the command's output
        return 0
    found = tables(benchmarks)
    if not found:
        parser.error(f"{names} holds no timings of `pytest bench` (were they skipped?)")
    parts = [f"{title[0].upper()}{title[1:]}:\n\n{markdown(grid)}" for title, grid in found.items()]
    print(*parts, measured_on, sep="\n\n")  # noqa: T201  # the command's output
    return 0


def _read(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tables(medians([run["benchmarks"]]))
        machine(run["machine_info"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{path} must be what --benchmark-json wrote; {type(error).__name__}: {error}")
    return run


if __name__ == "__main__":
    sys.exit(main())
