"""Throughput of reconstruction against the batch, for each number of draws, with the limit of the machine drawn in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.table import OURS
from vaecore.suite.report.figures.style import Figure, look

Curves = dict[str, dict[tuple[str, int], list[Mapping[str, Any]]]]
"""By model and device, then by way and draws: `extra_info` of each batch, in increasing order."""

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


def plot(curves: Curves, measured_on: str, path: Path) -> None:
    """Draw and write the figure: a panel for each model and device."""
    with look({}):
        _draw(curves, measured_on).savefig(path, dpi=150)


def _draw(curves: Curves, measured_on: str) -> Figure:
    figure = Figure(figsize=(4.6 * len(curves), 4.2), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    draws = sorted({draws for panel in curves.values() for _, draws in panel})
    for axis, (title, panel) in zip(axes, curves.items(), strict=True):
        for (way, count), infos in panel.items():
            if len(infos) < 3:  # ways that were measured at one batch or two are in the table
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
