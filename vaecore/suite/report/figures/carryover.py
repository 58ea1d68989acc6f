"""The figure of what carries over from one data set to another."""

import numpy as np

from vaecore.suite.report.carryover import FATES, OPEN, SHOWN, TURNED, CarryOver
from vaecore.suite.report.figures.style import BLACK, BLUE, GREY, ORANGE, SMALL, Figure

_LINEAR = 0.1  # effects up to this are drawn to scale, larger ones by their logarithm
_LOOKS = {  # by what becomes of what A shows: colour, marker, whether it is filled
    FATES[SHOWN]: (BLUE, "o", True),
    FATES[TURNED]: (ORANGE, "s", True),
    FATES[OPEN]: (GREY, "^", False),
}
_OTHER = (BLACK, "x", True)


def effects(carried: CarryOver) -> Figure:
    """Each claim's effect on B against that on A, above 0 as claimed, with its intervals."""
    figure = Figure(figsize=(7.5, 7), layout="constrained")
    panel = figure.subplots()
    named: set[str] = set()
    most = [1.0, 1.0]  # intervals may leave the frame, estimates do not
    for claim in carried.claims:
        values = [[claim.effect(value) for value in (side.estimate, side.low, side.high)] for side in claim.sides]
        if not np.isfinite(values).all():
            continue
        (x, *x_ends), (y, *y_ends) = values
        colour, marker, filled = _LOOKS.get(claim.fate, _OTHER)
        label = claim.fate if claim.fate in _LOOKS else "not shown on A"
        panel.plot(sorted(x_ends), [y, y], color=colour, linewidth=0.5, alpha=0.5)
        panel.plot([x, x], sorted(y_ends), color=colour, linewidth=0.5, alpha=0.5)
        face = colour if filled else "none"
        panel.plot(x, y, marker, color=colour, markerfacecolor=face, label="" if label in named else label)
        named.add(label)
        if claim.fate != FATES[SHOWN]:  # these are many, stand close and are named in the table
            panel.annotate(claim.claim, (x, y), (2, 2), textcoords="offset points", fontsize=SMALL)
        most = [max(one, 1.3 * abs(value)) for one, value in zip(most, (x, y), strict=True)]
    for scale in (panel.set_xscale, panel.set_yscale):
        scale("symlog", linthresh=_LINEAR)
    panel.set_xlim(-most[0], most[0])
    panel.set_ylim(-most[1], most[1])
    panel.axhline(0, color=GREY, linewidth=0.8)
    panel.axvline(0, color=GREY, linewidth=0.8)
    panel.set_xlabel(f"effect on A: {carried.names[0]}\n(estimate minus no effect, above 0 as claimed)")
    panel.set_ylabel(f"effect on B: {carried.names[1]}")
    panel.grid()
    if named:
        panel.legend(loc="lower right")
    return figure
