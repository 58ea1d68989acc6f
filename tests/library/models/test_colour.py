"""The reference models for colour: what they learn on tiny images, their layers, and the density of their pixels."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import logistic
from torch.testing import assert_close

import vaecore as vc

CONV = vc.ConvVAEConfig(4, (8, 8, 16), epochs=25, batch_size=20, learning_rate=1e-2)
RESIDUAL = vc.ResidualConfig((8, 8, 16), epochs=8, batch_size=20, learning_rate=1e-2)
ONCE = {"seed": 0, "device": "cpu"}


def squares(count, seed, shape=(3, 16, 24)):
    """Images with a bright square on an even, darker ground, of which class is the colour; that of class 3 is black."""
    generator = torch.Generator().manual_seed(seed)
    pixels = (0.2 + 0.4 * torch.rand(count, shape[0], 1, 1, generator=generator)).expand(count, *shape).clone()
    labels = torch.arange(count) % 4
    places = torch.randint(2, 9, (count, 2), generator=generator)
    for image, label, (row, column) in zip(pixels, labels, places, strict=True):
        channels = slice(None) if label == 3 else slice(label % shape[0], label % shape[0] + 1)
        image[channels, row : row + 6, column : column + 6] = 0.0 if label == 3 else 1.0
    return vc.Images((pixels * 255).round() / 255, labels, "squares", "train")


TRAIN, FRESH = squares(400, 0), squares(200, 1)


@pytest.fixture(scope="module")
def vae():
    return vc.fit_vae(TRAIN, CONV, **ONCE)


@pytest.fixture(scope="module")
def classifier():
    return vc.fit_classifier(TRAIN, RESIDUAL, **ONCE)


def test_training_raises_the_elbo_of_fresh_images_and_the_share_of_right_labels(vae, classifier):
    early = vc.fit_vae(TRAIN, replace(CONV, epochs=1), **ONCE)
    before, after = (vc.elbo(each, FRESH.pixels, draws=2, seed=0).mean() for each in (early, vae))
    assert after > before + 500
    assert after / FRESH.pixels[0].numel() > -torch.tensor(256.0).log()  # better than no model, in nats per dimension
    assert (classifier(FRESH.pixels).argmax(dim=1) == FRESH.labels).double().mean() > 0.9


def test_the_scale_learnt_nears_that_of_the_errors(vae):
    """Slowly, from 0.05 at first."""
    decoded = vc.reconstruct(vae, FRESH.pixels, draws=1, seed=0)[:, 0]
    for channel in range(3):
        best = logistic.fit((FRESH.pixels - decoded)[:, channel].flatten().numpy(), floc=0)[1]
        scale = float(vae.log_scale[channel].exp())
        assert best < 0.03
        assert scale == pytest.approx(best, rel=0.8)


def test_grey_and_larger_images_are_taken_too():
    grey = squares(40, 2, (1, 32, 64))
    model = vc.fit_vae(grey, replace(CONV, epochs=1), **ONCE)
    mean, log_variance = model.encode(grey.pixels)
    assert mean.shape == log_variance.shape == (40, 4 * 4 * 8)
    assert model.decode(mean).shape == grey.pixels.shape
    assert vc.fit_classifier(grey, replace(RESIDUAL, epochs=1), **ONCE)(grey.pixels).shape == (40, 4)


@pytest.mark.parametrize("shape", [(3, 12, 16), (3, 16, 4), (28, 28)])
@pytest.mark.parametrize(
    "make",
    [lambda shape: vc.ConvVAE(CONV, shape), lambda shape: vc.ResidualClassifier(RESIDUAL, shape, 4)],
    ids=["vae", "classifier"],
)
def test_other_sides_are_refused_with_a_remedy(make, shape):
    with pytest.raises(ValueError, match=r"multiples of 8; got .*pad or resize the images, or take .* VAEConfig"):
        make(shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vc.ConvVAEConfig(latent_channels=0), "latent_channels must be 1 or more; got 0"),
        (lambda: vc.ConvVAEConfig(channels=(8, 8)), r"channels must be three numbers.*; got \(8, 8\)"),
        (lambda: vc.ConvVAEConfig(beta=-1.0), "beta must be 0 or more and finite; got -1.0"),
        (lambda: vc.ResidualConfig(channels=(8, 8, 0)), "channels must be 1 or more; got 0"),
        (lambda: vc.ResidualConfig(label_smoothing=1.0), "label_smoothing must be 0 or more and below 1; got 1.0"),
        (lambda: vc.ResidualConfig(weight_decay=-1.0), "weight_decay must be 0 or more and finite; got -1.0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_of_another_model_are_refused():
    with pytest.raises(TypeError, match="config must be VAEConfig or ConvVAEConfig; got ResidualConfig"):
        vc.fit_vae(TRAIN, RESIDUAL, **ONCE)
    with pytest.raises(TypeError, match="config must be ClassifierConfig or ResidualConfig; got ConvVAEConfig"):
        vc.fit_classifier(TRAIN, CONV, **ONCE)


def test_folding_the_normalisation_changes_no_logit():
    model = vc.ResidualClassifier(RESIDUAL, (3, 16, 24), 4)
    model.normalise()
    model.train()
    for start in range(0, 100, 20):
        model(TRAIN.pixels[start : start + 20])  # its running statistics
    model.eval()
    expected = model(FRESH.pixels)
    model.fold()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())
    assert_close(model(FRESH.pixels), expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_images(vae, classifier):
    images = FRESH.pixels[:3].clone().requires_grad_()
    mean, log_variance = vae.encode(images)
    for value in (mean.sum() + log_variance.sum(), vae.decode(mean).sum(), classifier(images)[:, 0].sum()):
        (gradient,) = torch.autograd.grad(value, images, retain_graph=True)
        assert (gradient.flatten(1).norm(dim=1) > 0).all()
    density = vae.log_density(images, vae.decode(mean).unsqueeze(1)).sum()
    assert torch.autograd.grad(density, images)[0].isfinite().all()


def test_an_autoencoder_of_colour_has_no_spread():
    model = vc.fit_autoencoder(TRAIN, replace(CONV, epochs=2), **ONCE)
    draws = vc.reconstruct(model, FRESH.pixels[:4], draws=3, seed=0)
    assert_close(draws, draws[:, :1].expand_as(draws))


def test_adversarial_training_takes_the_residual_classifier():
    robust = vc.fit_robust(TRAIN, RESIDUAL, epsilon=8 / 255, **ONCE)
    assert isinstance(robust, vc.ResidualClassifier)
    attack = vc.pgd(robust, FRESH.pixels, FRESH.labels, epsilon=8 / 255, seed=0, steps=10)
    assert attack.success.double().mean() < 0.5  # one label for all would be wrong for 0.75


# Density


LEVELS = torch.arange(256, dtype=torch.float64) / 255


@pytest.mark.parametrize("mean", [0.0, 0.001, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("scale", [0.001, 0.05, 2.0])
def test_the_probabilities_of_the_256_levels_are_those_of_a_logistic_distribution_and_sum_to_1(mean, scale):
    images = LEVELS.view(256, 1, 1, 1)
    means = torch.full((256, 2, 1, 1, 1), mean, dtype=torch.float64)
    density = vc.discretised_logistic(images, means, scale)
    assert density.shape == (256, 2)
    assert float(density[:, 0].exp().sum()) == pytest.approx(1, abs=1e-9)
    edges = (torch.arange(257, dtype=torch.float64) - 0.5) / 255
    edges[0], edges[-1] = -torch.inf, torch.inf
    below, above = logistic.cdf(edges, mean, scale), logistic.sf(edges, mean, scale)
    mass = torch.where(edges[1:] < mean, torch.tensor(below[1:] - below[:-1]), torch.tensor(above[:-1] - above[1:]))
    assert_close(density[:, 0].exp(), mass, rtol=1e-6, atol=1e-300)


def test_far_levels_keep_their_logarithm_and_their_slope_in_float32():
    """Where both ends of a level are rounded to the same probability."""
    means = torch.tensor([0.1]).view(1, 1, 1, 1, 1).requires_grad_()
    density = vc.discretised_logistic(torch.full((1, 1, 1, 1), 200 / 255), means, 0.005)
    exact = logistic.logpdf(200 / 255, 0.1, 0.005) - torch.tensor(255.0).log()
    assert density.item() == pytest.approx(float(exact), rel=1e-3)
    assert float(torch.autograd.grad(density.sum(), means)[0]) == pytest.approx(200, rel=1e-3)  # 1 / scale


def test_densities_are_summed_over_pixels_and_scales_belong_to_channels():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, 2, 5), generator=generator) / 255
    means, scale = torch.rand(4, 6, 3, 2, 5, generator=generator), torch.tensor([0.01, 0.1, 0.3]).view(3, 1, 1)
    whole = vc.discretised_logistic(images, means, scale)
    parts = [vc.discretised_logistic(images[:, c : c + 1], means[:, :, c : c + 1], float(scale[c])) for c in range(3)]
    assert_close(whole, sum(parts))


@pytest.mark.parametrize(
    ("shape", "scale", "message"),
    [
        ((2, 3, 4, 4), 0.1, r"\(n, draws, c, h, w\); got \(2, 3, 4, 4\) and \(2, 3, 4, 4\)"),
        ((3, 5, 3, 4, 4), 0.1, r"got \(2, 3, 4, 4\) and \(3, 5, 3, 4, 4\)"),
        ((2, 5, 3, 4, 4), 0.0, "scale must be above 0 and finite; got 0.0"),
    ],
)
def test_other_shapes_and_scales_are_refused(shape, scale, message):
    with pytest.raises(ValueError, match=message):
        vc.discretised_logistic(torch.zeros(2, 3, 4, 4), torch.zeros(shape), scale)
