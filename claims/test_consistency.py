"""Family A: do the reconstructions of an image agree on its label, and does an attack show where they don't?

Ten latents are drawn per image, decoded, and classified; an image is consistent where all ten get one label.
Conditions that are compared share images and draws. What the attacker knows:

- FGSM and L-BFGS know the classifier and its weights, and nothing of the VAE.
- Joint PGD (A13, A14, A22) is white-box: it knows the classifier, the VAE, the number of draws and the rule, all but
  the random numbers that the detector will draw. It may change each pixel by 0.3, and wins an image where the
  classifier gives a wrong label and all draws give that label too. Gradients go end to end through encode, draw, decode
  and classify, averaged over fresh draws at each step (EOT); images that it fails on count as they are. Whether its
  effort suffices is shown beside the result: more steps, more draws and a larger epsilon, and
  attacks that must not beat it, one without gradients (Square) and one with the identity for that of the VAE (BPDA).
  Its settings come from pilot seeds.
- Selective PGD (A16, A23) knows four alarms and their thresholds as well: the number of labels, the reconstruction
  error, soft disagreement and max-softmax. It wins where a wrong label raises none. An AUROC would flatter the
  detector, as the attacker needs to pass one threshold only, so evasion is stated at fixed rates of false alarms, with
  thresholds from images held out from training. More than one label is found for some 11 in 100 clean images, more than
  two for some 2 in 100.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vaecore.suite import (
    CLEAN,
    CONFIDENT,
    EVADE,
    EVADE_KNOWN,
    EVADE_MAGNET,
    FGSM,
    GAUSSIAN,
    GAUSSIAN_CONFIDENT,
    JOINT,
    LBFGS,
    MANY_DRAWS,
    RAISED,
    SIGN,
    SQUEEZING,
    UNIFORM,
    Condition,
    Estimate,
    all_alarms,
    auroc,
    difference,
    mean,
    ratio,
)

if TYPE_CHECKING:  # they import torch, which tests are collected without
    from vaecore.suite import Conclusion, Study, Table


@pytest.mark.claim("A1")
def test_clean_images_are_consistent(study: Study, claim: Conclusion) -> None:
    """Clean images are consistent: all their reconstructions get one label."""
    claim.conclude(mean(study.table(CLEAN).consistent))


@pytest.mark.claim("A2")
def test_fgsm_disturbs_consistency(study: Study, claim: Conclusion) -> None:
    """FGSM images (epsilon {budget}) are consistent less often than clean ones."""
    clean, attacked = study.paired(CLEAN, FGSM(1))
    claim.conclude(difference(mean(clean.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A3")
def test_lbfgs_disturbs_consistency(study: Study, claim: Conclusion) -> None:
    """L-BFGS images are consistent less often than clean ones."""
    clean, attacked = study.paired(CLEAN, LBFGS)
    claim.conclude(difference(mean(clean.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A4")
def test_consistency_falls_with_epsilon(study: Study, claim: Conclusion) -> None:
    """Consistency falls with each step of epsilon in {0.25 budget}, {0.5 budget}, {0.75 budget}, {budget}."""
    levels = [mean(table.consistent) for table in study.paired(FGSM(0.25), FGSM(0.5), FGSM(0.75), FGSM(1))]
    claim.conclude(*(difference(milder, stronger) for milder, stronger in pairwise(levels)))


@pytest.mark.claim("A5")
def test_uniform_noise_disturbs_less(study: Study, claim: Conclusion) -> None:
    """Uniform noise of the same bound, about half as large (L2), disturbs consistency less than FGSM (epsilon
    {budget}).
    """
    noisy, attacked = study.paired(UNIFORM(1), FGSM(1))
    claim.conclude(difference(mean(noisy.consistent), mean(attacked.consistent)))


@pytest.mark.claim("A6")
def test_sign_noise_disturbs_less(study: Study, claim: Conclusion) -> None:
    """Random signs of the same size disturb consistency less than FGSM (epsilon {budget})."""
    noisy, attacked = study.paired(SIGN(1), FGSM(1))
    claim.conclude(difference(mean(noisy.consistent), mean(attacked.consistent)))


def share_of_noise(study: Study, attack: Condition, noise: Condition) -> Estimate:
    """Fall of consistency under noise of an attack's size over the fall under the attack."""
    clean, noisy, attacked = (table.consistent.astype(float) for table in study.paired(CLEAN, noise, attack))
    return ratio(clean - noisy, clean - attacked)


@pytest.mark.claim("A7a")
def test_a_part_of_the_drop_under_weak_fgsm_is_size(study: Study, claim: Conclusion) -> None:
    """A good part of the drop under FGSM (epsilon {0.25 budget}) is the size of the noise, not its direction."""
    claim.conclude(share_of_noise(study, FGSM(0.25), SIGN(0.25)))


@pytest.mark.claim("A7b")
def test_most_of_the_drop_under_fgsm_is_size(study: Study, claim: Conclusion) -> None:
    """Most of the drop under FGSM (epsilon {0.5 budget}) is the size of the noise, not its direction."""
    claim.conclude(share_of_noise(study, FGSM(0.5), SIGN(0.5)))


@pytest.mark.claim("A7c")
def test_a_part_of_the_drop_under_lbfgs_is_size(study: Study, claim: Conclusion) -> None:
    """A good part of the drop under L-BFGS is the size of the noise, not its direction."""
    claim.conclude(share_of_noise(study, LBFGS, GAUSSIAN))


@pytest.mark.claim("A7d")
def test_share_of_noise_where_both_are_near_zero(study: Study, claim: Conclusion) -> None:
    """How much of the drop under FGSM (epsilon {budget}) is the size of the noise, where hardly an image is
    consistent.
    """
    claim.conclude(share_of_noise(study, FGSM(1), SIGN(1)))


@pytest.mark.claim("A8")
def test_count_detects_fgsm(study: Study, claim: Conclusion) -> None:
    """The number of distinct labels detects FGSM images (epsilon {budget})."""
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
    """Soft disagreement detects FGSM images (epsilon {budget}) better than the count."""
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
    """More draws detect FGSM images (epsilon {budget}) better."""
    claim.conclude(_gain_by_draws(study, FGSM(1)))


@pytest.mark.claim("A12b")
def test_more_draws_detect_lbfgs_better(study: Study, claim: Conclusion) -> None:
    """More draws detect L-BFGS images better."""
    claim.conclude(_gain_by_draws(study, LBFGS))


def _gain_by_draws(study: Study, condition: Condition) -> Estimate:
    clean, attacked = study.paired(CLEAN, condition, of=MANY_DRAWS)
    few_clean, few_attacked = (table.first_draws(study.setup.protocol.draws) for table in (clean, attacked))
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


def evaded(study: Study, condition: Condition, *alarms: str) -> Estimate:
    """Share of attacked images that are misclassified and raise none of these alarms (`study/alarms.py`)."""
    table = study.table(condition, of=RAISED)
    return mean(np.all([table["wrong"], *(~table[alarm] for alarm in alarms)], axis=0))


@pytest.mark.claim("A16a")
def test_an_attacker_evades_count_and_error(study: Study, claim: Conclusion) -> None:
    """An attacker who knows the thresholds evades count and reconstruction error together."""
    claim.conclude(evaded(study, EVADE(1.5), "labels-2", "mse-0.05"))


@pytest.mark.claim("A16b")
def test_an_attacker_evades_all_alarms(study: Study, claim: Conclusion) -> None:
    """An attacker who knows the thresholds evades all four alarms together, at 5% false alarms each."""
    claim.conclude(evaded(study, EVADE(1.5), *all_alarms(0.05)))


@pytest.mark.claim("A16c")
def test_an_attacker_evades_alarms_that_are_often_false(study: Study, claim: Conclusion) -> None:
    """An attacker who knows the thresholds evades all four alarms together, at 10% false alarms each."""
    claim.conclude(evaded(study, EVADE(1.5), *all_alarms(0.1)))


@pytest.mark.claim("A16d")
def test_an_attacker_evades_alarms_that_are_seldom_false(study: Study, claim: Conclusion) -> None:
    """An attacker who knows the thresholds evades all four alarms together, at 1% false alarms each."""
    claim.conclude(evaded(study, EVADE(1.5), *all_alarms(0.01)))


@pytest.mark.claim("A16e")
def test_evasion_with_less_room(study: Study, claim: Conclusion) -> None:
    """How often an attacker with a smaller budget (epsilon {budget}) evades all four alarms, at 5% false alarms
    each.
    """
    claim.conclude(evaded(study, EVADE(1), *all_alarms(0.05)))


@pytest.mark.claim("A16f")
def test_thresholds_keep_their_rate(study: Study, claim: Conclusion) -> None:
    """An alarm's threshold from images held out is exceeded by as many test images as it says."""
    claim.conclude(mean(study.table(CLEAN, of=RAISED)["disagreement-0.05"]))


@pytest.mark.claim("A17")
def test_soft_disagreement_needs_few_draws(study: Study, claim: Conclusion) -> None:
    """Soft disagreement needs few draws."""

    def detection(clean: Table, attacked: Table) -> Estimate:
        return auroc(clean.disagreement, attacked.disagreement, paired=True)

    many = study.paired(CLEAN, FGSM(1), of=MANY_DRAWS)
    claim.conclude(
        difference(detection(*many), detection(*(table.first_draws(study.setup.protocol.few_draws) for table in many)))
    )


def detection(
    study: Study, score: str, attack: Condition, inside: Condition = CLEAN, *, reached: bool = False
) -> Estimate:
    """AUROC of a score of `Table`, attacked images against clean ones or noise.

    reached: only on images on which the attack reached its aim in all runs.
    """
    pair = study.paired(inside, attack, reached=reached)
    low, high = (getattr(table, score) for table in pair)
    return auroc(low, high, paired=True)


@pytest.mark.claim("A18a")
def test_max_softmax_detects_fgsm_better_than_the_count(study: Study, claim: Conclusion) -> None:
    """The classifier's own max-softmax detects FGSM images (epsilon {budget}) better than the count."""
    claim.conclude(difference(detection(study, "doubt", FGSM(1)), detection(study, "distinct", FGSM(1))))


@pytest.mark.claim("A18b")
def test_the_count_hardly_tells_fgsm_from_noise(study: Study, claim: Conclusion) -> None:
    """The count hardly tells FGSM images (epsilon {budget}) from sign noise of the same size."""
    claim.conclude(detection(study, "distinct", FGSM(1), SIGN(1)))


@pytest.mark.claim("A19a")
def test_max_softmax_detects_weak_fgsm_better_than_soft_disagreement(study: Study, claim: Conclusion) -> None:
    """The classifier's own max-softmax detects FGSM images (epsilon {0.5 budget}) better than soft disagreement."""
    claim.conclude(difference(detection(study, "doubt", FGSM(0.5)), detection(study, "disagreement", FGSM(0.5))))


@pytest.mark.claim("A19b")
def test_max_softmax_detects_fgsm_better_than_soft_disagreement(study: Study, claim: Conclusion) -> None:
    """The classifier's own max-softmax detects FGSM images (epsilon {budget}) no worse than soft disagreement."""
    claim.conclude(difference(detection(study, "doubt", FGSM(1)), detection(study, "disagreement", FGSM(1))))


@pytest.mark.claim("A19c")
def test_max_softmax_tells_fgsm_from_noise_better_than_soft_disagreement(study: Study, claim: Conclusion) -> None:
    """The classifier's own max-softmax tells FGSM from sign noise (epsilon {budget}) better than soft disagreement."""
    by_doubt, soft = (detection(study, score, FGSM(1), SIGN(1)) for score in ("doubt", "disagreement"))
    claim.conclude(difference(by_doubt, soft))


@pytest.mark.claim("A20a")
def test_pixels_that_are_not_zero_detect_every_attack(study: Study, claim: Conclusion) -> None:
    """The share of pixels that are exactly zero, which needs no model, detects every attack."""
    claim.conclude(*(detection(study, "marks", attack) for attack in (FGSM(0.25), LBFGS, JOINT(1.5), EVADE(1.5))))


@pytest.mark.claim("A20b")
def test_pixels_that_are_not_zero_detect_noise_as_well(study: Study, claim: Conclusion) -> None:
    """And it detects harmless noise as well, so that it tells nothing of an attack."""
    claim.conclude(*(detection(study, "marks", noise) for noise in (UNIFORM(0.25), SIGN(0.25))))


def rivals(
    study: Study, score: str, attack: Condition, inside: Condition = CLEAN, *, draws: int | None = None
) -> tuple[Estimate, Estimate]:
    """AUROC of a score of `study/squeezing.py`, and that of soft disagreement of the VAE's draws."""
    low, high = (table[score] for table in study.paired(inside, attack, of=SQUEEZING))
    soft = (table.disagreement for table in study.paired(inside, attack, draws=draws))
    return auroc(low, high, paired=True), auroc(*soft, paired=True)


def rival(
    study: Study, score: str, attack: Condition, inside: Condition = CLEAN, *, draws: int | None = None
) -> Estimate:
    """By how much a score of `study/squeezing.py` detects an attack better than soft disagreement, in AUROC."""
    return difference(*rivals(study, score, attack, inside, draws=draws))


@pytest.mark.claim("A21a")
def test_a_threshold_serves_as_well_on_confident_lbfgs(study: Study, claim: Conclusion) -> None:
    """On high-confidence L-BFGS images disagreement behind a one-bit threshold detects no worse than behind the VAE."""
    claim.conclude(rival(study, "disagreement/threshold", CONFIDENT, GAUSSIAN_CONFIDENT))


@pytest.mark.claim("A21b")
def test_feature_squeezing_detects_fgsm_no_worse(study: Study, claim: Conclusion) -> None:
    """Feature squeezing detects FGSM images (epsilon {budget}) no worse than soft disagreement."""
    claim.conclude(rival(study, "squeezing", FGSM(1)))


@pytest.mark.claim("A21c")
def test_feature_squeezing_detects_lbfgs_no_worse(study: Study, claim: Conclusion) -> None:
    """Feature squeezing detects L-BFGS images no worse than soft disagreement."""
    claim.conclude(rival(study, "squeezing", LBFGS))


@pytest.mark.claim("A21d")
def test_five_draws_beat_a_threshold_on_fgsm(study: Study, claim: Conclusion) -> None:
    """Half the draws of the VAE detect FGSM images (epsilon {budget}) better than disagreement behind a one-bit
    threshold.
    """
    claim.conclude(rival(study, "disagreement/threshold", FGSM(1), draws=study.setup.protocol.few_draws))


@pytest.mark.claim("A22a")
def test_joint_pgd_hides_from_soft_disagreement(study: Study, claim: Conclusion) -> None:
    """An attacker who differentiates through the VAE hides from soft disagreement."""
    claim.conclude(detection(study, "disagreement", JOINT(1.5)))


@pytest.mark.claim("A22b")
def test_joint_pgd_evades_soft_disagreement(study: Study, claim: Conclusion) -> None:
    """Nearly all such images are misclassified and pass soft disagreement at 10% false alarms."""
    claim.conclude(evaded(study, JOINT(1.5), "disagreement-0.1"))


@pytest.mark.claim("A23")
def test_an_attacker_who_knows_the_draws_evades_all_alarms(study: Study, claim: Conclusion) -> None:
    """An attacker who knows the draws as well evades all four alarms together, at 10% false alarms each."""
    claim.conclude(evaded(study, EVADE_KNOWN(1.5), *all_alarms(0.1)))


@pytest.mark.claim("A24a")
def test_the_count_on_successes_of_fgsm(study: Study, claim: Conclusion) -> None:
    """How well the number of distinct labels detects FGSM images (epsilon {budget}) on which the attack succeeded."""
    claim.conclude(detection(study, "distinct", FGSM(1), reached=True))


@pytest.mark.claim("A24b")
def test_soft_disagreement_on_successes_of_fgsm(study: Study, claim: Conclusion) -> None:
    """How well soft disagreement detects FGSM images (epsilon {budget}) on which the attack succeeded."""
    claim.conclude(detection(study, "disagreement", FGSM(1), reached=True))


@pytest.mark.claim("A24c")
def test_max_softmax_on_successes_of_fgsm(study: Study, claim: Conclusion) -> None:
    """How well max-softmax detects FGSM images (epsilon {budget}) on which the attack succeeded."""
    claim.conclude(detection(study, "doubt", FGSM(1), reached=True))


@pytest.mark.claim("A25")
def test_the_count_hardly_detects_fgsm(study: Study, claim: Conclusion) -> None:
    """The number of distinct labels hardly detects FGSM images (epsilon {budget})."""
    claim.conclude(detection(study, "distinct", FGSM(1)))


def better_than_softmax(study: Study, attack: Condition, inside: Condition = CLEAN) -> Estimate:
    """By how much soft disagreement detects an attack better than max-softmax, in AUROC."""
    soft, doubt = (detection(study, score, attack, inside) for score in ("disagreement", "doubt"))
    return difference(soft, doubt)


@pytest.mark.claim("A26a")
def test_soft_disagreement_detects_weak_fgsm_better_than_max_softmax(study: Study, claim: Conclusion) -> None:
    """Soft disagreement detects FGSM images (epsilon {0.5 budget}) better than the classifier's own max-softmax."""
    claim.conclude(better_than_softmax(study, FGSM(0.5)))


@pytest.mark.claim("A26b")
def test_soft_disagreement_detects_fgsm_better_than_max_softmax(study: Study, claim: Conclusion) -> None:
    """Soft disagreement detects FGSM images (epsilon {budget}) better than the classifier's own max-softmax."""
    claim.conclude(better_than_softmax(study, FGSM(1)))


@pytest.mark.claim("A26c")
def test_soft_disagreement_tells_fgsm_from_noise_better_than_max_softmax(study: Study, claim: Conclusion) -> None:
    """Soft disagreement tells FGSM from sign noise (epsilon {budget}) better than max-softmax."""
    claim.conclude(better_than_softmax(study, FGSM(1), SIGN(1)))


@pytest.mark.claim("A26d")
def test_soft_disagreement_detects_lbfgs_better_than_feature_squeezing(study: Study, claim: Conclusion) -> None:
    """Soft disagreement detects L-BFGS images better than feature squeezing."""
    squeezing, soft = rivals(study, "squeezing", LBFGS)
    claim.conclude(difference(soft, squeezing))


def better_than_magnet(study: Study, attack: Condition) -> Estimate:
    """By how much soft disagreement detects an attack better than MagNet's divergence, in AUROC."""
    return difference(*(detection(study, score, attack) for score in ("disagreement", "magnet_divergence")))


@pytest.mark.claim("A27a")
def test_soft_disagreement_detects_fgsm_better_than_magnet(study: Study, claim: Conclusion) -> None:
    """Soft disagreement detects FGSM images (epsilon {budget}) better than MagNet's divergence."""
    claim.conclude(better_than_magnet(study, FGSM(1)))


@pytest.mark.claim("A27b")
def test_soft_disagreement_detects_lbfgs_better_than_magnet(study: Study, claim: Conclusion) -> None:
    """Soft disagreement detects L-BFGS images better than MagNet's divergence."""
    claim.conclude(better_than_magnet(study, LBFGS))


@pytest.mark.claim("A28a")
def test_an_attacker_evades_magnet(study: Study, claim: Conclusion) -> None:
    """An attacker who knows MagNet's two detectors evades both at 5% false alarms each."""
    claim.conclude(evaded(study, EVADE_MAGNET(1.5), "magnet-error-0.05", "magnet-divergence-0.05"))


@pytest.mark.claim("A28b")
def test_magnets_error_finds_what_evades_other_alarms(study: Study, claim: Conclusion) -> None:
    """MagNet's error finds images that evade the four other alarms, by an attacker who was not told of it."""
    claim.conclude(detection(study, "magnet_error", EVADE(1.5)))
