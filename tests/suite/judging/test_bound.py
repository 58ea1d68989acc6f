"""Bounds: the verdict on an interval, the nearest side, the text in tables, and what a pilot suggests."""

import math

import pytest

from vaecore.suite.judging.bound import Bound
from vaecore.suite.statistics.intervals import Interval

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("bound", "ends", "verdict"),
    [
        (Bound(low=0.5), (0.51, 0.6), "supported"),
        (Bound(low=0.5), (0.5, 0.6), "inconclusive"),  # it touches
        (Bound(low=0.5), (0.4, 0.6), "inconclusive"),
        (Bound(low=0.5), (0.4, 0.5), "inconclusive"),
        (Bound(low=0.5), (0.4, 0.49), "refuted"),
        (Bound(high=0.5), (0.4, 0.49), "supported"),
        (Bound(high=0.5), (0.4, 0.5), "inconclusive"),
        (Bound(high=0.5), (0.5, 0.6), "inconclusive"),
        (Bound(high=0.5), (0.51, 0.6), "refuted"),
        (Bound(0.4, 0.6), (0.41, 0.59), "supported"),
        (Bound(0.4, 0.6), (0.3, 0.7), "inconclusive"),
        (Bound(0.4, 0.6), (0.5, 0.7), "inconclusive"),
        (Bound(0.4, 0.6), (0.61, 0.7), "refuted"),
        (Bound(0.4, 0.6), (0.1, 0.39), "refuted"),
        (Bound(low=0.5), (NAN, NAN), "inconclusive"),
        (Bound(high=0.5), (NAN, NAN), "inconclusive"),
        (Bound(low=0.5), (NAN, 0.7), "inconclusive"),
        (Bound(low=0.5), (-INF, INF), "inconclusive"),
    ],
)
def test_verdict_of_a_bound(bound, ends, verdict):
    interval = Interval(sum(ends) / 2, *ends, 0.95, 5, 100, 0.1, 0.1, 0.1, (-INF, INF), 100)
    assert bound.verdict(interval) == verdict


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (Bound(), "none"),
        (Bound(low=0.8), "> 0.80"),
        (Bound(high=0.5), "< 0.50"),
        (Bound(high=-0.1), "< -0.10"),
        (Bound(low=0.005), "> 0.005"),
        (Bound(high=0.0021), "< 0.0021"),
        (Bound(0.4, 0.6), "in (0.40, 0.60)"),
        (Bound(0.001, 0.004), "in (0.001, 0.004)"),
    ],
)
def test_a_bound_as_text(bound, text):
    assert str(bound) == text


@pytest.mark.parametrize(("estimate", "nearest"), [(0.0, 0.4), (0.45, 0.4), (0.55, 0.6), (9.0, 0.6)])
def test_nearest_side_of_a_bound(estimate, nearest):
    assert Bound(0.4, 0.6).nearest(estimate) == nearest
    assert Bound(low=0.4).nearest(estimate) == 0.4
    assert Bound(high=0.6).nearest(estimate) == 0.6


@pytest.mark.parametrize(
    ("bound", "no_effect", "as_finding", "as_limit"),
    [
        (Bound(low=0.5), Bound(low=0.5), True, True),
        (Bound(low=0.4), Bound(low=0.5), False, True),
        (Bound(high=0.6), Bound(high=0.5), False, True),
        (Bound(high=0.4), Bound(low=0.5), False, False),
        (Bound(low=0.6), Bound(high=0.5), False, False),
        (Bound(0.6, 0.9), Bound(low=0.5), True, True),
        (Bound(low=0.45), Bound(0.4, 0.6), False, False),
        (Bound(0.45, 0.55), Bound(0.4, 0.6), True, True),
        (Bound(0.3, 0.7), Bound(0.4, 0.6), False, True),
        (Bound(0.5, 0.5), Bound(low=0.1), False, False),
        (Bound(0.9, 0.6), Bound(low=0.1), False, False),
    ],
)
def test_a_bound_lies_where_there_is_an_effect_or_for_a_limit_on_its_side(bound, no_effect, as_finding, as_limit):
    assert (not bound.amiss(no_effect, "finding"), not bound.amiss(no_effect, "limit")) == (as_finding, as_limit)


@pytest.mark.parametrize(
    ("no_effect", "pilot", "suggested"),
    [
        (Bound(low=0.5), 0.885, Bound(low=0.69)),  # 0.6925
        (Bound(low=0.0), 0.695, Bound(low=0.34)),  # 0.3475
        (Bound(high=0.0), -0.289, Bound(high=-0.14)),  # -0.1445
        (Bound(high=0.5), 0.18, Bound(high=0.34)),
        (Bound(high=0.5), 0.181, Bound(high=0.35)),  # 0.3405, up, towards no effect
        (Bound(low=0.5), 0.4, Bound(low=0.5)),  # on the wrong side
        (Bound(high=0.0), 0.2, Bound(high=0.0)),
        (Bound(low=0.5), NAN, Bound(low=0.5)),
        (Bound(high=0.5), NAN, Bound(high=0.5)),
        (Bound(0.4, 0.6), 0.484, Bound(0.4, 0.6)),  # equal to within a margin: nothing to go half-way from
    ],
)
def test_suggested_bound_is_half_way_and_rounded_towards_no_effect(claim, no_effect, pilot, suggested):
    assert claim(None, no_effect=no_effect).suggested(pilot) == suggested
