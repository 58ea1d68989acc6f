"""Which findings of one data set carry over to another: a table and a figure, from two reports.

A claim has no effect that its estimate is compared with ("> 0.5", "< 0"), which is the same for all data sets, as their
bounds are not. Its effect is *shown* where the whole interval lies on the claimed side of no effect, *turned round*
where it lies on the other, and *open* where it holds no effect, or there is none. Runs, images and budget are each
report's own.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaecore.suite.judging.verdict import NOT_JUDGED, outcome
from vaecore.suite.report.markdown.parts import literal
from vaecore.suite.results import number
from vaecore.suite.text import counted, intensity, visible
from vaecore.toolkit import write_atomically

_DRAWS = re.compile(r"\{(?:([\d.]+) )?draws\}(?: (?:draws|reconstructions))?")
SHOWN, TURNED, OPEN, NONE = "shown", "turned round", "open", "not measured"
FATES = {  # of what is shown in A, by its state in B
    SHOWN: "carries over",
    TURNED: "turns round",
    OPEN: "is open there",
    NONE: "not measured there",
}


@dataclass(frozen=True)
class Side:
    """A claim in one report: its state, its estimate with interval, and why it was not measured, else empty."""

    state: str
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    why: str = ""


@dataclass(frozen=True)
class Carried:
    """A claim in two reports, A and B, and its no effect: the ends of the range that is claimed."""

    claim: str
    estimand: str
    sides: tuple[Side, Side]
    no_effect: tuple[float, float]

    @property
    def fate(self) -> str:
        """What becomes in B of what is shown in A; where A shows nothing, the states in both."""
        a, b = (side.state for side in self.sides)
        return FATES[b] if a == SHOWN else f"{a} / {b}"

    @property
    def null(self) -> float:
        """No effect; NaN where what is claimed is that two things are equal to within a margin."""
        low, high = self.no_effect
        return math.nan if math.isfinite(low) and math.isfinite(high) else low if math.isfinite(low) else high

    def effect(self, value: float) -> float:
        """How far a value is from no effect, on the claimed side if above 0."""
        return value - self.null if math.isfinite(self.no_effect[0]) else self.null - value


@dataclass(frozen=True)
class CarryOver:
    """Two reports, by their data sets and protocols in words, and the claims that either measured."""

    names: tuple[str, str]
    claims: tuple[Carried, ...]

    def of(self, fate: str) -> list[Carried]:
        """Claims of this fate."""
        return [claim for claim in self.claims if claim.fate == fate]


def carry_over(a: Mapping[str, Any], b: Mapping[str, Any]) -> CarryOver:
    """What becomes in B of each claim in A or B; a, b: results as `results.load` gives them.

    Claims that are reported and not judged have no effect to carry over, and are left out.
    """
    both = [{claim["claim"]: claim for claim in results["claims"]} for results in (a, b)]
    claims = []
    for name in sorted({**both[0], **both[1]}, key=_place):
        entries = [claims_of.get(name) for claims_of in both]
        one = next(entry for entry in reversed(entries) if entry is not None)
        ends = number(one["no_effect"]["low"]), number(one["no_effect"]["high"])
        no_effect = (
            -math.inf if math.isnan(ends[0]) else ends[0],
            math.inf if math.isnan(ends[1]) else ends[1],
        )
        if no_effect == (-math.inf, math.inf):
            continue
        sides = [_side(entry, results, name, no_effect) for entry, results in zip(entries, (a, b), strict=True)]
        claims.append(Carried(name, _estimand(one), (sides[0], sides[1]), no_effect))
    return CarryOver(visible((_study(a), _study(b))), tuple(claims))


def _estimand(entry: Mapping[str, Any]) -> str:
    """Its words for any protocol, "1.5 budget" and "5 x the draws" in place of numbers, where the results have them."""
    stated = _DRAWS.sub(lambda draws: f"{draws[1]} x the draws" if draws[1] else "the draws", entry.get("stated", ""))
    return re.sub(r"[{}]", "", stated) or str(entry["estimand"])


def _place(name: str) -> tuple[str, int, str]:
    letters = name.rstrip("abcdefghijklmnopqrstuvwxyz")
    family = letters.rstrip("0123456789")
    return family, int(letters[len(family) :]), name[len(letters) :]


def _study(results: Mapping[str, Any]) -> str:
    budget = f", epsilon {intensity(results['budget'])}" if "budget" in results else ""
    return f"{results['dataset']['name']} ({counted(len(results['seeds']), 'run')}{budget})"


def _side(
    entry: Mapping[str, Any] | None, results: Mapping[str, Any], name: str, no_effect: tuple[float, float]
) -> Side:
    if entry is None:
        return Side(NONE, why=results["not_concluded"].get(name, "not registered"))
    if entry.get("verdict") == NOT_JUDGED:
        return Side(NONE, why=outcome(entry))
    estimate, low, high = (number(entry[key]) for key in ("estimate", "low", "high"))
    if math.isnan(low) or math.isnan(high):
        state = OPEN
    elif low > no_effect[0] and high < no_effect[1]:
        state = SHOWN
    elif high <= no_effect[0] or low >= no_effect[1]:
        state = TURNED
    else:
        state = OPEN
    return Side(state, estimate, low, high)


def markdown(carried: CarryOver, figure: str = "") -> str:
    """The table, and the figure's file if there is one, as Markdown."""
    shown: CarryOver = literal(carried)
    return "\n".join(_lines(shown, figure)) + "\n"


def _lines(carried: CarryOver, figure: str) -> Iterator[str]:
    a, b = carried.names
    yield f"# What carries over from {a} to {b}"
    yield ""
    counts = {fate: len(carried.of(fate)) for fate in FATES.values()}
    counted_fates = ", ".join(f"{fate}: {count}" for fate, count in counts.items())
    yield f"A: {a}. B: {b}. Of {counted(sum(counts.values()), 'effect')} shown on A, so many on B: {counted_fates}."
    yield ""
    yield (
        "*Shown*: the whole interval lies on the claimed side of no effect, whatever the bound; *turned round*: on the"
        " other side; *open*: no effect is within, or there is no interval. The figure leaves out claims that two"
        " things are equal, and those not measured on both."
    )
    if figure:
        yield f"\n![Effects on A and B]({figure})"
    for fate in dict.fromkeys((*FATES.values(), *(claim.fate for claim in carried.claims))):
        members = carried.of(fate)
        if not members:
            continue
        yield f"\n## {fate if fate in FATES.values() else 'A / B: ' + fate}: {counted(len(members), 'claim')}\n"
        yield "| claim | estimand | A | B | no effect |"
        yield "|---|---|---|---|---|"
        for claim in members:
            yield f"| {claim.claim} | {claim.estimand} | {' | '.join(map(_cell, claim.sides))} | {_null(claim)} |"


def _cell(side: Side) -> str:
    return side.why if side.state == NONE else f"{side.estimate:.3f} [{side.low:.3f}, {side.high:.3f}]"


def _null(claim: Carried) -> str:
    low, high = claim.no_effect
    if math.isnan(claim.null):
        return f"in {low:g} to {high:g}"
    return f"> {low:g}" if math.isfinite(low) else f"< {high:g}"


def write(a: Mapping[str, Any], b: Mapping[str, Any], folder: Path) -> Path:
    """Write carry-over.md and carry-over.svg to a folder, which is made if it is not there; returns the first."""
    from vaecore.suite.report.figures.carryover import effects  # noqa: PLC0415  # matplotlib takes a second to import
    from vaecore.suite.report.figures.style import look, render  # noqa: PLC0415

    carried = carry_over(a, b)
    folder.mkdir(parents=True, exist_ok=True)
    with look():
        picture = render(effects(carried), "svg")
    write_atomically(folder / "carry-over.svg", picture)
    write_atomically(folder / "carry-over.md", markdown(carried, "carry-over.svg").encode())
    return folder / "carry-over.md"
