"""The figures of families A and B, drawn from the results alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vaecore.suite.images import unpack
from vaecore.suite.report.figures.style import (
    BLUE,
    GREY,
    HATCH,
    ORANGE,
    SMALL,
    Figure,
    formulas,
    mark_label,
    show,
    size_axis,
)
from vaecore.suite.text import counted

_CLEAN, _ATTACK, _NOISE = BLUE, ORANGE, GREY  # which differ in lightness, too


def distinct_labels(results: Mapping[str, Any]) -> Figure:
    """Bars of the number of distinct labels over an image's reconstructions, a panel for each condition."""
    panels = {name: results["conditions"][name] for name in results["panels"] if name in results["conditions"]}
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    columns = max(1, -(-len(panels) // 2))
    axes = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
    for axis, (name, condition) in zip(axes.flat, panels.items(), strict=False):
        bars, noise = condition["distinct_labels"], condition["noise"]
        number, share = np.arange(1, len(bars) + 1), np.array([bar["share"] for bar in bars])
        ends = np.abs(np.array([[bar["low"], bar["high"]] for bar in bars]).T - share)
        colour = _CLEAN if name == "clean" else _NOISE if noise else _ATTACK
        axis.bar(number, share, color=colour, hatch=HATCH if noise else None, edgecolor="white", linewidth=0.5)
        axis.errorbar(number, share, ends, fmt="none", ecolor="black", elinewidth=0.8, capsize=1.5)
        axis.set_title(formulas(condition["title"]))
        top = share[0] + ends[1, 0]
        label, side = ((1, top), "center") if not top > 0.93 else ((1.6, 0.93), "left")
        axis.annotate(f"{share[0]:.2f}", label, (0, 2), textcoords="offset points", ha=side, fontsize=SMALL)
    for panel, above in zip(axes[1, len(panels) - columns :], axes[0, len(panels) - columns :], strict=True):
        panel.set_visible(False)
        above.tick_params(labelbottom=True)  # which it leaves to the panel below
    axes[0, 0].set_ylim(0, 1)
    axes[0, 0].set_xticks(range(1, results["draws"] + 1))
    figure.supxlabel(f"distinct labels over {counted(results['draws'], 'reconstruction')} of an image (count)")
    figure.supylabel("share of images")
    return figure


def error_by_confidence(results: Mapping[str, Any]) -> Figure:
    """Bars of the mean reconstruction error in bins of confidence, with intervals and the count of each bin."""
    rows = results["error_by_confidence"]
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    counts, errors = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2.4])
    centre = np.array([(row["from"] + row["to"]) / 2 for row in rows])
    width = 0.9 * (rows[0]["to"] - rows[0]["from"])
    filled = np.array([row["count"] > 0 for row in rows])
    height, low, high = (np.array([row[key] for row in rows], dtype=float) for key in ("mse", "low", "high"))
    errors.bar(centre[filled], height[filled], width, color=_CLEAN)
    shown = filled & np.isfinite(low)
    ends = np.stack([np.minimum(height - low, height), high - height])
    errors.errorbar(centre[shown], height[shown], ends[:, shown], fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    if shown.any():  # a bin of few images may have an interval that would flatten all others: it leaves the frame
        errors.set_ylim(0, 1.6 * float(max(np.nanquantile(high[shown], 0.8), np.nanmax(height))))
    errors.set_ylabel("reconstruction error\n(pixel MSE, intensity squared)")
    errors.set_xlabel("confidence of the classifier (max softmax, probability)")
    number = np.array([row["count"] for row in rows])
    counts.bar(centre, number, width, color=_NOISE)
    counts.set_yscale("symlog", linthresh=1)
    counts.set_ylim(0, 200 * max(1, number.max()))
    counts.set_ylabel("images,\nall runs")
    for x, images in zip(centre, number, strict=True):
        counts.annotate(
            f"{images:,}", (x, images), (0, 2), textcoords="offset points", ha="center", fontsize=SMALL, rotation=45
        )
    return figure


def consistency_by_size(results: Mapping[str, Any]) -> Figure:
    """Consistent share under FGSM and sign noise as they grow, and how much of FGSM's fall such noise explains."""
    rows = results["by_size"]
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    shares, explained = figure.subplots(1, 2, sharex=True)
    for axis, name, colour, style, label in (
        (shares, "fgsm", _ATTACK, "o-", "FGSM"),
        (shares, "sign", _NOISE, "s--", "sign noise"),
        (explained, "share", _CLEAN, "^-", "share explained"),
    ):
        shown = [row for row in rows if row[name] is not None]
        epsilon = np.array([row["epsilon"] for row in shown])
        ends = ("estimate", "low", "high")
        middle, low, high = (np.array([row[name][key] for row in shown], dtype=float) for key in ends)
        axis.errorbar(
            epsilon, middle, np.stack([middle - low, high - middle]), fmt=style, color=colour, capsize=2, label=label
        )
        axis.set_ylim(-0.03, 1.03)
        size_axis(axis, [row["epsilon"] for row in rows])
        axis.grid()
    shares.set_ylabel("share of images with one label")
    explained.set_ylabel("fall under noise over fall under FGSM")
    shares.legend(loc="upper right")
    return figure


def convergence(results: Mapping[str, Any]) -> Figure:
    """Success of the adaptive attack as its effort grows (epsilon, steps, draws), with weaker attacks as points."""
    trials = results["trials"]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    efforts = {"epsilon": "", "steps": "steps (count)", "draws": "EOT draws a step (count)"}
    for panel, (effort, label) in zip(panels, efforts.items(), strict=True):
        rows = [("detector", _ATTACK, "o-", trials[effort])]
        if effort == "epsilon":
            rows.append(("classifier", _CLEAN, "s--", trials["epsilon, classifier alone"]))
        for victim, colour, style, row in rows:
            x, y = [trial[effort] for trial in row], [trial["success"] for trial in row]
            panel.plot(x, y, style, color=colour, label=f"PGD on the {victim}")
        panel.set_xlabel(label)
        panel.grid()
    size_axis(panels[0], [trial["epsilon"] for trial in trials["epsilon"]])
    panels[1].set_xscale("log")
    panels[2].set_xscale("log")
    for panel, effort in ((panels[1], "steps"), (panels[2], "draws")):
        panel.set_xticks([trial[effort] for trial in trials[effort]], [str(trial[effort]) for trial in trials[effort]])
        panel.minorticks_off()
    weaker = [weak for weak, _ in results["weaker_attacks"]]
    for victim, colour in (("detector", _ATTACK), ("classifier", _CLEAN)):
        for attack, name, marker in (("square", "Square", "^"), ("bpda", "BPDA", "x")):
            shown = [trial for trial in weaker if (trial["victim"], trial["attack"]) == (victim, attack)]
            if shown:
                x, y = [trial["epsilon"] for trial in shown], [trial["success"] for trial in shown]
                label = f"{name} on the {victim}"
                panels[0].plot(x, y, marker, color=colour, markerfacecolor="none", markersize=7, label=label)
    panels[0].set_ylim(-0.03, 1.03)
    panels[0].set_ylabel("share of images won")
    handles, names = panels[0].get_legend_handles_labels()
    panels[1].legend(handles, names, fontsize=SMALL, loc="lower right", frameon=True)
    return figure


def contact_sheet(results: Mapping[str, Any]) -> Figure:
    """Some test images under several conditions, each beside its reconstructions; above, the label given."""
    sheet = results["contact_sheet"]
    labels, rows = sheet["labels"], sheet["rows"]
    draws = len(rows[0]["draw_label"][0])
    figure = Figure(figsize=(0.68 * (draws + 1) + 1.7, 0.84 * len(labels) * len(rows) + 0.7), layout="constrained")
    blocks = figure.subfigures(len(labels), 1, squeeze=False)[:, 0]
    for number, (block, right) in enumerate(zip(blocks, labels, strict=True)):
        panels = block.subplots(len(rows), draws + 1, squeeze=False)
        for line, row in zip(panels, rows, strict=True):
            made = unpack(row["draws"])[number * draws : (number + 1) * draws]
            show(line[0], unpack(row["pixels"])[number])
            mark_label(line[0], row["label"][number], right, after=f", is {right}")
            line[0].set_ylabel(formulas(row["title"]), rotation=0, ha="right", va="center", fontsize=SMALL + 0.5)
            for panel, image, label in zip(line[1:], made, row["draw_label"][number], strict=True):
                show(panel, image)
                mark_label(panel, label, right)
    return figure
