"""The figures of family D, drawn from the results alone: accuracy against epsilon, and a strip of cleaned images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vaecore.suite.images import unpack
from vaecore.suite.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SMALL,
    Figure,
    mark_label,
    show,
    size_axis,
)
from vaecore.suite.text import counted

_COLUMNS = 4
# An attack's key in the results, its label, colour and line, which differ without colour, too.
_CURVES = (
    ("ignoring", "PGD that does not know the purifier", BLUE, "o-"),
    ("through", "PGD through the purifier", ORANGE, "s--"),
    ("flipped", "discrete search behind the rounding", PURPLE, "v:"),
    ("queried", "Square on the whole", GREEN, "^-."),
    ("none", "no purifier", GREY, "x:"),
)


def accuracy_by_epsilon(results: Mapping[str, Any]) -> Figure:
    """Accuracy behind each purifier as the attack grows, a line for each kind of attacker."""
    attacked = results["cleaning"]["attacked"]
    rows = -(-len(attacked) // _COLUMNS)
    figure = Figure(figsize=(2.6 * _COLUMNS, 2.1 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for (name, row), panel in zip(attacked.items(), panels.flat, strict=False):
        for key, label, colour, style in _CURVES:
            shown = [attack for attack in row if key in attack]
            if not shown:
                continue
            epsilon = [attack["epsilon"] for attack in shown]
            accuracy = np.array([attack[key]["accuracy"] for attack in shown])
            ends = np.array([[attack[key]["low"], attack[key]["high"]] for attack in shown], dtype=float)
            panel.plot(epsilon, accuracy, style, color=colour, label=label)
            panel.fill_between(epsilon, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
        panel.set_title(f"{name} ({counted(row[0]['images'], 'image', 'd')})")
        panel.grid()
    for number, panel in enumerate(panels.flat):
        if number >= len(attacked):
            panel.set_visible(False)
        elif number + _COLUMNS >= len(attacked):  # nothing is shown below it
            panel.tick_params(labelbottom=True)
            size_axis(panel, [row["epsilon"] for row in next(iter(attacked.values()))])
    panels[0, 0].set_ylim(-0.03, 1.03)
    legends = [panel.get_legend_handles_labels() for panel in panels.flat]
    lines = {label: line for legend in legends for line, label in zip(*legend, strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4)
    figure.supylabel("accuracy (share of images)")
    return figure


def cleaned_images(results: Mapping[str, Any]) -> Figure:
    """An image of each class: clean, attacked, and both cleaned, with label and confidence; wrong labels are marked."""
    strip = results["cleaning"]["strip"]
    rows, labels = strip["rows"], strip["labels"]
    figure = Figure(figsize=(0.85 * len(labels) + 1.8, 0.98 * len(rows) + 0.5), layout="constrained")
    panels = figure.subplots(len(rows), len(labels), squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        columns = zip(line, unpack(row["pixels"]), row["label"], row["confidence"], labels, strict=True)
        for panel, image, label, confidence, right in columns:
            show(panel, image)
            mark_label(panel, label, right, after=f" ({confidence:.2f})")
        what = f"{row['condition']},\n{row['purifier']}" if row["purifier"] else row["condition"]
        line[0].set_ylabel(what, rotation=0, ha="right", va="center", fontsize=SMALL + 0.5)
    return figure
