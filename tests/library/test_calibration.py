"""Calibration measures by hand, by loops and against scikit-learn; temperature; risk and coverage."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binom
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from vaecore import aurc, brier_parts, calibrated_ece, ece, fit_temperature, reliability, risk_coverage


def some(seed=0, count=500):
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(size=count)
    return confidence, generator.uniform(size=count) < confidence**2


# Expected calibration error


@pytest.mark.parametrize(
    ("confidence", "right", "bins", "expected"),
    [
        ([1.0], [True], 10, 0.0),
        ([1.0], [False], 10, 1.0),  # confidence 1 is in the last bin, not beyond it
        ([0.0], [False], 10, 0.0),
        ([0.9, 0.9], [True, False], 10, 0.4),
        ([0.5, 0.6], [True, True], 1, 0.45),
        ([0.05, 0.95], [True, True], 2, 0.5),  # 0.95 and 0.05, in a bin each
        ([0.5, 0.51], [False, True], 2, 0.495),  # 0.5 belongs to the lower bin
        ([0.2, 0.4], [True, False], 2, 0.2),  # accuracy 0.5, confidence 0.3
        ([0.7, 0.8, 0.9], [True, True, True], 3, 0.2),
        ([0.34, 0.33], [True, False], 3, (0.66 + 0.33) / 2),
    ],
)
def test_ece_by_hand(confidence, right, bins, expected):
    assert ece(confidence, right, bins=bins) == pytest.approx(expected)


@pytest.mark.parametrize(("count", "share"), [(30, 0.7), (200, 0.99), (12, 0.5)])
def test_calibrated_ece_is_the_mean_deviation_of_a_binomial(count, share):
    """Confidences of one bin: E|right / n - p| by scipy; a second bin, of certain answers, adds nothing."""
    number = np.arange(count + 1)
    expected = np.abs(number / count - share) @ binom.pmf(number, count, share)
    assert calibrated_ece([share] * count, draws=4000, seed=1) == pytest.approx(expected, rel=0.05)
    mixed = calibrated_ece([share] * count + [0.0] * count, draws=4000, seed=1)
    assert mixed == pytest.approx(expected / 2, rel=0.05)
    assert calibrated_ece([0.0, 1.0, 1.0], seed=0) == 0


@pytest.mark.parametrize("equal", ["width", "mass"])
def test_calibrated_ece_is_the_mean_ece_of_calibrated_answers(equal):
    """By `ece` itself, on answers that are right with the chance of their confidence."""
    generator = np.random.default_rng(0)
    confidence = np.concatenate([np.ones(60), generator.beta(4, 1, 300)])
    found = [ece(confidence, generator.random(360) < confidence, equal=equal) for _ in range(400)]
    assert calibrated_ece(confidence, equal=equal, draws=400, seed=0) == pytest.approx(np.mean(found), rel=0.05)
    assert (
        calibrated_ece(confidence, seed=3) == calibrated_ece(confidence, seed=3) != calibrated_ece(confidence, seed=4)
    )


@pytest.mark.parametrize(("equal", "strategy", "tolerance"), [("width", "uniform", 1e-12), ("mass", "quantile", 0.01)])
def test_bins_are_those_of_scikit_learn(equal, strategy, tolerance):
    confidence, right = some()
    rows = reliability(confidence, right, bins=10, equal=equal)
    accuracy, mean = calibration_curve(right, confidence, n_bins=10, strategy=strategy)
    assert sum(row.count for row in rows) == 500
    np.testing.assert_allclose([row.accuracy for row in rows], accuracy, atol=2 * tolerance)
    np.testing.assert_allclose([row.confidence for row in rows], mean, atol=tolerance)


def test_bins_of_equal_mass_have_it():
    confidence, right = some(count=1000)
    assert [row.count for row in reliability(confidence, right, bins=20, equal="mass")] == [50] * 20
    # Equal confidences stay together, whatever that does to the bins.
    saturated = np.where(confidence > np.sort(confidence)[249], 1.0, confidence)
    rows = reliability(saturated, right, bins=20, equal="mass")
    assert [row.count for row in rows] == [50] * 5 + [750]
    assert rows[-1].confidence == 1
    assert sum(row.count for row in rows) == 1000


def test_empty_bins_are_left_out():
    rows = reliability([0.05, 0.95, 0.96], [True, True, False], bins=10)
    assert [(row.low, row.high, row.count) for row in rows] == [(0.0, 0.1, 1), (0.9, 1.0, 2)]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), bins=st.integers(1, 30), equal=st.sampled_from(["width", "mass"]))
def test_every_image_is_counted_once_and_parts_add_up(seed, bins, equal):
    confidence, right = some(seed, 60)
    confidence = np.round(confidence, 1)  # with ties, zeros and ones
    assert sum(row.count for row in reliability(confidence, right, bins=bins, equal=equal)) == 60
    parts = brier_parts(confidence, right, bins=bins, equal=equal)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert total == pytest.approx(brier_score_loss(right, confidence))
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0


def test_rounding_beyond_the_ends_is_clipped():
    assert reliability([1.0000001, -1e-8], [True, False]) == reliability([1.0, 0.0], [True, False])


def test_parts_of_the_brier_score_by_hand():
    # Two bins without spread: 0.2 (one in four right) and 0.8 (three in four).
    parts = brier_parts([0.2] * 4 + [0.8] * 4, [1, 0, 0, 0, 1, 1, 1, 0], bins=2)
    assert parts.reliability == pytest.approx(0.05**2)
    assert parts.resolution == pytest.approx(0.25**2)
    assert parts.uncertainty == pytest.approx(0.25)
    assert parts.within == pytest.approx(0, abs=1e-12)


# Temperature


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_temperature_is_recovered(true):
    generator = np.random.default_rng(0)
    logits = 3 * generator.normal(size=(20_000, 5))
    labels = np.array([generator.choice(5, p=row) for row in softmax(logits / true, axis=1)])
    best = fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels))
    assert best == pytest.approx(true, rel=0.05)
    nll, colder, hotter = (
        log_loss(labels, softmax(logits / temperature, axis=1), labels=range(5))
        for temperature in (best, best / 1.02, best * 1.02)
    )
    assert nll <= min(colder, hotter)


def test_of_right_answers_alone_no_temperature_is_learned():
    logits, labels = np.eye(4)[[0, 1, 2, 3, 0]] * 5, np.array([0, 1, 2, 3, 0])
    assert fit_temperature(logits, labels) == 1
    labels[4] = 2
    assert fit_temperature(logits, labels) > 1.5  # five times as sure as it should be of one in five


# Risk and coverage


def test_risk_and_coverage_by_hand():
    coverage, risk = risk_coverage([0.1, 0.9, 0.5], [False, True, False])
    assert coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3])
    assert aurc([0.1, 0.9, 0.5], [False, True, False]) == pytest.approx(1 / 9)
    assert aurc([0.9, 0.1, 0.5], [False, True, False]) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_equal_doubts_are_answered_in_random_order():
    generator = np.random.default_rng(0)
    doubt, wrong = generator.integers(0, 4, 60), generator.uniform(size=60) < 0.3
    areas = []
    for _ in range(4000):
        order = np.lexsort([generator.uniform(size=60), doubt])
        areas.append((np.cumsum(wrong[order]) / np.arange(1, 61)).mean())
    assert aurc(doubt, wrong) == pytest.approx(np.mean(areas), abs=4 * np.std(areas) / 4000**0.5)
    assert aurc(np.zeros(60), wrong) == pytest.approx(wrong.mean())


def test_refusing_the_wrong_ones_is_best():
    _, wrong = some()
    best, worst, none = aurc(wrong, wrong), aurc(~wrong, wrong), wrong.mean()
    assert best < aurc(some(1)[0], wrong) < worst
    assert aurc(some(1)[0], wrong) == pytest.approx(none, abs=0.05)
    assert aurc(np.where(wrong, np.inf, 0), wrong) == best


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ece([0.5, 1.5], [True, False]), r"confidence must lie in \[0, 1\]; got \[0.5, 1.5\]"),
        (lambda: ece([0.5], [True, False]), r"vectors of one length, 1 or more; got \(1,\) and \(2,\)"),
        (lambda: ece([], []), "vectors of one length, 1 or more"),
        (lambda: ece([[0.5]], [[True]]), r"vectors of one length, 1 or more; got \(1, 1\) and \(1, 1\)"),
        (lambda: ece([np.nan], [True]), "must not be NaN"),
        (lambda: ece([0.5], [0.5]), "second .*true or false"),
        (lambda: ece([0.5], [True], bins=0), "bins must be 1 or more; got 0"),
        (lambda: calibrated_ece([0.5, 1.5], seed=0), r"confidence must lie in \[0, 1\]; got \[0.5, 1.5\]"),
        (lambda: calibrated_ece([0.5], seed=-1), "seed must be from 0 to"),
        (lambda: calibrated_ece([0.5], seed=0, draws=0), "draws must be 1 or more; got 0"),
        (lambda: ece([0.5], [True], equal="size"), "equal must be 'width' or 'mass'; got 'size'"),
        (lambda: fit_temperature([[0.0, np.inf]], [0]), "logits must be finite"),
        (lambda: ece([0.5, np.inf], [True, False]), "must not be NaN or infinite"),
        (lambda: fit_temperature([[0.0, 1.0]], [0, 1]), r"got \(1, 2\) and \(2,\)"),
        (lambda: fit_temperature([[0.0, 1.0]] * 2, [0, -1]), r"labels must be integers from 0 to 1; got \[-1.0, 0.0\]"),
        (lambda: fit_temperature([[0.0, 1.0]] * 2, [0, 0.5]), r"labels must be integers from 0 to 1; got \[0.0, 0.5\]"),
        (lambda: fit_temperature([[0.0, 1.0]] * 2, [0, 2]), r"labels must be integers from 0 to 1; got \[0.0, 2.0\]"),
        (lambda: fit_temperature(np.zeros((2, 0)), [0, 0]), r"got \(2, 0\) and \(2,\)"),
    ],
)
def test_unfit_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
