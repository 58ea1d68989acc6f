"""Forest plots of the page: the places of a claim's marks, in percent of the plot's width; the template draws them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

EDGE = 3.0  # percent, left free on both sides
MOST_WIDER = 3.0  # no effect is drawn where the axis needs to grow no more than that for it
FEWEST, MOST = -4.0, 8.0  # half-widths, of the axis that all claims share


@dataclass(frozen=True)
class Forest:
    """A claim's interval on an axis of its own.

    Places are in percent from the left. low, high: the interval's ends, None where they are not finite. bounds: the
    finite sides of the bound. shaded: start and width of what supports the claim, None without a bound. no_effect: its
    finite sides, empty where they lie too far off. ticks: place and number. text: the same in words.
    """

    estimate: float | None
    low: float | None
    high: float | None
    per_run: list[float]
    bounds: list[float]
    shaded: tuple[float, float] | None
    no_effect: list[float]
    ticks: list[tuple[float, str]]
    text: str


def forest(claim: Mapping[str, Any]) -> Forest | None:
    """The plot of one of the results' claims; None where no number is finite."""
    estimate, low, high = (_finite(claim[key]) for key in ("estimate", "low", "high"))
    per_run = [value for value in map(_finite, claim["per_run"]) if value is not None]
    bounds = [side for side in (_finite(claim["bound_low"]), _finite(claim["bound_high"])) if side is not None]
    no_effect = [side for side in (_finite(claim["no_effect"][key]) for key in ("low", "high")) if side is not None]
    measured = [value for value in (estimate, low, high, *per_run) if value is not None]
    if not measured:
        return None
    start, stop = _range([*measured, *bounds])
    wider = _range([*measured, *bounds, *no_effect])
    if wider[1] - wider[0] <= MOST_WIDER * (stop - start):
        start, stop = wider
    else:
        no_effect = []

    def place(value: float) -> float:
        return round(EDGE + (100 - 2 * EDGE) * (value - start) / (stop - start), 2)

    shaded = None
    if bounds:
        left = 0.0 if claim["bound_low"] is None else place(claim["bound_low"])
        right = 100.0 if claim["bound_high"] is None else place(claim["bound_high"])
        shaded = left, right - left
    return Forest(
        None if estimate is None else place(estimate),
        None if low is None else place(low),
        None if high is None else place(high),
        [place(value) for value in per_run],
        [place(side) for side in bounds],
        shaded,
        [place(side) for side in no_effect],
        [(place(value), text) for value, text in ticks(start, stop)],
        _in_words(claim),
    )


@dataclass(frozen=True)
class Margin:
    """An interval on the axis that all claims share: how far it lies from its bound, in half-widths of its own.

    Places are in percent, cut at the axis's ends; beyond: -1 or 1 where the estimate itself is cut there, else 0.
    """

    low: float
    estimate: float
    high: float
    beyond: int
    text: str


def margin(claim: Mapping[str, Any]) -> Margin | None:
    """How far a claim's interval lies on the supporting side of the nearest bound; None without bound or interval."""
    numbers = [_finite(claim[key]) for key in ("estimate", "low", "high")]
    estimate, low, high = (math.nan if number is None else number for number in numbers)
    half = (high - low) / 2
    sides = [
        (sign * (estimate - side), side, sign)
        for side, sign in ((_finite(claim["bound_low"]), 1), (_finite(claim["bound_high"]), -1))
        if side is not None
    ]
    if not sides or not half > 0:
        return None
    _, side, sign = min(sides)
    ends = sorted(sign * (end - side) / half for end in (low, high))
    middle = sign * (estimate - side) / half
    low, estimate, high = (shared(min(max(value, FEWEST), MOST)) for value in (ends[0], middle, ends[1]))
    beyond = -1 if middle < FEWEST else 1 if middle > MOST else 0
    text = f"estimate {abs(middle):.1f} half-widths {'inside' if middle > 0 else 'beyond'} its bound"
    return Margin(low, estimate, high, beyond, text)


def shared(half_widths: float) -> float:
    """Place on the axis that all claims share."""
    return round(EDGE + (100 - 2 * EDGE) * (half_widths - FEWEST) / (MOST - FEWEST), 2)


def ticks(start: float, stop: float) -> list[tuple[float, str]]:
    """Round numbers between two ends, four to eight of them, each as text with the digits that tell them apart."""
    rough = (stop - start) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.75)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = range(math.ceil(start / step), math.floor(stop / step) + 1)
    return [(number * step, f"{number * step:.{digits}f}") for number in numbers]


def number(value: float | None) -> str:
    """A number of the results in three digits after the point, or two that count where it is small."""
    if value is None or not math.isfinite(value):
        return "not defined"
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"


def measured(claim: Mapping[str, Any]) -> str:
    """A claim's estimate and interval as in a table."""
    if claim["estimate"] is None:
        return "not defined"
    ends = [claim["low"], claim["high"]]
    return f"{number(claim['estimate'])} " + ("no interval" if None in ends else f"[{', '.join(map(number, ends))}]")


def _range(values: Iterable[float]) -> tuple[float, float]:
    """The range of the values, with some room; around a single value, too."""
    ordered = sorted(values)
    room = 0.06 * (ordered[-1] - ordered[0]) or 0.1 * max(abs(ordered[0]), 0.1)
    return ordered[0] - room, ordered[-1] + room


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _in_words(claim: Mapping[str, Any]) -> str:
    ends = f"interval {number(claim['low'])} to {number(claim['high'])}"
    runs = ", ".join(map(number, claim["per_run"]))
    return f"{claim['claim']}: estimate {number(claim['estimate'])}, {ends}, bound {claim['bound']}; runs: {runs}"
