"""Figures of benchmarks: throughput of reconstruction against the batch and its limit, and L2 norms against time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from matplotlib.ticker import LogLocator, NullFormatter
from numpy import quantile

from bench.table import OURS, distances, nearest
from vaecore.suite.report.figures.style import Figure, look

Curves = dict[str, dict[tuple[str, int], list[Mapping[str, Any]]]]
"""By model and device, then by way and draws: `extra_info` of each batch, in increasing order."""

_MOSTLY = 0.9  # success of an attack whose norms set the scale
# Okabe and Ito's, which the colour-blind can tell apart; so can print, by marker.
_COLOURS, _MARKERS = ("#0072B2", "#D55E00", "#009E73"), ("o", "s", "^")


def throughput(benchmarks: Sequence[Mapping[str, Any]]) -> Curves:
    """What was measured of reconstruction reduced to errors, from benchmarks as in pytest-benchmark's JSON."""
    curves: Curves = {}
    timed = [entry["extra_info"] for entry in benchmarks if {"draws", "model", "gflops"} <= {*entry["extra_info"]}]
    for info in sorted(timed, key=lambda info: info["images"]):
        panel = curves.setdefault(f"{info['model']}, {info['device']}", {})
        panel.setdefault((info["way"], info["draws"]), []).append(info)
    return curves


def plot(benchmarks: Sequence[Mapping[str, Any]], measured_on: str, path: Path) -> list[Path]:
    """Draw and write what there is; the figures' paths: `path`, and with "-nearest" in its name where there are two.

    Throughput has a panel for each model and device; L2 norms against time have a row of panels for each task.
    """
    curves, tasks = throughput(benchmarks), nearest(benchmarks)
    with look({}):
        figures = [_draw(curves, measured_on)] if curves else []
        figures += [_draw_nearest(tasks, measured_on)] if tasks else []
        paths = [path, path.with_stem(f"{path.stem}-nearest")][: len(figures)]
        for figure, to in zip(figures, paths, strict=True):
            figure.savefig(to, dpi=150)
    return paths


def _draw_nearest(tasks: Mapping[str, Sequence[Mapping[str, Any]]], measured_on: str) -> Figure:
    figure = Figure(figsize=(11, 3.6 * len(tasks)), layout="constrained")
    rows = figure.subplots(len(tasks), 3, squeeze=False)
    figures: dict[str, Callable[[list[float]], float]] = {
        "median": median,
        "mean": fmean,
        "95% quantile": lambda l2: float(quantile(l2, 0.95)),
    }
    for axes, (task, infos) in zip(rows, tasks.items(), strict=True):
        curves: dict[str, list[tuple[float, list[float], float]]] = {}
        for info in infos:
            l2 = [norm for norm in distances(info) if norm != float("inf")]
            if l2:
                curves.setdefault(info["line"], []).append((info["ms_per_image"], l2, len(l2) / len(info["l2"])))
        for axis, (name, figure_of) in zip(axes, figures.items(), strict=True):
            values: list[tuple[bool, float]] = []
            for place, (line, points) in enumerate(curves.items()):
                colour, marker = f"C{place}", "o" if line == OURS else _MARKERS[1 + place % 2]
                times, heights = [point[0] for point in points], [figure_of(point[1]) for point in points]
                axis.plot(times, heights, color=colour, marker=marker, linewidth=2 if line == OURS else 1, label=line)
                # Norms of an attack that fails are those of the easier images: open markers.
                for time, height, (_, _, success) in zip(times, heights, points, strict=True):
                    if success < 1:
                        axis.plot([time], [height], color=colour, marker=marker, markerfacecolor="white")
                values += [(success < _MOSTLY, height) for height, (_, _, success) in zip(heights, points, strict=True)]
            lowest = min(values)[1]  # of attacks that fail on few images, if there are any
            axis.set(xscale="log", xlabel="ms an image", ylim=(0.985 * lowest, 1.12 * lowest))
            axis.set_title(f"{task}: {name}", fontsize="medium")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.3)
        axes[0].set_ylabel("L2 norm")
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(f"{measured_on} Open markers: the attack failed on some images.", fontsize="small")
    return figure


def _draw(curves: Curves, measured_on: str) -> Figure:
    figure = Figure(figsize=(4.6 * len(curves), 4.2), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    draws = sorted({draws for panel in curves.values() for _, draws in panel})
    fewest = min(3, max(len(infos) for panel in curves.values() for infos in panel.values()))
    for axis, (title, panel) in zip(axes, curves.items(), strict=True):
        for (way, count), infos in panel.items():
            if len(infos) < fewest:  # beside lines, ways that were measured at one batch or two are in the table
                continue
            style = draws.index(count) % len(_COLOURS)
            ours = way == OURS
            batches = [info["images"] for info in infos]
            axis.plot(
                batches,
                [info["images_per_second"] * count for info in infos],
                color=_COLOURS[style],
                marker=_MARKERS[style],
                linestyle="-" if ours else "--",
                markerfacecolor=_COLOURS[style] if ours else "white",
                label=f"K = {count}, {way}",
            )
            if ours:
                limit = [info["limit_images_per_second"] * count for info in infos]
                axis.plot(
                    batches, limit, color=_COLOURS[style], linestyle=":", linewidth=1.5, label=f"K = {count}, limit"
                )
        axis.set(xscale="log", yscale="log", title=title, xlabel="images in a batch")
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("reconstructions, reduced to errors, a second")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(measured_on, fontsize="small")
    return figure
