"""The attacks against closed forms, against scipy image by image, and against classifiers chosen to break them."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from bench.reference import scipy_lbfgs
from vaecore._attacks import fgsm
from vaecore._lbfgs import lbfgs


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


@pytest.fixture(scope="module")
def digits():
    """A convolutional classifier of real digits, 16x16, trained for seconds; test images, labels and random targets."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = interpolate(images, scale_factor=2, mode="bilinear").clamp(0, 1)
    labels = torch.tensor(labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 32),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(32, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(15):
            for rows in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                cross_entropy(model(images[rows]), labels[rows]).backward()
                optimizer.step()
    model.eval().requires_grad_(requires_grad=False)
    images, labels = images[1400:1480], labels[1400:1480]
    assert (model(images).argmax(1) == labels).float().mean() > 0.85
    offset = torch.randint(1, 10, labels.shape, generator=torch.Generator().manual_seed(0))
    return model, images, labels, (labels + offset) % 10


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


# L-BFGS against what is known exactly


def test_lbfgs_finds_the_nearest_point_of_a_hyperplane():
    """Inside the box the change is margin * w / ||w||^2, and c, with the target at p = 1/2, 4 * margin / ||w||^2."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 1, 6, 6, generator=generator)
    square = weight.square().sum()
    margins = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])
    grey = torch.full((1, 1, 6, 6), 0.5)
    images = grey - (margins.view(-1, 1, 1, 1) - 2) * weight / square
    attack = lbfgs(two_classes(weight, 2.0, at=grey), images, torch.ones(5, dtype=torch.int64), constants=12)
    assert attack.success.all()
    torch.testing.assert_close(attack.l2, margins / square.sqrt(), rtol=0.005, atol=0)
    torch.testing.assert_close(attack.constant, 4 * margins / square, rtol=0.01, atol=0)
    torch.testing.assert_close(attack.images, (grey + 2 * weight / square).expand_as(images), rtol=0, atol=0.01)


def test_lbfgs_holds_pixels_at_the_bounds_and_uses_the_free_ones():
    """Half of the pixels sit at 0 and would have to fall: the nearest success moves the other half alone."""
    weight = torch.linspace(0.5, 1.5, 16).view(1, 1, 4, 4)
    images = torch.full((1, 1, 4, 4), 0.4)
    images[..., 2:] = 0
    weight[..., 2:] *= -1
    attack = lbfgs(two_classes(weight, 1.0, at=images), images, torch.tensor([1]))
    free = weight[..., :2]
    torch.testing.assert_close(attack.l2[0], 1 / free.norm(), rtol=0.01, atol=0)
    assert bool((attack.images[..., 2:] == 0).all())


def test_lbfgs_reaches_a_bound_on_the_way():
    """One strong pixel saturates at 1 after 0.1; the weak one has to do the rest: 0.4 = (1.1 - 3 * 0.1) / 2."""
    images = torch.tensor([0.9, 0.2]).view(1, 1, 1, 2)
    weight = torch.tensor([3.0, 2.0]).view(1, 1, 1, 2)
    attack = lbfgs(two_classes(weight, 1.1, at=images), images, torch.tensor([1]))
    torch.testing.assert_close(attack.images.flatten(), torch.tensor([1.0, 0.6]), rtol=0, atol=0.01)


@pytest.mark.parametrize("first_constant", [1e-3, 1.0, 1e3])
def test_lbfgs_finds_the_smallest_constant_from_afar(first_constant):
    images = torch.full((1, 1, 4, 4), 0.5)
    weight = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    classifier = two_classes(weight, 0.8, at=images)
    attack = lbfgs(classifier, images, torch.tensor([1]), first_constant=first_constant, constants=14)
    torch.testing.assert_close(attack.l2[0], 0.8 / weight.norm(), rtol=0.02, atol=0)


def test_lbfgs_returns_the_nearest_of_all_successes_it_saw(digits):
    model, images, _, targets = digits
    for image, target in zip(images[:16].split(1), targets[:16].split(1), strict=True):
        seen = []

        def classifier(batch, seen=seen, image=image, target=target):
            logits = model(batch)
            if logits.argmax(1) == target:
                seen.append((batch.detach() - image).norm())
            return logits

        attack = lbfgs(classifier, image, target)
        torch.testing.assert_close(attack.l2[0], torch.stack(seen).min())


@pytest.mark.parametrize("confidence", [0.4, 0.7, 0.9])
def test_confidence_moves_the_boundary_by_its_log_odds(confidence):
    """In a linear model of two classes the target has probability p where its lead is log(p / (1 - p))."""
    images = torch.full((1, 1, 4, 4), 0.5)
    weight = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    classifier = two_classes(weight, 0.5, at=images)
    attack = lbfgs(classifier, images, torch.tensor([1]), confidence=confidence, constants=14, evaluations=30)
    odds = torch.tensor(confidence).logit()
    torch.testing.assert_close(attack.l2[0], (0.5 + odds) / weight.norm(), rtol=0.02, atol=0)
    assert classifier(attack.images).double().softmax(dim=1)[0, 1] >= confidence


def test_a_confident_success_is_one_when_it_is_looked_at_again(digits):
    model, images, _, targets = digits
    plain, sure = lbfgs(model, images, targets), lbfgs(one_by_one(model), images[:30], targets[:30], confidence=0.95)
    chance = one_by_one(model)(sure.images).double().softmax(dim=1).gather(1, targets[:30, None]).squeeze(1)
    assert sure.success.float().mean() > 0.9
    assert bool((chance[sure.success] >= 0.95 - 1e-6).all())
    assert bool((sure.l2 > plain.l2[:30])[sure.success].all())
    assert chance[sure.success].median() < 0.97


def test_an_image_confident_of_its_target_already_has_zero_norm(digits):
    model, images, _, _ = digits
    chance, predicted = model(images).double().softmax(dim=1).max(dim=1)
    attack = lbfgs(model, images, predicted, confidence=float(chance.median()))
    assert torch.equal(attack.l2 == 0, chance >= chance.median())


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.1, 98, torch.nan])
def test_lbfgs_names_a_bad_confidence(confidence):
    with pytest.raises(ValueError, match=rf"confidence must be above 0 and below 1; got {confidence}"):
        lbfgs(network(0), IMAGES, LABELS, confidence=confidence)


# L-BFGS against scipy


def test_lbfgs_comes_as_near_as_scipy_image_by_image(digits):
    model, images, _, targets = digits
    images, targets = images[:20], targets[:20]
    attack = lbfgs(model, images, targets)
    # 20 iterations come within 0.2% of what 50 reach here, at half the time.
    reference = scipy_lbfgs(model, images, targets, iterations=20)
    assert reference.success.all()
    assert attack.success.all()
    assert attack.l2.quantile(0.5) <= 1.02 * reference.l2.quantile(0.5)
    assert attack.l2.mean() <= 1.02 * reference.l2.mean()
    # Minima differ between paths, but no image may pay for the median.
    assert bool((attack.l2 <= 1.25 * reference.l2).all())


def test_the_scipy_reference_finds_the_nearest_point_of_a_hyperplane():
    images = torch.full((1, 1, 4, 4), 0.5)
    weight = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    reference = scipy_lbfgs(two_classes(weight, 0.8, at=images), images, torch.tensor([1]))
    torch.testing.assert_close(reference.l2[0], 0.8 / weight.norm(), rtol=0.01, atol=0)


# L-BFGS, each image by itself


def test_lbfgs_of_each_image_does_not_depend_on_its_batch_mates(digits):
    """Exactly, when the classifier is asked about each image alone; one row has its target already."""
    model, images, _, targets = digits
    images, targets = images[:12], targets[:12].clone()
    targets[3] = model(images[3:4]).argmax(1)
    together = lbfgs(one_by_one(model), images, targets)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    apart = lbfgs(one_by_one(model), images[order], targets[order], chunk=5)
    for one, other in [
        (together.images, apart.images),
        (together.l2, apart.l2),
        (together.constant, apart.constant),
        (together.evaluations, apart.evaluations),
    ]:
        torch.testing.assert_close(one[order], other, rtol=1e-5, atol=1e-6)


def test_lbfgs_of_a_batch_is_near_that_of_its_parts(digits):
    """In an ordinary classifier only rounding differs, which may turn a decision of the search but not its outcome."""
    model, images, _, targets = digits
    together, apart = lbfgs(model, images, targets), lbfgs(model, images, targets, chunk=13)
    torch.testing.assert_close(together.l2, apart.l2, rtol=0.02, atol=0)


def test_lbfgs_has_zero_norm_where_the_target_is_predicted_already(digits):
    model, images, _, _ = digits
    attack = lbfgs(model, images[:4], model(images[:4]).argmax(1))
    assert attack.success.all()
    assert torch.equal(attack.images, images[:4])
    assert attack.l2.tolist() == attack.linf.tolist() == attack.constant.tolist() == [0] * 4
    assert attack.evaluations.tolist() == [1] * 4


def test_lbfgs_failure_is_the_clean_image_and_nan():
    """Class 2 never wins; row 0, which asks for it, fails without harm to row 1, which asks for class 1."""
    images = torch.full((2, 1, 4, 4), 0.5)
    winnable = two_classes(torch.linspace(-1, 1, 16).view(1, 1, 4, 4), 0.8, at=images[:1])

    def classifier(batch):
        logits = winnable(batch)
        return torch.cat([logits, logits.amin(dim=1, keepdim=True) - 1], dim=1)

    attack = lbfgs(classifier, images, torch.tensor([2, 1]))
    assert attack.success.tolist() == [False, True]
    assert torch.equal(attack.images[0], images[0])
    for figures in (attack.l2, attack.linf, attack.constant):
        assert figures.isnan().tolist() == [True, False]
    assert attack.evaluations[0] > 1


def test_lbfgs_fails_quietly_where_the_gradient_is_zero():
    images = torch.full((2, 1, 3, 3), 0.5)
    attack = lbfgs(
        lambda batch: batch.flatten(1).sum(dim=1, keepdim=True) * 0 + torch.tensor([[1.0, 0.0]]),
        images,
        torch.tensor([1, 0]),
    )
    assert attack.success.tolist() == [False, True]


# Here an image that needs no attack kept moving, by so little that the reciprocal of its curvature overflowed.
@example(seed=0, sharpness=100.0, share=1.0)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), sharpness=st.sampled_from([0.1, 1.0, 10.0, 100.0]), share=st.floats(0, 1))
def test_whatever_the_classifier_images_stay_in_the_box_and_figures_are_true(seed, sharpness, share):
    """Random images with a random share of pixels at the bounds, random networks from flat to saturated."""
    generator = torch.Generator().manual_seed(seed)
    model = network(seed)

    def classifier(batch):
        return sharpness * model(batch)

    images = torch.rand(6, 1, 8, 8, generator=generator)
    images = torch.where(torch.rand(images.shape, generator=generator) < share, images.round(), images)
    targets = torch.randint(10, (6,), generator=generator)
    for attack in (lbfgs(classifier, images, targets), fgsm(classifier, images, targets, epsilon=0.3)):
        assert attack.images.min() >= 0
        assert attack.images.max() <= 1
        change = (attack.images - images).flatten(1)
        l2, linf = change.norm(dim=1), change.abs().amax(dim=1)
        known = ~attack.l2.isnan()
        torch.testing.assert_close(attack.l2[known], l2[known])
        torch.testing.assert_close(attack.linf[known], linf[known])
    attack = lbfgs(classifier, images, targets)
    assert torch.equal(attack.success, ~attack.l2.isnan())
    assert torch.equal(attack.images[~attack.success], images[~attack.success])
    logits = classifier(attack.images)
    ahead = logits.amax(dim=1) - logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    # The nearest success lies at the class boundary, where another batch size may round a tie the other way.
    assert bool((ahead[attack.success] <= 1e-4 * sharpness).all())


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


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("constants", 0),
        ("first_evaluations", 0),
        ("evaluations", 0),
        ("history", 0),
        ("chunk", 0),
        ("first_constant", 0.0),
        ("first_constant", torch.nan),
        ("tolerance", -0.1),
        ("tolerance", torch.nan),
    ],
)
def test_lbfgs_names_a_bad_setting(setting, value):
    with pytest.raises(ValueError, match=rf"{setting} must be .*; got {value}"):
        lbfgs(network(0), IMAGES, LABELS, **{setting: value})


@pytest.mark.parametrize("epsilon", [-0.1, 25.5, torch.nan])
def test_fgsm_names_a_bad_epsilon(epsilon):
    with pytest.raises(ValueError, match=rf"epsilon must be from 0 to 1, as pixels are from 0 to 1; got {epsilon}"):
        fgsm(network(0), IMAGES, LABELS, epsilon=epsilon)


def test_fgsm_names_a_bad_chunk_and_bad_targets():
    with pytest.raises(ValueError, match="chunk must be 1 or more"):
        fgsm(network(0), IMAGES, LABELS, epsilon=0.1, chunk=0)
    with pytest.raises(ValueError, match="targets must be 0 to 9; got 1 to 11"):
        fgsm(network(0), IMAGES, LABELS, epsilon=0.1, targets=LABELS * 10 + 1)
