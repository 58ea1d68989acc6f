"""Family C: what the VAE's scores make of images from outside the data set, beside trivial scores and their failures.

Every score is higher for the more anomalous, is fitted on training images only, and is compared on the test images
against a set outside. Which sets there are:
vaecore/suite/study/sets.py.
"""

import pytest

from vaecore.suite import INSIDE, SCORES, Conclusion, Estimate, Study, auroc, difference
from vaecore.toolkit import is_made


def detection(study: Study, score: str, kind: str) -> Estimate:
    """AUROC of a score, a set outside against the test images; made sets are paired with what they are made of."""
    outside = study.outside.condition(kind)  # claims whose set is not at hand are skipped
    inside, others = (study.table(one, of=SCORES) for one in (INSIDE, outside))
    if score not in inside:
        raise ValueError(f"{score} learns from training images, of which {study.facts.dataset} has none")
    return auroc(inside[score], others[score], paired=is_made(outside.label))


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
    """Mirrored images stay hard for the reconstruction error."""
    claim.conclude(detection(study, "mse", "mirrored"))


@pytest.mark.claim("C10")
def test_likelihood_regret_does_not_find_dim_images(study: Study, claim: Conclusion) -> None:
    """Likelihood regret does not find dim images (0.3 of their brightness) either."""
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
