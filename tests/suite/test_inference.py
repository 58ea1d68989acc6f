"""Estimates and intervals against scipy, scikit-learn, direct sums, the jackknife and the pigeonhole bootstrap."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from sklearn.metrics import roc_auc_score

import vaecore
from vaecore.suite.statistics import intervals as inference
from vaecore.suite.statistics.intervals import Estimate, Interval

RUNS, IMAGES = 4, 300


@pytest.fixture
def generator():
    return np.random.default_rng(7)


def crossed(generator, runs=RUNS, images=IMAGES, run_effect=0.1):
    """Scores with run, image and residual effects of comparable weight in the mean."""
    return (
        run_effect * generator.standard_normal((runs, 1))
        + generator.standard_normal(images)
        + generator.standard_normal((runs, images))
    )


def standard_error(estimate):
    """From the interval's variance components."""
    found = inference.interval(estimate, 0.95)
    runs, images = estimate.influence.shape
    squares = found.residual_variance + images * found.run_variance + runs * found.image_variance
    return math.sqrt(squares / (runs * images))


def bootstrap_error(statistic, runs, images, replicates=400):
    """Pigeonhole bootstrap (Owen 2007): draw runs and images independently, with replacement."""
    generator = np.random.default_rng(11)
    draws = [
        statistic(np.ix_(generator.integers(runs, size=runs), generator.integers(images, size=images)))
        for _ in range(replicates)
    ]
    return np.std(draws, ddof=1)


# The interval


def test_satterthwaite_interval_equals_the_one_worked_by_hand():
    """Means of runs 2, 5, of images 1.5, 3, 6; grand 3.5. MS_runs 13.5 (1), MS_images 10.5 (2), MS_residual 1.5 (2)."""
    found = inference.interval(inference.mean([[1.0, 1.0, 4.0], [2.0, 5.0, 8.0]]), 0.95)
    variance = (13.5 + 10.5 - 1.5) / 6
    freedom = (13.5 + 10.5 - 1.5) ** 2 / (13.5**2 / 1 + 10.5**2 / 2 + 1.5**2 / 2)
    half_width = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert (found.estimate, found.low, found.high) == pytest.approx((3.5, 3.5 - half_width, 3.5 + half_width))
    assert (found.run_variance, found.image_variance, found.residual_variance) == pytest.approx((4.0, 4.5, 1.5))
    assert (found.runs, found.images, found.level) == (2, 3, 0.95)


def test_variance_components_are_truncated_at_zero():
    """Both run means are 3, so MS_runs is 0 and the interval stands on MS_images 10.5 and the larger MS_residual."""
    values = np.array([[0.0, 3.0, 6.0], [3.0, 3.0, 3.0]])  # image means 1.5, 3, 4.5; MS_images 4.5, MS_residual 4.5
    found = inference.interval(inference.mean(values), 0.9)
    assert (found.run_variance, found.image_variance, found.residual_variance) == pytest.approx((0, 0, 4.5))
    freedom = 4.5**2 / (4.5**2 / 1 + 4.5**2 / 2 + 4.5**2 / 2)
    assert found.high - found.estimate == pytest.approx(stats.t.ppf(0.95, freedom) * math.sqrt(4.5 / 6))


def test_one_run_gives_the_t_interval_over_images(generator):
    values = generator.standard_normal((1, 50))
    found = inference.interval(inference.mean(values), 0.99)
    expected = stats.ttest_1samp(values[0], 0).confidence_interval(0.99)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.runs == 1
    assert math.isnan(found.run_variance)


def test_interval_of_a_known_range_is_symmetric_on_its_logit_scale(generator):
    values = crossed(generator) > 2
    bounded = inference.interval(inference.mean(values), 0.95)
    plain = inference.interval(inference.mean(values, limits=inference.UNLIMITED), 0.95)
    share, half_width = values.mean(), (plain.high - plain.low) / 2
    odds = math.log(share / (1 - share)) + np.array([-1, 1]) * half_width / (share * (1 - share))
    assert (bounded.low, bounded.high) == pytest.approx(tuple(1 / (1 + np.exp(-odds))))
    doubled = inference.interval(inference.mean(2.0 * values - 1, limits=(-1.0, 1.0)), 0.95)
    assert (doubled.low, doubled.high) == pytest.approx((2 * bounded.low - 1, 2 * bounded.high - 1))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_agreeing_images_give_the_clopper_pearson_interval(share):
    found = inference.interval(inference.mean(np.full((5, 40), share)), 0.95)
    expected = stats.binomtest(int(40 * share), 40).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_disagreeing_run_does_not_narrow_the_interval():
    values = np.ones((5, 40))
    values[0, 0] = 0
    assert (
        inference.interval(inference.mean(values), 0.95).low < inference.interval(inference.mean(values[1:]), 0.95).low
    )


def test_perfect_auroc_is_bounded_by_the_smaller_group():
    estimate = inference.auroc(np.zeros((3, 30)), np.ones((3, 500)), paired=False)
    found = inference.interval(estimate, 0.95)
    assert (found.estimate, found.high) == (1, 1)
    assert found.low == pytest.approx(0.025 ** (1 / 30))


def test_equal_values_of_unknown_range_bound_nothing():
    found = inference.interval(inference.mean(np.full((3, 100), 0.1)), 0.95)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.required(0.0) == inference.Required(None, None)


@pytest.mark.parametrize("shape", [(3, 1), (1, 1)])
def test_one_image_gives_nan(shape):
    found = inference.interval(inference.mean(np.full(shape, 0.5)), 0.95)
    assert math.isnan(found.low)
    assert "at least 2 images" in found.reason


@given(
    arrays.arrays(np.float64, (3, 8), elements=st.floats(-5, 5)),
    st.integers(0, 23),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)
def test_what_is_not_finite_never_clears_a_bound(values, position, culprit):
    values.flat[position] = culprit
    member = values > 0
    for estimate in (
        inference.mean(values),
        inference.smooth([values], lambda means: means[0] ** 2),
        inference.group_mean_ratio(values, member, ~member),
        inference.absolute(inference.mean(values)),
        inference.difference(inference.mean(values), inference.mean(np.zeros((3, 8)))),
    ):
        found = inference.interval(estimate, 0.95)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert found.reason


def test_nan_scores_give_nan_with_a_reason(generator):
    x, y = generator.standard_normal((2, 3, 40))
    x[1, 2] = math.nan
    for estimate in (
        inference.auroc(x, y, paired=True),
        inference.auroc(y, x, paired=False),
        inference.auroc_of_groups(x, y > 0),
        inference.spearman(x, y),
        inference.spearman_within(y, x, (y > 0).astype(int)),
    ):
        assert math.isnan(estimate.value)
        assert math.isnan(inference.interval(estimate, 0.95).low)
        assert "NaN" in estimate.reason


@given(
    arrays.arrays(np.float64, (3, 6), elements=st.integers(-9, 9).map(float)),
    st.floats(-100, 100),
    st.floats(0.01, 100),
)
def test_interval_of_a_mean_follows_shift_and_scale(values, shift, scale):
    plain = inference.interval(inference.mean(values, limits=inference.UNLIMITED), 0.9)
    moved = inference.interval(inference.mean(shift + scale * values, limits=inference.UNLIMITED), 0.9)
    flipped = inference.interval(inference.mean(-values, limits=inference.UNLIMITED), 0.9)
    assert (moved.low, moved.high) == pytest.approx((shift + scale * plain.low, shift + scale * plain.high), rel=1e-6)
    assert (flipped.low, flipped.high) == pytest.approx((-plain.high, -plain.low))


def test_family_level_divides_the_error_rate():
    assert inference.family_level(1) == 0.95
    assert inference.family_level(10) == pytest.approx(0.995)
    with pytest.raises(ValueError, match="at least 1 claim; got 0"):
        inference.family_level(0)


# What would decide


def test_required_images_are_the_fewest_that_clear_the_bound(generator):
    values = 0.3 + crossed(generator, run_effect=0.0)
    values -= values.mean(1, keepdims=True) - values.mean()
    found = inference.interval(inference.mean(values), 0.95)
    bound = found.estimate - 0.05
    assert found.low < bound < found.high
    needed = found.required(bound).images

    def half_width(images):
        image_square = found.residual_variance + RUNS * found.image_variance
        squares = np.array(
            [found.residual_variance + images * found.run_variance, image_square, found.residual_variance]
        )
        freedoms = np.array([RUNS - 1, images - 1, (RUNS - 1) * (images - 1)])
        total = squares[0] + squares[1] - squares[2]
        return stats.t.ppf(0.975, total**2 / (squares**2 / freedoms).sum()) * math.sqrt(total / (RUNS * images))

    assert half_width(needed) < 0.05 <= half_width(needed - 1)


def test_images_cannot_outweigh_runs_that_differ(generator):
    found = inference.interval(inference.mean(crossed(generator, run_effect=1.0)), 0.95)
    bound = found.estimate + (found.high - found.estimate) / 3
    needed = found.required(bound)
    assert needed.images is None
    assert needed.runs > found.runs


def test_a_decided_interval_requires_what_it_has_and_one_run_says_nothing_of_runs(generator):
    values = crossed(generator)
    found = inference.interval(inference.mean(values), 0.95)
    assert found.required(found.low - 1) == inference.Required(IMAGES, RUNS)
    assert found.required(found.estimate) == inference.Required(None, None)
    single = inference.interval(inference.mean(values[:1]), 0.95)
    needed = single.required(single.estimate + (single.high - single.estimate) / 2)
    assert 3.5 * IMAGES < needed.images < 4.5 * IMAGES
    assert needed.runs is None


# Smooth functions of means


def test_ratio_has_the_delta_method_error_of_a_single_run(generator):
    x, y = 2 + crossed(generator, runs=1), 5 + crossed(generator, runs=1)
    estimate = inference.ratio(x, y)
    covariance = np.cov(x[0], y[0])
    slope = np.array([1 / y.mean(), -x.mean() / y.mean() ** 2])
    assert estimate.value == pytest.approx(x.mean() / y.mean())
    assert estimate.influence.mean() == pytest.approx(estimate.value)
    assert estimate.influence.var(ddof=1) == pytest.approx(slope @ covariance @ slope)


def test_group_means_pool_runs(generator):
    values = 3 + crossed(generator)
    first = generator.random(values.shape) < 0.2
    second = ~first & (generator.random(values.shape) < 0.5)
    first[0] = False  # a group may be empty in one run
    one, other = values[first].mean(), values[second].mean()
    assert inference.group_mean_ratio(values, first, second).value == pytest.approx(one / other)
    assert inference.group_mean_step(values, first, second).value == pytest.approx((one - other) / values.mean())
    nowhere = inference.group_mean_ratio(values, np.zeros_like(first), second)
    assert math.isnan(nowhere.value)
    assert "nan" in nowhere.reason


@pytest.mark.parametrize("statistic", [inference.group_mean_ratio, inference.group_mean_step])
def test_group_mean_influence_equals_the_jackknife(generator, statistic):
    values = 3 + crossed(generator, runs=2, images=200)
    member = generator.random(values.shape) < 0.3
    estimate = statistic(values, member, ~member)
    without = [
        statistic(*(np.delete(table, image, 1) for table in (values, member, ~member))).value for image in range(200)
    ]
    pseudo = 200 * estimate.value - 199 * np.array(without)
    assert estimate.influence.mean(0) == pytest.approx(pseudo, abs=0.1 * np.std(pseudo))
    assert np.std(estimate.influence.mean(0)) == pytest.approx(np.std(pseudo), rel=0.03)


def test_absolute_folds_the_interval(generator):
    signed = inference.mean(crossed(generator) - 2)
    plain, folded = inference.interval(signed, 0.95), inference.interval(inference.absolute(signed), 0.95)
    assert (folded.estimate, folded.low, folded.high) == pytest.approx((-plain.estimate, -plain.high, -plain.low))
    assert inference.absolute(signed).influence.mean() == pytest.approx(folded.estimate)
    near = inference.mean(np.array([[-1.0, 1.0, -1.5], [0.5, -0.5, 1.0]]))
    across = inference.interval(near, 0.95)
    folded = inference.interval(inference.absolute(near), 0.95)
    assert (folded.low, folded.high) == pytest.approx((0, max(-across.low, across.high)))


def test_difference_cancels_what_conditions_share(generator):
    shared = 10 * crossed(generator)
    noise = generator.standard_normal((2, RUNS, IMAGES))
    paired = inference.difference(inference.mean(shared + noise[0] + 1), inference.mean(shared + noise[1]))
    direct = inference.interval(inference.mean(noise[0] + 1 - noise[1]), 0.95)
    found = inference.interval(paired, 0.95)
    assert (found.low, found.high) == pytest.approx((direct.low, direct.high))
    assert paired.per_run == pytest.approx((noise[0] + 1 - noise[1]).mean(1))
    with pytest.raises(ValueError, match=r"same runs and images; got \(4, 300\) and \(4, 299\)"):
        inference.difference(inference.mean(shared), inference.mean(shared[:, 1:]))


def test_conditions_that_differ_on_no_image_bound_the_difference_by_the_rule_of_three():
    ones, zeros = inference.mean(np.ones((3, 50))), inference.mean(np.zeros((3, 50)))
    found = inference.interval(inference.difference(ones, zeros), 0.95)
    differing = 1 - 0.025 ** (1 / 50)
    assert (found.low, found.high) == pytest.approx((1 - 2 * differing, 1))


# Ranks


def delong_covariance(inside, outside):
    """DeLong et al. (1988), equations 4 to 6, by all pairs: AUROC, S10 (outside), S01 (inside), in direct O(n m)."""
    wins = (outside[:, None] > inside) + 0.5 * (outside[:, None] == inside)
    return wins.mean(), wins.mean(1), wins.mean(0)


def test_auroc_equals_scikit_learn_with_ties(generator):
    inside, outside = crossed(generator).round(), 0.5 + crossed(generator, images=120).round()
    estimate = inference.auroc(inside, np.floor(outside), paired=False)
    expected = [
        roc_auc_score(np.repeat([0, 1], [IMAGES, 120]), np.concatenate([low, high]))
        for low, high in zip(inside, np.floor(outside), strict=True)
    ]
    assert estimate.per_run == pytest.approx(expected)
    assert estimate.value == pytest.approx(np.mean(expected)) == estimate.influence.mean()


def test_auroc_of_one_run_has_delong_s_variance(generator):
    inside, outside = crossed(generator, runs=1).round(1), 1 + crossed(generator, runs=1, images=40).round(1)
    area, high, low = delong_covariance(inside[0], outside[0])
    expected = high.var(ddof=1) / 40 + low.var(ddof=1) / IMAGES
    estimate = inference.auroc(inside, outside, paired=False)
    assert estimate.value == pytest.approx(area)
    assert estimate.influence.var(ddof=1) / (IMAGES + 40) == pytest.approx(expected)


def test_paired_auroc_of_one_run_adds_the_covariance_of_placements(generator):
    inside = crossed(generator, runs=1)
    outside = 1 + inside + generator.standard_normal(inside.shape)
    _, high, low = delong_covariance(inside[0], outside[0])
    expected = (high.var(ddof=1) + low.var(ddof=1) + 2 * np.cov(high, low)[0, 1]) / IMAGES
    assert inference.auroc(inside, outside, paired=True).influence.var(ddof=1) / IMAGES == pytest.approx(expected)


def test_auroc_of_groups_differs_by_run_and_wants_two_images_in_each(generator):
    score = crossed(generator)
    positive = score + crossed(generator) > 2
    estimate = inference.auroc_of_groups(score, positive)
    assert estimate.per_run == pytest.approx([roc_auc_score(*run) for run in zip(positive, score, strict=True)])
    assert estimate.influence.mean(1) == pytest.approx(estimate.per_run)
    positive[2] = np.arange(IMAGES) == 0
    empty = inference.auroc_of_groups(score, positive)
    assert math.isnan(empty.value)
    assert "run 2 has 299 negatives and 1 positives" in empty.reason


@given(
    arrays.arrays(np.float64, (2, 7), elements=st.integers(-3, 3).map(float)),
    arrays.arrays(np.float64, (2, 7), elements=st.integers(-3, 3).map(float)),
    st.booleans(),
)
def test_auroc_is_antisymmetric_and_blind_to_monotone_transforms(inside, outside, paired):
    forward = inference.interval(inference.auroc(inside, outside, paired=paired), 0.95)
    backward = inference.interval(inference.auroc(outside, inside, paired=paired), 0.95)
    bent = inference.interval(inference.auroc(np.exp(inside), np.exp(outside), paired=paired), 0.95)
    assert (backward.low, backward.high) == pytest.approx((1 - forward.high, 1 - forward.low))
    assert (bent.low, bent.high) == pytest.approx((forward.low, forward.high))


def test_aurc_is_vaecore_s_of_each_run_with_ties(generator):
    doubt, wrong = generator.integers(0, 12, (3, 80)) / 12, generator.random((3, 80)) < 0.3
    found = inference.aurc(doubt, wrong)
    assert found.per_run == pytest.approx([vaecore.aurc(*one) for one in zip(doubt, wrong, strict=True)])
    assert found.value == pytest.approx(found.influence.mean())
    assert found.limits == (0.0, 1.0)


@pytest.mark.parametrize("steps", [8, 10**6])
def test_aurc_influence_equals_the_jackknife(generator, steps):
    doubt = generator.integers(0, steps, (1, 300)) / steps
    wrong = generator.random((1, 300)) < 0.6 * doubt
    found = inference.aurc(doubt, wrong)
    without = [inference.aurc(np.delete(doubt, image, 1), np.delete(wrong, image, 1)).value for image in range(300)]
    pseudo = 300 * found.value - 299 * np.array(without)
    assert found.influence[0] == pytest.approx(pseudo, abs=0.1 * np.std(pseudo))


def test_aurc_wants_numbers(generator):
    doubt = generator.random((2, 10))
    doubt[1, 3] = np.nan
    found = inference.aurc(doubt, np.ones((2, 10), dtype=bool))
    assert math.isnan(found.value)
    assert "1 of 20 doubts are NaN" in found.reason


def test_spearman_equals_scipy_with_ties(generator):
    x = crossed(generator).round()
    y = (x + crossed(generator)).round()
    estimate = inference.spearman(x, y)
    assert estimate.per_run == pytest.approx([stats.spearmanr(*run).statistic for run in zip(x, y, strict=True)])
    assert estimate.influence.mean(1) == pytest.approx(estimate.per_run)


def test_spearman_within_weights_classes_by_size_and_leaves_small_ones_out(generator):
    x, group = crossed(generator), generator.choice(4, size=(RUNS, IMAGES), p=[0.5, 0.3, 0.19, 0.01])
    y = crossed(generator) - x + 5 * group
    expected = []
    for run in range(RUNS):
        parts = [(x[run, group[run] == k], y[run, group[run] == k]) for k in range(4)]
        kept = [part for part in parts if len(part[0]) >= 10]
        assert len(kept) == 3
        weights = [len(part[0]) for part in kept]
        expected.append(np.average([stats.spearmanr(*part).statistic for part in kept], weights=weights))
    estimate = inference.spearman_within(x, y, group)
    assert estimate.per_run == pytest.approx(expected)
    assert estimate.influence.mean(1) == pytest.approx(expected)


@pytest.mark.parametrize("decimals", [0, 6])
def test_spearman_influence_equals_the_jackknife(generator, decimals):
    """Delete-one pseudo-values differ from influence values by terms of order 1 / n."""
    n = 400
    x = generator.standard_normal((1, n)).round(decimals)
    y = (0.7 * x + generator.standard_normal((1, n))).round(decimals)
    group = generator.integers(3, size=(1, n))
    estimate = inference.spearman_within(x, y, group)
    without = [inference.spearman_within(*(np.delete(table, i, 1) for table in (x, y, group))).value for i in range(n)]
    pseudo = n * estimate.value - (n - 1) * np.array(without)
    assert estimate.influence[0] == pytest.approx(pseudo, abs=0.06 * np.std(pseudo))
    assert np.std(estimate.influence) == pytest.approx(np.std(pseudo), rel=0.04)


def test_spearman_of_normal_data_has_its_known_error():
    """Without correlation the variance of Spearman's coefficient is 1 / (n - 1) exactly."""
    generator = np.random.default_rng(5)
    estimate = inference.spearman(*generator.standard_normal((2, 1, 4000)))
    assert standard_error_of_one_run(estimate) == pytest.approx(math.sqrt(1 / 3999), rel=0.03)


def standard_error_of_one_run(estimate):
    return math.sqrt(estimate.influence.var(ddof=1) / estimate.influence.shape[1])


@given(
    arrays.arrays(np.float64, (2, 12), elements=st.integers(-3, 3).map(float)),
    arrays.arrays(np.float64, (2, 12), elements=st.integers(-3, 3).map(float)),
)
def test_spearman_is_blind_to_monotone_transforms_and_turns_sign(x, y):
    plain, bent = inference.spearman(x, y), inference.spearman(np.exp(x), y**3)
    turned = inference.spearman(-x, y)
    np.testing.assert_allclose(bent.influence, plain.influence, atol=1e-9)
    np.testing.assert_allclose(turned.influence, -plain.influence, atol=1e-9)


def test_spearman_of_constants_and_of_small_classes_is_nan_with_a_reason(generator):
    x = crossed(generator, images=40)
    group = np.repeat([[7, 8]], [20, 20], 1).repeat(RUNS, 0)
    x[3, 20:] = 1
    assert "constant in group 8 of run 3" in inference.spearman_within(x, crossed(generator, images=40), group).reason
    scattered = np.broadcast_to(np.arange(40) // 5, x.shape)
    few = inference.spearman_within(crossed(generator, images=40), x, scattered)
    assert "no group of run 0 has 10 images" in few.reason
    assert math.isnan(few.value)


# Against the pigeonhole bootstrap


def bootstrap_cases():
    generator = np.random.default_rng(3)
    image, run = generator.standard_normal((3, 1, 250)), generator.standard_normal((2, 8, 1))
    noise = generator.standard_normal((4, 8, 250))
    x = image[0] + 0.15 * run[0] + 0.4 * noise[0]
    y = 0.6 * image[0] + image[1] + 0.4 * noise[1] + 0.15 * run[1]
    bent = image[0] * (0.6 + 0.15 * run[1]) + image[1] + 0.4 * noise[1]
    group = np.broadcast_to(np.arange(250) % 3, x.shape)
    uncertain = image[2] + 0.4 * noise[2] > 0.7
    return {
        "mean": ((x > 0.5,), inference.mean),
        "difference": (
            (x > 0.5, y > 1),
            lambda a, b: inference.difference(inference.mean(a), inference.mean(b)),
        ),
        "ratio": ((x + 4, y + 3), inference.ratio),
        "group mean ratio": ((y + 3, uncertain, ~uncertain), inference.group_mean_ratio),
        "auroc": ((x, y + 1), lambda a, b: inference.auroc(a, b, paired=True)),
        "auroc of groups": ((y + 0.8 * uncertain, uncertain), inference.auroc_of_groups),
        "spearman": ((x, bent), inference.spearman),
        "spearman within": ((x, bent + group, group), inference.spearman_within),
    }


@pytest.mark.parametrize("case", list(bootstrap_cases()))
def test_standard_error_agrees_with_the_pigeonhole_bootstrap(case):
    tables, statistic = bootstrap_cases()[case]
    runs, images = tables[0].shape
    found = standard_error(statistic(*tables))
    resampled = bootstrap_error(lambda chosen: statistic(*(table[chosen] for table in tables)).value, runs, images)
    # Drawing k of k shrinks the variance between runs by (k - 1) / k; the residual enters three times (Owen 2007, 3.2).
    components = inference.interval(statistic(*tables), 0.95)
    expected = math.sqrt(
        components.run_variance / runs * (runs - 1) / runs
        + components.image_variance / images
        + 3 * components.residual_variance / (runs * images) * (runs - 1) / runs
    )
    assert resampled == pytest.approx(expected, rel=0.12)
    assert found == pytest.approx(resampled, rel=0.2)


# Several at once


def test_smallest_takes_the_lowest_end_and_corrects_the_upper_one(generator):
    estimates = [inference.mean(crossed(generator) + shift) for shift in (1.0, 0.9, 3.0)]
    found = inference.smallest(estimates, 0.95)
    parts = [inference.interval(estimate, 0.95) for estimate in estimates]
    corrected = [inference.interval(estimate, 1 - 0.05 / 3) for estimate in estimates]
    assert found.estimate == min(estimate.value for estimate in estimates)
    assert found.low == min(part.low for part in parts)
    assert found.high == min(part.high for part in corrected)
    assert found.parts == tuple(parts)


def test_smallest_of_one_is_its_interval_and_nan_in_one_is_nan(generator):
    estimate = inference.mean(crossed(generator))
    alone, single = inference.smallest([estimate], 0.9), inference.interval(estimate, 0.9)
    assert (alone.estimate, alone.low, alone.high) == (single.estimate, single.low, single.high)
    spoiled = inference.smallest([estimate, inference.mean(np.full((RUNS, IMAGES), np.nan))], 0.9)
    assert all(math.isnan(number) for number in (spoiled.estimate, spoiled.low, spoiled.high))
    with pytest.raises(ValueError, match="at least one estimate; got none"):
        inference.smallest([], 0.9)


def test_smallest_requires_what_its_neediest_part_requires(generator):
    estimates = [inference.mean(crossed(generator) + shift) for shift in (0.0, 5.0)]
    found, part = inference.smallest(estimates, 0.95), inference.interval(estimates[0], 0.95)
    bound = part.estimate - (part.estimate - part.low) * 0.9
    assert found.required(bound) == part.required(bound)
    assert part.required(bound).runs > RUNS


# Messages


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inference.mean(np.zeros(3)), r"table \(runs, images\); got shape \(3,\) \(a single run is"),
        (lambda: inference.mean(np.zeros((3, 0))), r"non-empty table"),
        (lambda: inference.interval(inference.mean(np.eye(3)), 95), r"level must lie in \(0, 1\); got 95"),
        (lambda: inference.auroc(np.eye(3), np.eye(2), paired=False), "same number of runs"),
        (lambda: inference.auroc(np.ones((2, 3)), np.ones((2, 4)), paired=True), "same shape, as they are paired"),
        (lambda: inference.auroc_of_groups(np.eye(3), np.eye(3)), "positive must be boolean; got float64"),
        (lambda: inference.spearman(np.eye(3), np.ones((3, 4))), "one shape"),
    ],
)
def test_what_is_misshapen_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_results_are_frozen_and_carry_plain_numbers(generator):
    found = inference.interval(inference.auroc(crossed(generator), crossed(generator), paired=True), 0.95)
    assert isinstance(found, Interval)
    assert isinstance(inference.mean(np.eye(2)), Estimate)
    assert {type(getattr(found, name)) for name in ("estimate", "low", "high", "run_variance")} == {float}
    with pytest.raises(AttributeError):
        found.low = 0.0
