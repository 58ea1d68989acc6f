"""The fixture `claim`: a test's estimate becomes a verdict."""

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

import pytest

from vaecore.suite.facts import Facts, Precondition
from vaecore.suite.judging.registry import Claim
from vaecore.suite.judging.verdict import PILOT, REPORTED, SUPPORTED, Verdict, judge, unjudged
from vaecore.suite.plugin.items import VERDICT
from vaecore.suite.results import plain
from vaecore.suite.statistics.columns import origin_of
from vaecore.suite.statistics.estimates import Estimate
from vaecore.suite.statistics.intervals import Pick

if TYPE_CHECKING:
    from vaecore.suite.study.study import TooFewError  # whose module imports torch

REGISTRY_PROPERTY = "claims registry"  # of a test report: the file that the claim stands in
PASSED = {SUPPORTED, PILOT, REPORTED}


class HasFacts(Protocol):
    """A study, as a conclusion sees it."""

    @property
    def facts(self) -> Facts:
        """Facts about the study."""
        ...

    def preconditions(self, conditions: Collection[str]) -> list[Precondition]:
        """What must hold of the study before claims on these conditions mean something."""
        ...


class Conclusion:
    """What a claim's test calls, once, with its estimate."""

    def __init__(self, claim: Claim, study: HasFacts, item: pytest.Item) -> None:
        self._claim, self._study, self._item = claim, study, item
        self.verdict: Verdict | None = None

    def conclude(self, *estimates: Estimate, pick: Pick = "smallest") -> None:
        """Record the verdict on one estimate, or on the smallest or greatest of several; fail if not *supported*."""
        if self.verdict is not None:
            raise RuntimeError(f"claim {self._claim.id} must be concluded once; this test concludes it again")
        preconditions = self._study.preconditions(origin_of(estimates).conditions)
        self._record(judge(self._claim, estimates, self._study.facts, preconditions, pick=pick))
        assert self.verdict is not None
        if self.verdict.verdict not in PASSED:
            pytest.fail(self.verdict.message, pytrace=False)

    def give_up(self, error: "TooFewError") -> None:
        """Record that there is nothing to judge by, as an attack left too few images."""
        self._record(unjudged(self._claim, self._study.facts, "attack failed", str(error)))

    def _record(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self._item.user_properties.append((REGISTRY_PROPERTY, str(self._claim.file)))
        self._item.user_properties.append((VERDICT, json.dumps(plain(verdict.to_json()), allow_nan=False)))
