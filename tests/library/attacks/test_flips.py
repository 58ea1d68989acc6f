"""The search behind rounding against every combination of levels, and against attacks that know less of it."""

from functools import partial
from itertools import product

import pytest
import torch

from vaecore import BitDepth, MedianFilter, Purified, Threshold, flips, pgd

ROUNDING = {"threshold": Threshold(), "bit depth": BitDepth(2), "one bit": BitDepth(1)}


@pytest.fixture
def grey():
    """Images of which nine pixels are so near to a level that 0.2 moves them to another one."""
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    images = torch.where(images < 0.5, 0.02, 0.98)
    images[:, :, 3:6, 3:6] = torch.linspace(0.36, 0.64, 9).view(3, 3)
    return images


@pytest.mark.parametrize("name", ["threshold", "one bit"])
@pytest.mark.parametrize("settings", [{"seed": 3, "depth": 2}, {"seed": 4, "depth": 4, "gain": 3}])
def test_it_finds_what_all_combinations_have(network, grey, name, settings):
    """Nine pixels have two levels each: 512 images. Of the second network, an image is lost without random moves."""
    model, rounding = network(**settings), ROUNDING[name]
    binary = rounding(grey)
    labels = model(binary).argmax(dim=1)
    every = torch.tensor(list(product([0.0, 1.0], repeat=9)))
    fooled = []
    for image, label in zip(binary, labels, strict=True):
        points = image.repeat(512, 1, 1, 1)
        points[:, :, 3:6, 3:6] = every.view(-1, 1, 3, 3)
        fooled.append(bool((model(points).argmax(dim=1) != label).any()))
    attack = flips(model, grey, labels, rounding=rounding, epsilon=0.2, seed=0, steps=40, targets=4)
    assert sum(fooled) == {3: 7, 4: 12}[settings["seed"]]
    assert attack.success.tolist() == fooled


@pytest.mark.parametrize("name", ROUNDING)
@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_successes_are_those_of_the_rounded_image_within_the_budget(toy, name, epsilon):
    rounding = ROUNDING[name]
    labels = toy.model(rounding(toy.images)).argmax(dim=1)
    attack = flips(toy.model, toy.images, labels, rounding=rounding, epsilon=epsilon, seed=0, keep_failed=True)
    assert torch.equal(attack.success, toy.model(rounding(attack.images)).argmax(dim=1) != labels)
    assert bool((attack.linf <= epsilon).all())
    assert attack.images.min() >= 0
    assert attack.images.max() <= 1
    assert attack.flags.tolist() == [0] * 24
    assert set(attack.evaluations.tolist()) <= {20 * 7 * attempts for attempts in (1, 2, 3, 4)}
    alone = flips(
        toy.model, toy.images[5:9], labels[5:9], rounding=rounding, epsilon=epsilon, seed=0, keep_failed=True,
        first_index=5,
    )  # fmt: skip
    assert torch.equal(alone.images, attack.images[5:9])


def test_it_is_stronger_than_a_gradient_that_passes_the_rounding_by(digits):
    model, images, _, _ = digits
    behind = Purified(Threshold(), model)
    labels = behind(images).argmax(dim=1)
    won = [
        attack(epsilon=0.1, seed=0).success.float().mean()
        for attack in (
            partial(pgd, behind, images, labels, steps=40),
            partial(flips, model, images, labels, rounding=Threshold()),
        )
    ]
    assert won[1] > won[0]


def test_a_filter_is_no_rounding(toy):
    for rounding in (MedianFilter(), lambda images: 1 - images):
        with pytest.raises(ValueError, match="rounding must map each pixel alone, and never to less as it rises"):
            flips(toy.model, toy.images, toy.labels, rounding=rounding, epsilon=0.2, seed=0)
    behind = Purified(Threshold(), toy.model)
    with pytest.raises(TypeError, match="flips must be given the classifier behind the rounding; got Purified"):
        flips(behind, toy.images, toy.labels, rounding=Threshold(), epsilon=0.2, seed=0)
