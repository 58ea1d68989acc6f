"""Intervals against hand calculation, scipy and Clopper-Pearson; what would decide; changes between two studies."""

import math
import operator
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from vaecore.suite.statistics.estimates import UNLIMITED, absolute, auroc, difference, group_mean_ratio, mean, smooth
from vaecore.suite.statistics.intervals import (
    DECIDED,
    Required,
    Spread,
    change,
    family_level,
    greatest,
    interval,
    smallest,
)

RUNS, IMAGES = 4, 300
INF, NAN = math.inf, math.nan


def ends(estimate, level=0.95):
    result = interval(estimate, level)
    return result.low, result.high


def test_satterthwaite_interval_equals_the_one_worked_by_hand():
    """Means of runs 2, 5, of images 1.5, 3, 6; grand 3.5. MS_runs 13.5 (1), MS_images 10.5 (2), MS_residual 1.5 (2)."""
    result = interval(mean([[1.0, 1.0, 4.0], [2.0, 5.0, 8.0]]), 0.95)
    variance = (13.5 + 10.5 - 1.5) / 6
    freedom = (13.5 + 10.5 - 1.5) ** 2 / (13.5**2 / 1 + 10.5**2 / 2 + 1.5**2 / 2)
    half_width = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert (result.estimate, result.low, result.high) == pytest.approx((3.5, 3.5 - half_width, 3.5 + half_width))
    assert (result.run_variance, result.image_variance, result.residual_variance) == pytest.approx((4.0, 4.5, 1.5))
    assert (result.runs, result.images, result.level) == (2, 3, 0.95)
    assert {type(getattr(result, name)) for name in ("estimate", "low", "high", "run_variance")} == {float}
    with pytest.raises(AttributeError):
        result.low = 0.0


def test_variance_components_are_truncated_at_zero():
    """Both run means are 3, so MS_runs is 0 and the interval stands on MS_images 10.5 and the larger MS_residual."""
    values = np.array([[0.0, 3.0, 6.0], [3.0, 3.0, 3.0]])  # image means 1.5, 3, 4.5; MS_images 4.5, MS_residual 4.5
    result = interval(mean(values), 0.9)
    assert (result.run_variance, result.image_variance, result.residual_variance) == pytest.approx((0, 0, 4.5))
    freedom = 4.5**2 / (4.5**2 / 1 + 4.5**2 / 2 + 4.5**2 / 2)
    assert result.high - result.estimate == pytest.approx(stats.t.ppf(0.95, freedom) * math.sqrt(4.5 / 6))


def test_one_run_gives_the_t_interval_over_images(generator):
    values = generator.standard_normal((1, 50))
    result = interval(mean(values), 0.99)
    assert (result.low, result.high) == pytest.approx(tuple(stats.ttest_1samp(values[0], 0).confidence_interval(0.99)))
    assert result.runs == 1
    assert math.isnan(result.run_variance)


def test_interval_of_a_known_range_is_symmetric_on_its_logit_scale(crossed):
    values = crossed() > 2
    bounded, plain = ends(mean(values)), ends(mean(values, limits=UNLIMITED))
    share, half_width = values.mean(), (plain[1] - plain[0]) / 2
    odds = math.log(share / (1 - share)) + np.array([-1, 1]) * half_width / (share * (1 - share))
    assert bounded == pytest.approx(tuple(1 / (1 + np.exp(-odds))))
    doubled = ends(mean(2.0 * values - 1, limits=(-1.0, 1.0)))
    assert doubled == pytest.approx((2 * bounded[0] - 1, 2 * bounded[1] - 1))


def low_end_of(wrong, images=150, level=0.9972):
    """The lower end of the share of right answers, where each run has so many wrong ones, on images of its own."""
    right = np.ones((len(wrong), images))
    for run, count in enumerate(wrong):
        right[run, 31 * run + np.arange(count)] = 0
    return ends(mean(right), level)[0]


def test_of_two_estimates_with_one_standard_error_the_higher_has_no_lower_end_below():
    for freedom in (2, 4, 20, 1000):
        for error in (0.0005, 0.004, 0.02, 0.1):
            shares = np.linspace(0.5, 0.9999, 400)
            spreads = [Spread(share, error, freedom, 10**6, 10**6, (0.0, 1.0)) for share in shares.tolist()]
            low, high = np.array([spread.ends(0.9972) for spread in spreads]).T
            assert (np.diff(low) >= -1e-12).all()
            assert (np.diff(high) >= -1e-12).all()


def test_one_bad_run_of_five_near_1_does_not_leave_the_share_open():
    """A run of 0.96 beside four of 1: the logit scale alone gives 0.14; ends as far as e plain margins are left."""
    assert low_end_of([0, 0, 0, 0, 6]) == pytest.approx(0.863, abs=2e-3)
    assert low_end_of([1, 3, 0, 4, 2]) == pytest.approx(0.916, abs=2e-3)  # as on the logit scale


def test_runs_that_are_better_one_by_one_seldom_get_a_lower_low_end():
    """All pairs of five runs: those that differ more know their mean less, by the t interval; else none is lower."""
    sets = list(combinations_with_replacement(range(0, 7, 2), 5))
    low = {wrong: low_end_of(wrong) for wrong in sets}
    pairs = [(low[b], low[w]) for b in sets for w in sets if b != w and all(map(operator.le, b, w))]
    drops = np.array([worse - better for better, worse in pairs])
    assert drops.max() < 0.061  # on the logit scale alone 0.75
    assert (drops > 0).mean() < 0.3  # likewise 0.6
    # As many mistakes less in every run.
    assert all(low_end_of(np.array(wrong) + 1) < low_end_of(wrong) for wrong in sets)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_agreeing_images_give_the_clopper_pearson_interval(share):
    expected = stats.binomtest(int(40 * share), 40).proportion_ci(0.95, method="exact")
    assert ends(mean(np.full((5, 40), share))) == pytest.approx((expected.low, expected.high))


def test_one_disagreeing_run_does_not_narrow_the_interval():
    values = np.ones((5, 40))
    values[0, 0] = 0
    assert ends(mean(values))[0] < ends(mean(values[1:]))[0]


def test_perfect_auroc_is_bounded_by_the_smaller_group():
    low, high = ends(auroc(np.zeros((3, 30)), np.ones((3, 500)), paired=False))
    assert (low, high) == (pytest.approx(0.025 ** (1 / 30)), 1)


def test_a_small_group_bounds_the_degrees_of_freedom(generator):
    for runs in (1, 3):
        alike = replace(mean(np.tile(generator.random(300), (runs, 1))), count=10)
        assert interval(alike, 0.95).spreads[0].freedom == pytest.approx(9)


def test_conditions_that_differ_on_no_image_bound_the_difference_by_the_rule_of_three():
    ones, zeros = mean(np.ones((3, 50))), mean(np.zeros((3, 50)))
    assert ends(difference(ones, zeros)) == pytest.approx((1 - 2 * (1 - 0.025 ** (1 / 50)), 1))


def test_equal_values_of_unknown_range_bound_nothing():
    result = interval(mean(np.full((3, 100), 0.1)), 0.95)
    assert (result.low, result.high) == (-INF, INF)
    assert result.required(0.0) == Required(None, None)


@pytest.mark.parametrize("shape", [(3, 1), (1, 1)])
def test_one_image_gives_nan(shape):
    result = interval(mean(np.full(shape, 0.5)), 0.95)
    assert math.isnan(result.low)
    assert "at least 2 images" in result.reason
    assert result.spreads == ()


@given(
    arrays.arrays(np.float64, (3, 8), elements=st.floats(-5, 5)), st.integers(0, 23), st.sampled_from([NAN, INF, -INF])
)
def test_what_is_not_finite_never_clears_a_bound(values, position, culprit):
    values.flat[position] = culprit
    member = values > 0
    for estimate in (
        mean(values),
        smooth([values], lambda means: means[0] ** 2),
        group_mean_ratio(values, member, ~member),
        absolute(mean(values)),
        difference(mean(values), mean(np.zeros((3, 8)))),
    ):
        result = interval(estimate, 0.95)
        assert math.isnan(result.low)
        assert math.isnan(result.high)
        assert result.reason


@given(
    arrays.arrays(np.float64, (3, 6), elements=st.integers(-9, 9).map(float)),
    st.floats(-100, 100),
    st.floats(0.01, 100),
)
def test_interval_of_a_mean_follows_shift_and_scale(values, shift, scale):
    low, high = ends(mean(values, limits=UNLIMITED), 0.9)
    moved = ends(mean(shift + scale * values, limits=UNLIMITED), 0.9)
    assert moved == pytest.approx((shift + scale * low, shift + scale * high), rel=1e-6)
    assert ends(mean(-values, limits=UNLIMITED), 0.9) == pytest.approx((-high, -low))


def test_family_level_divides_the_error_rate():
    assert family_level(1) == 0.95
    assert family_level(10) == pytest.approx(0.995)
    with pytest.raises(ValueError, match="at least 1 claim; got 0"):
        family_level(0)


def test_a_level_is_no_percentage():
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\); got 95"):
        interval(mean(np.eye(3)), 95)


# What would decide


@pytest.mark.parametrize(("of", "bound"), [("images", 0.05), ("runs", 0.05), ("runs", -0.05)])
def test_so_many_more_decide_with_the_stated_chance(of, bound):
    """Were the estimate and the variance components the truth: 600 studies of that many runs or images."""
    generator = np.random.default_rng(3)
    run, image, residual = (0.02, 0.6, 0.6) if of == "images" else (0.05, 0.2, 0.2)
    first = interval(mean(generator.standard_normal((RUNS, IMAGES))), 0.95)
    ends = {"low": -0.15, "high": 0.15, "estimate": 0.0}
    known = replace(first, **ends, run_variance=run**2, image_variance=image**2, residual_variance=residual**2)
    runs, images = RUNS, IMAGES
    if of == "images":
        images = known.required(bound).images
    else:
        runs = known.required(bound).runs
    assert (runs, images) > (RUNS, IMAGES)
    decided = 0
    for _ in range(600):
        crossing = run * generator.standard_normal((runs, 1)) + image * generator.standard_normal(images)
        result = interval(mean(crossing + residual * generator.standard_normal((runs, images))), 0.95)
        decided += result.high < bound if bound > 0 else result.low > bound
    assert decided / 600 == pytest.approx(DECIDED, abs=0.06)


def test_images_cannot_outweigh_runs_that_differ(crossed):
    result = interval(mean(crossed(run_effect=1.0)), 0.95)
    needed = result.required(result.estimate + (result.high - result.estimate) / 3)
    assert needed.images is None
    assert needed.runs > result.runs


def test_a_decided_interval_requires_what_it_has_and_one_run_says_nothing_of_runs(crossed):
    values = crossed()
    result, single = interval(mean(values), 0.95), interval(mean(values[:1]), 0.95)
    assert result.required(result.low - 1) == Required(IMAGES, RUNS)
    assert result.required(result.estimate) == Required(None, None)
    needed = single.required(single.estimate + (single.high - single.estimate) / 2)
    fewest = 4 * (1 + stats.norm.ppf(DECIDED) / stats.norm.ppf(0.975)) ** 2 * IMAGES
    assert 0.95 * fewest < needed.images < 1.05 * fewest
    assert needed.runs is None


def test_the_end_on_the_bound_s_side_has_to_clear_it():
    """Near 1 the lower end lies farther away than the upper one."""
    generator = np.random.default_rng(0)
    result = interval(mean(generator.random((5, 400)) < 0.97 + 0.02 * generator.standard_normal((5, 1))), 0.95)
    gap = 0.8 * (result.high - result.estimate)
    assert result.required(result.estimate - gap).runs > result.required(result.estimate + gap).runs


# The smallest of several


def test_smallest_takes_the_lowest_end_and_corrects_the_upper_one(crossed):
    estimates = [mean(crossed() + shift) for shift in (1.0, 0.9, 3.0)]
    result = smallest(estimates, 0.95)
    parts = [interval(estimate, 0.95) for estimate in estimates]
    assert result.estimate == min(estimate.value for estimate in estimates)
    assert result.low == min(part.low for part in parts)
    assert result.high == min(ends(estimate, 1 - 0.05 / 3)[1] for estimate in estimates)
    assert result.parts == tuple(parts)


def test_smallest_of_one_is_its_interval_and_nan_in_one_is_nan(crossed):
    estimate = mean(crossed())
    alone, single = smallest([estimate], 0.9), interval(estimate, 0.9)
    assert (alone.estimate, alone.low, alone.high) == (single.estimate, single.low, single.high)
    spoiled = smallest([estimate, mean(np.full((RUNS, IMAGES), np.nan))], 0.9)
    assert all(math.isnan(number) for number in (spoiled.estimate, spoiled.low, spoiled.high))
    with pytest.raises(ValueError, match="at least one estimate; got none"):
        smallest([], 0.9)


def test_greatest_mirrors_smallest(crossed):
    """Estimate, ends, what would decide and chances of the greatest are those of the smallest of the negatives."""
    shares = [crossed(run_effect=1.0) + shift for shift in (0.3, 0.0, 1.0)]
    top, low = greatest([mean(one) for one in shares], 0.95), smallest([mean(-one) for one in shares], 0.95)
    assert (top.estimate, top.low, top.high) == pytest.approx((-low.estimate, -low.high, -low.low))
    for bound in (top.estimate - 1, top.estimate + 1, top.low, top.high):
        assert top.required(bound) == low.required(-bound)
        assert top.chance_within(bound, INF, again=True) == pytest.approx(low.chance_within(-INF, -bound, again=True))
    first, second = (change(one.spreads, one.spreads, 0.95, pick=one.pick) for one in (top, low))
    assert first == pytest.approx((0, -second[2], -second[1]))


def test_the_better_of_two_after_looking_is_covered(generator):
    """Two equal means: the greater of two estimates leans upwards, and so must not be taken at its own interval."""
    misses = alone = 0
    for _ in range(600):
        both = [mean(generator.standard_normal((1, 30))) for _ in range(2)]
        misses += greatest(both, 0.9).low > 0
        alone += interval(max(both, key=lambda one: one.value), 0.9).low > 0
    assert misses / 600 < 0.07 < alone / 600


def test_what_decides_the_smallest_on_the_far_side_is_its_first_part(crossed):
    """That the smallest falls short needs one part that does; the others may lie where they are."""
    estimates = [mean(crossed(run_effect=1.0) + shift) for shift in (0.0, 50.0)]
    part = interval(estimates[0], 1 - 0.05 / 2)
    bound = part.estimate + 0.9 * (part.high - part.estimate)
    assert smallest(estimates, 0.95).required(bound) == part.required(bound)
    assert part.required(bound).runs > RUNS


def test_smallest_requires_what_its_neediest_part_requires(crossed):
    estimates = [mean(crossed(run_effect=1.0) + shift) for shift in (0.0, 50.0)]
    result, part = smallest(estimates, 0.95), interval(estimates[0], 0.95)
    bound = part.estimate - (part.estimate - part.low) * 0.9
    assert result.required(bound) == part.required(bound)
    assert part.required(bound).runs > RUNS
    varying = [mean(crossed(run_effect=1.0)), mean(crossed() + 5)]
    part = interval(varying[0], 0.95)
    needed = smallest(varying, 0.95).required(part.estimate - (part.estimate - part.low) / 3)
    assert needed.images is None  # though the other part has enough
    assert needed.runs > RUNS


# Another study of the same design


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("distance", [1.2, 2.0, 3.0])
def test_another_study_gives_the_same_verdict_as_often_as_said(runs, distance):
    """Pairs of studies of one truth, with a bound so many margins below the estimate of the first."""
    generator = np.random.default_rng([runs, int(distance * 10)])
    said, clear, power = [], [], []
    for _ in range(1500):
        one, two = (
            interval(mean(generator.standard_normal((runs, 1)) + 0.1 * generator.standard_normal((runs, 40))), 0.95)
            for _ in range(2)
        )
        bound = one.estimate - distance * (one.estimate - one.low)  # known after the first study, as in use
        said.append(one.chance_within(bound, INF, again=True))
        power.append(one.chance_within(bound, INF, again=False))
        clear.append(two.low > bound)
    assert np.mean(said) == pytest.approx(np.mean(clear), abs=0.035)
    assert (np.array(power) > np.array(said)).all()


def test_chances_of_both_sides_mirror_and_are_nan_without_an_interval(crossed):
    result = interval(mean(crossed()), 0.95)
    gap = result.estimate - result.low
    above = result.chance_within(result.estimate - 2 * gap, INF, again=True)
    assert above == pytest.approx(result.chance_within(-INF, result.estimate + 2 * gap, again=True))
    assert 0.8 < above < 1
    within = result.chance_within(result.estimate - 2 * gap, result.estimate + 2 * gap, again=True)
    assert 2 * above - 1 - 1e-9 <= within < above
    assert result.chance_within(result.low, INF, again=False) == pytest.approx(0.5, abs=0.05)
    always = interval(mean(np.ones((3, 50))), 0.95)
    assert always.chance_within(0.5, INF, again=True) == always.chance_within(0.5, 1.1, again=True)
    assert always.chance_within(0.5, INF, again=True) > 0.99
    assert always.chance_within(1.0, INF, again=True) == 0
    for hopeless in (interval(mean([[NAN, 1.0]]), 0.95), interval(mean(np.full((3, 9), 0.1)), 0.95)):
        assert math.isnan(hopeless.chance_within(0.0, INF, again=True))


# The change from one study to another


def test_change_where_runs_vary_alone_is_welchs():
    before, after = np.array([0.1, 0.4, 0.2, 0.7, 0.3]), np.array([1.0, 1.1, 0.9])
    expected = stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.99)
    spreads = [interval(mean(np.tile(values[:, None], 400)), 0.95).spreads for values in (before, after)]
    assert change(*spreads, 0.99) == pytest.approx((after.mean() - before.mean(), *expected))


def test_ends_of_a_change_come_from_the_near_ends_of_the_two_intervals():
    """Zou & Donner (2008), equation 3, of two shares near 1, whose intervals are not symmetric."""
    one, other = (Spread(value, 0.01, 6.0, 400, 400, (0.0, 1.0)) for value in (0.97, 0.9))
    (low, high), (other_low, other_high) = (spread.ends(0.95, 12.0) for spread in (one, other))  # equal errors: 6 + 6
    assert 0.97 - low > 1.1 * (high - 0.97)
    expected = (
        -0.07 - math.sqrt((0.9 - other_low) ** 2 + (high - 0.97) ** 2),
        -0.07 + math.sqrt((other_high - 0.9) ** 2 + (0.97 - low) ** 2),
    )
    assert change((one,), (other,), 0.95) == pytest.approx((-0.07, *expected))


def test_change_of_the_smallest_of_several_follows_their_intervals(generator):
    result = smallest([mean(generator.random((5, 400)) < share) for share in (0.5, 0.52, 0.9)], 0.95)
    exact = Spread(result.estimate, 1e-12, 10.0, 400, 400, (-INF, INF))
    moved, low, high = change((exact,), result.spreads, 0.95)
    assert moved == 0
    assert (-low, high) == pytest.approx((result.estimate - result.low, result.high - result.estimate), rel=0.2)


def test_change_covers_a_true_shift():
    """Shares of 0.9 and 0.97 of the same images, five runs each that differ: 300 pairs, 0.95."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        image, runs = generator.standard_normal(400), 0.2 * generator.standard_normal((10, 1))
        score = np.sqrt(0.5) * (image + generator.standard_normal((10, 400))) + runs
        thresholds = np.sqrt(1.04) * stats.norm.ppf([0.9, 0.97])
        shares = score[:5] < thresholds[0], score[5:] < thresholds[1]
        _, low, high = change(*(interval(mean(values), 0.95).spreads for values in shares), 0.95)
        hits += low <= 0.07 <= high
    assert 0.9 < hits / 300 < 1
