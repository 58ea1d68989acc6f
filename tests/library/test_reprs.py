"""What a notebook shows of results: names and numbers, in a line or two, and no pixels."""

import re

import pytest
import torch

import vaecore as vc
from vaecore.suite import Shard
from vaecore.suite.statistics.estimates import mean

LONGEST = 320  # characters


@pytest.fixture(scope="module")
def things(tiny_vae, tiny_classifier, some_images):
    """Give public results by name, each of eight images."""
    vae, classifier, images = tiny_vae(), tiny_classifier(), some_images(8)
    labels = classifier(images).argmax(dim=1)
    labels[:3] = (labels[:3] + 1) % 4  # misclassified from the start
    fitted = vc.fit_scores(vae, classifier, None, seed=0, names=["mse", "energy"])
    return {
        "Attack": vc.fgsm(classifier, images, labels, epsilon=0.0),
        "Certificate": vc.certify(classifier, images, sigma=1e-9, seed=0, draws=100, alpha=0.4),
        "Estimate": mean(torch.rand(3, 500).numpy()),
        "FittedScores": fitted,
        "Images": vc.Images(images, labels, "mine", "test"),
        "Images without labels": vc.Images(images, None, "mine", "train"),
        "ScoreDetector": vc.ScoreDetector(fitted, "mse", 0.5),
        "Shard": Shard(images, labels, labels, 5),
        "VAEDetector": vc.VAEDetector(vae, classifier, draws=3),
        "scores": vc.scores,
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Attack", r"Attack\(8 images of 5x4 in grey, 3 successful\)"),
        ("Certificate", r"Certificate\(8 images, 8 certified\)"),
        ("Estimate", r"Estimate\(value=0\.\d+, per_run=.*"),
        ("FittedScores", r"FittedScores\(mse, energy, seed=0, vae=VAE, classifier=Sequential\)"),
        ("Images", r"Images\('mine', 'test', 8 images of 5x4 in grey, [34] classes\)"),
        ("Images without labels", r"Images\('mine', 'train', 8 images of 5x4 in grey, without labels\)"),
        ("ScoreDetector", r"ScoreDetector\(fitted=FittedScores\(.*\), name='mse', threshold=0.5\)"),
        ("Shard", r"Shard\(seed=5\)"),
        ("VAEDetector", r"VAEDetector\(draws=3, .*backward='exact'\)"),
        ("scores", r"scores\(mse, bce, .*, energy\)"),
    ],
)
def test_results_are_shown_in_short(things, name, shown):
    text = repr(things[name])
    assert re.fullmatch(shown, text), text
    assert len(text) < LONGEST
