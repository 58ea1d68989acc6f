"""Colour and odd sizes: each channel against the grey result where they must agree, and sums over channels."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli
from torch.testing import assert_close

import vaecore as vc
from vaecore.toolkit import augment

IMAGES = torch.rand(6, 3, 17, 23, generator=torch.Generator().manual_seed(0))
with torch.random.fork_rng():
    torch.manual_seed(0)
    VAE = vc.VAE(vc.VAEConfig(latent_size=4, hidden_size=8), (3, 17, 23)).eval().requires_grad_(requires_grad=False)
    CLASSIFIER = vc.Classifier(vc.ClassifierConfig(channels=(3, 4), hidden_size=8), (3, 17, 23), 4)
    CLASSIFIER.eval().requires_grad_(requires_grad=False)
SHARP = nn.Sequential(nn.Flatten(), nn.Linear(3 * 17 * 23, 4)).eval().requires_grad_(requires_grad=False)
SHARP[1].weight.copy_(torch.randn(4, 3 * 17 * 23, generator=torch.Generator().manual_seed(0)))

DRAWN = ("uniform-noise", "gaussian-noise", "blank")  # without regard to the images


def channels(images):
    return [images[:, channel : channel + 1].contiguous() for channel in range(images.shape[1])]


def unlabelled(pixels):
    return vc.Images(pixels, None, "some", "test")


def test_models_of_colour_are_saved_and_read(tmp_path):
    deep = vc.HierarchicalVAE(vc.HierarchicalVAEConfig((1, 3, 2), (4, 6, 5)), (3, 17, 23)).eval()
    models = (VAE, vc.load_vae), (CLASSIFIER, vc.load_classifier), (deep, vc.load_hierarchical_vae)
    for model, load in models:
        model.save(tmp_path / "model.safetensors")
        again = load(tmp_path / "model.safetensors")
        assert again.image_shape == (3, 17, 23)
        if model is not CLASSIFIER:
            assert again.decode(again.encode(IMAGES)[0]).shape == IMAGES.shape
        else:
            assert torch.equal(again(IMAGES), model(IMAGES))


def test_a_shift_moves_all_channels_together():
    shifted = []
    with torch.random.fork_rng():
        for images in (IMAGES, *channels(IMAGES)):
            torch.manual_seed(1)
            shifted.append(augment(images, "shift"))
    assert torch.equal(shifted[0], torch.cat(shifted[1:], dim=1))
    assert not torch.equal(shifted[0], IMAGES)


@pytest.mark.parametrize(
    "purifier",
    [vc.MedianFilter(), vc.MedianFilter(5), vc.GaussianBlur(), vc.Threshold(), vc.BitDepth(2)],
    ids=lambda purifier: type(purifier).__name__,
)
def test_purifiers_clean_each_channel_apart(purifier):
    assert_close(purifier(IMAGES), torch.cat([purifier(channel) for channel in channels(IMAGES)], dim=1))


@pytest.mark.parametrize("name", [*sorted({*vc.OUTSIDE_MADE} - {*DRAWN}), "rotated-30"])
def test_made_sets_move_colours_with_their_pixels(name):
    images = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    grey = [vc.outside(name, unlabelled(channel), seed=0).pixels for channel in channels(images)]
    made = vc.outside(name, unlabelled(images), seed=0).pixels
    assert_close(made, torch.cat(grey, dim=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", DRAWN)
def test_noise_differs_between_channels(name):
    red, green, blue = channels(vc.outside(name, unlabelled(IMAGES), seed=0).pixels)
    assert min((red - green).abs().mean(), (green - blue).abs().mean()) > 0.2


def test_square_gives_each_channel_a_sign_of_its_own():
    asked = []

    def asking(points):
        asked.append(points.clone())
        return CLASSIFIER(points)

    grey = torch.full((1, 3, 17, 23), 0.5)
    attack = vc.square(asking, grey, CLASSIFIER(grey).argmax(dim=1), epsilon=0.1, seed=0, queries=40)
    assert not attack.success.any()
    stripes, *changes = [(points - grey)[0] for points in asked if not torch.equal(points, grey)]
    assert_close(stripes.abs(), torch.full_like(stripes, 0.1))
    assert torch.equal(stripes, stripes[:, :1].expand_as(stripes))  # vertical
    assert 0.2 < (stripes[0, 0] == stripes[1, 0]).float().mean() < 0.8
    # A square changes the best point so far, which at first are the stripes: where it does, each channel to one value.
    signs = set()
    for change in changes:
        where = (change != stripes).any(dim=0)
        values = [change[channel][where].unique() for channel in range(3)]
        if all(len(value) == 1 for value in values):
            signs.add(tuple(bool(value > 0) for value in values))
    assert len(signs) > 2, "some square must have channels of unequal sign"


@pytest.mark.parametrize(
    "attack",
    [
        lambda images, labels, **_: vc.fgsm(SHARP, images, labels, epsilon=0.1),
        lambda images, labels, **at: vc.pgd(SHARP, images, labels, epsilon=0.1, steps=5, seed=0, **at),
        lambda images, labels, **at: vc.pgd(
            SHARP, images, labels, epsilon=1.0, norm="l2", steps=5, step_size=0.5, seed=0, **at
        ),
        lambda images, labels, **at: vc.square(SHARP, images, labels, epsilon=0.1, queries=40, seed=0, **at),
        lambda images, labels, **_: vc.lbfgs(SHARP, images, (labels + 1) % 4),
    ],
    ids=["fgsm", "pgd", "pgd l2", "square", "lbfgs"],
)
def test_attacks_on_colour_treat_each_image_alone_and_tell_the_truth(attack):
    labels = SHARP(IMAGES).argmax(dim=1)
    together = attack(IMAGES, labels)
    alone = [attack(IMAGES[i : i + 1], labels[i : i + 1], indices=torch.tensor([i])) for i in range(6)]
    assert_close(together.images, torch.cat([each.images for each in alone]), rtol=0, atol=1e-4)
    assert together.success.any()
    assert torch.equal(SHARP(together.images).argmax(dim=1) != labels, together.success)
    change = (together.images - IMAGES).flatten(1).norm(dim=1)
    assert_close(together.l2[together.success], change[together.success])


def test_likelihoods_sum_over_channels_and_squared_errors_are_their_mean():
    decoded = vc.reconstruct(VAE, IMAGES, draws=3, seed=0)
    assert decoded.shape == (6, 3, 3, 17, 23)
    density = Bernoulli(probs=decoded.double(), validate_args=False).log_prob(IMAGES.double().unsqueeze(1))
    expected = density.sum(dim=(2, 3, 4)).mean(dim=1) - vc.kl(VAE, IMAGES)
    assert_close(vc.elbo(VAE, IMAGES, draws=3, seed=0).double(), expected, rtol=1e-5, atol=1e-3)
    error = (decoded.double() - IMAGES.double().unsqueeze(1)).square().mean(dim=(2, 3, 4))
    assert_close(vc.squared_error(IMAGES, decoded).double(), error, rtol=1e-5, atol=1e-7)
