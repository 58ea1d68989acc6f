"""Purifiers against numpy, scipy and plain loops; gradients against finite differences; attacks through them."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from vaecore import VAE, VAEConfig, fgsm, pgd, reconstruct
from vaecore._purifiers import (
    BitDepth,
    Chain,
    GaussianBlur,
    LatentSearch,
    MedianFilter,
    Purified,
    Threshold,
    VAEPurifier,
)
from vaecore.attacks._attack import Victim

SIDES = (6, 5)
INDICES = torch.tensor([7, 3, 11, 0])


def tiny_vae(seed=0):
    model = VAE(VAEConfig(latent_size=3, hidden_size=12), SIDES)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    return model.eval().requires_grad_(requires_grad=False)


def tiny_classifier(seed=0):
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDES[0] * SIDES[1], 4))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model.eval().requires_grad_(requires_grad=False)


def some_images(count=4, seed=0):
    return torch.rand(count, 1, *SIDES, generator=torch.Generator().manual_seed(seed))


ALL = {
    "threshold": Threshold(),
    "bit depth": BitDepth(2),
    "median": MedianFilter(),
    "blur": GaussianBlur(0.7),
    "posterior mean": VAEPurifier(tiny_vae()),
    "draws": VAEPurifier(tiny_vae(), draws=5),
    "chain": Chain([GaussianBlur(0.7), VAEPurifier(tiny_vae(), draws=2)]),
    "latent search": LatentSearch(tiny_vae(), steps=5, starts=2),
}


# What each does


def test_threshold_and_bit_depth_against_numpy():
    images = some_images()
    images[0, 0, 0, :3] = torch.tensor([0.5, 0.4999, 0.0])
    pixels = images.numpy()
    np.testing.assert_array_equal(Threshold()(images).numpy(), (pixels >= 0.5).astype(np.float32))
    np.testing.assert_array_equal(Threshold(0.2)(images).numpy(), (pixels >= 0.2).astype(np.float32))
    for bits in (1, 3, 8):
        levels = 2**bits - 1
        np.testing.assert_allclose(BitDepth(bits)(images).numpy(), np.round(pixels * levels) / levels, atol=1e-6)


def test_filters_against_scipy():
    images = some_images()
    for found, expected in zip(MedianFilter(3)(images), images.numpy(), strict=True):
        np.testing.assert_array_equal(found[0].numpy(), ndimage.median_filter(expected[0], 3, mode="mirror"))
    for found, expected in zip(GaussianBlur(0.7)(images), images.numpy(), strict=True):
        blurred = ndimage.gaussian_filter(expected[0].astype(float), 0.7, mode="mirror", radius=2)
        np.testing.assert_allclose(found[0].numpy(), blurred, atol=1e-6)


def test_a_filter_of_one_pixel_changes_nothing():
    images = some_images()
    assert torch.equal(MedianFilter(1)(images), images)


def test_views_of_a_vae_are_those_of_reconstruct():
    vae, images = tiny_vae(), some_images()
    views = VAEPurifier(vae, draws=3).views(images, INDICES, 5)
    torch.testing.assert_close(views, reconstruct(vae, images, draws=3, seed=5, indices=INDICES))
    mean = vae.decode(vae.encode(images)[0])
    torch.testing.assert_close(VAEPurifier(vae)(images), mean)
    assert torch.equal(VAEPurifier(vae).views(images, INDICES, 5), VAEPurifier(vae).views(images, INDICES, 6))


def test_a_chain_does_one_after_the_other():
    vae, images = tiny_vae(), some_images()
    mean = VAEPurifier(vae)
    torch.testing.assert_close(Chain([mean, mean, mean])(images), mean(mean(mean(images))))
    torch.testing.assert_close(Chain([Threshold(), mean])(images), mean(Threshold()(images)))
    assert not Chain([mean, Threshold()]).differentiable
    assert Chain([mean, VAEPurifier(vae, draws=7)]).draws == 7
    twice = Chain([VAEPurifier(vae, draws=1)] * 2).views(images, INDICES, 0)
    assert not torch.allclose(twice, VAEPurifier(vae, draws=1).views(images, INDICES, 0), atol=1e-3)


def test_a_latent_search_finds_what_the_decoder_made():
    vae = tiny_vae()
    latents = torch.randn(6, 3, generator=torch.Generator().manual_seed(4))
    images = vae.decode(latents)
    found = LatentSearch(vae, steps=400, starts=4)(images)
    assert (found - images).abs().max() < 0.02
    # More starts are never worse, as they are more of the same.
    few, many = (
        (LatentSearch(vae, steps=20, starts=count)(some_images()) - some_images()).square().sum((1, 2, 3))
        for count in (1, 8)
    )
    assert bool((many <= few + 1e-5).all())
    assert bool((many < few - 1e-3).any())


@pytest.mark.parametrize("name", ALL)
def test_every_purifier_maps_images_to_images_whatever_their_batch(name):
    purifier, images = ALL[name], some_images()
    views = purifier.views(images, INDICES, 3)
    assert views.shape == (4, purifier.draws, 1, *SIDES)
    assert views.min() >= 0
    assert views.max() <= 1
    alone = [purifier.views(images[[row]], INDICES[[row]], 3) for row in range(4)]
    torch.testing.assert_close(views, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert purifier(images).shape == images.shape
    nn.Sequential(purifier, tiny_classifier())(images)
    with pytest.raises(ValueError, match="must lie in"):
        purifier(images * 255)


# Gradients


@pytest.mark.parametrize("name", [name for name, purifier in ALL.items() if purifier.differentiable])
def test_gradients_are_those_of_finite_differences(name):
    """In float64, along a random direction; the noise stays."""
    purifier = ALL[name].double()
    images = (some_images(seed=1) * 0.8 + 0.1).double().requires_grad_()
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(purifier.views(images, INDICES, 0).shape, generator=generator, dtype=torch.float64)
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)

    def value(step):
        return (purifier.views(images + step * direction, INDICES, 0) * weight).sum()

    (gradient,) = torch.autograd.grad(value(0.0), images)
    step = 1e-6
    with torch.no_grad():
        measured = (value(step) - value(-step)) / (2 * step)
    purifier.float()
    assert (gradient * direction).sum().item() == pytest.approx(measured.item(), rel=1e-4)


# The classifier behind it


def by_hand(views, classifier, decide):
    """Labels, by loops."""
    labels = []
    for of_image in views:
        if decide == "mean-image":
            labels.append(int(classifier(of_image.mean(dim=0, keepdim=True)).argmax()))
            continue
        softmax = classifier(of_image).softmax(dim=1)
        if decide == "mean-softmax":
            labels.append(int(softmax.mean(dim=0).argmax()))
            continue
        votes = np.bincount(softmax.argmax(dim=1).numpy(), minlength=4)
        tied = [label for label in range(4) if votes[label] == votes.max()]
        mean = softmax.mean(dim=0)
        labels.append(tied[int(mean[tied].argmax())])
    return labels


@pytest.mark.parametrize("decide", ["mean-image", "mean-softmax", "majority"])
def test_decisions_against_loops(decide):
    vae, classifier, images = tiny_vae(), tiny_classifier(), some_images(60)
    purifier = VAEPurifier(vae, draws=4)
    model = Purified(purifier, classifier, decide=decide, seed=9)
    indices = torch.arange(100, 160)
    logits = model(images, indices)
    views = purifier.views(images, indices, 9)
    assert logits.argmax(dim=1).tolist() == by_hand(views, classifier, decide)
    if decide == "mean-softmax":
        expected = classifier(views.flatten(0, 1)).softmax(dim=1).view(60, 4, -1).mean(dim=1)
        torch.testing.assert_close(logits.exp(), expected)
    assert torch.equal(model(images), model(images, torch.arange(60)))


def test_the_decisions_differ():
    views = [Purified(VAEPurifier(tiny_vae(), draws=4), tiny_classifier(), decide=how) for how in
             ("mean-image", "mean-softmax", "majority")]  # fmt: skip
    labels = [model(some_images(400)).argmax(dim=1) for model in views]
    assert not torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[1], labels[2])


def test_it_is_a_victim_whose_loss_is_the_decision_s():
    model = Purified(VAEPurifier(tiny_vae(), draws=4), tiny_classifier(), decide="majority")
    assert isinstance(model, Victim)
    images, labels = some_images(20), torch.arange(20) % 4
    objective = model.objective(labels, targeted=False, loss="cross-entropy", indices=torch.arange(20), seed=0)
    won, loss = objective(images, torch.arange(20), 0)
    _, again = objective(images, torch.arange(20), 0)
    _, other = objective(images, torch.arange(20), 1)
    assert torch.equal(loss, again)
    assert not torch.equal(loss, other)  # new draws at each step
    part = objective(images[5:9], torch.arange(5, 9), 0)
    torch.testing.assert_close(part[1], loss[5:9])
    assert won[5:9].tolist() == part[0].tolist()


def test_more_draws_of_the_views_make_the_loss_steadier():
    purifier, classifier = VAEPurifier(tiny_vae(), draws=1), tiny_classifier()
    images, labels = some_images(20), torch.arange(20) % 4

    def spread(eot):
        model = Purified(purifier, classifier, eot=eot)
        objective = model.objective(labels, targeted=False, loss="cross-entropy", indices=torch.arange(20), seed=0)
        return (
            torch.stack([objective(images, torch.arange(20), step)[1] for step in range(60)]).std(dim=0).mean().item()
        )

    assert spread(16) == pytest.approx(spread(1) / 4, rel=0.3)


def strength(purifier, *, backward=None, epsilon=0.2):
    """Share of images won by PGD through the purifier, and by PGD that knows only the classifier."""
    classifier, images = tiny_classifier(), some_images(200, seed=5)
    model = Purified(purifier, classifier, decide="mean-softmax", backward=backward)
    labels = model(images).argmax(dim=1)
    told = {"epsilon": epsilon, "steps": 20, "step_size": epsilon / 5, "seed": 0, "keep_failed": True}
    return [
        float((model(attack.images).argmax(dim=1) != labels).float().mean())
        for attack in (pgd(model, images, labels, **told), pgd(classifier, images, labels, **told))
    ]


@pytest.mark.parametrize("name", ["median", "blur", "posterior mean", "draws", "chain"])
def test_an_attack_through_the_purifier_is_stronger_than_one_that_ignores_it(name):
    through, ignoring = strength(ALL[name])
    assert through > ignoring


def test_another_purifier_may_be_differentiated_in_its_stead():
    vae, classifier, images = tiny_vae(), tiny_classifier(), some_images()
    labels = torch.zeros(len(images), dtype=torch.int64)
    stand_in = VAEPurifier(vae)

    def gradient(model):
        leaf = images.clone().requires_grad_()
        index = torch.arange(len(images))
        objective = model.objective(labels, targeted=False, loss="cross-entropy", indices=index, seed=0)
        loss = objective(leaf, index, 0)[1]
        return torch.autograd.grad(loss.sum(), leaf)[0], loss

    guarded = Purified(Threshold(), classifier, backward=stand_in)
    found, loss = gradient(guarded)
    # The chain rule by hand: the classifier's gradient at the thresholded images, through the VAE at the images.
    view = Threshold()(images).requires_grad_()
    at_view = torch.autograd.grad(torch.nn.functional.cross_entropy(classifier(view), labels, reduction="sum"), view)[0]
    leaf = images.clone().requires_grad_()
    expected = torch.autograd.grad(stand_in(leaf), leaf, at_view)[0]
    torch.testing.assert_close(found, expected)
    assert torch.equal(loss, gradient(Purified(Threshold(), classifier))[1])
    assert not torch.allclose(found, gradient(Purified(Threshold(), classifier))[0])


def test_where_the_gradient_says_nothing_the_identity_stands_for_it():
    images, labels = some_images(20), torch.arange(20) % 4
    model = Purified(Threshold(), tiny_classifier())
    assert model.backward == "identity"
    assert pgd(model, images, labels, epsilon=0.3, steps=5, step_size=0.1, seed=0).success.any()
    exact = Purified(Threshold(), tiny_classifier(), backward="exact")
    with pytest.raises(ValueError, match="differentiable with respect to the images"):
        pgd(exact, images, labels, epsilon=0.3, steps=5, step_size=0.1, seed=0)
    assert Purified(VAEPurifier(tiny_vae()), tiny_classifier()).backward == "exact"


def test_it_may_be_attacked_as_a_plain_classifier_too():
    model = nn.Sequential(VAEPurifier(tiny_vae()), tiny_classifier()).eval()
    images = some_images(20)
    assert fgsm(model, images, model(images).argmax(dim=1), epsilon=0.3).success.any()


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Threshold(0), "level must be above 0 and at most 1; got 0"),
        (lambda: BitDepth(9), "bits must be from 1 to 8; got 9"),
        (lambda: MedianFilter(2), "size must be odd and 1 or more; got 2"),
        (lambda: GaussianBlur(math.inf), "sigma must be above 0 and finite; got inf"),
        (lambda: VAEPurifier(tiny_vae(), draws=0), "draws must be 1 or more, or None .*; got 0"),
        (lambda: Chain([]), "purifiers must be one or more; got none"),
        (lambda: LatentSearch(tiny_vae(), starts=0), "steps and starts must be 1 or more; got 100 and 0"),
        (lambda: Purified(Threshold(), tiny_classifier(), decide="vote"), "decide must be .*; got 'vote'"),
        (
            lambda: Purified(Threshold(), tiny_classifier(), backward="no"),
            "backward must be .*, a purifier or None; got 'no'",
        ),
        (lambda: Purified(Threshold(), tiny_classifier(), eot=0), "eot must be 1 or more; got 0"),
        (lambda: Purified(Threshold(), tiny_classifier().train()), "must be in evaluation mode"),
    ],
)
def test_unfit_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
