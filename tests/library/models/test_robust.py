"""Adversarial training on digits: what it withstands, beside a classifier trained without it."""

from dataclasses import replace

import pytest
import torch

from vaecore import ClassifierConfig, Images, fit_classifier, fit_robust, load_images, pgd

CONFIG = ClassifierConfig((8, 8), 32, dropout=0.0, epochs=10, batch_size=50, learning_rate=5e-3, augmentation="none")


def test_it_withstands_an_attack_that_takes_a_plain_classifier():
    train, test = (load_images("digits", split) for split in ("train", "test"))
    plain = fit_classifier(train, CONFIG, seed=0, device="cpu")
    robust = fit_robust(train, CONFIG, seed=0, epsilon=0.2, device="cpu")
    pixels, labels = test.pixels[:200], test.labels[:200]
    left = [
        1 - pgd(model, pixels, labels, epsilon=0.2, seed=0, steps=20).success.double().mean()
        for model in (plain, robust)
    ]
    assert left[1] > left[0] + 0.2
    assert not robust.training


def test_a_seed_gives_the_same_weights_again():
    train, short = load_images("digits", "train"), replace(CONFIG, epochs=1)
    first, again = (fit_robust(train, short, seed=0, epsilon=0.2, device="cpu") for _ in range(2))
    assert all(map(torch.equal, first.parameters(), again.parameters()))


def test_bad_arguments_are_named():
    train = load_images("digits", "train")
    with pytest.raises(ValueError, match="epsilon must be above 0 and at most 1; got 0"):
        fit_robust(train, CONFIG, seed=0, epsilon=0)
    with pytest.raises(ValueError, match="a classifier needs labels; the training images of digits have none"):
        fit_robust(Images(train.pixels, None, "digits", "train"), CONFIG, seed=0, epsilon=0.1)
    alike = Images(train.pixels, torch.zeros_like(train.labels), "mine", "train")
    with pytest.raises(ValueError, match="needs two classes or more; got the label 0 alone in mine"):
        fit_robust(alike, CONFIG, seed=0, epsilon=0.1)
