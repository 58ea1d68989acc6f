"""Family A: do the reconstructions of an image agree on its label, and does an attack show where they don't?

Ten latents are drawn per image, decoded, and classified; an image is consistent where all ten get one label. FGSM and
L-BFGS know the classifier and not the VAE. Conditions that are compared share images and draws.
"""

from itertools import pairwise

import pytest

from claims.evidence import CLEAN, LBFGS
from claims.inference import auroc, difference, mean, ratio
from claims.plugin import Conclusion
from claims.study import Study


@pytest.mark.claim("A1")
def test_clean_images_are_consistent(study: Study, claim: Conclusion) -> None:
    """Clean images are consistent: all their reconstructions get one label."""
    claim.conclude(mean(study.table(CLEAN).consistent))


@pytest.mark.claim("A2")
def test_fgsm_disturbs_consistency(study: Study, claim: Conclusion) -> None:
    """FGSM images (epsilon 0.2) are consistent less often than clean ones."""
    clean, attacked = study.paired(CLEAN, "fgsm-0.2")
    claim.conclude(difference(mean(clean.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A3")
def test_lbfgs_disturbs_consistency(study: Study, claim: Conclusion) -> None:
    """L-BFGS images are consistent less often than clean ones."""
    clean, attacked = study.paired(CLEAN, LBFGS)
    claim.conclude(difference(mean(clean.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A4")
def test_consistency_falls_with_epsilon(study: Study, claim: Conclusion) -> None:
    """Consistency falls with each step of epsilon in 0.05, 0.1, 0.15, 0.2."""
    levels = [mean(table.consistent) for table in study.paired("fgsm-0.05", "fgsm-0.1", "fgsm-0.15", "fgsm-0.2")]
    claim.conclude(*(difference(milder, stronger) for milder, stronger in pairwise(levels)))


@pytest.mark.claim("A5")
def test_uniform_noise_disturbs_less(study: Study, claim: Conclusion) -> None:
    """Uniform noise of the same size disturbs consistency less than FGSM (epsilon 0.2)."""
    noisy, attacked = study.paired("uniform-0.2", "fgsm-0.2")
    claim.conclude(difference(mean(noisy.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A6")
def test_sign_noise_disturbs_less(study: Study, claim: Conclusion) -> None:
    """Random signs of the same size disturb consistency less than FGSM (epsilon 0.2)."""
    noisy, attacked = study.paired("sign-0.2", "fgsm-0.2")
    claim.conclude(difference(mean(noisy.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A7")
def test_most_of_the_drop_is_size(study: Study, claim: Conclusion) -> None:
    """Most of the drop under FGSM is the size of the noise, not its direction."""
    clean, noisy, attacked = (table.consistent.astype(float) for table in study.paired(CLEAN, "sign-0.2", "fgsm-0.2"))
    claim.conclude(ratio(clean - noisy, clean - attacked))


@pytest.mark.claim("A8")
def test_count_detects_fgsm(study: Study, claim: Conclusion) -> None:
    """The number of distinct labels detects FGSM images (epsilon 0.2)."""
    clean, attacked = study.paired(CLEAN, "fgsm-0.2")
    claim.conclude(auroc(clean.distinct, attacked.distinct, paired=True))


@pytest.mark.claim("A9")
def test_count_detects_lbfgs(study: Study, claim: Conclusion) -> None:
    """The number of distinct labels detects L-BFGS images."""
    clean, attacked = study.paired(CLEAN, LBFGS)
    claim.conclude(auroc(clean.distinct, attacked.distinct, paired=True))


@pytest.mark.claim("A10")
def test_max_softmax_detects_lbfgs_better(study: Study, claim: Conclusion) -> None:
    """The classifier's own max-softmax detects L-BFGS images better than the count.

    Minimum-norm images sit on the decision boundary, where the classifier is in doubt by construction.
    """
    clean, attacked = study.paired(CLEAN, LBFGS)
    by_doubt = auroc(clean.doubt, attacked.doubt, paired=True)
    claim.conclude(difference(by_doubt, auroc(clean.distinct, attacked.distinct, paired=True)))


@pytest.mark.claim("A11a")
def test_soft_disagreement_beats_the_count_on_fgsm(study: Study, claim: Conclusion) -> None:
    """Soft disagreement detects FGSM images (epsilon 0.2) better than the count."""
    clean, attacked = study.paired(CLEAN, "fgsm-0.2")
    soft = auroc(clean.disagreement, attacked.disagreement, paired=True)
    claim.conclude(difference(soft, auroc(clean.distinct, attacked.distinct, paired=True)))


@pytest.mark.claim("A11b")
def test_soft_disagreement_beats_the_count_on_lbfgs(study: Study, claim: Conclusion) -> None:
    """Soft disagreement detects L-BFGS images better than the count."""
    clean, attacked = study.paired(CLEAN, LBFGS)
    soft = auroc(clean.disagreement, attacked.disagreement, paired=True)
    claim.conclude(difference(soft, auroc(clean.distinct, attacked.distinct, paired=True)))
