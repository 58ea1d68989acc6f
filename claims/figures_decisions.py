"""The figures of decisions, drawn from the results alone: reliability diagrams, and risk against coverage."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
_MARKS = ("o-", "s--", "^-.", "D:", "v-")
SHOWN = ("clean", "rotated-45", "gaussian-0.3", "fgsm-0.2", "lbfgs", "outside-mix")


def reliability_diagrams(results: Mapping[str, Any]) -> Figure:
    """Accuracy against confidence for some judges and conditions; under each, how many images each bin holds."""
    found = results["decisions"]["reliability"]
    figure = Figure(figsize=(10.5, 7.6), layout="constrained")
    panels = figure.subplots(4, 3, sharex=True, sharey="row", height_ratios=(3, 1, 3, 1))
    for number, condition in enumerate(SHOWN):
        column, pair = number % 3, 2 * (number // 3)
        top, bottom = panels[pair, column], panels[pair + 1, column]
        top.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        for (judge, rows), colour, style in zip(found[condition].items(), _COLOURS, _MARKS, strict=False):
            confidence, accuracy = (np.array([row[key] for row in rows]) for key in ("confidence", "estimate"))
            ends = np.array([[row["low"], row["high"]] for row in rows], dtype=float)
            margins = np.abs(np.nan_to_num(ends, nan=0.0) - accuracy[:, None]) * ~np.isnan(ends)
            top.errorbar(
                confidence, accuracy, margins.T, fmt=style, color=colour, markersize=3.5, linewidth=1, label=judge
            )
            bottom.plot(confidence, [row["images"] for row in rows], style, color=colour, markersize=3, linewidth=0.8)
        images = results["decisions"]["images"][condition]
        top.set_title(f"{condition} ({images} images a run)", fontsize=9)
        bottom.set_yscale("log")
        for panel in (top, bottom):
            panel.grid(alpha=0.3)
            panel.tick_params(labelsize=7)
    for row in (0, 2):
        panels[row, 0].set_ylabel("share that is right", fontsize=8)
        panels[row + 1, 0].set_ylabel("images in bin", fontsize=8)
    for panel in panels[-1]:
        panel.set_xlabel("confidence", fontsize=8)
    _legend(figure, panels[0, 0])
    figure.suptitle(
        f"{results['dataset']['name']}: 15 bins of equal width, those that are empty left out;"
        f" 95% intervals over {len(results['seeds'])} runs and images",
        fontsize=9,
    )
    return figure


def risk_coverage(results: Mapping[str, Any]) -> Figure:
    """Share of wrong answers against the share of images answered, the most doubtful refused, by kind of doubt."""
    found = results["decisions"]["refusing"]
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    for condition, panel in zip(SHOWN, panels.flat, strict=True):
        for (by, one), colour, style in zip(found[condition].items(), _COLOURS, _MARKS, strict=False):
            coverage, risk = (np.array([row[key] for row in one["curve"]]) for key in ("coverage", "estimate"))
            ends = np.array([[row["low"], row["high"]] for row in one["curve"]], dtype=float)
            panel.plot(coverage, risk, style, color=colour, markersize=2.5, linewidth=1.1, label=by)
            panel.fill_between(coverage, ends[:, 0], ends[:, 1], color=colour, alpha=0.1, linewidth=0)
        areas = ", ".join(f"{one['area']['estimate']:.3f}" for one in found[condition].values())
        panel.set_title(f"{condition}; areas {areas}", fontsize=8)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=7)
    for panel in panels[-1]:
        panel.set_xlabel("share of images answered", fontsize=8)
    for panel in panels[:, 0]:
        panel.set_ylabel("share of these answered wrongly", fontsize=8)
    _legend(figure, panels[0, 0])
    figure.suptitle(
        f"{results['dataset']['name']}: refusing the most doubtful images, by what is taken for doubt (areas in the"
        " legend's order); 95% intervals at each threshold",
        fontsize=9,
    )
    return figure


def _legend(figure: Figure, panel: Any) -> None:
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
