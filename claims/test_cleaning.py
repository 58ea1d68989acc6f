"""Family D: do a VAE's reconstructions clean adversarial images, and for how long? Threat model:
vaecore/suite/study/cleaning.py.

Cleaned is an image whose label is the majority's of ten reconstructions. Every claim compares the same images before
and after, or under two purifiers; L-BFGS is looked at where it succeeded in every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vaecore.suite import (
    ATTACKED,
    CERTIFICATES,
    CLEAN,
    CLEANING,
    FGSM,
    LBFGS,
    PGD,
    PURIFIED,
    SIGN,
    SMOOTHED,
    WORST_CASE,
    YARDSTICK,
    Condition,
    Estimate,
    mean,
)

if TYPE_CHECKING:  # they import torch, which tests are collected without
    from vaecore.suite import Conclusion, Study

MAJORITY, NONE, THRESHOLD, BITS, SEARCH = "vae-majority", "none", "threshold", "bit-depth", "latent-search"  # purifiers


def gain(study: Study, condition: Condition, after: str = MAJORITY, before: str = NONE) -> Estimate:
    """Accuracy behind one purifier minus that behind another; on the same images."""
    table = study.table(condition, of=CLEANING)
    return mean(table[after].astype(float) - table[before].astype(float), limits=(-1, 1))


def share(values: np.ndarray[Any, np.dtype[np.bool_]]) -> Estimate:
    """Share of images that are right."""
    return mean(values.astype(float), limits=(0, 1))


@pytest.mark.claim("D1")
def test_lbfgs_images_regain_their_label(study: Study, claim: Conclusion) -> None:
    """L-BFGS images regain their label by cleaning."""
    (cleaned,) = study.paired(LBFGS, of=CLEANING)
    claim.conclude(share(cleaned[MAJORITY]))


@pytest.mark.claim("D2a")
def test_cleaning_helps_under_fgsm(study: Study, claim: Conclusion) -> None:
    """Cleaning raises accuracy under FGSM (epsilon {budget})."""
    claim.conclude(gain(study, FGSM(1)))


@pytest.mark.claim("D2b")
def test_cleaning_helps_under_strong_fgsm(study: Study, claim: Conclusion) -> None:
    """Cleaning raises accuracy under FGSM (epsilon {1.5 budget})."""
    claim.conclude(gain(study, FGSM(1.5)))


@pytest.mark.claim("D3")
def test_cleaning_costs_clean_accuracy(study: Study, claim: Conclusion) -> None:
    """Cleaning costs some accuracy on clean images, and not much."""
    claim.conclude(gain(study, CLEAN, after=NONE, before=MAJORITY))


@pytest.mark.claim("D4")
def test_a_threshold_cleans_better(study: Study, claim: Conclusion) -> None:
    """A threshold at 0.5 cleans FGSM images (epsilon {budget}) better than the VAE."""
    claim.conclude(gain(study, FGSM(1), after=THRESHOLD, before=MAJORITY))


@pytest.mark.claim("D5a")
def test_an_attack_through_the_vae_undoes_it(study: Study, claim: Conclusion) -> None:
    """An attack through the VAE (EOT-PGD, epsilon {0.5 budget}) undoes the cleaning."""
    claim.conclude(share(study.table(PURIFIED(0.5, label=MAJORITY), of=ATTACKED)["through"]))


@pytest.mark.claim("D5b")
def test_a_stronger_attack_through_the_vae_leaves_nothing(study: Study, claim: Conclusion) -> None:
    """An attack through the VAE (EOT-PGD, epsilon {budget}) leaves hardly an image."""
    claim.conclude(share(study.table(PURIFIED(1, label=MAJORITY), of=ATTACKED)["through"]))


@pytest.mark.claim("D6")
def test_noise_of_the_same_size_is_cleaned(study: Study, claim: Conclusion) -> None:
    """Images with sign noise ({0.5 budget}) keep their label in cleaning."""
    claim.conclude(share(study.table(SIGN(0.5), of=CLEANING)[MAJORITY]))


@pytest.mark.claim("D7")
def test_cleaning_helps_under_pgd(study: Study, claim: Conclusion) -> None:
    """Cleaning raises accuracy under PGD (epsilon {budget})."""
    claim.conclude(gain(study, PGD(1)))


@pytest.mark.claim("D8")
def test_cleaning_harms_under_plain_noise(study: Study, claim: Conclusion) -> None:
    """Cleaning costs accuracy under plain sign noise ({1.5 budget})."""
    claim.conclude(gain(study, SIGN(1.5), after=NONE, before=MAJORITY))


@pytest.mark.claim("D9")
def test_an_attack_through_the_latent_search_undoes_it(study: Study, claim: Conclusion) -> None:
    """An attack through a search in the VAE's latent space (PGD, epsilon {1.5 budget}) undoes the cleaning."""
    claim.conclude(share(study.table(PURIFIED(1.5, label=SEARCH), of=ATTACKED)["through"]))


@pytest.mark.claim("D10")
def test_pgd_leaves_images_that_an_ensemble_wins(study: Study, claim: Conclusion) -> None:
    """PGD (epsilon {0.5 budget}) leaves some accuracy that stronger attacks take, and not much."""
    pgd, worst = (study.table(condition, of=CLEANING)[NONE] for condition in (PGD(0.5), WORST_CASE(0.5)))
    claim.conclude(mean(pgd.astype(float) - worst.astype(float), limits=(-1, 1)))


def behind_threshold(study: Study, size: float) -> Estimate:
    """Share of images that are right behind the threshold under PGD and under the discrete search alike."""
    table = study.table(PURIFIED(size, label=THRESHOLD), of=ATTACKED)
    return share(table["through"] & table["flipped"])


@pytest.mark.claim("D11a")
def test_a_threshold_withstands_an_attack_made_for_it(study: Study, claim: Conclusion) -> None:
    """A threshold at 0.5 withstands a discrete search made for it (epsilon {budget})."""
    claim.conclude(behind_threshold(study, 1))


@pytest.mark.claim("D11b")
def test_a_threshold_withstands_a_larger_attack_made_for_it(study: Study, claim: Conclusion) -> None:
    """A threshold at 0.5 withstands a discrete search made for it (epsilon {1.5 budget})."""
    claim.conclude(behind_threshold(study, 1.5))


@pytest.mark.claim("D11c")
def test_a_threshold_beside_adversarial_training(study: Study, claim: Conclusion) -> None:
    """A threshold at 0.5 beside an adversarially trained classifier, under attacks made for each (epsilon {1.5
    budget}).
    """
    train = study.setup.training
    if train is None or "labels" not in train.tensors:
        pytest.skip("adversarial training needs training images with labels; this study has none")
    behind = study.table(PURIFIED(1.5, label=THRESHOLD), of=ATTACKED)
    trained = study.table(WORST_CASE(1.5), of=YARDSTICK)["right"]
    right = (behind["through"] & behind["flipped"])[: len(trained)]
    claim.conclude(mean(right.astype(float) - trained.astype(float), limits=(-1, 1)))


def rival(study: Study, purifier: str) -> Estimate:
    """Accuracy behind a purifier minus that of the majority, on L-BFGS images."""
    (cleaned,) = study.paired(LBFGS, of=CLEANING)
    return mean(cleaned[purifier].astype(float) - cleaned[MAJORITY].astype(float), limits=(-1, 1))


@pytest.mark.claim("D12a")
def test_a_threshold_cleans_lbfgs_images_better(study: Study, claim: Conclusion) -> None:
    """A threshold at 0.5 gives L-BFGS images their label back more often than the VAE."""
    claim.conclude(rival(study, THRESHOLD))


@pytest.mark.claim("D12b")
def test_fewer_bits_clean_lbfgs_images_better(study: Study, claim: Conclusion) -> None:
    """Pixels of few bits give L-BFGS images their label back more often than the VAE."""
    claim.conclude(rival(study, BITS))


@pytest.mark.claim("D12c")
def test_a_latent_search_cleans_lbfgs_images_better(study: Study, claim: Conclusion) -> None:
    """A search in the VAE's latent space gives L-BFGS images their label back more often than its reconstructions."""
    claim.conclude(rival(study, SEARCH))


@pytest.mark.claim("D13")
def test_the_vae_lowers_certified_accuracy(study: Study, claim: Conclusion) -> None:
    """A VAE in front of the classifier lowers the accuracy that smoothing certifies (noise 0.25, radius 0.5)."""
    table = study.table(SMOOTHED(0.25), of=CERTIFICATES)
    plain, cleaned = (table[name] >= 0.5 for name in (NONE, "vae-posterior-mean"))
    claim.conclude(mean(plain.astype(float) - cleaned.astype(float), limits=(-1, 1)))
