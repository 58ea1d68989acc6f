"""Speed and quality side by side: the table at the end of `pytest bench`, and for Markdown from its JSON."""

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import median
from typing import Any

OURS = "vaecore"
_NONE = "-"
_HEADINGS = ("task", "way", "ms an image", "images/s", "of limit", "times vaecore's", "median L2", "success")
_LEFT = 2  # columns of words, set to the left; figures are set to the right

Grid = list[tuple[str, ...]]
"""Rows of cells, of which the first is the headings."""


def tables(benchmarks: Sequence[Mapping[str, Any]]) -> dict[str, Grid]:
    """Both tables, by title, of those that have rows."""
    both = {
        "speed and quality": comparison(benchmarks),
        "L2 norm of vaecore's images over the peer's, image by image: median (95%)": pairing(benchmarks),
    }
    return {title: grid for title, grid in both.items() if len(grid) > 1}


def medians(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The benchmarks that every run has, with the median of each number in `extra_info`; the rest as in the first run.

    runs: each, benchmarks as in pytest-benchmark's JSON.
    """
    by_name = [{entry["fullname"]: entry for entry in run} for run in runs]
    shared = [name for name in by_name[0] if all(name in run for run in by_name)]
    found = []
    for name in shared:
        told = [run[name]["extra_info"] for run in by_name]
        numbers = {key for key, value in told[0].items() if isinstance(value, float) and all(key in one for one in told)}
        found.append(
            {
                "group": by_name[0][name]["group"],
                "extra_info": told[0] | {key: median(one[key] for one in told) for key in numbers},
            }
        )
    return found


def comparison(benchmarks: Sequence[Mapping[str, Any]]) -> Grid:
    """Speed, share of the machine's limit, ratio to vaecore's time at the task, median L2 of successes, their share.

    benchmarks: as in pytest-benchmark's JSON; those that were not timed by `bench.measure` are left out.
    """
    timed = [entry for entry in benchmarks if "ms_per_image" in entry["extra_info"]]
    ours = {
        entry["group"]: entry["extra_info"]["ms_per_image"] for entry in timed if entry["extra_info"]["way"] == OURS
    }
    tasks = dict.fromkeys(entry["group"] for entry in timed)
    grid: Grid = [_HEADINGS]
    for task in tasks:
        for entry in (entry for entry in timed if entry["group"] == task):
            info = entry["extra_info"]
            took = info["ms_per_image"]
            times = digits(took / ours[task], 2) if task in ours else _NONE
            fraction = info.get("fraction_of_limit")
            l2, success = info.get("median_l2", float("nan")), info.get("success")
            grid.append(
                (
                    task,
                    info["way"],
                    digits(took, 3),
                    digits(1e3 / took, 3),
                    f"{fraction:.0%}" if fraction is not None else _NONE,
                    times,
                    f"{l2:.3f}" if isfinite(l2) else _NONE,
                    f"{success:.1%}" if success is not None else _NONE,
                )
            )
    return grid


def pairing(benchmarks: Sequence[Mapping[str, Any]]) -> Grid:
    """L2 norm of vaecore's images over the peer's, image by image: median, and 95% quantile in brackets."""
    paired = [entry for entry in benchmarks if "l2_ratio" in entry["extra_info"]]
    names = list(dict.fromkeys(name for entry in paired for name in entry["extra_info"]["l2_ratio"]))
    grid: Grid = [("task", "L2 over that of", *names)]
    for entry in paired:
        info = entry["extra_info"]
        ratios = [info["l2_ratio"].get(name, [float("nan")] * 2) for name in names]
        grid.append((entry["group"], info["way"], *(f"{median:.3f} ({high:.3f})" for median, high in ratios)))
    return grid


def digits(number: float, count: int) -> str:
    """A number rounded to `count` significant digits, but no further than to a whole one."""
    exponent = int(f"{number:.{count - 1}e}".partition("e")[2])
    return f"{number:,.{max(0, count - 1 - exponent)}f}"


def plain(grid: Grid) -> str:
    """Aligned columns; a task is named once."""
    widths = [max(len(row[column]) for row in grid) for column in range(len(grid[0]))]
    lines, named = [], ""
    for row in grid:
        cells = ("" if row[0] == named else row[0], *row[1:])
        named = row[0]
        aligned = [
            cell.ljust(width) if column < _LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def markdown(grid: Grid) -> str:
    """A table for a README."""
    rule = ("---",) * _LEFT + ("---:",) * (len(grid[0]) - _LEFT)
    return "\n".join(f"| {' | '.join(row)} |" for row in [grid[0], rule, *grid[1:]])


def machine(info: Mapping[str, Any]) -> str:
    """What a run was measured on, in a sentence."""
    processor, threads = info["cpu"].get("brand_raw", info["machine"]), info["torch_threads"]
    gpu = f", {info['gpu']}" if info["gpu"] else ""
    return f"Measured on {processor}{gpu}; torch {info['torch']}, {threads} thread{'s' if threads != 1 else ''}."
