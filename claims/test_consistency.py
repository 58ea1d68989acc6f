"""Family A: do the reconstructions of an image agree on its label, and does an attack show where they don't?

Ten latents are drawn per image, decoded, and classified; an image is consistent where all ten get one label.
Conditions that are compared share images and draws. What the attacker knows:

- FGSM and L-BFGS know the classifier and its weights, and nothing of the VAE.
- Joint PGD (A13, A14, A16) is white-box: it knows the classifier, the VAE, the number of draws and the rule, all but
  the random numbers that the detector will draw. It may change each pixel by 0.3, and wins an image where the
  classifier gives a wrong label and all draws give that label too. Gradients go end to end through encode, draw, decode
  and classify, averaged over fresh draws at each step (EOT); images that it fails on count as they are. Whether its
  effort suffices is shown beside the result: more steps, more draws and a larger epsilon, and
  attacks that must not beat it, one without gradients (Square) and one with the identity for that of the VAE (BPDA).
  Its settings come from pilot seeds.
"""

from itertools import pairwise

import pytest

from vaecore.suite import (
    CLEAN,
    CONFIDENT,
    FGSM,
    GAUSSIAN_CONFIDENT,
    JOINT,
    JOINT_MSE,
    LBFGS,
    SIGN,
    UNIFORM,
    Conclusion,
    Condition,
    Estimate,
    Study,
    Table,
    auroc,
    difference,
    mean,
    ratio,
)


@pytest.mark.claim("A1")
def test_clean_images_are_consistent(study: Study, claim: Conclusion) -> None:
    """Clean images are consistent: all their reconstructions get one label."""
    claim.conclude(mean(study.table(CLEAN).consistent))


@pytest.mark.claim("A2")
def test_fgsm_disturbs_consistency(study: Study, claim: Conclusion) -> None:
    """FGSM images (epsilon 0.2) are consistent less often than clean ones."""
    clean, attacked = study.paired(CLEAN, FGSM(1))
    claim.conclude(difference(mean(clean.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A3")
def test_lbfgs_disturbs_consistency(study: Study, claim: Conclusion) -> None:
    """L-BFGS images are consistent less often than clean ones."""
    clean, attacked = study.paired(CLEAN, LBFGS)
    claim.conclude(difference(mean(clean.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A4")
def test_consistency_falls_with_epsilon(study: Study, claim: Conclusion) -> None:
    """Consistency falls with each step of epsilon in 0.05, 0.1, 0.15, 0.2."""
    levels = [mean(table.consistent) for table in study.paired(FGSM(0.25), FGSM(0.5), FGSM(0.75), FGSM(1))]
    claim.conclude(*(difference(milder, stronger) for milder, stronger in pairwise(levels)))


@pytest.mark.claim("A5")
def test_uniform_noise_disturbs_less(study: Study, claim: Conclusion) -> None:
    """Uniform noise of the same size disturbs consistency less than FGSM (epsilon 0.2)."""
    noisy, attacked = study.paired(UNIFORM(1), FGSM(1))
    claim.conclude(difference(mean(noisy.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A6")
def test_sign_noise_disturbs_less(study: Study, claim: Conclusion) -> None:
    """Random signs of the same size disturb consistency less than FGSM (epsilon 0.2)."""
    noisy, attacked = study.paired(SIGN(1), FGSM(1))
    claim.conclude(difference(mean(noisy.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A7")
def test_most_of_the_drop_is_size(study: Study, claim: Conclusion) -> None:
    """Most of the drop under FGSM is the size of the noise, not its direction."""
    clean, noisy, attacked = (table.consistent.astype(float) for table in study.paired(CLEAN, SIGN(1), FGSM(1)))
    claim.conclude(ratio(clean - noisy, clean - attacked))


@pytest.mark.claim("A8")
def test_count_detects_fgsm(study: Study, claim: Conclusion) -> None:
    """The number of distinct labels detects FGSM images (epsilon 0.2)."""
    clean, attacked = study.paired(CLEAN, FGSM(1))
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
    clean, attacked = study.paired(CLEAN, FGSM(1))
    soft = auroc(clean.disagreement, attacked.disagreement, paired=True)
    claim.conclude(difference(soft, auroc(clean.distinct, attacked.distinct, paired=True)))


@pytest.mark.claim("A11b")
def test_soft_disagreement_beats_the_count_on_lbfgs(study: Study, claim: Conclusion) -> None:
    """Soft disagreement detects L-BFGS images better than the count."""
    clean, attacked = study.paired(CLEAN, LBFGS)
    soft = auroc(clean.disagreement, attacked.disagreement, paired=True)
    claim.conclude(difference(soft, auroc(clean.distinct, attacked.distinct, paired=True)))


@pytest.mark.claim("A12a")
def test_more_draws_detect_fgsm_better(study: Study, claim: Conclusion) -> None:
    """More draws detect FGSM images (epsilon 0.2) better."""
    claim.conclude(_gain_by_draws(study, FGSM(1)))


@pytest.mark.claim("A12b")
def test_more_draws_detect_lbfgs_better(study: Study, claim: Conclusion) -> None:
    """More draws detect L-BFGS images better."""
    claim.conclude(_gain_by_draws(study, LBFGS))


def _gain_by_draws(study: Study, condition: Condition) -> Estimate:
    clean, attacked = study.paired(CLEAN, condition, draws=50)
    few_clean, few_attacked = clean.first_draws(10), attacked.first_draws(10)
    many = auroc(clean.distinct, attacked.distinct, paired=True)
    return difference(many, auroc(few_clean.distinct, few_attacked.distinct, paired=True))


@pytest.mark.claim("A13")
def test_joint_pgd_hides_from_the_count(study: Study, claim: Conclusion) -> None:
    """An attacker who differentiates through the VAE hides from the count."""
    clean, attacked = study.paired(CLEAN, JOINT(1.5))
    claim.conclude(auroc(clean.distinct, attacked.distinct, paired=True))


@pytest.mark.claim("A14")
def test_joint_pgd_fools_consistently(study: Study, claim: Conclusion) -> None:
    """An attacker who differentiates through the VAE fools the classifier consistently."""
    (attacked,) = study.paired(JOINT(1.5))
    claim.conclude(mean(attacked.wrong & attacked.consistent))


@pytest.mark.claim("A15")
def test_soft_disagreement_finds_confident_lbfgs(study: Study, claim: Conclusion) -> None:
    """On high-confidence L-BFGS images soft disagreement beats max-softmax.

    The images it must be told from are as noisy: Gaussian noise of the same norm, image by image.
    """
    noisy, attacked = study.paired(GAUSSIAN_CONFIDENT, CONFIDENT)
    by_doubt = auroc(noisy.doubt, attacked.doubt, paired=True)
    claim.conclude(difference(auroc(noisy.disagreement, attacked.disagreement, paired=True), by_doubt))


@pytest.mark.claim("A16a")
def test_count_under_an_attacker_who_lowers_the_error(study: Study, claim: Conclusion) -> None:
    """How well the count detects an attacker who lowers the reconstruction error as well."""
    clean, attacked = study.paired(CLEAN, JOINT_MSE(1.5))
    claim.conclude(auroc(clean.distinct, attacked.distinct, paired=True))


@pytest.mark.claim("A16b")
def test_error_under_an_attacker_who_lowers_the_error(study: Study, claim: Conclusion) -> None:
    """How well the reconstruction error detects an attacker who lowers it."""
    clean, attacked = study.paired(CLEAN, JOINT_MSE(1.5))
    claim.conclude(auroc(clean.mse, attacked.mse, paired=True))


@pytest.mark.claim("A16c")
def test_better_score_under_an_attacker_who_lowers_the_error(study: Study, claim: Conclusion) -> None:
    """How well the better of count and error detects an attacker who minds both."""
    clean, attacked = study.paired(CLEAN, JOINT_MSE(1.5))
    scores = ((clean.distinct, attacked.distinct), (clean.mse, attacked.mse))
    claim.conclude(*(auroc(*pair, paired=True) for pair in scores), pick="greatest")


@pytest.mark.claim("A16d")
def test_error_under_joint_pgd(study: Study, claim: Conclusion) -> None:
    """How well the reconstruction error detects an attacker who minds the count alone."""
    clean, attacked = study.paired(CLEAN, JOINT(1.5))
    claim.conclude(auroc(clean.mse, attacked.mse, paired=True))


@pytest.mark.claim("A17")
def test_soft_disagreement_needs_few_draws(study: Study, claim: Conclusion) -> None:
    """Soft disagreement needs few draws."""

    def detection(clean: Table, attacked: Table) -> Estimate:
        return auroc(clean.disagreement, attacked.disagreement, paired=True)

    many = study.paired(CLEAN, FGSM(1), draws=50)
    claim.conclude(difference(detection(*many), detection(*(table.first_draws(5) for table in many))))
