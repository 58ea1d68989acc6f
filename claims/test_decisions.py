"""Whose confidence can be believed? Judges: vaecore/suite/study/decisions.py.

All confidences are scaled by temperatures fitted on images held out, so that what is compared is more than a softmax
that is too sure of itself. L-BFGS is looked at where it succeeded in every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vaecore.suite import (
    CLEAN,
    DECISIONS,
    FGSM,
    LBFGS,
    NOISY,
    ROTATED,
    Condition,
    Estimate,
    absolute,
    aurc,
    difference,
    mean,
)

if TYPE_CHECKING:  # they import torch, which tests are collected without
    from vaecore.suite import Conclusion, Study


def added(study: Study, condition: Condition) -> Estimate:
    """NLL of being right by confidence and MSE minus that by confidence alone."""
    table = study.table(condition, of=DECISIONS)
    return mean(table["confidence+mse/nll"] - table["confidence/nll"])


@pytest.mark.claim("B6")
def test_the_error_adds_nothing_on_clean_images(study: Study, claim: Conclusion) -> None:
    """On clean images the MSE adds nothing to temperature-scaled confidence."""
    claim.conclude(absolute(added(study, CLEAN)))


@pytest.mark.claim("B7")
def test_the_error_adds_under_rotation(study: Study, claim: Conclusion) -> None:
    """Under a 45 degree rotation the MSE adds to temperature-scaled confidence."""
    claim.conclude(added(study, ROTATED(45)))


@pytest.mark.claim("B8")
def test_the_error_harms_under_noise(study: Study, claim: Conclusion) -> None:
    """Under Gaussian noise (sigma {1.5 budget}) the MSE harms temperature-scaled confidence."""
    claim.conclude(added(study, NOISY(1.5)))


def change(study: Study, condition: Condition, measure: str) -> Estimate:
    """A measure of the mean softmax over reconstructions minus that of the classifier's softmax, both scaled."""
    (table,) = study.paired(condition, of=DECISIONS)
    values = table[f"mean-softmax-temperature/{measure}"] - table[f"temperature/{measure}"]
    return mean(values, limits=(-2.0, 2.0) if measure == "class-brier" else None)


@pytest.mark.claim("E5a")
def test_reconstructions_calibrate_lbfgs(study: Study, claim: Conclusion) -> None:
    """On L-BFGS images the mean softmax of reconstructions has a lower NLL than the classifier."""
    claim.conclude(change(study, LBFGS, "class-nll"))


@pytest.mark.claim("E5b")
def test_reconstructions_lower_the_brier_score_of_lbfgs(study: Study, claim: Conclusion) -> None:
    """On L-BFGS images the mean softmax of reconstructions has a lower Brier score than the classifier."""
    claim.conclude(change(study, LBFGS, "class-brier"))


@pytest.mark.claim("E5c")
def test_reconstructions_calibrate_fgsm(study: Study, claim: Conclusion) -> None:
    """On FGSM images (epsilon {budget}) the mean softmax of reconstructions has a lower NLL than the classifier."""
    claim.conclude(change(study, FGSM(1), "class-nll"))


@pytest.mark.claim("E5d")
def test_reconstructions_lower_the_brier_score_of_fgsm(study: Study, claim: Conclusion) -> None:
    """On FGSM images (epsilon {budget}) the mean softmax of reconstructions has a lower Brier score than the
    classifier.
    """
    claim.conclude(change(study, FGSM(1), "class-brier"))


@pytest.mark.claim("E6")
def test_reconstructions_cost_on_clean_images(study: Study, claim: Conclusion) -> None:
    """On clean images the mean softmax of reconstructions has a higher NLL than the classifier."""
    claim.conclude(change(study, CLEAN, "class-nll"))


def rival(study: Study, condition: Condition, purifier: str) -> Estimate:
    """NLL of the softmax behind a purifier minus that of the mean softmax over reconstructions, both scaled.

    Of the images that the purifier was asked about, the first ones.
    """
    (table,) = study.paired(condition, of=DECISIONS)
    behind = table[f"{purifier}-temperature/class-nll"]
    return mean(behind - table["mean-softmax-temperature/class-nll"][:, : behind.shape[1]])


@pytest.mark.claim("E8a")
def test_a_threshold_calibrates_lbfgs(study: Study, claim: Conclusion) -> None:
    """On L-BFGS images a threshold at 0.5 has a lower NLL than the mean softmax of reconstructions."""
    claim.conclude(rival(study, LBFGS, "threshold"))


@pytest.mark.claim("E8b")
def test_a_threshold_calibrates_fgsm(study: Study, claim: Conclusion) -> None:
    """On FGSM images (epsilon {budget}) a threshold at 0.5 has a lower NLL than the mean softmax of reconstructions."""
    claim.conclude(rival(study, FGSM(1), "threshold"))


@pytest.mark.claim("E8c")
def test_fewer_bits_calibrate_lbfgs(study: Study, claim: Conclusion) -> None:
    """On L-BFGS images few bits a pixel have a lower NLL than the mean softmax of reconstructions."""
    claim.conclude(rival(study, LBFGS, "bit-depth"))


@pytest.mark.claim("E8d")
def test_fewer_bits_calibrate_fgsm(study: Study, claim: Conclusion) -> None:
    """On FGSM images (epsilon {budget}) few bits a pixel have a lower NLL than the mean softmax of reconstructions."""
    claim.conclude(rival(study, FGSM(1), "bit-depth"))


@pytest.mark.claim("E8e")
def test_a_search_calibrates_lbfgs(study: Study, claim: Conclusion) -> None:
    """On L-BFGS images the search in latent space has a lower NLL than the mean softmax of reconstructions."""
    claim.conclude(rival(study, LBFGS, "latent-search"))


@pytest.mark.claim("E8f")
def test_a_search_calibrates_fgsm(study: Study, claim: Conclusion) -> None:
    """On FGSM images (epsilon {budget}) the search in latent space has a lower NLL than the mean softmax of
    reconstructions.
    """
    claim.conclude(rival(study, FGSM(1), "latent-search"))


def refusing(study: Study, condition: Condition) -> Estimate:
    """Area under the risk-coverage curve of refusing by soft disagreement minus that of refusing by confidence."""
    table = study.table(condition, of=DECISIONS)
    wrong = ~table["softmax/right"]
    return difference(aurc(table["disagreement"], wrong), aurc(1 - table["softmax/confidence"], wrong))


@pytest.mark.claim("E7a")
def test_refusing_on_clean_images(study: Study, claim: Conclusion) -> None:
    """How much worse refusing by soft disagreement is than refusing by confidence, on clean images."""
    claim.conclude(refusing(study, CLEAN))


@pytest.mark.claim("E7b")
def test_refusing_under_fgsm(study: Study, claim: Conclusion) -> None:
    """On FGSM images (epsilon {budget}) refusing by soft disagreement leaves fewer mistakes than refusing by
    confidence.
    """
    claim.conclude(refusing(study, FGSM(1)))
