"""Certificates against linear classifiers, whose radius is known, and against counts by hand."""

import pytest
import torch
from scipy.stats import beta, norm

from vaecore import certify
from vaecore.toolkit import normal, seed_for

DIRECTION = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
DIRECTION /= DIRECTION.norm()
GREY = torch.full((40, 1, 6, 6), 0.5)


def linear(images):
    """Class 1 where an image lies beyond grey in one direction, else class 0."""
    ahead = ((images - 0.5) * DIRECTION).flatten(1).sum(dim=1)
    return torch.stack([-ahead, ahead], dim=1)


def test_of_a_linear_classifier_it_certifies_nearly_the_distance_and_no_more():
    distance = torch.linspace(-0.15, 0.15, 40, dtype=torch.float64)
    images = GREY + distance.float().view(-1, 1, 1, 1) * DIRECTION
    found = certify(linear, images, sigma=0.1, seed=0, draws=4000, alpha=1e-6)
    assert bool((found.radius <= distance.abs()).all())
    assert bool((found.radius > distance.abs() - 0.025).all())
    sure = found.label >= 0
    assert 20 < sure.sum() < 40  # it abstains where the distance is next to nothing
    assert torch.equal(found.label[sure], (distance[sure] > 0).long())
    assert bool((found.radius[~sure] == 0).all())


def test_it_counts_and_bounds_as_the_paper_does():
    images, index = GREY[:3] + 0.02 * DIRECTION, torch.tensor([5, 0, 9])
    found = certify(linear, images, sigma=0.05, seed=7, draws=200, selection=20, alpha=0.01, indices=index)
    for row in range(3):
        noise = normal(seed_for("certify/draws", 7), index[row : row + 1], draws=200, size=36).view(200, 1, 6, 6)
        given = int(linear((images[row] + 0.05 * noise).clamp(0, 1)).argmax(dim=1).sum())
        assert 100 < given < 200
        low = beta.ppf(0.01, given, 200 - given + 1)  # Clopper and Pearson's one-sided bound
        assert found.radius[row].item() == pytest.approx(0.05 * norm.ppf(low))


def test_a_label_that_is_always_given_has_the_largest_radius():
    found = certify(lambda images: torch.eye(3)[[1] * len(images)], GREY[:2], sigma=0.5, seed=0)
    assert found.label.tolist() == [1, 1]
    assert found.radius.tolist() == pytest.approx([0.5 * norm.ppf(0.001 ** (1 / 1000))] * 2)


def test_noisy_images_stay_images():
    def checked(images):
        assert images.min() >= 0
        assert images.max() <= 1
        return linear(images)

    certify(checked, GREY[:2], sigma=1.0, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sigma": 0.0}, "sigma must be above 0 and finite; got 0"),
        ({"alpha": 0.5}, "alpha must be above 0 and below a half; got 0.5"),
        ({"draws": 0}, "draws must be 1 or more; got 0"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        certify(linear, GREY[:2], **{"sigma": 0.1, "seed": 0} | setting)
