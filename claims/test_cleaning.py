"""Family D: do a VAE's reconstructions clean adversarial images, and for how long? Threat model: claims/cleaning.py.

Cleaned is an image whose label is the majority's of ten reconstructions. Every claim compares the same images before
and after, or under two purifiers; L-BFGS is looked at where it succeeded in every run.
"""

import pytest

from vaecore.suite.plugin.session import Conclusion
from vaecore.suite.statistics.intervals import Estimate, mean
from vaecore.suite.study.cleaning import MAJORITY, NONE, THRESHOLD
from vaecore.suite.study.study import Study


def gain(study: Study, condition: str, after: str = MAJORITY, before: str = NONE) -> Estimate:
    """Accuracy behind one purifier minus that behind another; on the same images."""
    table = study.cleaning.table(condition)
    return mean(table[after].astype(float) - table[before].astype(float), limits=(-1, 1))


def accuracy(study: Study, condition: str) -> Estimate:
    """Accuracy of the majority, on images on which the attack succeeded in every run."""
    table = study.cleaning.table(condition)
    return mean(table[MAJORITY][:, table["found"].all(axis=0)].astype(float), limits=(0, 1))


@pytest.mark.claim("D1")
def test_lbfgs_images_regain_their_label(study: Study, claim: Conclusion) -> None:
    """L-BFGS images regain their label by cleaning."""
    _ = study.paired("lbfgs")  # notes which images are left
    claim.conclude(accuracy(study, "lbfgs"))


@pytest.mark.claim("D2a")
def test_cleaning_helps_under_fgsm(study: Study, claim: Conclusion) -> None:
    """Cleaning raises accuracy under FGSM (epsilon 0.2)."""
    claim.conclude(gain(study, "fgsm-0.2"))


@pytest.mark.claim("D2b")
def test_cleaning_helps_under_strong_fgsm(study: Study, claim: Conclusion) -> None:
    """Cleaning raises accuracy under FGSM (epsilon 0.3)."""
    claim.conclude(gain(study, "fgsm-0.3"))


@pytest.mark.claim("D3")
def test_cleaning_costs_clean_accuracy(study: Study, claim: Conclusion) -> None:
    """Cleaning costs some accuracy on clean images, and not much."""
    claim.conclude(gain(study, "clean", after=NONE, before=MAJORITY))


@pytest.mark.claim("D4")
def test_a_threshold_cleans_better(study: Study, claim: Conclusion) -> None:
    """A threshold at 0.5 cleans FGSM images (epsilon 0.2) better than the VAE."""
    claim.conclude(gain(study, "fgsm-0.2", after=THRESHOLD, before=MAJORITY))


@pytest.mark.claim("D5a")
def test_an_attack_through_the_vae_undoes_it(study: Study, claim: Conclusion) -> None:
    """An attack through the VAE (EOT-PGD, epsilon 0.1) undoes the cleaning."""
    claim.conclude(mean(study.cleaning.attacked(MAJORITY, 0.1)["through"].astype(float), limits=(0, 1)))


@pytest.mark.claim("D5b")
def test_a_stronger_attack_through_the_vae_leaves_nothing(study: Study, claim: Conclusion) -> None:
    """An attack through the VAE (EOT-PGD, epsilon 0.2) leaves hardly an image."""
    claim.conclude(mean(study.cleaning.attacked(MAJORITY, 0.2)["through"].astype(float), limits=(0, 1)))


@pytest.mark.claim("D6")
def test_noise_of_the_same_size_is_cleaned(study: Study, claim: Conclusion) -> None:
    """Images with sign noise (0.1) keep their label in cleaning."""
    claim.conclude(mean(study.cleaning.table("sign-0.1")[MAJORITY].astype(float), limits=(0, 1)))


@pytest.mark.claim("D7")
def test_cleaning_helps_under_pgd(study: Study, claim: Conclusion) -> None:
    """Cleaning raises accuracy under PGD (epsilon 0.2)."""
    claim.conclude(gain(study, "pgd-0.2"))


@pytest.mark.claim("D8")
def test_cleaning_harms_under_plain_noise(study: Study, claim: Conclusion) -> None:
    """Cleaning costs accuracy under plain sign noise (0.3)."""
    claim.conclude(gain(study, "sign-0.3", after=NONE, before=MAJORITY))
