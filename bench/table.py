"""Speed and quality side by side: the table at the end of `pytest bench`, and for Markdown from its JSON."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from statistics import fmean, median
from typing import Any

from numpy import quantile

OURS = "vaecore"
_NONE = "-"
_HEADINGS = ("task", "way", "ms an image", "images/s", "of limit", "times vaecore's", "median L2", "success")
_NEAREST_HEADINGS = ("task", "way", "ms an image", "evaluations", "median L2", "mean", "95%", "success", "optimality")
_LEFT = 2  # columns of words, set to the left; figures are set to the right

Grid = list[tuple[str, ...]]
"""Rows of cells, of which the first is the headings."""


def tables(benchmarks: Sequence[Mapping[str, Any]]) -> dict[str, Grid]:
    """The tables that have rows, by title."""
    all_ = {
        "speed and quality": comparison(benchmarks),
        "smallest L2 norms against time": nearness(benchmarks),
        "L2 norm of vaecore's images over the peer's, image by image: median (95%)": pairing(benchmarks),
    }
    return {title: grid for title, grid in all_.items() if len(grid) > 1}


def medians(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The benchmarks that every run has, with the median of each number in `extra_info`; the rest as in the first run.

    runs: each, benchmarks as in pytest-benchmark's JSON.
    """
    by_name = [{entry["fullname"]: entry for entry in run} for run in runs]
    shared = [name for name in by_name[0] if all(name in run for run in by_name)]
    found = []
    for name in shared:
        told = [run[name]["extra_info"] for run in by_name]
        numbers = {
            key for key, value in told[0].items() if isinstance(value, float) and all(key in one for one in told)
        }
        found.append(
            {
                "group": by_name[0][name]["group"],
                "extra_info": told[0] | {key: median(one[key] for one in told) for key in numbers},
            }
        )
    return found


def comparison(benchmarks: Sequence[Mapping[str, Any]]) -> Grid:
    """Speed, share of the machine's limit, ratio to vaecore's time at the task, median L2 of successes, their share.

    benchmarks: as in pytest-benchmark's JSON; those that were not timed by `bench.measure` are left out, and those of
    `nearness`.
    """
    timed = [entry for entry in benchmarks if "ms_per_image" in entry["extra_info"] and "l2" not in entry["extra_info"]]
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


def nearness(benchmarks: Sequence[Mapping[str, Any]]) -> Grid:
    """Time, images shown to the classifier, L2 norms of successes, success, and local optimality.

    benchmarks: as in pytest-benchmark's JSON; of those that were timed and have the norms, `l2`.
    """
    grid: Grid = [_NEAREST_HEADINGS]
    for task, entries in nearest(benchmarks).items():
        best = [min(norms) for norms in zip(*(distances(info) for info in entries), strict=True)]
        for info in entries:
            own = distances(info)
            l2 = [norm for norm in own if isfinite(norm)]
            figures = (median(l2), fmean(l2), float(quantile(l2, 0.95))) if l2 else (float("nan"),) * 3
            grid.append(
                (
                    task,
                    info["way"],
                    digits(info["ms_per_image"], 3),
                    f"{info['evaluations']:.0f}",
                    *(f"{figure:.3f}" for figure in figures),
                    f"{len(l2) / len(own):.1%}",
                    f"{local_optimality(own, best):.4f}",
                )
            )
    return grid


def nearest(benchmarks: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """`extra_info` of the attacks that look for the smallest change, by task."""
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for entry in benchmarks:
        if {"l2", "ms_per_image"} <= {*entry["extra_info"]}:
            tasks.setdefault(entry["group"], []).append(entry["extra_info"])
    return tasks


def distances(info: Mapping[str, Any]) -> list[float]:
    """L2 norms, infinite where the attack failed."""
    return [inf if norm is None else norm for norm in info["l2"]]


def local_optimality(own: Sequence[float], best: Sequence[float]) -> float:
    """How near an attack comes to the best of all attacks at hand, image by image; 1 is as near, 0 is no attack.

    own, best: distances (n,) to the clean images, infinite for failures. Let a be the area under the share of images
    that an attack leaves right against the distance it may go, up to e, the largest best distance. Then it is 1 -
    (a_own - a_best) / (clean accuracy * e - a_best). NaN where nothing was found or nothing had to be.
    Source: AttackBench (Cina et al. 2024, arXiv 2404.19460), local optimality; its code takes areas by trapezoids, here
    they are those of the steps, that is means of distances clipped at e.
    """
    found = [norm for norm in best if isfinite(norm)]
    farthest = max(found, default=0.0)
    best_area, own_area = (fmean(min(norm, farthest) for norm in norms) for norms in (best, own))
    none_area = farthest * sum(norm > 0 for norm in best) / len(best)
    return 1 - (own_area - best_area) / (none_area - best_area) if none_area > best_area else float("nan")


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
