"""Scores of detection and of probabilities, against scikit-learn, torch and direct counts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from vaecore import aupr, auroc, brier, conformal_p_values, fpr95, nll

scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


def labelled(inside, outside):
    return [0] * len(inside) + [1] * len(outside), [*inside, *outside]


@given(scores, scores)
def test_auroc_counts_the_pairs_in_which_outside_scores_higher(inside, outside):
    wins = np.subtract.outer(outside, inside)
    assert auroc(inside, outside) == pytest.approx(((wins > 0) + 0.5 * (wins == 0)).mean())


@given(scores, scores)
def test_auroc_and_aupr_equal_scikit_learn(inside, outside):
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(*labelled(inside, outside)))
    assert aupr(inside, outside) == pytest.approx(average_precision_score(*labelled(inside, outside)))


def test_fpr95_is_the_share_passed_at_the_threshold_that_passes_95_percent():
    inside = torch.arange(100.0)  # 95 of them are at or below 94
    assert fpr95(inside, torch.tensor([94.0, 94.03, 200.0, -1.0])) == 0.5
    assert fpr95(inside, inside + 1000) == 0


def test_infinite_scores_rank_beyond_all_others():
    assert auroc([0.0, 1.0], [math.inf, 2.0]) == 1
    assert auroc([0.0, -math.inf], [-math.inf, 2.0]) == pytest.approx(0.625)
    assert aupr([0.0, 1.0], [math.inf, 2.0]) == 1


@given(scores, scores)
def test_conformal_p_values_count_calibration_scores_that_are_as_high(calibration, new):
    expected = [(1 + sum(known >= score for known in calibration)) / (1 + len(calibration)) for score in new]
    assert conformal_p_values(calibration, torch.tensor(new)).tolist() == pytest.approx(expected)


def test_conformal_p_values_keep_false_alarms_and_false_discoveries_down():
    generator = np.random.default_rng(0)
    alarms, false = [], []
    for _ in range(400):
        values = conformal_p_values(
            generator.normal(size=199), [*generator.normal(size=90), *generator.normal(4, 1, 10)]
        )
        alarms.append((values[:90] <= 0.05).mean())
        found = false_discovery_control(values) <= 0.2
        false.append(found[:90].sum() / max(1, found.sum()))
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.005)  # which is exact for 199 images and no ties
    assert 0.1 < np.mean(false) < 0.2


@pytest.mark.parametrize("metric", [auroc, aupr, fpr95])
def test_nan_empty_and_misshapen_scores_are_refused_in_words(metric):
    with pytest.raises(ValueError, match=r"outside scores must not be NaN; got 2 of 3"):
        metric([0.0], torch.tensor([math.nan, 1.0, math.nan]))
    with pytest.raises(ValueError, match=r"inside must be a non-empty vector.*got shape \(0,\)"):
        metric([], [0.0])
    with pytest.raises(ValueError, match=r"got shape \(1, 2\)"):
        metric([[0.0, 1.0]], [0.0])


def test_nll_and_brier_equal_independent_sums():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(50, 4, generator=generator).softmax(1)
    labels = torch.randint(4, (50,), generator=generator)
    assert nll(probabilities, labels) == pytest.approx(
        log_loss(labels, probabilities.double() / probabilities.double().sum(1, keepdim=True), labels=range(4)),
        rel=1e-6,
    )
    one_hot = torch.nn.functional.one_hot(labels, 4)
    assert brier(probabilities, labels) == pytest.approx(float((probabilities - one_hot).square().sum(1).mean()))


def test_nll_and_brier_reach_the_ends_of_their_ranges():
    certain = np.array([[1.0, 0.0]])
    assert nll(certain, [0]) == 0
    assert nll(certain, [1]) == math.inf
    assert brier(certain, [0]) == 0
    assert brier(certain, [1]) == 2


@pytest.mark.parametrize("metric", [brier, nll])
def test_rounding_beyond_the_ends_is_clipped(metric):
    assert metric([[1.0000001, -1e-7]], [0]) == metric([[1.0, 0.0]], [0]) == 0
    assert metric([[1.0000001, -1e-7]], [1]) == metric([[1.0, 0.0]], [1])


@pytest.mark.parametrize("metric", [brier, nll])
def test_what_is_no_probability_or_label_is_refused_in_words(metric):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; got \[-1, 2\] \(logits\?"):
        metric([[2.0, -1.0]], [0])
    with pytest.raises(ValueError, match=r"sums in \[1.1, 1.1\]"):
        metric([[0.6, 0.5]], [0])
    with pytest.raises(ValueError, match=r"labels must be integers from 0 to 1"):
        metric([[0.5, 0.5]], [2])
    with pytest.raises(ValueError, match=r"NaN or infinity for 1 of 2 images"):
        metric([[0.5, 0.5], [math.nan, 0.5]], [0, 0])
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(2,\)"):
        metric([[0.5, 0.5]], [0, 1])
    with pytest.raises(ValueError, match=r"n at least 1; got \(0, 2\) and \(0,\)"):
        metric(np.zeros((0, 2)), [])
