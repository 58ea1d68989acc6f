"""FGSM against closed forms, what attacks share, and classifiers chosen to break them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vaecore.attacks._fgsm import fgsm
from vaecore.attacks._lbfgs import lbfgs


def two_classes(weight, margin, *, at):
    """Logits (margin, 0) at the image `at`, whose difference falls by `weight` per pixel: class 1 is ahead beyond."""

    def classifier(images):
        ahead = margin - ((images - at) * weight).flatten(1).sum(dim=1)
        return torch.stack([ahead, torch.zeros_like(ahead)], dim=1)

    return classifier


def network(seed, *, pixels=64, classes=10):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 32), nn.ReLU(), nn.Linear(32, classes))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
    return model.eval()


def one_by_one(model):
    """The same classifier asked about each image alone, so that rounding cannot depend on the batch."""
    return lambda images: torch.cat([model(image) for image in images.split(1)])


# FGSM


def test_fgsm_of_a_linear_classifier_is_one_signed_and_clipped_step():
    images = torch.tensor([0.5, 0.05, 0.95, 0.5]).view(1, 1, 2, 2)
    weight = torch.tensor([2.0, -3.0, 1.0, 0.0]).view(1, 1, 2, 2)
    attack = fgsm(two_classes(weight, 0.1, at=images), images, torch.tensor([0]), epsilon=0.25)
    # Towards class 1 along the weight's sign; the second and third pixel stop at the bounds after 0.05.
    torch.testing.assert_close(attack.images.flatten(), torch.tensor([0.75, 0.0, 1.0, 0.5]))
    torch.testing.assert_close(attack.l2, torch.tensor([(0.25**2 + 2 * 0.05**2) ** 0.5]))
    torch.testing.assert_close(attack.linf, torch.tensor([0.25]))
    assert attack.success.tolist() == [True]
    assert attack.evaluations.tolist() == [1]
    assert attack.constant is None


def test_fgsm_towards_a_target_goes_where_the_other_class_goes_untargeted():
    images = torch.full((3, 1, 2, 2), 0.5)
    classifier = two_classes(torch.tensor([[1.0, -1.0], [2.0, 3.0]]), 0.1, at=images[:1])
    zeros, ones = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    away = fgsm(classifier, images, zeros, epsilon=0.2)
    towards = fgsm(classifier, images, zeros, epsilon=0.2, targets=ones)
    torch.testing.assert_close(towards.images, away.images)
    assert towards.success.all()


def test_fgsm_says_truly_which_images_it_fooled_and_keeps_the_others(digits):
    model, images, labels, _ = digits
    attack = fgsm(model, images, labels, epsilon=0.1, keep_failed=True)
    assert torch.equal(attack.success, model(attack.images).argmax(1) != labels)
    assert 0 < attack.success.sum() < len(labels)
    assert bool((attack.linf > 0.09).all())


def test_fgsm_withdraws_what_failed_unless_told_to_keep_it(digits):
    model, images, labels, _ = digits
    kept = fgsm(model, images, labels, epsilon=0.1, keep_failed=True)
    found = fgsm(model, images, labels, epsilon=0.1)
    failed = ~found.success
    assert torch.equal(found.images[failed], images[failed])
    assert found.l2[failed].isnan().all()
    assert found.linf[failed].isnan().all()
    assert torch.equal(found.images[~failed], kept.images[~failed])
    assert found.warnings() == [f"{int(failed.sum())} of 80 images: the attack did not reach its aim"]


def test_fgsm_works_in_inference_mode(digits):
    model, images, labels, _ = digits
    expected = fgsm(model, images, labels, epsilon=0.1)
    with torch.inference_mode():
        assert torch.equal(fgsm(model, images * 1, labels * 1, epsilon=0.1).images, expected.images)


def test_fgsm_of_each_image_does_not_depend_on_the_batch(digits):
    model, images, labels, _ = digits
    together = fgsm(one_by_one(model), images, labels, epsilon=0.1)
    apart = fgsm(one_by_one(model), images, labels, epsilon=0.1, chunk=7)
    assert torch.equal(together.images, apart.images)
    assert torch.equal(together.success, apart.success)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), sharpness=st.sampled_from([0.1, 1.0, 10.0, 100.0]), share=st.floats(0, 1))
def test_whatever_the_classifier_fgsm_stays_in_the_box_and_its_figures_are_true(seed, sharpness, share):
    """Random images with a random share of pixels at the bounds, random networks from flat to saturated."""
    generator = torch.Generator().manual_seed(seed)
    model = network(seed)
    images = torch.rand(6, 1, 8, 8, generator=generator)
    images = torch.where(torch.rand(images.shape, generator=generator) < share, images.round(), images)
    targets = torch.randint(10, (6,), generator=generator)
    attack = fgsm(lambda batch: sharpness * model(batch), images, targets, epsilon=0.3)
    assert attack.images.min() >= 0
    assert attack.images.max() <= 1
    change = (attack.images - images).flatten(1)
    known = ~attack.l2.isnan()
    torch.testing.assert_close(attack.l2[known], change.norm(dim=1)[known])
    torch.testing.assert_close(attack.linf[known], change.abs().amax(dim=1)[known])


# What callers pass in


def test_attacks_leave_the_classifier_and_the_images_as_they_were():
    model = network(0)
    kept = torch.ones_like(model[1].weight)
    model[1].weight.grad = kept.clone()
    images, targets = torch.full((2, 1, 8, 8), 0.5), torch.tensor([1, 2])
    fgsm(model, images, targets, epsilon=0.1)
    with torch.no_grad():
        lbfgs(model, images, targets)
    assert torch.equal(model[1].weight.grad, kept)
    assert model[3].weight.grad is None
    assert not images.requires_grad
    assert bool((images == 0.5).all())


IMAGES = torch.full((2, 1, 8, 8), 0.5)
LABELS = torch.tensor([0, 1])
ATTACKS = {
    "fgsm": lambda classifier, images, labels: fgsm(classifier, images, labels, epsilon=0.1),
    "lbfgs": lbfgs,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize(
    ("classifier", "images", "labels", "message"),
    [
        (network(0), IMAGES * 3, LABELS, r"images must lie in \[0, 1\]; got \[1.5, 1.5\]"),
        (network(0), IMAGES * torch.nan, LABELS, "images must be finite"),
        (network(0), IMAGES[:0], LABELS[:0], "images is empty"),
        (network(0), IMAGES, LABELS[:1], r"must be int64 of shape \(2,\)"),
        (network(0), IMAGES, LABELS + 9, "must be 0 to 9; got 9 to 10"),
        (network(0), IMAGES, LABELS - 1, "must be 0 and up; got -1 to 0"),
        (network(0).train(), IMAGES, LABELS, r"evaluation mode; got Sequential in training mode \(call"),
        (nn.Sequential(nn.Dropout(), network(0)).eval().append(nn.Dropout()), IMAGES, LABELS, "got Dropout in train"),
        (lambda batch: batch, IMAGES, LABELS, r"must map 2 images to logits \(2, classes\); got \(2, 1, 8, 8\)"),
        (lambda batch: batch.flatten(1).log() - torch.inf, IMAGES, LABELS, "logits must be finite"),
        (lambda batch: (batch - 0.5).abs().sqrt().flatten(1), IMAGES, LABELS, "gradient of the (loss|cross-entropy)"),
        (lambda batch: batch.detach().flatten(1), IMAGES, LABELS, "must be differentiable"),
        (lambda batch: network(0)(batch.detach()), IMAGES, LABELS, "must be differentiable"),
    ],
)
def test_bad_input_is_named(attack, classifier, images, labels, message):
    with pytest.raises(ValueError, match=message):
        attack(classifier, images, labels)


@pytest.mark.parametrize("epsilon", [-0.1, 25.5, torch.nan])
def test_fgsm_names_a_bad_epsilon(epsilon):
    with pytest.raises(ValueError, match=rf"epsilon must be from 0 to 1, as pixels are from 0 to 1; got {epsilon}"):
        fgsm(network(0), IMAGES, LABELS, epsilon=epsilon)


def test_fgsm_names_a_bad_chunk_and_bad_targets():
    with pytest.raises(ValueError, match="chunk must be 1 or more"):
        fgsm(network(0), IMAGES, LABELS, epsilon=0.1, chunk=0)
    with pytest.raises(ValueError, match="targets must be 0 to 9; got 1 to 11"):
        fgsm(network(0), IMAGES, LABELS, epsilon=0.1, targets=LABELS * 10 + 1)
