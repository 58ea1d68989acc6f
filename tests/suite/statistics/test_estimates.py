"""Estimates against scipy, scikit-learn, direct sums, the jackknife and the pigeonhole bootstrap."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from sklearn.metrics import roc_auc_score

import vaecore
from vaecore.suite.statistics.estimates import (
    absolute,
    aurc,
    auroc,
    auroc_of_groups,
    beats,
    difference,
    group_mean_ratio,
    group_mean_step,
    mean,
    ratio,
    spearman,
    spearman_within,
)
from vaecore.suite.statistics.intervals import interval

RUNS, IMAGES = 4, 300
SMALL_NUMBERS = st.integers(-3, 3).map(float)


def ends(estimate):
    result = interval(estimate, 0.95)
    return result.low, result.high


def jackknife(statistic, *tables):
    """Delete-one pseudo-values of one run's images, or of images over runs; they differ from influence by 1 / n."""
    images = tables[0].shape[1]
    without = [statistic(*(np.delete(table, image, 1) for table in tables)).value for image in range(images)]
    return images * statistic(*tables).value - (images - 1) * np.array(without)


# Means, and smooth functions of means


def test_ratio_has_the_delta_method_error_of_a_single_run(crossed):
    x, y = 2 + crossed(runs=1), 5 + crossed(runs=1)
    estimate = ratio(x, y)
    slope = np.array([1 / y.mean(), -x.mean() / y.mean() ** 2])
    assert estimate.value == pytest.approx(x.mean() / y.mean()) == estimate.influence.mean()
    assert estimate.influence.var(ddof=1) == pytest.approx(slope @ np.cov(x[0], y[0]) @ slope)


def test_a_ratio_of_equals_has_no_error_to_go_by(crossed):
    """Rounding would give an interval of no width."""
    for x in (crossed(), (crossed() > 0).astype(float)):
        found = interval(ratio(0.3 * x, 0.3 * x), 0.95)
        assert (found.estimate, found.low, found.high) == (1, -math.inf, math.inf)
    assert interval(ratio(x + 1e-3 * crossed(), x), 0.95).high < 2


def test_group_means_pool_runs(generator, crossed):
    values = 3 + crossed()
    first = generator.random(values.shape) < 0.2
    second = ~first & (generator.random(values.shape) < 0.5)
    first[0] = False  # a group may be empty in one run
    upper, lower = values[first].mean(), values[second].mean()
    assert group_mean_ratio(values, first, second).value == pytest.approx(upper / lower)
    assert group_mean_ratio(values, first, second).count == int(first.sum() / RUNS)  # the smaller group
    assert group_mean_step(values, first, second).value == pytest.approx((upper - lower) / values.mean())
    nowhere = group_mean_ratio(values, np.zeros_like(first), second)
    assert math.isnan(nowhere.value)
    assert "nan" in nowhere.reason


@pytest.mark.parametrize("statistic", [group_mean_ratio, group_mean_step])
def test_group_mean_influence_equals_the_jackknife(generator, crossed, statistic):
    values = 3 + crossed(runs=2, images=200)
    member = generator.random(values.shape) < 0.3
    influence = statistic(values, member, ~member).influence.mean(0)
    expected = jackknife(statistic, values, member, ~member)
    assert influence == pytest.approx(expected, abs=0.1 * np.std(expected))
    assert np.std(influence) == pytest.approx(np.std(expected), rel=0.03)


def test_absolute_folds_the_interval(crossed):
    signed = mean(crossed() - 2)
    low, high = ends(signed)
    assert ends(absolute(signed)) == pytest.approx((-high, -low))
    assert absolute(signed).influence.mean() == pytest.approx(-signed.value) == absolute(signed).value
    near = mean(np.array([[-1.0, 1.0, -1.5], [0.5, -0.5, 1.0]]))
    low, high = ends(near)
    assert ends(absolute(near)) == pytest.approx((0, max(-low, high)))


def test_difference_cancels_what_conditions_share(generator, crossed):
    shared, noise = 10 * crossed(), generator.standard_normal((2, RUNS, IMAGES))
    paired = difference(mean(shared + noise[0] + 1), mean(shared + noise[1]))
    assert ends(paired) == pytest.approx(ends(mean(noise[0] + 1 - noise[1])))
    assert paired.per_run == pytest.approx((noise[0] + 1 - noise[1]).mean(1))
    with pytest.raises(ValueError, match=r"same runs and images; got \(4, 300\) and \(4, 299\)"):
        difference(mean(shared), mean(shared[:, 1:]))


# Areas under ROC curves


def delong_placements(inside, outside):
    """DeLong et al. (1988), equations 4 to 6, by all pairs: AUROC, S10 (outside), S01 (inside), in direct O(n m)."""
    wins = (outside[:, None] > inside) + 0.5 * (outside[:, None] == inside)
    return wins.mean(), wins.mean(1), wins.mean(0)


def test_auroc_equals_scikit_learn_with_ties(crossed):
    inside, outside = crossed().round(), np.floor(0.5 + crossed(images=120).round())
    estimate = auroc(inside, outside, paired=False)
    labels = np.repeat([0, 1], [IMAGES, 120])
    expected = [roc_auc_score(labels, scores) for scores in np.concatenate([inside, outside], axis=1)]
    assert estimate.per_run == pytest.approx(expected)
    assert estimate.value == pytest.approx(np.mean(expected)) == estimate.influence.mean()


def test_auroc_of_one_run_has_delong_s_variance(crossed):
    inside, outside = crossed(runs=1).round(1), 1 + crossed(runs=1, images=40).round(1)
    area, high, low = delong_placements(inside[0], outside[0])
    estimate = auroc(inside, outside, paired=False)
    assert estimate.value == pytest.approx(area)
    expected = high.var(ddof=1) / 40 + low.var(ddof=1) / IMAGES
    assert estimate.influence.var(ddof=1) / (IMAGES + 40) == pytest.approx(expected)


def test_paired_auroc_of_one_run_adds_the_covariance_of_placements(generator, crossed):
    inside = crossed(runs=1)
    outside = 1 + inside + generator.standard_normal(inside.shape)
    _, high, low = delong_placements(inside[0], outside[0])
    expected = high.var(ddof=1) + low.var(ddof=1) + 2 * np.cov(high, low)[0, 1]
    assert auroc(inside, outside, paired=True).influence.var(ddof=1) == pytest.approx(expected)


def test_auroc_of_groups_differs_by_run_and_wants_two_images_in_each(crossed):
    score = crossed()
    positive = score + crossed() > 2
    estimate = auroc_of_groups(score, positive)
    assert estimate.per_run == pytest.approx([roc_auc_score(*run) for run in zip(positive, score, strict=True)])
    assert estimate.influence.mean(1) == pytest.approx(estimate.per_run)
    positive[2] = np.arange(IMAGES) == 0
    empty = auroc_of_groups(score, positive)
    assert math.isnan(empty.value)
    assert "run 2 has 299 negatives and 1 positives" in empty.reason


@given(
    arrays.arrays(np.float64, (2, 7), elements=SMALL_NUMBERS),
    arrays.arrays(np.float64, (2, 7), elements=SMALL_NUMBERS),
    st.booleans(),
)
def test_auroc_is_antisymmetric_and_blind_to_monotone_transforms(inside, outside, paired):
    low, high = ends(auroc(inside, outside, paired=paired))
    assert ends(auroc(outside, inside, paired=paired)) == pytest.approx((1 - high, 1 - low))
    assert ends(auroc(np.exp(inside), np.exp(outside), paired=paired)) == pytest.approx((low, high))


# Areas under risk-coverage curves


def test_aurc_is_vaecore_s_of_each_run_with_ties(generator):
    doubt, wrong = generator.integers(0, 12, (3, 80)) / 12, generator.random((3, 80)) < 0.3
    estimate = aurc(doubt, wrong)
    assert estimate.per_run == pytest.approx([vaecore.aurc(*run) for run in zip(doubt, wrong, strict=True)])
    assert estimate.value == pytest.approx(estimate.influence.mean())
    assert estimate.limits == (0.0, 1.0)


@pytest.mark.parametrize("steps", [8, 10**6], ids=["with ties", "without"])
def test_aurc_influence_equals_the_jackknife(generator, steps):
    doubt = generator.integers(0, steps, (1, 300)) / steps
    wrong = generator.random((1, 300)) < 0.6 * doubt
    expected = jackknife(aurc, doubt, wrong)
    assert aurc(doubt, wrong).influence[0] == pytest.approx(expected, abs=0.1 * np.std(expected))


# Rank correlations


def test_spearman_equals_scipy_with_ties(crossed):
    x = crossed().round()
    y = (x + crossed()).round()
    estimate = spearman(x, y)
    assert estimate.per_run == pytest.approx([stats.spearmanr(*run).statistic for run in zip(x, y, strict=True)])
    assert estimate.influence.mean(1) == pytest.approx(estimate.per_run)


def test_spearman_within_weights_classes_by_size_and_leaves_small_ones_out(generator, crossed):
    x, group = crossed(), generator.choice(4, size=(RUNS, IMAGES), p=[0.5, 0.3, 0.19, 0.01])
    y = crossed() - x + 5 * group
    expected = []
    for run in range(RUNS):
        parts = [(x[run, group[run] == k], y[run, group[run] == k]) for k in range(4)]
        kept = [part for part in parts if len(part[0]) >= 10]
        assert len(kept) == 3
        weights = [len(part[0]) for part in kept]
        expected.append(np.average([stats.spearmanr(*part).statistic for part in kept], weights=weights))
    estimate = spearman_within(x, y, group)
    assert estimate.per_run == pytest.approx(expected)
    assert estimate.influence.mean(1) == pytest.approx(expected)


@pytest.mark.parametrize("decimals", [0, 6], ids=["with ties", "without"])
def test_spearman_influence_equals_the_jackknife(generator, decimals):
    x = generator.standard_normal((1, 400)).round(decimals)
    y = (0.7 * x + generator.standard_normal((1, 400))).round(decimals)
    group = generator.integers(3, size=(1, 400))
    influence = spearman_within(x, y, group).influence[0]
    expected = jackknife(spearman_within, x, y, group)
    assert influence == pytest.approx(expected, abs=0.06 * np.std(expected))
    assert np.std(influence) == pytest.approx(np.std(expected), rel=0.04)


def test_spearman_of_normal_data_has_its_known_error():
    """Without correlation the variance of Spearman's coefficient is 1 / (n - 1) exactly."""
    influence = spearman(*np.random.default_rng(5).standard_normal((2, 1, 4000))).influence
    assert influence.std(ddof=1) / math.sqrt(4000) == pytest.approx(math.sqrt(1 / 3999), rel=0.03)


@given(
    arrays.arrays(np.float64, (2, 12), elements=SMALL_NUMBERS),
    arrays.arrays(np.float64, (2, 12), elements=SMALL_NUMBERS),
)
def test_spearman_is_blind_to_monotone_transforms_and_turns_sign(x, y):
    influence = spearman(x, y).influence
    np.testing.assert_allclose(spearman(np.exp(x), y**3).influence, influence, atol=1e-9)
    np.testing.assert_allclose(spearman(-x, y).influence, -influence, atol=1e-9)


def test_spearman_of_constants_and_of_small_classes_is_nan_with_a_reason(crossed):
    x, y = crossed(images=40), crossed(images=40)
    group = np.repeat([[7, 8]], [20, 20], 1).repeat(RUNS, 0)
    x[3, 20:] = 1
    assert "constant in group 8 of run 3" in spearman_within(x, y, group).reason
    few = spearman_within(y, x, np.broadcast_to(np.arange(40) // 5, x.shape))
    assert "no group of run 0 has 10 images" in few.reason
    assert math.isnan(few.value)


# All of them


def test_nan_scores_give_nan_with_a_reason(generator):
    x, y = generator.standard_normal((2, 3, 40))
    x[1, 2] = math.nan
    for estimate in (
        auroc(x, y, paired=True),
        auroc(y, x, paired=False),
        auroc_of_groups(x, y > 0),
        aurc(x, y > 0),
        spearman(x, y),
        spearman_within(y, x, (y > 0).astype(int)),
    ):
        assert math.isnan(estimate.value)
        assert math.isnan(interval(estimate, 0.95).low)
        assert "NaN" in estimate.reason
    assert spearman(x, y).reason == "1 of 120 pairs hold NaN"


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
        "mean": ((x > 0.5,), mean),
        "difference": ((x > 0.5, y > 1), lambda a, b: difference(mean(a), mean(b))),
        "ratio": ((x + 4, y + 3), ratio),
        "group mean ratio": ((y + 3, uncertain, ~uncertain), group_mean_ratio),
        "auroc": ((x, y + 1), lambda a, b: auroc(a, b, paired=True)),
        "auroc of groups": ((y + 0.8 * uncertain, uncertain), auroc_of_groups),
        "spearman": ((x, bent), spearman),
        "spearman within": ((x, bent + group, group), spearman_within),
    }


@pytest.mark.parametrize("case", list(bootstrap_cases()))
def test_standard_error_agrees_with_the_pigeonhole_bootstrap(case):
    """Owen (2007): draw runs and images independently, with replacement."""
    tables, statistic = bootstrap_cases()[case]
    runs, images = tables[0].shape
    generator = np.random.default_rng(11)
    draws = []
    for _ in range(400):
        drawn = np.ix_(generator.integers(runs, size=runs), generator.integers(images, size=images))
        draws.append(statistic(*(table[drawn] for table in tables)).value)
    resampled = np.std(draws, ddof=1)
    parts = interval(statistic(*tables), 0.95)
    squares = parts.residual_variance + images * parts.run_variance + runs * parts.image_variance
    assert math.sqrt(squares / (runs * images)) == pytest.approx(resampled, rel=0.2)
    # Drawing k of k shrinks the variance between runs by (k - 1) / k; the residual enters three times (Owen 2007, 3.2).
    expected = math.sqrt(
        parts.run_variance / runs * (runs - 1) / runs
        + parts.image_variance / images
        + 3 * parts.residual_variance / (runs * images) * (runs - 1) / runs
    )
    assert resampled == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean(np.zeros(3)), r"table \(runs, images\); got shape \(3,\) \(a single run is"),
        (lambda: mean(np.zeros((3, 0))), r"non-empty table"),
        (lambda: auroc(np.eye(3), np.eye(2), paired=False), "same number of runs"),
        (lambda: auroc(np.ones((2, 3)), np.ones((2, 4)), paired=True), "same shape, as they are paired"),
        (lambda: auroc_of_groups(np.eye(3), np.eye(3)), "positive must be boolean; got float64"),
        (lambda: spearman(np.eye(3), np.ones((3, 4))), "one shape"),
    ],
)
def test_what_is_misshapen_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("more", "less", "flagged"),
    [(0, 0, False), (5, 0, False), (6, 0, True), (11, 4, False), (12, 3, True), (30, 16, False), (30, 15, True)],
)
def test_beats_is_mcnemars_test(more, less, flagged):
    one = np.array([True] * more + [False] * less + [True, False] * 20)
    other = np.array([False] * more + [True] * less + [True, False] * 20)
    assert beats(one, other) == flagged
