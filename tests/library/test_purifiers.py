"""Purifiers against numpy, scipy and plain loops; gradients against finite differences; attacks through them."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.fft import dctn, idctn
from scipy.optimize import least_squares
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from vaecore import (
    JPEG,
    BitDepth,
    Chain,
    GaussianBlur,
    LatentSearch,
    MedianFilter,
    Purified,
    Threshold,
    VAEPurifier,
    fgsm,
    pgd,
    reconstruct,
)

INDICES = torch.tensor([7, 3, 11, 0])
GREY = torch.full((1, 1, 5, 4), 0.5)
PURIFIERS = {  # of a VAE
    "threshold": lambda _: Threshold(),
    "bit depth": lambda _: BitDepth(2),
    "jpeg": lambda _: JPEG(50),
    "median": lambda _: MedianFilter(),
    "blur": lambda _: GaussianBlur(0.7),
    "posterior mean": VAEPurifier,
    "draws": lambda vae: VAEPurifier(vae, draws=5),
    "chain": lambda vae: Chain([GaussianBlur(0.7), VAEPurifier(vae, draws=2)]),
    "latent search": lambda vae: LatentSearch(vae, steps=5, starts=2),
}
DIFFERENTIABLE = ["median", "blur", "posterior mean", "draws", "chain"]
WITH_GRADIENT = [*DIFFERENTIABLE, "latent search"]  # whose gradient is that of its optimum, not of its steps
DECISIONS = ["mean-image", "mean-softmax", "majority"]


@pytest.fixture
def vae(tiny_vae):
    return tiny_vae(hidden=12).requires_grad_(requires_grad=False)


@pytest.fixture
def classifier(tiny_classifier):
    return tiny_classifier().requires_grad_(requires_grad=False)


# What each does


def test_threshold_and_bit_depth_against_numpy(some_images):
    images = some_images(4)
    images[0, 0, 0, :3] = torch.tensor([0.5, 0.4999, 0.0])
    pixels = images.numpy()
    for level in (0.5, 0.2):
        np.testing.assert_array_equal(Threshold(level)(images).numpy(), (pixels >= level).astype(np.float32))
    assert torch.equal(Threshold()(images), Threshold(0.5)(images))
    for bits in (1, 3, 8):
        levels = 2**bits - 1
        np.testing.assert_allclose(BitDepth(bits)(images).numpy(), np.round(pixels * levels) / levels, atol=1e-6)


LUMINANCE = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""  # table K.1 of the JPEG standard (ITU-T T.81)


@pytest.mark.parametrize("quality", [1, 30, 75, 100])
def test_jpeg_against_the_cosine_transforms_of_scipy(quality):
    """A grey image of 16x24, block by block, with the standard's table in libjpeg's scale."""
    image = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = np.clip((np.array(LUMINANCE.split(), int).reshape(8, 8) * scale + 50) // 100, 1, 255)
    blocks = np.round(image[0, 0].numpy() * 255).reshape(2, 8, 3, 8).transpose(0, 2, 1, 3) - 128
    rounded = np.round(dctn(blocks, axes=(2, 3), norm="ortho") / table) * table
    expected = np.clip(np.round(idctn(rounded, axes=(2, 3), norm="ortho") + 128), 0, 255)
    cleaned = JPEG(quality)(image)
    # libjpeg computes in integers, so that a coefficient half-way between two steps may go to the other one.
    errors = np.abs(cleaned[0, 0].numpy() * 255 - expected.transpose(0, 2, 1, 3).reshape(16, 24))
    assert errors.mean() < 1.5  # another quality, 31 or 76 say, has 6
    # An image without hue is that of its luminance.
    assert_close(JPEG(quality)(image.expand(1, 3, 16, 24)), cleaned.expand(1, 3, 16, 24), atol=1.01 / 255, rtol=0)


def test_jpeg_keeps_colours_and_loses_detail_of_hue_first():
    flat = torch.tensor([0.8, 0.4, 0.2]).view(1, 3, 1, 1).expand(1, 3, 17, 23)
    assert_close(JPEG()(flat), flat, atol=0.02, rtol=0)
    noise = 0.1 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    of_luminance, of_hue = 0.5 + noise[:, :1].expand_as(noise), 0.5 + noise - noise.mean(dim=1, keepdim=True)
    errors = [(JPEG(100)(images) - images).square().mean() for images in (of_luminance, of_hue)]
    assert errors[1] > 20 * errors[0]
    assert torch.equal(JPEG()(of_hue), JPEG(75)(of_hue))


def test_filters_against_scipy(some_images):
    images = some_images(4)
    for image, median, blurred in zip(images[:, 0], MedianFilter(3)(images), GaussianBlur(0.7)(images), strict=True):
        np.testing.assert_array_equal(median[0].numpy(), ndimage.median_filter(image.numpy(), 3, mode="mirror"))
        expected = ndimage.gaussian_filter(image.double().numpy(), 0.7, mode="mirror", radius=2)
        np.testing.assert_allclose(blurred[0].numpy(), expected, atol=1e-6)
    assert torch.equal(MedianFilter(1)(images), images)
    assert GaussianBlur(1.8)(torch.ones(1, 1, 9, 9)).max() <= 1  # though the rounded weights have a sum above 1


def test_views_of_a_vae_are_those_of_reconstruct(vae, some_images):
    images = some_images(4)
    views = VAEPurifier(vae, draws=3).views(images, INDICES, 5)
    assert_close(views, reconstruct(vae, images, draws=3, seed=5, indices=INDICES))
    assert_close(VAEPurifier(vae)(images), vae.decode(vae.encode(images)[0]))
    assert torch.equal(VAEPurifier(vae).views(images, INDICES, 5), VAEPurifier(vae).views(images, INDICES, 6))


def test_a_chain_does_one_after_the_other(vae, some_images):
    images, mean = some_images(4), VAEPurifier(vae)
    assert_close(Chain([mean, mean, mean])(images), mean(mean(mean(images))))
    assert_close(Chain([Threshold(), mean])(images), mean(Threshold()(images)))
    assert not Chain([mean, Threshold()]).differentiable
    assert Chain([mean, VAEPurifier(vae, draws=7)]).draws == 7
    once = VAEPurifier(vae, draws=1)
    # The second of two has draws of its own.
    twice, same_noise = Chain([once, once]).views(images, INDICES, 0), images
    for _ in range(2):
        same_noise = once.views(same_noise, INDICES, 0)[:, 0]
    for other in (once.views(images, INDICES, 0), same_noise[:, None]):
        assert not torch.allclose(twice, other, atol=1e-3)


def test_a_latent_search_recovers_what_the_decoder_made(vae, some_images):
    images = vae.decode(torch.randn(6, 3, generator=torch.Generator().manual_seed(4)))
    assert (LatentSearch(vae, steps=400, starts=4)(images) - images).abs().max() < 0.02
    # More starts are never worse, as they are more of the same.
    images = some_images(4)
    few, many = (
        (LatentSearch(vae, steps=20, starts=count)(images) - images).square().sum((1, 2, 3)) for count in (1, 8)
    )
    assert bool((many <= few + 1e-5).all())
    assert bool((many < few - 1e-3).any())


@pytest.mark.parametrize("name", PURIFIERS)
def test_every_purifier_maps_images_to_images_whatever_their_batch(vae, classifier, some_images, name):
    purifier, images = PURIFIERS[name](vae), some_images(4)
    assert purifier.differentiable == (name in WITH_GRADIENT)
    views = purifier.views(images, INDICES, 3)
    assert views.shape == (4, purifier.draws, 1, 5, 4)
    assert views.min() >= 0
    assert views.max() <= 1
    alone = [purifier.views(images[[row]], INDICES[[row]], 3) for row in range(4)]
    assert_close(views, torch.cat(alone), atol=1e-4, rtol=1e-4)
    few = purifier.with_draws(2)
    assert few.draws == min(purifier.draws, 2)
    assert_close(few.views(images, INDICES, 3), views[:, :2], atol=1e-4, rtol=1e-4)
    assert purifier(images).shape == images.shape
    nn.Sequential(purifier, classifier)(images)
    with pytest.raises(ValueError, match="must lie in"):
        purifier(images * 255)
    images[:, :, 0] = 1
    rounded = images + 1e-7 * (images == 1)
    assert rounded.max() > 1
    expected = purifier(images)
    assert torch.equal(purifier(rounded), expected)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(purifier(images), expected)
            assert torch.equal(Purified(purifier, classifier)(rounded), Purified(purifier, classifier)(images))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_those_of_finite_differences(vae, some_images, name):
    """In float64, along a random direction; the noise stays."""
    purifier = PURIFIERS[name](vae.double())
    images = (some_images(4, seed=1) * 0.8 + 0.1).double().requires_grad_()
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(purifier.views(images, INDICES, 0).shape, generator=generator, dtype=torch.float64)
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)

    def value(step):
        return (purifier.views(images + step * direction, INDICES, 0) * weight).sum()

    (gradient,) = torch.autograd.grad(value(0.0), images)
    step = 1e-6
    with torch.no_grad():
        measured = (value(step) - value(-step)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(measured.item(), rel=1e-4)


def test_a_latent_search_has_the_gradient_of_its_optimum(tiny_vae):
    """Against scipy's least squares, in float64, where the decoder can make the image, and nearby.

    One latent of the decoder's is not used: its slope is zero.
    """
    vae = tiny_vae(hidden=12).double().requires_grad_(requires_grad=False)
    vae.decoder.weight[:, 2] = 0
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    images = vae.decode(latents).requires_grad_()
    weight, direction = (torch.randn(images.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    search = LatentSearch(vae, steps=400, starts=1)
    search._search = lambda images, indices, seed: latents  # where Adam would end in the long run
    views = search.views(images, torch.arange(6), 0)[:, 0]
    assert_close(views, images)
    (gradient,) = torch.autograd.grad((views * weight).sum(), images)

    def cleaned(row, step):
        wanted = (images[row] + step * direction[row]).detach().numpy().ravel()

        def error(latent):
            return vae.decode(torch.from_numpy(latent)[None]).numpy().ravel() - wanted

        return error(least_squares(error, latents[row].numpy(), xtol=1e-15, ftol=1e-15, gtol=1e-15).x) + wanted

    for row in range(6):
        change = (cleaned(row, 1e-4) - cleaned(row, -1e-4)) / 2e-4
        measured = float(weight[row].numpy().ravel() @ change)
        assert (gradient[row] * direction[row]).sum().item() == pytest.approx(measured, rel=0.02, abs=1e-3)


# The classifier behind it


def decided(views, classifier, decide):
    """An image's label, by a loop over its views."""
    if decide == "mean-image":
        return int(classifier(views.mean(dim=0, keepdim=True)).argmax())
    softmax = classifier(views).softmax(dim=1)
    mean = softmax.mean(dim=0)
    if decide == "mean-softmax":
        return int(mean.argmax())
    votes = np.bincount(softmax.argmax(dim=1).numpy(), minlength=4)
    tied = [label for label in range(4) if votes[label] == votes.max()]
    return tied[int(mean[tied].argmax())]


def test_decisions_against_loops(tiny_vae, classifier, some_images):
    purifier = VAEPurifier(tiny_vae(seed=4), draws=4)  # whose draws get several labels
    images, indices = some_images(400), torch.arange(100, 500)
    views, labels = purifier.views(images, indices, 9), {}
    for decide in DECISIONS:
        model = Purified(purifier, classifier, decide=decide, seed=9)
        logits = model(images, indices)
        labels[decide] = logits.argmax(dim=1).tolist()
        assert labels[decide] == [decided(each, classifier, decide) for each in views]
        assert torch.equal(model(images), model(images, torch.arange(400)))
        if decide == "mean-softmax":
            expected = classifier(views.flatten(0, 1)).softmax(dim=1).view(400, 4, -1).mean(dim=1)
            assert_close(logits.exp(), expected)
    assert labels["mean-image"] != labels["mean-softmax"] != labels["majority"]  # the images tell them apart


def objective_of(model, count):
    """The untargeted cross-entropy's objective for labels 0, 1, 2, 3, 0, ..., and all rows."""
    labels, rows = torch.arange(count) % 4, torch.arange(count)
    return model.objective(labels, targeted=False, loss="cross-entropy", indices=rows, seed=0), rows


def test_it_is_a_victim_with_new_draws_each_step(vae, classifier, some_images):
    model = Purified(VAEPurifier(vae, draws=4), classifier, decide="majority")
    images, (objective, rows) = some_images(20), objective_of(model, 20)
    won, loss = objective(images, rows, 0)
    assert torch.equal(loss, objective(images, rows, 0)[1])
    assert not torch.equal(loss, objective(images, rows, 1)[1])
    part = objective(images[5:9], rows[5:9], 0)
    assert_close(part[1], loss[5:9])
    assert won[5:9].tolist() == part[0].tolist()


def test_more_draws_of_the_views_make_the_loss_steadier(vae, classifier, some_images):
    images = some_images(20)

    def spread(eot):
        objective, rows = objective_of(Purified(VAEPurifier(vae, draws=1), classifier, eot=eot), 20)
        return torch.stack([objective(images, rows, step)[1] for step in range(60)]).std(dim=0).mean().item()

    assert spread(16) == pytest.approx(spread(1) / 4, rel=0.3)


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_an_attack_through_the_purifier_is_stronger_than_one_that_ignores_it(vae, classifier, some_images, name):
    images, model = some_images(200, seed=5), Purified(PURIFIERS[name](vae), classifier, decide="mean-softmax")
    labels = model(images).argmax(dim=1)
    setting = {"epsilon": 0.2, "steps": 20, "step_size": 0.04, "seed": 0, "keep_failed": True}
    through, ignoring = (
        float((model(pgd(victim, images, labels, **setting).images).argmax(dim=1) != labels).float().mean())
        for victim in (model, classifier)
    )
    assert through > ignoring


def test_another_purifier_may_be_differentiated_in_its_stead(vae, classifier, some_images):
    images, stand_in = some_images(4), VAEPurifier(vae)

    def slope(model):
        leaf, (objective, rows) = images.clone().requires_grad_(), objective_of(model, 4)
        loss = objective(leaf, rows, 0)[1]
        return torch.autograd.grad(loss.sum(), leaf)[0], loss

    gradient, loss = slope(Purified(Threshold(), classifier, backward=stand_in))
    # The chain rule by hand: the classifier's gradient at the thresholded images, through the VAE at the images.
    view, leaf = Threshold()(images).requires_grad_(), images.clone().requires_grad_()
    at_view = torch.autograd.grad(cross_entropy(classifier(view), torch.arange(4), reduction="sum"), view)[0]
    assert_close(gradient, torch.autograd.grad(stand_in(leaf), leaf, at_view)[0])
    by_identity, same_loss = slope(Purified(Threshold(), classifier))
    assert torch.equal(loss, same_loss)
    assert_close(by_identity, at_view)
    assert not torch.allclose(gradient, by_identity)


def test_where_the_gradient_says_nothing_the_identity_stands_for_it(vae, classifier, some_images):
    images, labels = some_images(20), torch.arange(20) % 4
    setting = {"epsilon": 0.3, "steps": 5, "step_size": 0.1, "seed": 0}
    model = Purified(Threshold(), classifier)
    assert model.backward == "identity"
    assert pgd(model, images, labels, **setting).success.any()
    with pytest.raises(ValueError, match="differentiable with respect to the images"):
        pgd(Purified(Threshold(), classifier, backward="exact"), images, labels, **setting)
    assert Purified(VAEPurifier(vae), classifier).backward == "exact"


def test_it_may_be_attacked_as_a_plain_classifier_too(vae, classifier, some_images):
    model, images = nn.Sequential(VAEPurifier(vae), classifier).eval(), some_images(20)
    assert fgsm(model, images, model(images).argmax(dim=1), epsilon=0.3).success.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda *_: Threshold(0), "level must be above 0 and at most 1; got 0"),
        (lambda *_: BitDepth(9), "bits must be from 1 to 8; got 9"),
        (lambda *_: JPEG(101), "quality must be from 1 to 100; got 101"),
        (lambda *_: MedianFilter(9)(GREY), r"a median of 9x9 pixels needs images of more than 4 .*; got 5x4"),
        (lambda *_: GaussianBlur(1.3)(GREY), r"a blur of sigma 1.3 needs images of more than 4 pixels .*; got 5x4"),
        (
            lambda *_: GaussianBlur(1e300)(GREY),
            r"a blur of sigma 1e\+300 needs images of more than 3e\+300 pixels .*; got 5x4",
        ),
        (lambda *_: MedianFilter(2), r"size must be odd; got 2 \(the neighbourhood"),
        (lambda *_: GaussianBlur(math.inf), "sigma must be above 0 and finite; got inf"),
        (lambda vae, _: VAEPurifier(vae, draws=0), "draws must be 1 or more; got 0"),
        (lambda *_: Chain([]), "purifiers must be one or more; got none"),
        (lambda vae, _: LatentSearch(vae, starts=0), "starts must be 1 or more; got 0"),
        (lambda _, model: Purified(Threshold(), model, decide="vote"), "decide must be .*; got 'vote'"),
        (lambda _, model: Purified(Threshold(), model, backward="no"), "backward must be .*, a purifier .*; got 'no'"),
        (lambda _, model: Purified(Threshold(), model, eot=0), "eot must be 1 or more; got 0"),
        (lambda _, model: Purified(Threshold(), model.train()), "must be in evaluation mode"),
    ],
)
def test_unfit_settings(vae, classifier, make, message):
    with pytest.raises(ValueError, match=message):
        make(vae, classifier)
