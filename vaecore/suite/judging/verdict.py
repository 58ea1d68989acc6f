"""Verdicts: the interval of an estimate against the registered bound, and a sentence that says what to do."""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vaecore.suite.facts import Facts, Precondition
from vaecore.suite.judging.bound import Bound
from vaecore.suite.judging.registry import Claim, Registry, family_of
from vaecore.suite.results import number
from vaecore.suite.statistics import intervals
from vaecore.suite.statistics.columns import origin_of
from vaecore.suite.statistics.estimates import Estimate
from vaecore.suite.statistics.intervals import DECIDED, Interval, Pick, Required, Spread
from vaecore.suite.text import counted

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
PILOT, REPORTED = "pilot", "reported"  # measured, not judged: in a pilot, or for want of a bound
NOT_JUDGED = "not judged"  # though it has a bound: the numbers would mean nothing, whatever they are
VERDICTS = (SUPPORTED, REFUTED, INCONCLUSIVE, NOT_JUDGED, PILOT, REPORTED)
_SHOWN = 0.005  # share of images on which an attack failed, from which on the message says so
NEAR = 0.9  # below this chance of the same verdict a claim is near its bound
FEWEST_KEPT = 0.95  # share of the images below which those on which L-BFGS succeeds are no fair sample


@dataclass(frozen=True)
class Verdict:
    """A study's verdict on a claim; plain values only, so that it travels between processes and into JSON.

    verdict: "supported", "refuted", "inconclusive"; "not judged"; "pilot" or "reported" where it only measures.
    message: the result in a sentence. why: it is not supported, and what to do, in words. amiss: why it is not judged,
    in few words. per_run: the estimate of each run. power: chance to clear the bound at its variances, were the
    estimate the truth. needed_images, needed_runs: what would decide, None where that is not to be had. spreads: what
    the interval follows from at any level; none where there is no interval. bound_low, bound_high: `bound` as numbers,
    infinite where there is no such side. pick: which of several estimands it is about. same, again_supported: chances
    that another study of the same design, with trainings and images of its own, gives the same verdict, and that it
    gives "supported" (`Spread.chance_within` says what is assumed); NaN where nothing is judged.
    """

    claim: str
    verdict: str
    message: str
    estimate: float
    low: float
    high: float
    level: float
    bound: str
    runs: int
    images: int
    per_run: tuple[float, ...]
    power: float
    needed_images: int | None = None
    needed_runs: int | None = None
    conditions: tuple[str, ...] = ()
    spreads: tuple[Spread, ...] = ()
    bound_low: float = float("-inf")
    bound_high: float = float("inf")
    pick: Pick = "smallest"
    same: float = float("nan")
    again_supported: float = float("nan")
    why: str = ""
    amiss: str = ""

    @property
    def outcome(self) -> str:
        """The verdict, with the reason where it is none: "not judged: smoke"."""
        return outcome(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As a dict of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Verdict":
        """The reverse of `to_json`, also where JSON has made a number that it lacks null: NaN, or an infinite limit."""
        numbers = ("estimate", "low", "high", "level", "power", "same", "again_supported")
        plain = {name: number(values[name]) for name in numbers}
        plain["bound_low"], plain["bound_high"] = _limits((values["bound_low"], values["bound_high"]))
        lists = {"per_run": tuple(map(number, values["per_run"])), "conditions": tuple(values["conditions"])}
        spreads = tuple(_spread(spread) for spread in values["spreads"])
        return cls(**{**values, **plain, **lists, "spreads": spreads})


def _spread(values: dict[str, Any]) -> Spread:
    numbers = {name: number(values[name]) for name in ("estimate", "standard_error", "freedom")}
    return Spread(**{**values, **numbers, "limits": _limits(values["limits"])})


def _limits(ends: Sequence[float | None]) -> tuple[float, float]:
    low, high = ends
    return -math.inf if low is None else low, math.inf if high is None else high


def judge(
    claim: Claim,
    estimates: Sequence[Estimate],
    facts: Facts,
    preconditions: Iterable[Precondition] = (),
    *,
    pick: Pick = "smallest",
) -> Verdict:
    """Judge a claim by one estimate, or by one of several, each with the conditions that it looked at.

    A claim whose family or conditions a precondition undermines that is not met is not judged.
    """
    if not estimates:
        raise ValueError(f"claim {claim.id} needs an estimate to conclude; got none")
    alone = len(estimates) == 1
    several = intervals.smallest if pick == "smallest" else intervals.greatest
    interval = intervals.interval(estimates[0], claim.level) if alone else several(estimates, claim.level)
    origin, first = origin_of(estimates), min if pick == "smallest" else max
    per_run = tuple(map(first, zip(*(estimate.per_run.tolist() for estimate in estimates), strict=True)))
    bound = claim.bound
    if bound is None or (facts.pilot and not claim.reported):
        bound = claim.suggested(interval.estimate)
    broken = [one for one in preconditions if not one.met and one.undermines & {claim.family, *origin.conditions}]
    amiss, why = _unjudged(facts.too_little, broken, origin.kept)
    if claim.reported:
        verdict = REPORTED
    elif facts.pilot and not broken:
        verdict = PILOT
    else:
        verdict = NOT_JUDGED if amiss else bound.verdict(interval)
    power, _ = _chances(interval, bound, again=False)
    supported, refuted = _chances(interval, bound, again=True)
    same = {SUPPORTED: supported, REFUTED: refuted, INCONCLUSIVE: float(np.maximum(0, 1 - supported - refuted))}
    judges = verdict in same
    needed = None
    if verdict != NOT_JUDGED:
        amiss = why = ""
    if verdict == REFUTED:
        why = "the whole interval lies beyond the bound, so the claim does not hold here"
    if verdict == INCONCLUSIVE and interval.reason:
        why = f"no interval: {interval.reason}"
    elif verdict == INCONCLUSIVE:
        reach = interval.required(bound.nearest(interval.estimate))
        # Of the test images; those of a set outside grow with them.
        inside = interval.images - interval.outside
        images = None if reach.images is None else -(-reach.images * inside // interval.images)
        needed = Required(images if images is not None and images <= facts.test_images else None, reach.runs)
        why = _remedy(needed, facts.test_images, outside=interval.outside > 0)
    return Verdict(
        claim.id,
        verdict,
        _message(claim, interval, str(bound), verdict, why, facts.finished, origin.failed),
        interval.estimate,
        interval.low,
        interval.high,
        interval.level,
        str(bound),
        interval.runs,
        interval.images,
        per_run,
        power,
        needed.images if needed else None,
        needed.runs if needed else None,
        tuple(sorted(origin.conditions)),
        interval.spreads,
        bound.low,
        bound.high,
        pick,
        same[verdict] if judges else math.nan,
        supported if judges else math.nan,
        why,
        amiss,
    )


def unjudged(claim: Claim, facts: Facts, amiss: str, why: str) -> Verdict:
    """The verdict on a claim that there is nothing to judge by; amiss: the reason in few words, why: in more."""
    return Verdict(
        claim=claim.id,
        verdict=NOT_JUDGED,
        message=f"{claim.id} {NOT_JUDGED}: {why}",
        estimate=math.nan,
        low=math.nan,
        high=math.nan,
        level=claim.level,
        bound=str(claim.bound or claim.no_effect),
        runs=facts.runs,
        images=0,
        per_run=(math.nan,) * facts.runs,
        power=math.nan,
        why=why,
        amiss=amiss,
    )


def outcome(verdict: Mapping[str, Any]) -> str:
    """The verdict of a claim of results, with the reason where it is none: "not judged: smoke"."""
    return f"{verdict['verdict']}: {verdict['amiss']}" if verdict.get("amiss") else str(verdict["verdict"])


def _chances(interval: Interval, bound: Bound, *, again: bool) -> tuple[float, float]:
    """That another study would support the claim, and that it would refute it; NaN where nothing can tell."""
    if bound == Bound():
        return math.nan, math.nan
    sides = [(-math.inf, bound.low)] if math.isfinite(bound.low) else []
    sides += [(bound.high, math.inf)] if math.isfinite(bound.high) else []
    refuted = sum(interval.chance_within(*side, again=again) for side in sides)
    return interval.chance_within(bound.low, bound.high, again=again), refuted


def _unjudged(too_little: str, broken: Sequence[Precondition], kept: float) -> tuple[str, str]:
    """Why a claim is not judged, whatever the numbers: in few words and in more; empty where it is."""
    if broken:
        return "; ".join(one.name for one in broken), "; ".join(map(str, broken))
    if too_little:
        return too_little, "one run or the smoke profile is too little to judge a claim: use --profile standard"
    if kept < FEWEST_KEPT:
        failed = f"the attack succeeded in all runs on {kept:.0%} of the images only: what is left is no fair sample"
        return "attack failed", failed
    return "", ""


def _remedy(needed: Required, available: int, *, outside: bool) -> str:
    ways = []
    if needed.images is not None:
        more = f"{counted(needed.images, 'test image')}, and more of the set outside"
        ways.append(f"about {more if outside else counted(needed.images, 'image')} (--profile full)")
    if needed.runs is not None:
        ways.append(f"about {counted(needed.runs, 'run')} (--runs)")
    if ways:
        return (
            f"the interval straddles the bound; {', or '.join(ways)} would decide with a chance of {DECIDED:g},"
            " were the estimate and its variances the truth"
        )
    test_images = counted(available, "test image")
    return f"the interval straddles the bound, and neither more runs nor the {test_images} would decide"


def _message(
    claim: Claim,
    interval: Interval,
    bound: str,
    verdict: str,
    why: str,
    finished: Sequence[str],
    failed: float,
) -> str:
    images = counted(interval.images, "image", "d")
    if interval.outside:
        images = f"{interval.images - interval.outside} + {counted(interval.outside, 'image', 'd')}"
    text = (
        f"{claim.id} {verdict}: {claim.estimand} = {interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        f" (level {interval.level:.4f}, {counted(interval.runs, 'run', 'd')} x {images}); bound {bound}"
    )
    if interval.runs == 1:
        text += "; one run: the interval covers images only"
    elif finished:
        text += f"; one {' and '.join(finished)} in all runs: the interval does not cover its training"
    if failed >= _SHOWN:
        text += f"; the attack failed on {failed:.0%} of the images, which are among those looked at"
    if interval.reason and not why:
        text += f"; no interval: {interval.reason}"
    return f"{text}; {why}" if why else text


def not_run(registry: Registry, lacks: Callable[[Claim], str], concluded: Container[str]) -> list[Claim]:
    """Claims that a test could have concluded and did not; lacks: why the study has not what one needs, else empty."""
    return [claim for claim in registry.testable if not lacks(claim) and claim.id not in concluded]


def no_verdict(registry: Registry, lacks: Callable[[Claim], str], concluded: Container[str]) -> dict[str, str]:
    """Each claim that was not concluded, and why; lacks: as in `not_run`."""
    return {
        claim.id: claim.unregistered or claim.untested or lacks(claim) or "not run"
        for claim in registry.claims.values()
        if claim.id not in concluded
    }


def tally(verdicts: Sequence[str]) -> str:
    """The number of each verdict, in words."""
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts)


def near_bounds(claims: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Claims of results whose verdict another study of the same design would give with a chance below NEAR, and it."""
    return {claim["claim"]: claim["same"] for claim in claims if number(claim.get("same")) < NEAR}


def expected_supported(claims: Iterable[Mapping[str, Any]]) -> tuple[int, int] | None:
    """How many of the claims judged another study of the same design would support: 0.95 lie within; None if none.

    The claims of a family are taken to rise and fall together, as they share models and images, and families as
    independent of each other.
    """
    families: dict[str, list[float]] = {}
    for claim in claims:
        if math.isfinite(chance := number(claim.get("again_supported"))):
            families.setdefault(family_of(claim["claim"]), []).append(chance)
    if not families:
        return None
    total = np.ones(1)
    for chances in families.values():
        # So many or more are supported where the share that all have in common is below that chance.
        at_least = np.array([1.0, *sorted(chances, reverse=True), 0.0])
        total = np.convolve(total, at_least[:-1] - at_least[1:])
    low, high = np.searchsorted(np.cumsum(total), [0.025, 0.975])
    return int(low), int(high)
