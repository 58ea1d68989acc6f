"""Bounds: where the whole interval of a claim must lie, and how they are registered."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vaecore.suite.judging.findings import shown
from vaecore.suite.statistics.intervals import Interval
from vaecore.suite.text import visible

_BOUND_KEYS = {"above", "below", "pilot", "date", "unregistered", "power"}


@dataclass(frozen=True)
class Bound:
    """The whole interval must lie above `low` and below `high`; a side that is infinite asks for nothing."""

    low: float = float("-inf")
    high: float = float("inf")

    def __str__(self) -> str:
        """As in a table: "> 0.80", "< 0.50", "in (0.40, 0.60)", or "none"."""
        if self == Bound():
            return "none"
        low, high = (f"{end:.2f}" if end == round(end, 2) else f"{end:.3g}" for end in (self.low, self.high))
        if self.high == float("inf"):
            return f"> {low}"
        return f"< {high}" if self.low == float("-inf") else f"in ({low}, {high})"

    def verdict(self, interval: Interval) -> str:
        """Give "supported", "refuted" or "inconclusive"; NaN is inconclusive."""
        if interval.low > self.low and interval.high < self.high:
            return "supported"
        if interval.high < self.low or interval.low > self.high:
            return "refuted"
        return "inconclusive"

    def nearest(self, estimate: float) -> float:
        """The side nearest to an estimate, which it has to clear."""
        return self.low if abs(estimate - self.low) <= abs(estimate - self.high) else self.high

    def amiss(self, no_effect: "Bound", kind: str) -> str:
        """Why this can't be the bound of a claim of this kind, in words; empty where it can.

        no_effect: where an effect begins. A limit, which says that little is left, may lie beyond that on its own side.
        """
        if not self.low < self.high:
            return f"above must be less than below; got {self.low:g} and {self.high:g}, which no interval lies between"
        ends = ((-self.low, -no_effect.low), (self.high, no_effect.high))
        if any(own > end and (kind != "limit" or math.isinf(own)) for own, end in ends):
            return f"its bound must lie where there is an effect, {no_effect}; got {self}"
        return ""


@dataclass(frozen=True)
class Standing:
    """What is registered for a claim and a data set; fields as those of `Claim` that have their names."""

    bound: Bound | None
    registered: str = ""
    pilot: str = ""
    unregistered: str = ""


def standing(entry: Mapping[str, Any] | None, missing: str) -> Standing:
    """What a checked entry of a registry or a file of bounds says; missing: the reason where there is no entry."""
    if entry is None:
        return Standing(None, unregistered=missing)
    dated = str(entry.get("date", "")), str(entry.get("pilot", ""))
    if "unregistered" in entry:
        return Standing(None, *dated, entry["unregistered"])
    return Standing(Bound(float(entry.get("above", -math.inf)), float(entry.get("below", math.inf))), *dated)


def problems_of(entry: Any, where: str) -> list[str]:
    """Mistakes in what is registered for a data set, in words; where: its name in messages."""
    if not isinstance(entry, dict):
        return [f"{where} must be a table; got {entry!r}"]
    problems = [f"unknown key {where}.{key}" for key in sorted(set(entry) - _BOUND_KEYS)]
    if "unregistered" in entry:
        if not isinstance(entry["unregistered"], str):
            problems.append(f"{where}.unregistered must be a reason; got {entry['unregistered']!r}")
        return problems
    ends = {key: entry[key] for key in ("above", "below") if key in entry}
    if not ends:
        problems.append(f"{where} must have above, below or unregistered")
    problems += [
        f"{where}.{key} must be a finite number; got {value!r}"
        for key, value in ends.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
    ]
    if "date" not in entry:
        problems.append(f"{where} must have the date on which its bound was set")
    return problems


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file, its texts printable; raises ValueError, with the file's name, if it can't be read."""
    try:
        content: dict[str, Any] = visible(_parsed(file.read_text(encoding="utf-8")))  # a copy
    except (OSError, ValueError) as error:
        raise ValueError(f"{shown(file)} must be a TOML file; it can't be read: {error}") from None
    return content


@lru_cache(maxsize=8)
def _parsed(text: str) -> dict[str, Any]:
    """What a TOML file says. A run reads the registry several times, and each takes a tenth of a second."""
    return tomllib.loads(text)
