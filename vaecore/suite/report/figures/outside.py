"""The figures of family C, drawn from the results alone: matrix, scores, latent space, extreme images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vaecore.suite.images import unpack
from vaecore.suite.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    SMALL,
    YELLOW,
    Axes,
    Figure,
    TwoSlopeNorm,
    show,
)

_INSIDE, _BEST, _WORST = GREY, BLUE, ORANGE
_GROUPS = ((BLUE, "o"), (ORANGE, "^"), (GREEN, "s"), (PURPLE, "v"), (YELLOW, "D"), (SKY, "P"))
_A_PANEL = 5  # groups in a panel of the latent space; more would look alike


def detection_matrix(results: Mapping[str, Any]) -> Figure:
    """AUROC of every score (rows) on every set outside (columns); purple above 0.5, orange below: backwards."""
    cells = results["detection"]["cells"]
    names, sets = [*cells], [*next(iter(cells.values()))]
    values = np.array([[cells[name][outside]["auroc"] for outside in sets] for name in names], dtype=float)
    figure = Figure(figsize=(2.2 + 0.52 * len(sets), 1.6 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(values, cmap="PuOr", norm=TwoSlopeNorm(0.5, 0, 1), aspect="auto")
    axes.set_xticks(range(len(sets)), sets, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    groups = [results["detection"]["groups"].get(outside, "") for outside in sets]
    middles = {group: np.flatnonzero(np.array(groups) == group).mean() for group in groups}
    axes.secondary_xaxis("top").set_xticks([*middles.values()], [*middles], fontsize=SMALL)
    for first in (column for column in range(1, len(sets)) if groups[column] != groups[column - 1]):
        axes.axvline(first - 0.5, color="black", linewidth=1.5)
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value - 0.5) > 0.33
        text = f"{value:.2f}" if np.isfinite(value) else "-"
        axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color="white" if dark else "black")
    figure.colorbar(shown, ax=axes, label="AUROC (0.5: no better than chance)", shrink=0.7, pad=0.01)
    return figure


def score_histograms(results: Mapping[str, Any]) -> Figure:
    """Each score's distribution inside, on the set that it detects best and on the one that it detects worst."""
    histograms, cells = results["detection"]["histograms"], results["detection"]["cells"]
    inside, columns = results["detection"]["inside"], 4
    rows = -(-len(histograms) // columns)
    figure = Figure(figsize=(2.7 * columns, 1.75 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for (name, histogram), panel in zip(histograms.items(), panels, strict=False):  # which leaves the panels left over
        edges = np.array(histogram["edges"])
        panel.stairs(histogram["shares"][inside], edges, fill=True, color=_INSIDE, alpha=0.6)
        for role, colour, style in (("best", _BEST, "-"), ("worst", _WORST, "--")):
            label = f"{histogram[role]} ({cells[name][histogram[role]]['auroc']:.2f})"
            panel.stairs(histogram["shares"][histogram[role]], edges, color=colour, linestyle=style, label=label)
        panel.set_title(name)
        panel.tick_params(labelsize=SMALL)
        panel.set_yticks([])
        # A set that is detected wholly piles up in one bin: its bar may leave the frame.
        panel.set_ylim(0, 2 * max(*histogram["shares"][inside], *histogram["shares"][histogram["worst"]]))
        panel.ticklabel_format(axis="x", scilimits=(-3, 4))
        panel.xaxis.offsetText.set_fontsize(SMALL)
        panel.legend(
            fontsize=SMALL - 1,
            loc="upper right",
            frameon=True,
            framealpha=1,
            edgecolor="none",
            title="best, worst (AUROC)",
            title_fontsize=SMALL - 1,
        )
    for panel in panels:
        panel.set_visible(False)
    figure.supxlabel("score (higher is more anomalous; the outermost bins hold what lies beyond), in the score's unit")
    figure.supylabel("share of images")
    return figure


def latent_space(results: Mapping[str, Any]) -> Figure:
    """Posterior means in two dimensions: sets outside and attacked images, over the clean ones in grey."""
    latent = results["detection"]["latent"]
    points = {name: np.array(rows, dtype=float).reshape(-1, 2) for name, rows in latent["points"].items()}
    inside, attacked = results["detection"]["inside"], latent["attacked"]
    outside = [name for name in points if name not in (inside, *attacked)]
    portions = [outside[start : start + _A_PANEL] for start in range(0, len(outside), _A_PANEL)] + [attacked]
    figure = Figure(figsize=(3.3 * len(portions), 3.9), layout="constrained")
    for panel, names in zip(figure.subplots(1, len(portions), sharex=True, sharey=True), portions, strict=True):
        _scatter(panel, points, inside, names)
    first, second = latent["explained"]
    figure.supxlabel(f"first principal component of {latent['of']} images ({first:.0%} of their variance)")
    figure.supylabel(f"second principal component ({second:.0%})")
    return figure


def _scatter(panel: Axes, points: Mapping[str, Any], inside: str, names: Sequence[str]) -> None:
    panel.scatter(points[inside][:, 0], points[inside][:, 1], s=6, color=_INSIDE, alpha=0.5, linewidths=0, label=inside)
    for name, (colour, marker) in zip(names, _GROUPS, strict=False):
        panel.scatter(
            points[name][:, 0],
            points[name][:, 1],
            s=9,
            marker=marker,
            facecolors="none",
            edgecolors=colour,
            linewidths=0.6,
            label=name,
        )
    panel.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)


def extreme_images(results: Mapping[str, Any]) -> Figure:
    """The least and the most anomalous images of every set, by each of two scores."""
    sets = results["detection"]["extremes"]
    scores = [*next(iter(sets.values()))]
    blocks = [(score, end) for score in scores for end in ("least", "most")]
    figure = Figure(figsize=(10, 0.62 * len(sets) + 0.9), layout="constrained")
    grid = figure.subplots(len(sets), len(blocks), squeeze=False)
    for row, (name, of_set) in zip(grid, sets.items(), strict=True):
        for panel, (score, end) in zip(row, blocks, strict=True):
            extreme = of_set[score][end]
            images = unpack(extreme["pixels"])
            images = images if end == "least" else images[::-1]  # so that scores rise from left to right
            gap = ((0, 0), (1, 1), *[(0, 0)] * (images.ndim - 3))  # grey lines between the images
            strip = np.concatenate([np.pad(image, gap, constant_values=128) for image in images], axis=1)
            show(panel, strip)
            lowest, highest = sorted((extreme["score"][0], extreme["score"][-1]))
            panel.set_xlabel(f"{lowest:.3g} to {highest:.3g}", fontsize=SMALL - 0.5, labelpad=1)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for panel, (score, end) in zip(grid[0], blocks, strict=True):
        panel.set_title(f"{end} anomalous by {score}")
    return figure
