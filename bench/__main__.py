"""`python -m bench`: the table of a benchmark run in Markdown, or its plot, from pytest-benchmark's JSON."""

import argparse
import json
import sys
from pathlib import Path

from bench.plot import plot, throughput
from bench.table import machine, markdown, tables


def main() -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="speed and quality in Markdown")
    drawn = commands.add_parser("plot", help="throughput of reconstruction against batch and draws, with the limit")
    for command in (table, drawn):
        command.add_argument("results", type=Path, help="what `pytest bench --benchmark-json=RESULTS` wrote")
    drawn.add_argument("figure", type=Path, help="a .png, .svg or .pdf to write")
    options = parser.parse_args()
    try:
        run = json.loads(options.results.read_text(encoding="utf-8"))
        found, measured_on = tables(run["benchmarks"]), machine(run["machine_info"])
        curves = throughput(run["benchmarks"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{options.results} must be what --benchmark-json wrote; {type(error).__name__}: {error}")
    if options.command == "plot":
        if not curves:
            parser.error(f"{options.results} holds no timings of bench/test_reconstruction.py (were they skipped?)")
        plot(curves, measured_on, options.figure)
        return 0
    if not found:
        parser.error(f"{options.results} holds no timings of `pytest bench` (were they skipped?)")
    parts = [f"{title[0].upper()}{title[1:]}:\n\n{markdown(grid)}" for title, grid in found.items()]
    print(*parts, measured_on, sep="\n\n")  # noqa: T201  # the command's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
