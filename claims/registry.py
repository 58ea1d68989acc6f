"""The registry of claims: every sentence, estimand and bound, read from `registry.toml` and checked."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims.inference import Interval, family_level
from vaecore._store import digest

REGISTRY = Path(__file__).with_name("registry.toml")
KINDS = ("finding", "control", "baseline", "limit")
_CLAIM_KEYS = {
    "kind",
    "sentence",
    "estimand",
    "source",
    "no_effect",
    "untested",
    "reported",
    "outside",
    "mnist",
    "digits",
}
_BOUND_KEYS = {"above", "below", "pilot", "date", "unregistered"}


@dataclass(frozen=True)
class Bound:
    """Where the whole interval must lie: above `low` and below `high` (infinite where there is no such side)."""

    low: float = float("-inf")
    high: float = float("inf")

    def __str__(self) -> str:
        """As in a table: "> 0.80", "< 0.50", "in (0.40, 0.60)", or "none"."""
        if self == Bound():
            return "none"
        if self.high == float("inf"):
            return f"> {self.low:.2f}" if self.low == round(self.low, 2) else f"> {self.low:.3g}"
        if self.low == float("-inf"):
            return f"< {self.high:.2f}" if self.high == round(self.high, 2) else f"< {self.high:.3g}"
        return f"in ({self.low:.2f}, {self.high:.2f})"

    def verdict(self, interval: Interval) -> str:
        """ "supported", "refuted" or "inconclusive"; NaN is inconclusive."""
        if interval.low > self.low and interval.high < self.high:
            return "supported"
        if interval.high < self.low or interval.low > self.high:
            return "refuted"
        return "inconclusive"

    def nearest(self, estimate: float) -> float:
        """The side that is nearest to an estimate: the one to clear."""
        return self.low if abs(estimate - self.low) <= abs(estimate - self.high) else self.high


@dataclass(frozen=True)
class Claim:
    """A registered claim as it stands for one data set.

    bound: None where it is not registered for that data set, for the reason in `unregistered`.
    level: of its interval, shared out within its family. registered: date of the bound, empty for no effect.
    untested: why no test concludes it yet, else empty. reported: why it is measured and not judged, else empty; then
    its bound is none, on any data set, and it takes no share of its family's error rate.
    outside: the set outside that it takes, for instance "kmnist"; empty where it takes none, or one that is made.
    """

    id: str
    kind: str
    sentence: str
    estimand: str
    source: str
    no_effect: Bound
    bound: Bound | None
    level: float
    registered: str = ""
    pilot: str = ""
    unregistered: str = ""
    untested: str = ""
    reported: str = ""
    outside: str = ""

    def suggested(self, pilot: float) -> Bound:
        """The bound that a pilot's mean suggests: half-way from no effect, rounded towards no effect to two digits.

        No effect itself where the pilot shows none, or is NaN, and where it has two sides: that two things are equal to
        within a margin is no effect to go half-way from.
        """
        if self.no_effect.low > -math.inf and self.no_effect.high < math.inf:
            return self.no_effect
        rounds_up = self.no_effect.high < float("inf")
        null = self.no_effect.high if rounds_up else self.no_effect.low
        if not (pilot < null if rounds_up else pilot > null):
            return self.no_effect
        half = (null + pilot) / 2
        return Bound(high=math.ceil(half * 100) / 100) if rounds_up else Bound(low=math.floor(half * 100) / 100)

    @property
    def family(self) -> str:
        """The letter that starts the id."""
        return self.id[0]


@dataclass(frozen=True)
class Registry:
    """All claims for one data set, by id, and the digest of the file that they stand in."""

    claims: Mapping[str, Claim]
    digest: str

    @property
    def testable(self) -> list[Claim]:
        """Claims registered for the data set that a test can conclude."""
        return [claim for claim in self.claims.values() if claim.bound is not None and not claim.untested]


def load_registry(dataset: str, path: Path = REGISTRY) -> Registry:
    """Read the claims as they stand for a data set; one without bounds of its own is judged against no effect.

    Raises ValueError where the file breaks its own rules.
    """
    entries: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    for name, entry in entries.items():
        _check(name, entry)
    own = any(dataset in entry for entry in entries.values())
    bounds = {name: _bound(entry, dataset, own=own) for name, entry in entries.items()}
    judged = [name for name, (bound, _) in bounds.items() if bound is not None and "reported" not in entries[name]]
    families = [name[0] for name in judged]
    claims = {}
    for name, entry in entries.items():
        bound, why = bounds[name]
        of_dataset = entry.get(dataset, {})
        claims[name] = Claim(
            name,
            entry["kind"],
            entry["sentence"],
            entry["estimand"],
            entry["source"],
            Bound() if "reported" in entry else _no_effect(entry),
            bound,
            family_level(max(1, families.count(name[0]))),
            str(of_dataset.get("date", "")),
            str(of_dataset.get("pilot", "")),
            why,
            entry.get("untested", ""),
            entry.get("reported", ""),
            entry.get("outside", ""),
        )
    return Registry(claims, digest(path))


def _bound(entry: dict[str, Any], dataset: str, *, own: bool) -> tuple[Bound | None, str]:
    if "reported" in entry:
        return Bound(), ""
    if not own:
        return _no_effect(entry), ""
    if dataset not in entry:
        return None, f"no bound is registered for {dataset}"
    of_dataset = entry[dataset]
    if "unregistered" in of_dataset:
        return None, of_dataset["unregistered"]
    return Bound(of_dataset.get("above", float("-inf")), of_dataset.get("below", float("inf"))), ""


def _no_effect(entry: dict[str, Any]) -> Bound:
    direction, *values = entry["no_effect"].split()
    if direction == "in":
        return Bound(float(values[0]), float(values[1]))
    return Bound(low=float(values[0])) if direction == ">" else Bound(high=float(values[0]))


def _check(name: str, entry: dict[str, Any]) -> None:
    problems = [f"unknown key {key}" for key in sorted(set(entry) - _CLAIM_KEYS)]
    needed = {"kind", "sentence", "estimand", "source"} | (set() if "reported" in entry else {"no_effect"})
    problems += [f"no {key}" for key in sorted(needed - set(entry))]
    if "reported" in entry and (extra := sorted({"no_effect", "mnist", "digits"} & set(entry))):
        problems.append(f"a claim that is reported and not judged has no {', '.join(extra)}")
    if entry.get("kind") not in KINDS:
        problems.append(f"kind must be one of {', '.join(KINDS)}; got {entry.get('kind')}")
    for dataset in ("mnist", "digits"):
        if dataset not in entry:
            continue
        of_dataset = entry[dataset]
        problems += [f"unknown key {dataset}.{key}" for key in sorted(set(of_dataset) - _BOUND_KEYS)]
        if "unregistered" in of_dataset:
            continue
        if not {"above", "below"} & set(of_dataset):
            problems.append(f"{dataset} must have above, below or unregistered")
        if "date" not in of_dataset:
            problems.append(f"{dataset} must have the date on which its bound was set")
    if problems:
        raise ValueError(f"claims/registry.toml, claim {name}: {'; '.join(problems)}")
