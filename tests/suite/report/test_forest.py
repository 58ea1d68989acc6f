"""Are forest plots to scale, and do intervals stand on the right side of their bounds?"""

from types import SimpleNamespace

import numpy as np
import pytest

from vaecore.suite.judging.bound import Bound
from vaecore.suite.report import forest


def value_of(plot, place):
    """Read a place off the axis by its ticks."""
    places, numbers = zip(*[(x, float(text)) for x, text in plot.ticks], strict=True)
    slope, start = np.polyfit(places, numbers, 1)
    return slope * place + start


def test_the_forest_is_to_scale(claim):
    per_run = [0.72, 0.75, 0.81]
    plot = forest.forest(claim(per_run=per_run, bound_high=0.95))
    places = [plot.estimate, plot.low, plot.high, *plot.per_run, *plot.bounds, *plot.no_effect]
    for place, value in zip(places, [0.8, 0.7, 0.9, *per_run, 0.6, 0.95, 0.5], strict=True):
        assert 0 < place < 100
        assert value_of(plot, place) == pytest.approx(value, abs=2e-4)
    assert plot.shaded == (plot.bounds[0], pytest.approx(plot.bounds[1] - plot.bounds[0]))
    assert plot.text == "X1: estimate 0.800, interval 0.700 to 0.900, bound > 0.60; runs: 0.720, 0.750, 0.810"


@pytest.mark.parametrize(
    ("bounds", "shaded"),
    [((0.6, None), lambda x: (x[0], 100 - x[0])), ((None, 0.6), lambda x: (0, x[0])), ((None, None), lambda _: None)],
    ids=["above", "below", "none"],
)
def test_what_supports_is_shaded(claim, bounds, shaded):
    plot = forest.forest(claim(bound_low=bounds[0], bound_high=bounds[1]))
    assert plot.shaded == shaded(plot.bounds)


def test_no_effect_is_left_out_where_it_would_flatten_the_rest(claim):
    plot = forest.forest(claim(estimate=0.997, low=0.995, high=0.999, per_run=[0.997], bound_low=0.99))
    assert plot.no_effect == []
    assert plot.high - plot.low > 20


def test_a_forest_of_what_is_not_defined(claim):
    assert forest.forest(claim(**claim.undefined)) is None
    half = forest.forest(claim(low=None))
    assert half.low is None
    assert half.estimate < half.high
    alone = forest.forest(
        claim(low=None, high=None, per_run=[0.8], bound_low=None, no_effect={"low": None, "high": None})
    )
    assert alone.estimate == pytest.approx(50)
    assert len(alone.ticks) >= 3


@pytest.mark.parametrize("bound", [Bound(low=0.3), Bound(high=0.3), Bound(-0.2, 0.3)], ids=str)
def test_the_margin_clears_the_line_where_the_claim_is_supported(claim, bound):
    generator, seen = np.random.default_rng(0), set()
    for _ in range(200):
        middle, half = generator.normal(0, 0.5), generator.exponential(0.2)
        ends = {"low": middle - half, "high": middle + half * generator.uniform(0.5, 1)}
        verdict = bound.verdict(SimpleNamespace(**ends))
        plot = forest.margin(claim(estimate=middle, bound_low=bound.low, bound_high=bound.high, **ends))
        line = forest.shared(0)
        assert plot.low <= plot.estimate <= plot.high
        assert (plot.estimate > line) == (bound.low < middle < bound.high)
        if not np.isinf([bound.low, bound.high]).any():  # the far side may be missed as well
            assert verdict != "supported" or plot.low >= line
        else:
            side = "supported" if plot.low > line else "refuted" if plot.high < line else "inconclusive"
            assert side == verdict
        seen.add(verdict)
    assert seen == {"supported", "refuted", "inconclusive"}


def test_intervals_are_equally_long_on_the_shared_axis(claim):
    for plot in (forest.margin(claim()), forest.margin(claim(low=0.75, high=0.81))):
        assert plot.high - plot.low == pytest.approx(forest.shared(2) - forest.shared(0), abs=0.02)
    assert forest.margin(claim(estimate=0.9, low=0.899, high=0.901)).beyond == 1
    assert forest.margin(claim(estimate=0.1, low=0.099, high=0.101)).beyond == -1
    assert forest.margin(claim(bound_low=None)) is None
    assert forest.margin(claim(high=None)) is None


@pytest.mark.parametrize("ends", [(0, 1), (-0.003, 0.002), (1e-7, 3e-7), (-2500, 10), (0.94, 1.002), (0.5, 0.5001)])
def test_ticks_are_few_round_and_told_apart(ends):
    ticks = forest.ticks(*ends)
    assert 3 <= len(ticks) <= 9
    assert all(ends[0] - 1e-12 <= value <= ends[1] + 1e-12 for value, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks)
    assert all(float(text) == pytest.approx(value, abs=1e-12) for value, text in ticks)


def test_numbers_are_never_rounded_to_nothing(claim):
    shown = [forest.number(value) for value in (0.9026, -1.5, 0.0, 0.00004, -0.0009, None, float("nan"))]
    assert shown == ["0.903", "-1.500", "0.000", "4e-05", "-0.0009", "not defined", "not defined"]
    assert forest.measured(claim()) == "0.800 [0.700, 0.900]"
    assert forest.measured(claim(low=None)) == "0.800 no interval"
    assert forest.measured(claim(**claim.undefined)) == "not defined"
