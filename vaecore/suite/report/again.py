"""What another study of the same design would give, in words, from results alone."""

import math
from collections.abc import Mapping
from typing import Any

from vaecore.suite.judging.findings import FAMILY
from vaecore.suite.judging.registry import family_of, shared_rate
from vaecore.suite.judging.verdict import NEAR, near_bounds
from vaecore.suite.results import number
from vaecore.suite.text import counted

Results = Mapping[str, Any]


def sentences(results: Results) -> list[str]:
    """Which claims are near their bounds, and how many claims may be expected to be supported; none in a pilot."""
    expected = results.get("expected_supported")
    if expected is None:
        return []
    near = [f"{name} ({chance:.2f})" for name, chance in near_bounds(results["claims"]).items()]
    judged = sum(math.isfinite(number(claim.get("again_supported"))) for claim in results["claims"])
    low, high = expected
    range_of = f"{low} to {high}" if high > low else f"{low}"
    another = "another study of this design, with trainings and images of its own,"
    return [
        f"Near their bounds: {', '.join(near)}; {another} gives the same verdict with this chance, below {NEAR:g}."
        if near
        else f"No claim is near its bound: {another} gives each verdict with a chance of {NEAR:g} or more.",
        f"Such a study may be expected to support {range_of} of {counted(judged, 'claim')}.",
    ]


def is_near(claim: Results) -> bool:
    """Whether a claim of results is near its bound."""
    return bool(near_bounds([claim]))


def error_rate(results: Results) -> str:
    """What claims share an error rate, in words."""
    families = {family_of(claim["claim"]) for claim in results["claims"] if not claim["reported"]}
    return shared_rate(results.get("error_rate", FAMILY), len(families))
