"""Family C: what the VAE's scores make of images from outside the data set, beside trivial scores and their failures.

Every score is higher for the more anomalous, is fitted on training images only, and is compared on the test images
against a set outside. Which sets there are:
vaecore/suite/study/sets.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vaecore.suite import (
    ABROAD,
    ALARM_RATE,
    AWAY,
    HIDDEN,
    HIDDEN_BY,
    HOME,
    INSIDE,
    LEVELS,
    P_VALUES,
    SCORES,
    Condition,
    Estimate,
    auroc,
    difference,
    mean,
)
from vaecore.toolkit import is_made

if TYPE_CHECKING:  # they import torch, which tests are collected without
    from vaecore.suite import Conclusion, Study


def detection(study: Study, score: str, kind: str) -> Estimate:
    """AUROC of a score, a set outside against the test images; made sets are paired with what they are made of."""
    outside = study.outside.condition(kind)  # claims whose set is not at hand are skipped
    inside, others = (study.table(one, of=SCORES) for one in (INSIDE, outside))
    if score not in inside:
        raise ValueError(f"{score} learns from training images, of which {study.facts.dataset} has none")
    return auroc(inside[score], others[score], paired=is_made(outside.label))


def abroad(study: Study, score: str, kind: str) -> Estimate:
    """AUROC of a score of VAEs trained on a set, the test images against images of the set that they have not seen."""
    label = study.outside.condition(kind).label
    home, away = (study.table(one(label=label), of=ABROAD) for one in (HOME, AWAY))
    return auroc(home[score], away[score], paired=False)


def by_levels(study: Study, score: str, inside: Condition, outside: Condition) -> Estimate:
    """AUROC of a score of hierarchical VAEs; the column: see `LEVELS`."""
    tables = [study.table(one, of=LEVELS) for one in (inside, outside)]
    if score not in tables[0]:
        raise ValueError(f"a hierarchical VAE needs training images, of which {study.facts.dataset} has none")
    return auroc(*(table[score] for table in tables), paired=is_made(outside.label))


def by_levels_abroad(study: Study, score: str, kind: str) -> Estimate:
    """As `abroad`, by a score of hierarchical VAEs."""
    label = study.outside.condition(kind).label
    return by_levels(study, score, HOME(label=label), AWAY(label=label))


def alarms(study: Study, condition: Condition, column: str) -> Estimate:
    """The share of a condition's images that raise an alarm by conformal p-values; the column: see `P_VALUES`."""
    values = study.table(condition, of=P_VALUES)[column]
    return mean(np.where(np.isnan(values), np.nan, values <= ALARM_RATE), limits=(0, 1))


def alarms_of_hidden(study: Study, score: str, kind: str) -> Estimate:
    """The share of a set's images, moved to hide from a score, that raise an alarm by it."""
    hidden = HIDDEN(HIDDEN_BY, label=study.outside.condition(kind).label)
    return alarms(study, hidden, f"{score}/{score}")


@pytest.mark.claim("C1a")
def test_error_detects_kmnist(study: Study, claim: Conclusion) -> None:
    """Reconstruction error detects KMNIST."""
    claim.conclude(detection(study, "mse", "kmnist"))


@pytest.mark.claim("C1b")
def test_error_detects_notmnist(study: Study, claim: Conclusion) -> None:
    """Reconstruction error detects notMNIST."""
    claim.conclude(detection(study, "mse", "notmnist"))


@pytest.mark.claim("C1c")
def test_error_detects_fashion_mnist(study: Study, claim: Conclusion) -> None:
    """Reconstruction error detects Fashion-MNIST."""
    claim.conclude(detection(study, "mse", "fashion-mnist"))


@pytest.mark.claim("C1d")
def test_error_detects_letters(study: Study, claim: Conclusion) -> None:
    """Reconstruction error detects capital letters drawn from fonts."""
    claim.conclude(detection(study, "mse", "letters"))


@pytest.mark.claim("C2a")
def test_latent_neighbours_detect_kmnist(study: Study, claim: Conclusion) -> None:
    """The distance to the 10th nearest training latent detects KMNIST."""
    claim.conclude(detection(study, "latent-knn", "kmnist"))


@pytest.mark.claim("C2b")
def test_latent_neighbours_detect_notmnist(study: Study, claim: Conclusion) -> None:
    """The distance to the 10th nearest training latent detects notMNIST."""
    claim.conclude(detection(study, "latent-knn", "notmnist"))


@pytest.mark.claim("C2c")
def test_latent_neighbours_detect_fashion_mnist(study: Study, claim: Conclusion) -> None:
    """The distance to the 10th nearest training latent detects Fashion-MNIST."""
    claim.conclude(detection(study, "latent-knn", "fashion-mnist"))


@pytest.mark.claim("C2d")
def test_latent_neighbours_detect_letters(study: Study, claim: Conclusion) -> None:
    """The distance to the 10th nearest training latent detects capital letters drawn from fonts."""
    claim.conclude(detection(study, "latent-knn", "letters"))


@pytest.mark.claim("C3a")
def test_posterior_spread_detects_kmnist(study: Study, claim: Conclusion) -> None:
    """The posterior's narrowness detects KMNIST."""
    claim.conclude(detection(study, "log-variance", "kmnist"))


@pytest.mark.claim("C3b")
def test_posterior_spread_detects_notmnist(study: Study, claim: Conclusion) -> None:
    """The posterior's narrowness detects notMNIST."""
    claim.conclude(detection(study, "log-variance", "notmnist"))


@pytest.mark.claim("C3c")
def test_posterior_spread_detects_fashion_mnist(study: Study, claim: Conclusion) -> None:
    """The posterior's narrowness detects Fashion-MNIST."""
    claim.conclude(detection(study, "log-variance", "fashion-mnist"))


@pytest.mark.claim("C3d")
def test_posterior_spread_detects_letters(study: Study, claim: Conclusion) -> None:
    """The posterior's narrowness detects capital letters drawn from fonts."""
    claim.conclude(detection(study, "log-variance", "letters"))


@pytest.mark.claim("C4a")
def test_kl_detects_kmnist(study: Study, claim: Conclusion) -> None:
    """The KL term alone detects KMNIST."""
    claim.conclude(detection(study, "kl", "kmnist"))


@pytest.mark.claim("C4b")
def test_kl_detects_notmnist(study: Study, claim: Conclusion) -> None:
    """The KL term alone detects notMNIST."""
    claim.conclude(detection(study, "kl", "notmnist"))


@pytest.mark.claim("C4d")
def test_kl_detects_letters(study: Study, claim: Conclusion) -> None:
    """The KL term alone detects capital letters drawn from fonts."""
    claim.conclude(detection(study, "kl", "letters"))


@pytest.mark.claim("C5a")
def test_error_beats_max_softmax_on_kmnist(study: Study, claim: Conclusion) -> None:
    """Reconstruction error beats the classifier's max-softmax on KMNIST."""
    claim.conclude(difference(detection(study, "mse", "kmnist"), detection(study, "max-softmax", "kmnist")))


@pytest.mark.claim("C5d")
def test_error_beats_max_softmax_on_letters(study: Study, claim: Conclusion) -> None:
    """Reconstruction error beats the classifier's max-softmax on capital letters drawn from fonts."""
    claim.conclude(difference(detection(study, "mse", "letters"), detection(study, "max-softmax", "letters")))


@pytest.mark.claim("C6")
def test_dim_images_defeat_the_error(study: Study, claim: Conclusion) -> None:
    """Dim images (0.3 of their brightness) defeat the reconstruction error."""
    claim.conclude(detection(study, "mse", "dimmed-0.3"))


@pytest.mark.claim("C7")
def test_relative_error_finds_dim_images(study: Study, claim: Conclusion) -> None:
    """The error relative to the image's energy detects dim images (0.3 of their brightness)."""
    claim.conclude(detection(study, "relative-mse", "dimmed-0.3"))


@pytest.mark.claim("C8")
def test_error_detects_turned_images(study: Study, claim: Conclusion) -> None:
    """Reconstruction error detects images turned by 90 degrees."""
    claim.conclude(detection(study, "mse", "rotated-90"))


@pytest.mark.claim("C9")
def test_mirrored_images_stay_hard(study: Study, claim: Conclusion) -> None:
    """The reconstruction error tells mirrored images from test images in part only."""
    claim.conclude(detection(study, "mse", "mirrored"))


@pytest.mark.claim("C10")
def test_dim_images_stay_hard_for_likelihood_regret(study: Study, claim: Conclusion) -> None:
    """Dim images (0.3 of their brightness) stay hard for the likelihood regret."""
    claim.conclude(detection(study, "likelihood-regret", "dimmed-0.3"))


@pytest.mark.claim("C11a")
def test_mean_pixel_on_kmnist(study: Study, claim: Conclusion) -> None:
    """How well the mean pixel, a trivial score, detects KMNIST."""
    claim.conclude(detection(study, "mean-pixel", "kmnist"))


@pytest.mark.claim("C11b")
def test_mean_pixel_on_notmnist(study: Study, claim: Conclusion) -> None:
    """How well the mean pixel, a trivial score, detects notMNIST."""
    claim.conclude(detection(study, "mean-pixel", "notmnist"))


@pytest.mark.claim("C11c")
def test_mean_pixel_on_fashion_mnist(study: Study, claim: Conclusion) -> None:
    """How well the mean pixel, a trivial score, detects Fashion-MNIST."""
    claim.conclude(detection(study, "mean-pixel", "fashion-mnist"))


@pytest.mark.claim("C11d")
def test_mean_pixel_on_letters(study: Study, claim: Conclusion) -> None:
    """How well the mean pixel, a trivial score, detects capital letters drawn from fonts."""
    claim.conclude(detection(study, "mean-pixel", "letters"))


@pytest.mark.claim("C11e")
def test_compressed_size_on_kmnist(study: Study, claim: Conclusion) -> None:
    """How well the compressed size, a trivial score, detects KMNIST."""
    claim.conclude(detection(study, "compressed-size", "kmnist"))


@pytest.mark.claim("C11f")
def test_compressed_size_on_notmnist(study: Study, claim: Conclusion) -> None:
    """How well the compressed size, a trivial score, detects notMNIST."""
    claim.conclude(detection(study, "compressed-size", "notmnist"))


@pytest.mark.claim("C11g")
def test_compressed_size_on_fashion_mnist(study: Study, claim: Conclusion) -> None:
    """How well the compressed size, a trivial score, detects Fashion-MNIST."""
    claim.conclude(detection(study, "compressed-size", "fashion-mnist"))


@pytest.mark.claim("C11h")
def test_compressed_size_on_letters(study: Study, claim: Conclusion) -> None:
    """How well the compressed size, a trivial score, detects capital letters drawn from fonts."""
    claim.conclude(detection(study, "compressed-size", "letters"))


@pytest.mark.claim("C12a")
def test_omniglot_stays_hard_for_the_error(study: Study, claim: Conclusion) -> None:
    """Omniglot stays hard for the reconstruction error."""
    claim.conclude(detection(study, "mse", "omniglot"))


@pytest.mark.claim("C12b")
def test_kl_hardly_tells_omniglot(study: Study, claim: Conclusion) -> None:
    """The KL term hardly tells Omniglot from test images."""
    claim.conclude(detection(study, "kl", "omniglot"))


@pytest.mark.claim("C12c")
def test_max_softmax_beats_the_error_on_omniglot(study: Study, claim: Conclusion) -> None:
    """The classifier's max-softmax beats the reconstruction error on Omniglot."""
    claim.conclude(difference(detection(study, "max-softmax", "omniglot"), detection(study, "mse", "omniglot")))


@pytest.mark.claim("C12d")
def test_latent_neighbours_detect_omniglot(study: Study, claim: Conclusion) -> None:
    """The distance to the 10th nearest training latent detects Omniglot."""
    claim.conclude(detection(study, "latent-knn", "omniglot"))


@pytest.mark.claim("C13a")
def test_error_of_a_vae_of_kmnist_fails(study: Study, claim: Conclusion) -> None:
    """A VAE trained on KMNIST takes test images for more ordinary by its reconstruction error."""
    claim.conclude(abroad(study, "mse", "kmnist"))


@pytest.mark.claim("C13b")
def test_elbo_of_a_vae_of_kmnist_fails(study: Study, claim: Conclusion) -> None:
    """A VAE trained on KMNIST takes test images for more ordinary by its ELBO."""
    claim.conclude(abroad(study, "elbo", "kmnist"))


@pytest.mark.claim("C13c")
def test_latent_neighbours_of_a_vae_of_kmnist_detect(study: Study, claim: Conclusion) -> None:
    """A VAE trained on KMNIST detects test images by the distance to the 10th nearest training latent."""
    claim.conclude(abroad(study, "latent-knn", "kmnist"))


@pytest.mark.claim("C13d")
def test_input_complexity_by_a_vae_of_kmnist_detects(study: Study, claim: Conclusion) -> None:
    """A VAE trained on KMNIST detects test images by input complexity."""
    claim.conclude(abroad(study, "input-complexity", "kmnist"))


@pytest.mark.claim("C13e")
def test_elbo_of_a_vae_of_letters_fails(study: Study, claim: Conclusion) -> None:
    """A VAE trained on capital letters drawn from fonts takes test images for more ordinary by its ELBO."""
    claim.conclude(abroad(study, "elbo", "letters"))


@pytest.mark.claim("C13f")
def test_latent_neighbours_of_a_vae_of_letters_detect(study: Study, claim: Conclusion) -> None:
    """A VAE trained on capital letters drawn from fonts detects test images by the distance to the 10th nearest
    training latent.
    """
    claim.conclude(abroad(study, "latent-knn", "letters"))


@pytest.mark.claim("C13g")
def test_input_complexity_by_a_vae_of_letters_detects(study: Study, claim: Conclusion) -> None:
    """A VAE trained on capital letters drawn from fonts detects test images by input complexity."""
    claim.conclude(abroad(study, "input-complexity", "letters"))


@pytest.mark.claim("C14a")
def test_kmnist_hides_from_latent_neighbours(study: Study, claim: Conclusion) -> None:
    """Few KMNIST images that hide (epsilon {1.5 budget}) from the distance to the 10th nearest training latent
    are found by it at 5% false alarms.
    """
    claim.conclude(alarms_of_hidden(study, "latent-knn", "kmnist"))


@pytest.mark.claim("C14b")
def test_kmnist_hides_from_max_softmax(study: Study, claim: Conclusion) -> None:
    """Few KMNIST images that hide (epsilon {1.5 budget}) from max-softmax are found by it at 5% false alarms."""
    claim.conclude(alarms_of_hidden(study, "max-softmax", "kmnist"))


@pytest.mark.claim("C14c")
def test_kmnist_hides_from_the_error(study: Study, claim: Conclusion) -> None:
    """Not all KMNIST images that hide (epsilon {1.5 budget}) from the reconstruction error are found by it at 5%
    false alarms.
    """
    claim.conclude(alarms_of_hidden(study, "mse", "kmnist"))


@pytest.mark.claim("C14d")
def test_letters_hides_from_latent_neighbours(study: Study, claim: Conclusion) -> None:
    """Few capital letters drawn from fonts that hide (epsilon {1.5 budget}) from the distance to the 10th nearest
    training latent are found by it at 5% false alarms.
    """
    claim.conclude(alarms_of_hidden(study, "latent-knn", "letters"))


@pytest.mark.claim("C14e")
def test_letters_hides_from_max_softmax(study: Study, claim: Conclusion) -> None:
    """Few capital letters drawn from fonts that hide (epsilon {1.5 budget}) from max-softmax are found by it at
    5% false alarms.
    """
    claim.conclude(alarms_of_hidden(study, "max-softmax", "letters"))


@pytest.mark.claim("C14f")
def test_letters_hides_from_the_error(study: Study, claim: Conclusion) -> None:
    """Not all capital letters drawn from fonts that hide (epsilon {1.5 budget}) from the reconstruction error are
    found by it at 5% false alarms.
    """
    claim.conclude(alarms_of_hidden(study, "mse", "letters"))


@pytest.mark.claim("C15a")
def test_false_alarms_are_as_many_as_promised(study: Study, claim: Conclusion) -> None:
    """Conformal p-values keep about what they promise on test images: 5% of them raise false alarms."""
    claim.conclude(alarms(study, INSIDE, "latent-knn"))


@pytest.mark.claim("C15b")
def test_latent_neighbours_find_kmnist_at_few_false_alarms(study: Study, claim: Conclusion) -> None:
    """At 5% false alarms the distance to the 10th nearest training latent finds KMNIST."""
    claim.conclude(alarms(study, study.outside.condition("kmnist"), "latent-knn"))


@pytest.mark.claim("C15c")
def test_latent_neighbours_find_letters_at_few_false_alarms(study: Study, claim: Conclusion) -> None:
    """At 5% false alarms the distance to the 10th nearest training latent finds capital letters drawn from fonts."""
    claim.conclude(alarms(study, study.outside.condition("letters"), "latent-knn"))


@pytest.mark.claim("C16a")
def test_levels_detect_omniglot(study: Study, claim: Conclusion) -> None:
    """The likelihood ratio of the levels of a hierarchical VAE (LLR>1) detects Omniglot."""
    claim.conclude(by_levels(study, "likelihood-ratio", INSIDE, study.outside.condition("omniglot")))


@pytest.mark.claim("C16b")
def test_levels_beat_the_elbo_of_kmnist(study: Study, claim: Conclusion) -> None:
    """Where a hierarchical VAE is trained on KMNIST, the likelihood ratio of its levels tells test images better
    than its ELBO.
    """
    ratio, elbo = (by_levels_abroad(study, score, "kmnist") for score in ("likelihood-ratio", "elbo"))
    claim.conclude(difference(ratio, elbo))


@pytest.mark.claim("C16c")
def test_elbo_of_the_hierarchical_vae_hardly_tells_omniglot(study: Study, claim: Conclusion) -> None:
    """The ELBO of the hierarchical VAE hardly tells Omniglot from test images."""
    claim.conclude(by_levels(study, "elbo", INSIDE, study.outside.condition("omniglot")))


@pytest.mark.claim("C16d")
def test_levels_of_kmnist_do_not_detect(study: Study, claim: Conclusion) -> None:
    """A hierarchical VAE trained on KMNIST does not detect test images by the likelihood ratio of its levels."""
    claim.conclude(by_levels_abroad(study, "likelihood-ratio", "kmnist"))


@pytest.mark.claim("C17a")
def test_textures_do_not_stand_out_by_the_error(study: Study, claim: Conclusion) -> None:
    """Textures with the spectrum of the images (random phases) do not stand out by the reconstruction error."""
    claim.conclude(detection(study, "mse", "texture"))


@pytest.mark.claim("C17b")
def test_max_softmax_tells_textures_better(study: Study, claim: Conclusion) -> None:
    """Max-softmax tells such textures from images better than the reconstruction error."""
    doubt, error = (detection(study, score, "texture") for score in ("max-softmax", "mse"))
    claim.conclude(difference(doubt, error))


@pytest.mark.claim("C17c")
def test_latent_neighbours_detect_textures(study: Study, claim: Conclusion) -> None:
    """The distance to the 10th nearest training latent detects such textures."""
    claim.conclude(detection(study, "latent-knn", "texture"))


@pytest.mark.claim("C17d")
def test_textures_stand_out_by_the_error(study: Study, claim: Conclusion) -> None:
    """Textures with the spectrum of the images (random phases) stand out by the reconstruction error."""
    claim.conclude(detection(study, "mse", "texture"))


@pytest.mark.claim("C18a")
def test_blank_images_look_ordinary_to_the_error(study: Study, claim: Conclusion) -> None:
    """Images of one colour look more ordinary than test images to the reconstruction error."""
    claim.conclude(detection(study, "mse", "blank"))


@pytest.mark.claim("C18b")
def test_blank_images_are_likely(study: Study, claim: Conclusion) -> None:
    """Images of one colour have a higher likelihood than test images (ELBO)."""
    claim.conclude(detection(study, "elbo", "blank"))


@pytest.mark.claim("C18c")
def test_input_complexity_detects_blank_images(study: Study, claim: Conclusion) -> None:
    """Input complexity, which takes the code length of a compressed file off the ELBO, detects images of one colour."""
    claim.conclude(detection(study, "input-complexity", "blank"))


@pytest.mark.claim("C18d")
def test_latent_neighbours_detect_blank_images(study: Study, claim: Conclusion) -> None:
    """The distance to the 10th nearest training latent detects images of one colour."""
    claim.conclude(detection(study, "latent-knn", "blank"))
