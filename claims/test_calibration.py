"""Family B: does the VAE's reconstruction error rise where the classifier's confidence falls?

Error is the pixel MSE, mean over ten draws; confidence is max softmax; images are clean. Class and ink confound the two
(a thin digit is cheap to reconstruct), so the correlation is taken within predicted class, and over all for comparison.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from vaecore.suite import (
    CLEAN,
    absolute,
    auroc_of_groups,
    difference,
    group_mean_ratio,
    group_mean_step,
    spearman,
    spearman_within,
)

if TYPE_CHECKING:  # they import torch, which tests are collected without
    from vaecore.suite import Conclusion, Study


@pytest.mark.claim("B1")
def test_low_confidence_goes_with_high_error(study: Study, claim: Conclusion) -> None:
    """Low confidence goes with higher reconstruction error."""
    clean = study.table(CLEAN)
    low = clean["confidence"] < 0.9
    claim.conclude(group_mean_ratio(clean.mse, low, ~low))


@pytest.mark.claim("B9")
def test_low_confidence_goes_with_low_error(study: Study, claim: Conclusion) -> None:
    """Low confidence goes with lower reconstruction error."""
    clean = study.table(CLEAN)
    low = clean["confidence"] < 0.9
    claim.conclude(group_mean_ratio(clean.mse, low, ~low))


@pytest.mark.claim("B2")
def test_error_falls_with_confidence_within_class(study: Study, claim: Conclusion) -> None:
    """Within a predicted class, error falls as confidence rises."""
    clean = study.table(CLEAN)
    claim.conclude(spearman_within(clean.mse, clean["confidence"], clean["predicted"]))


@pytest.mark.claim("B3")
def test_error_rises_step_by_step(study: Study, claim: Conclusion) -> None:
    """The error rises step by step as confidence falls over [.99, 1], [.9, .99), [.7, .9), [0, .7)."""
    clean = study.table(CLEAN)
    confidence = clean["confidence"]
    edges = [(0.99, 2.0), (0.9, 0.99), (0.7, 0.9), (0.0, 0.7)]
    bins = [(confidence >= low) & (confidence < high) for low, high in edges]
    claim.conclude(*(group_mean_step(clean.mse, lower, upper) for upper, lower in pairwise(bins)))


@pytest.mark.claim("B4")
def test_the_signal_is_not_strong(study: Study, claim: Conclusion) -> None:
    """The signal is not strong."""
    clean = study.table(CLEAN)
    claim.conclude(absolute(spearman(clean.mse, clean["confidence"])))


@pytest.mark.claim("B5")
def test_confidence_finds_errors_better(study: Study, claim: Conclusion) -> None:
    """Confidence finds misclassified images better than the MSE does."""
    clean = study.table(CLEAN)
    claim.conclude(difference(auroc_of_groups(clean.doubt, clean.wrong), auroc_of_groups(clean.mse, clean.wrong)))
