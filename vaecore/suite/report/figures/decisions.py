"""The figures of decisions, drawn from the results alone: reliability diagrams, and risk against coverage."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vaecore.suite.report.figures.style import COLOURS, GREY, LINES, Figure
from vaecore.suite.text import counted


def reliability_diagrams(results: Mapping[str, Any]) -> Figure:
    """Accuracy against confidence for some judges and conditions; under each, how many images each bin holds."""
    diagrams = results["decisions"]["reliability"]
    figure = Figure(figsize=(10.5, 7.6), layout="constrained")
    panels = figure.subplots(4, 3, sharex=True, sharey="row", height_ratios=(3, 1, 3, 1))
    for number, condition in enumerate(results["decisions"]["figures"]):
        column, pair = number % 3, 2 * (number // 3)
        top, bottom = panels[pair, column], panels[pair + 1, column]
        top.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        for (judge, rows), colour, style in zip(diagrams[condition].items(), COLOURS, LINES, strict=False):
            confidence, accuracy = (np.array([row[key] for row in rows]) for key in ("confidence", "estimate"))
            ends = np.array([[row["low"], row["high"]] for row in rows], dtype=float)
            margins = np.abs(np.nan_to_num(ends, nan=0.0) - accuracy[:, None]) * ~np.isnan(ends)
            top.errorbar(confidence, accuracy, margins.T, fmt=style, color=colour, linewidth=1, label=judge)
            bottom.plot(confidence, [row["images"] for row in rows], style, color=colour, markersize=3, linewidth=0.8)
        images = results["decisions"]["images"][condition]
        top.set_title(f"{condition} ({counted(images, 'image', 'd')} a run)")
        bottom.set_yscale("log")
        for panel in (top, bottom):
            panel.grid()
    for row in (0, 2):
        panels[row, 0].set_ylabel("share that is right")
        panels[row + 1, 0].set_ylabel("images\n(count)")
    for panel in panels[-1]:
        panel.set_xlabel("confidence (probability)")
    _legend(figure, panels[0, 0])
    return figure


def risk_coverage(results: Mapping[str, Any]) -> Figure:
    """Share of wrong answers against the share of images answered, the most doubtful refused, by kind of doubt."""
    curves = results["decisions"]["refusing"]
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    for condition, panel in zip(results["decisions"]["figures"], panels.flat, strict=True):
        for (by, doubt), colour, style in zip(curves[condition].items(), COLOURS, LINES, strict=False):
            coverage, risk = (np.array([row[key] for row in doubt["curve"]]) for key in ("coverage", "estimate"))
            ends = np.array([[row["low"], row["high"]] for row in doubt["curve"]], dtype=float)
            panel.plot(coverage, risk, style, color=colour, markersize=2.5, label=by)
            panel.fill_between(coverage, ends[:, 0], ends[:, 1], color=colour, alpha=0.1, linewidth=0)
        areas = ", ".join(f"{doubt['area']['estimate']:.3f}" for doubt in curves[condition].values())
        panel.set_title(f"{condition}\nareas {areas}")
        panel.set_ylim(bottom=0)
        panel.grid()
    for panel in panels[-1]:
        panel.set_xlabel("coverage (share of images answered)")
    for panel in panels[:, 0]:
        panel.set_ylabel("risk (share of these answered wrongly)")
    _legend(figure, panels[0, 0])
    return figure


def _legend(figure: Figure, panel: Any) -> None:
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=5)
