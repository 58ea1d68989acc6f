"""Colour and odd sizes: each channel against the grey result where they must agree, and each part against torch's."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli
from torch.nn.functional import conv2d
from torch.testing import assert_close

import vaecore as vc
from vaecore.models._networks import _strided
from vaecore.models._training import augment
from vaecore.suite.packing import pack, unpack
from vaecore.suite.study import cleaning
from vaecore.suite.study.draws import CLEAN, DRAWS, Shard, collect
from vaecore.suite.study.study import Dataset, Profile, Study

IMAGES = torch.rand(6, 3, 17, 23, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 4


def channels(images):
    return [images[:, channel : channel + 1].contiguous() for channel in range(images.shape[1])]


def models(shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = vc.VAE(vc.VAEConfig(latent_size=4, hidden_size=8), shape)
        classifier = vc.Classifier(vc.ClassifierConfig(channels=(3, 4), hidden_size=8), shape, 4)
    return vae.eval().requires_grad_(requires_grad=False), classifier.eval().requires_grad_(requires_grad=False)


VAE, CLASSIFIER = models((3, 17, 23))
SHARP = nn.Sequential(nn.Flatten(), nn.Linear(3 * 17 * 23, 4)).eval().requires_grad_(requires_grad=False)
SHARP[1].weight.copy_(torch.randn(4, 3 * 17 * 23, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("size", [(17, 23), (8, 5), (4, 4), (28, 28)])
def test_the_quick_convolution_is_torch_s(size):
    images, layer = torch.rand(2, 3, *size), nn.Conv2d(3, 5, 5, stride=2, padding=2)
    assert_close(_strided(images, layer), conv2d(images, layer.weight, layer.bias, stride=2, padding=2))


def test_models_of_colour_are_saved_and_read(tmp_path):
    for model, load in ((VAE, vc.load_vae), (CLASSIFIER, vc.load_classifier)):
        model.save(tmp_path / "model.safetensors")
        again = load(tmp_path / "model.safetensors")
        assert again.image_shape == (3, 17, 23)
        if model is VAE:
            assert again.decode(again.encode(IMAGES)[0]).shape == IMAGES.shape
        else:
            assert torch.equal(again(IMAGES), model(IMAGES))


def test_a_shift_moves_all_channels_together():
    with torch.random.fork_rng():
        found = []
        for images in (IMAGES, *channels(IMAGES)):
            torch.manual_seed(1)
            found.append(augment(images, "shift"))
    assert torch.equal(found[0], torch.cat(found[1:], dim=1))
    assert not torch.equal(found[0], IMAGES)


@pytest.mark.parametrize(
    "purifier",
    [vc.MedianFilter(), vc.MedianFilter(5), vc.GaussianBlur(), vc.Threshold(), vc.BitDepth(2)],
    ids=lambda purifier: type(purifier).__name__,
)
def test_purifiers_clean_each_channel_apart(purifier):
    assert_close(purifier(IMAGES), torch.cat([purifier(one) for one in channels(IMAGES)], dim=1))


@pytest.mark.parametrize("name", [name for name in vc.OUTSIDE_MADE if "noise" not in name] + ["rotated-30"])
def test_made_sets_move_colours_with_their_pixels(name):
    images = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    grey = [vc.outside(name, vc.Images(one, None, "some", "test"), seed=0).pixels for one in channels(images)]
    found = vc.outside(name, vc.Images(images, None, "some", "test"), seed=0).pixels
    assert_close(found, torch.cat(grey, dim=1), rtol=0, atol=1e-6)


def test_noise_differs_between_channels():
    inside = vc.Images(IMAGES, None, "some", "test")
    for name in ("uniform-noise", "gaussian-noise"):
        red, green, _ = channels(vc.outside(name, inside, seed=0).pixels)
        assert (red - green).abs().mean() > 0.2


def test_square_gives_each_channel_a_sign_of_its_own():
    asked = []

    def asking(points):
        asked.append(points.clone())
        return CLASSIFIER(points)

    grey = torch.full((1, 3, 17, 23), 0.5)
    label = CLASSIFIER(grey).argmax(dim=1)
    attack = vc.square(asking, grey, label, epsilon=0.1, seed=0, queries=40)
    assert not attack.success.any()
    changes = [(points - grey)[0] for points in asked if not torch.equal(points, grey)]
    stripes = changes[0]
    assert_close(stripes.abs(), torch.full_like(stripes, 0.1))
    assert torch.equal(stripes, stripes[:, :1].expand_as(stripes))  # vertical
    agree = (stripes[0, 0] == stripes[1, 0]).float().mean()
    assert 0.2 < agree < 0.8
    # A square changes the best point so far, which at first are the stripes: where it does, each channel to one value.
    kinds = set()
    for change in changes[1:]:
        where = (change != stripes).any(dim=0)
        values = [change[channel][where].unique() for channel in range(3)]
        if all(len(value) == 1 for value in values):
            kinds.add(tuple(bool(value > 0) for value in values))
    assert len(kinds) > 2, "some square must have channels of unequal sign"


@pytest.mark.parametrize(
    "attack",
    [
        lambda images, labels, **told: vc.fgsm(SHARP, images, labels, epsilon=0.1),
        lambda images, labels, **told: vc.pgd(SHARP, images, labels, epsilon=0.1, steps=5, seed=0, **told),
        lambda images, labels, **told: vc.pgd(
            SHARP, images, labels, epsilon=1.0, norm="l2", steps=5, step_size=0.5, seed=0, **told
        ),
        lambda images, labels, **told: vc.square(SHARP, images, labels, epsilon=0.1, queries=40, seed=0, **told),
        lambda images, labels, **told: vc.lbfgs(SHARP, images, (labels + 1) % 4),
    ],
    ids=["fgsm", "pgd", "pgd l2", "square", "lbfgs"],
)
def test_attacks_on_colour_treat_each_image_alone_and_tell_the_truth(attack):
    labels = SHARP(IMAGES).argmax(dim=1)
    together = attack(IMAGES, labels)
    alone = [attack(IMAGES[i : i + 1], labels[i : i + 1], indices=torch.tensor([i])) for i in range(6)]
    assert_close(together.images, torch.cat([one.images for one in alone]), rtol=0, atol=1e-4)
    assert together.success.any()
    assert torch.equal((SHARP(together.images).argmax(dim=1) != labels), together.success)
    change = (together.images - IMAGES).flatten(1).norm(dim=1)
    assert_close(together.l2[together.success], change[together.success])


def test_likelihoods_sum_over_channels_and_mse_is_their_mean():
    decoded = vc.reconstruct(VAE, IMAGES, draws=3, seed=0)
    assert decoded.shape == (6, 3, 3, 17, 23)
    density = Bernoulli(probs=decoded.double(), validate_args=False).log_prob(IMAGES.double().unsqueeze(1))
    expected = density.sum(dim=(2, 3, 4)).mean(dim=1) - vc.kl(VAE, IMAGES)
    assert_close(vc.elbo(VAE, IMAGES, draws=3, seed=0).double(), expected, rtol=1e-5, atol=1e-3)
    table = collect(VAE, CLASSIFIER, Shard(IMAGES, LABELS, torch.arange(6), 0), CLEAN)
    from_table = table["draw_mse"][:, :DRAWS].double()
    seed = vc._noise.seed_for("reconstructions", 0)
    again = vc.reconstruct(VAE, IMAGES, draws=DRAWS, seed=seed).double()
    assert_close(
        from_table, (again - IMAGES.double().unsqueeze(1)).square().flatten(2).mean(dim=2), atol=1e-6, rtol=1e-4
    )


def test_images_are_packed_as_figures_take_them():
    rounded = (IMAGES * 255).round() / 255
    assert np.array_equal(unpack(pack(rounded)), (rounded * 255).round().byte().permute(0, 2, 3, 1).numpy())


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of colour images of 6x9 with the models of `models`, untrained."""
    made = ModuleType("a_users_colours")
    pixels = np.random.default_rng(0).random((60, 3, 6, 9), dtype=np.float32)
    made.data = (pixels, np.arange(60) % 4)
    made.vae, made.classifier = models((3, 6, 9))
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return Study(
        Dataset("a_users_colours:data", "as asked"),
        Profile("standard", 1, 8, 3, 3),
        vc.Store(tmp_path / "cache"),
        root=str(tmp_path),  # no data folder, whatever the environment says
        device=torch.device("cpu"),
        vae="a_users_colours:vae",
        classifier="a_users_colours:classifier",
    )


def test_a_study_of_small_colour_images_has_all_its_evidence(study):
    study.check()
    assert study.outside.left_out == {
        "letters": "28x28 in grey, where a_users_colours.data is 6x9 in colour",
        "shuffled-patches": "4 does not divide 6x9",
    }
    assert study.outside.lacks("kmnist").startswith("takes images of kmnist, which are not at hand as 6x9 in colour (")
    assert study.table("lbfgs")["l2"].shape == (1, 3)
    assert study.table("joint-mse-0.3")["l2"].shape == (1, 3)
    scores = study.outside.scores("rotated-90")
    assert set(scores.columns) == set(vc.scores)
    assert all(np.isfinite(column).all() for column in scores.columns.values())
    cleaned = study.cleaning.table("clean")
    assert cleaned["blur"].shape == cleaned["vae-majority"].shape == (1, 8)
    strip = cleaning._strip(study)  # of three images, which cannot have all four classes
    assert strip["labels"] == sorted(set(strip["labels"]))
    assert unpack(strip["rows"][0]["pixels"]).shape == (len(strip["labels"]), 6, 9, 3)
