"""The L-BFGS attack against closed forms, against scipy image by image, and in what it costs."""

from math import log

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.reference import scipy_lbfgs
from vaecore.attacks import _lbfgs
from vaecore.attacks._attack import Sanity
from vaecore.attacks._lbfgs import lbfgs

ONE = torch.tensor([1])
IMAGES = torch.full((2, 1, 8, 8), 0.5)
LABELS = torch.tensor([0, 1])
LADDER = torch.arange(10.0)  # logits of which only class 9 wins


def two_classes(weight, margin, *, at, sharpness=1.0):
    """Logits (margin, 0) at the image `at`, whose difference falls by `weight` per pixel: class 1 is ahead beyond."""

    def classifier(images):
        ahead = sharpness * (margin - ((images - at) * weight).flatten(1).sum(dim=1))
        return torch.stack([ahead, torch.zeros_like(ahead)], dim=1)

    return classifier


def network(seed, *, depth=1):
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(64, 32), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(32, 32), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(32, 10))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
    return model.eval()


def random_images(count, seed, *, share):
    """Random images, of whose pixels a share are at the bounds, and random targets."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    images = torch.where(torch.rand(images.shape, generator=generator) < share, images.round(), images)
    return images, torch.randint(10, (count,), generator=generator)


def one_by_one(model):
    """The same classifier asked about each image alone, so that rounding cannot depend on the batch."""
    return lambda images: torch.cat([model(image) for image in images.split(1)])


class Recorded:
    """The same classifier, which keeps how many images it was asked about each time, since `victim_flags` was done."""

    def __init__(self, model):
        self.model, self.calls = model, []

    def __call__(self, images):
        self.calls.append(len(images))
        return self.model(images)

    @property
    def asked(self):
        return self.calls[2:]


def probability(model, images, targets):
    """The target's, in float64."""
    return model(images).double().softmax(dim=1).gather(1, targets.unsqueeze(1)).squeeze(1)


# What is known exactly


def test_the_nearest_point_of_a_hyperplane_is_found():
    """Inside the box the change is margin * w / ||w||^2, and c, with the target at p = 1/2, 4 * margin / ||w||^2."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 1, 6, 6, generator=generator)
    square = weight.square().sum()
    margins = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])
    grey = torch.full((1, 1, 6, 6), 0.5)
    images = grey - (margins.view(-1, 1, 1, 1) - 2) * weight / square
    attack = lbfgs(two_classes(weight, 2.0, at=grey), images, torch.ones(5, dtype=torch.int64))
    assert attack.success.all()
    torch.testing.assert_close(attack.l2, margins / square.sqrt(), rtol=1e-3, atol=0)
    torch.testing.assert_close(attack.constant, 4 * margins / square, rtol=1e-3, atol=0)
    torch.testing.assert_close(attack.images, (grey + 2 * weight / square).expand_as(images), rtol=0, atol=1e-3)


@pytest.mark.parametrize("sharpness", [1e-3, 1.0, 1e3, 1e15])
def test_the_scale_of_the_logits_changes_c_alone(sharpness):
    images = torch.full((1, 1, 4, 4), 0.5)
    weight = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    attack = lbfgs(two_classes(weight, 0.8, at=images, sharpness=sharpness), images, ONE)
    torch.testing.assert_close(attack.l2[0], 0.8 / weight.norm(), rtol=2e-3, atol=0)
    torch.testing.assert_close(sharpness * attack.constant[0], 4 * 0.8 / weight.square().sum(), rtol=2e-3, atol=0)


def test_c_allows_for_rivals():
    """Level with nine rivals, the target has p = 1/10, and c * (1 - p) * ||w|| = 2 * distance."""
    images = torch.full((1, 1, 4, 4), 0.5)
    weight = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)

    def classifier(batch):
        return two_classes(-weight, -0.8, at=images)(batch)[:, [0] + [1] * 9]

    attack = lbfgs(classifier, images, torch.tensor([0]))
    torch.testing.assert_close(attack.l2[0], 0.8 / weight.norm(), rtol=2e-3, atol=0)
    torch.testing.assert_close(attack.constant[0], 2 / 0.9 * 0.8 / weight.square().sum(), rtol=1e-2, atol=0)


def test_pixels_at_the_bounds_are_held_and_the_free_ones_used():
    """Half of the pixels sit at 0 and would have to fall: the nearest success moves the other half alone."""
    weight = torch.linspace(0.5, 1.5, 16).view(1, 1, 4, 4)
    images = torch.full((1, 1, 4, 4), 0.4)
    images[..., 2:] = 0
    weight[..., 2:] *= -1
    attack = lbfgs(two_classes(weight, 1.0, at=images), images, ONE)
    free = weight[..., :2]
    torch.testing.assert_close(attack.l2[0], 1 / free.norm(), rtol=2e-3, atol=0)
    assert bool((attack.images[..., 2:] == 0).all())


def test_a_bound_is_reached_on_the_way():
    """One strong pixel saturates at 1 after 0.1; the weak one has to do the rest: 0.4 = (1.1 - 3 * 0.1) / 2."""
    images = torch.tensor([0.9, 0.2]).view(1, 1, 1, 2)
    weight = torch.tensor([3.0, 2.0]).view(1, 1, 1, 2)
    attack = lbfgs(two_classes(weight, 1.1, at=images), images, ONE)
    torch.testing.assert_close(attack.images.flatten(), torch.tensor([1.0, 0.6]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("confidence", [0.4, 0.5, 0.9, 0.98, 0.9999])
def test_confidence_moves_the_boundary_by_its_log_odds(confidence):
    images = torch.full((1, 1, 6, 6), 0.5)
    weight = torch.linspace(-4, 4, 36).view(1, 1, 6, 6)  # steep, or high confidence is only beyond the bounds
    classifier = two_classes(weight, 1.0, at=images)
    attack = lbfgs(classifier, images, ONE, confidence=confidence)
    distance = (1 + log(confidence / (1 - confidence))) / weight.norm()
    torch.testing.assert_close(attack.l2[0], distance, rtol=2e-3, atol=0)
    torch.testing.assert_close(attack.constant[0], 4 * distance / weight.norm(), rtol=2e-3, atol=0)
    assert 0 <= probability(classifier, attack.images, ONE) - confidence < 1e-3


def test_an_image_with_that_confidence_already_is_left_alone():
    images = torch.full((1, 1, 6, 6), 0.5)
    classifier = two_classes(torch.ones(1, 1, 6, 6), -2.0, at=images)  # p = 0.881
    for confidence, moved in [(None, False), (0.3, False), (0.88, False), (0.89, True)]:
        attack = lbfgs(classifier, images, ONE, confidence=confidence)
        assert attack.success.all()
        assert bool(attack.l2 > 0) == bool(attack.constant > 0) == bool(attack.evaluations > 1) == moved


def test_curvature_is_that_of_the_bfgs_formula_over_the_last_pairs():
    """Dense, from the Gauss-Newton matrix on, damped throughout; a pair without positive curvature is skipped."""
    generator = torch.Generator().manual_seed(0)
    hessian = torch.randn(6, 6, generator=generator)
    hessian = hessian @ hessian.T + torch.eye(6)
    moves = torch.randn(8, 1, 6, generator=generator)
    changes = moves @ hessian
    changes[5] *= -1
    curvature = _lbfgs._Curvature(moves[0])
    axis, extra, stiffness = torch.randn(1, 6, generator=generator), torch.tensor([1.5]), torch.tensor([0.7])
    inverse = torch.linalg.inv(3.5 * torch.eye(6) + 0.7 * axis.T @ axis)
    gradient = torch.randn(1, 6, generator=generator)
    torch.testing.assert_close(curvature.solve(gradient, extra, axis, stiffness), gradient @ inverse)
    for move, change in zip(moves, changes, strict=True):
        curvature.add(move, change)
    for move, change in [(moves[i], changes[i] + 1.5 * moves[i]) for i in (3, 4, 6, 7)]:
        weight = 1 / (move @ change.T)
        left = torch.eye(6) - weight * move.T @ change
        inverse = left @ inverse @ left.T + weight * move.T @ move
    torch.testing.assert_close(curvature.solve(gradient, extra, axis, stiffness), gradient @ inverse, rtol=1e-4, atol=0)


# How near


def test_the_nearest_of_all_successes_seen_is_returned(digits, monkeypatch):
    monkeypatch.setattr(_lbfgs, "_ROUNDS", 1)  # or the classifier is asked about images that are finished
    model, images, _, targets = digits
    for image, target in zip(images[:16].split(1), targets[:16].split(1), strict=True):
        seen = []

        def classifier(batch, seen=seen, image=image, target=target):
            logits = model(batch)
            if logits.argmax(1) == target:
                seen.append((batch.detach() - image).norm())
            return logits

        attack = lbfgs(classifier, image, target)
        # One that leads by no more than rounding does not count.
        torch.testing.assert_close(attack.l2[0], torch.stack(seen).min(), rtol=1e-4, atol=0)


def test_images_come_as_near_as_scipy_s_one_by_one(digits):
    model, images, _, targets = digits
    images, targets = images[:20], targets[:20]
    attack = lbfgs(model, images, targets)
    # 20 iterations come within 0.2% of what 50 reach here, at half the time.
    reference = scipy_lbfgs(model, images, targets, iterations=20)
    assert reference.success.all()
    assert attack.success.all()
    ratio = attack.l2 / reference.l2
    assert ratio.median() <= 1.01
    assert ratio.mean() <= 1.01
    # Minima differ between paths, but no image may pay for the median.
    assert ratio.max() <= 1.1


def test_the_scipy_reference_finds_the_nearest_point_of_a_hyperplane():
    images = torch.full((1, 1, 4, 4), 0.5)
    weight = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    reference = scipy_lbfgs(two_classes(weight, 0.8, at=images), images, ONE)
    torch.testing.assert_close(reference.l2[0], 0.8 / weight.norm(), rtol=0.01, atol=0)


def test_success_is_as_frequent_as_scipy_s_where_it_is_rare():
    """Deep networks at random have classes that hardly any image has."""
    ours = theirs = 0
    for seed in range(4):
        model = network(seed, depth=3)
        images, targets = random_images(10, seed, share=0.3)
        ours += int(lbfgs(model, images, targets).success.sum())
        theirs += int(scipy_lbfgs(model, images, targets, iterations=20).success.sum())
    assert 10 < theirs < 30
    assert ours >= theirs


def test_a_success_is_only_just_one(digits):
    """It still is when the classifier is asked about it alone, and no more a little nearer to the clean image."""
    model, images, _, targets = digits
    attack = lbfgs(model, images, targets)
    assert attack.success.all()
    assert torch.equal(one_by_one(model)(attack.images).argmax(dim=1), targets)
    nearer = images + 0.995 * (attack.images - images)
    assert (model(nearer).argmax(dim=1) == targets).float().mean() < 0.1


def test_a_success_has_the_confidence_asked_for(digits):
    model, images, _, targets = digits
    attack = lbfgs(model, images, targets, confidence=0.98)
    assert attack.success.float().mean() > 0.95
    found = probability(model, attack.images, targets)[attack.success]
    assert bool((found >= 0.98 - 1e-6).all())
    assert found.median() < 0.9801
    assert bool((attack.l2 > lbfgs(model, images, targets).l2)[attack.success].all())


def test_thorough_is_nowhere_farther_and_mostly_nearer(digits):
    model, images, _, targets = digits
    images, targets = images[:40], targets[:40]
    plain, thorough = lbfgs(model, images, targets), lbfgs(model, images, targets, thorough=True)
    assert bool((thorough.l2 <= plain.l2).all())
    ratio = thorough.l2 / plain.l2
    assert (ratio < 1).double().mean() > 0.5
    assert ratio.nanmean() < 0.995
    assert torch.equal(model(thorough.images).argmax(dim=1), targets)
    torch.testing.assert_close(thorough.l2, (thorough.images - images).flatten(1).norm(dim=1))


# Each image by itself


@pytest.mark.parametrize("thorough", [False, True])
def test_an_image_does_not_depend_on_its_batch_mates(digits, thorough):
    """Exactly, when the classifier is asked about each image alone; one row has its target already."""
    model, images, _, targets = digits
    count = 6 if thorough else 12
    images, targets = images[:count], targets[:count].clone()
    targets[3] = model(images[3:4]).argmax(1)
    together = lbfgs(one_by_one(model), images, targets, thorough=thorough)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    apart = lbfgs(one_by_one(model), images[order], targets[order], chunk=5, thorough=thorough)
    for one, other in [
        (together.images, apart.images),
        (together.l2, apart.l2),
        (together.constant, apart.constant),
        (together.evaluations, apart.evaluations),
    ]:
        torch.testing.assert_close(one[order], other, rtol=1e-5, atol=1e-6)


def test_a_batch_is_near_its_parts(digits):
    """In an ordinary classifier only rounding differs, which may turn a decision of the search but not its outcome."""
    model, images, _, targets = digits
    together, apart = lbfgs(model, images, targets), lbfgs(model, images, targets, chunk=13)
    difference = (together.l2 - apart.l2).abs()
    assert bool((difference <= 0.1 * apart.l2).all())
    assert (difference <= 1e-4 * apart.l2).float().mean() > 0.75


def test_the_norm_is_zero_where_the_target_is_predicted_already(digits):
    model, images, _, _ = digits
    attack = lbfgs(model, images[:4], model(images[:4]).argmax(1), thorough=True)
    assert attack.success.all()
    assert torch.equal(attack.images, images[:4])
    assert attack.l2.tolist() == attack.linf.tolist() == attack.constant.tolist() == [0] * 4
    assert attack.evaluations.tolist() == [1] * 4


def test_a_failure_is_the_clean_image_and_nan():
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
    assert attack.warnings() == ["1 of 2 images: the attack did not reach its aim"]


def test_a_gradient_of_zero_is_no_error_but_a_failure_and_a_flag():
    images = torch.full((2, 1, 3, 3), 0.5)
    attack = lbfgs(
        lambda batch: batch.flatten(1).sum(dim=1, keepdim=True) * 0 + torch.tensor([[2.0, 0.0]]),
        images,
        torch.tensor([1, 0]),
    )
    assert attack.success.tolist() == [False, True]
    assert attack.flags.tolist() == [int(Sanity.ZERO_GRADIENT), 0]


def test_noise_leads_off_a_plateau():
    """Around the image the logits do not change; farther away class 1 rises."""
    image = torch.full((1, 1, 8, 8), 0.5)

    def classifier(batch):
        ahead = 2 - 4 * ((batch - image).flatten(1).norm(dim=1) - 1).relu()
        return torch.stack([ahead, torch.zeros_like(ahead)], dim=1)

    attack = lbfgs(classifier, image, ONE)
    assert attack.success.all()
    torch.testing.assert_close(attack.l2, torch.tensor([1.5]), rtol=2e-3, atol=0)
    assert attack.flags.tolist() == [int(Sanity.ZERO_GRADIENT)]


# Here an image that needs no attack kept moving, by so little that the reciprocal of its curvature overflowed.
@example(seed=0, sharpness=100.0, share=1.0, confidence=None)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    sharpness=st.sampled_from([0.1, 1.0, 10.0, 100.0, 1e12]),
    share=st.floats(0, 1),
    confidence=st.sampled_from([None, 0.2, 0.98]),
)
def test_whatever_the_classifier_images_stay_in_the_box_and_figures_are_true(seed, sharpness, share, confidence):
    """Random images with a random share of pixels at the bounds, random networks from flat to saturated."""
    model = network(seed)
    images, targets = random_images(6, seed, share=share)

    def classifier(batch):
        return sharpness * model(batch)

    attack = lbfgs(classifier, images, targets, confidence=confidence)
    assert attack.images.min() >= 0
    assert attack.images.max() <= 1
    change = (attack.images - images).flatten(1)
    torch.testing.assert_close(attack.l2[attack.success], change.norm(dim=1)[attack.success])
    torch.testing.assert_close(attack.linf[attack.success], change.abs().amax(dim=1)[attack.success])
    assert torch.equal(attack.success, ~attack.l2.isnan())
    assert torch.equal(attack.images[~attack.success], images[~attack.success])
    if confidence is None:
        assert torch.equal(classifier(attack.images).argmax(dim=1)[attack.success], targets[attack.success])
    else:
        found = probability(classifier, attack.images, targets)[attack.success]
        assert bool((found >= confidence - 1e-6).all())


# What it costs


def test_evaluations_are_within_their_bound(digits):
    """As many as asked for, three without a gradient, and never more descents than one, with `thorough` six."""
    model, images, _, targets = digits
    images, targets = images[:10], targets[:10]
    assert int(lbfgs(model, images, targets).evaluations.max()) <= 28 + 3
    assert int(lbfgs(model, images, targets, evaluations=7).evaluations.max()) <= 4 * 7 + 3
    assert int(lbfgs(model, images, targets, thorough=True).evaluations.max()) <= 6 * (28 + 3)
    for evaluations, last in [(1, 4), (2, 8), (9, 36)]:  # three more descents of an image without success
        attack = lbfgs(
            lambda batch: model(batch)[:, [1] * 9 + [0]] * 0 + LADDER, images, targets, evaluations=evaluations
        )
        assert attack.evaluations[targets != 9].tolist() == [last] * int((targets != 9).sum())


def test_evaluations_are_those_that_the_classifier_saw(digits, monkeypatch):
    """Of one image, with a look after each round, so that none is asked about when it is finished already."""
    monkeypatch.setattr(_lbfgs, "_ROUNDS", 1)
    model, images, _, targets = digits
    for image, target in zip(images[:4].split(1), targets[:4].split(1), strict=True):
        for thorough in (False, True):
            recorded = Recorded(model)
            attack = lbfgs(recorded, image, target, evaluations=50, thorough=thorough)
            assert attack.evaluations.tolist() == [len(recorded.asked)]


def test_a_descent_ends_when_it_has_come_no_nearer_for_fifteen_rounds():
    """A linear classifier takes a few rounds, of the hundreds allowed."""
    images = torch.full((1, 1, 4, 4), 0.5)
    attack = lbfgs(
        two_classes(torch.linspace(-1, 1, 16).view(1, 1, 4, 4), 0.8, at=images), images, ONE, evaluations=500
    )
    assert 1 + 15 + 3 < attack.evaluations[0] < 1 + 15 + 3 + 20


@pytest.mark.parametrize(
    ("distances", "last"),
    [
        ([None, 1.0] + [1.0] * 30, 16),  # round 1, and fifteen without a fall
        ([None] * 20 + [1.0] * 30, 35),  # no success yet: no end
        ([1.0] * 14 + [0.99] + [1.0] * 30, 29),  # a fall just in time
        ([1.0] * 14 + [0.9985] + [1.0] * 30, 15),  # too small a fall
        ([1.0 - 0.001 * step for step in range(60)], None),  # small falls add up
        ([1.0 + step for step in range(60)], 15),  # going away is no fall
    ],
)
def test_what_counts_as_coming_nearer(distances, last):
    """The round after which the image is no longer active, of one that is at these distances; None: it stays so."""
    zero, flat = torch.zeros(1), torch.zeros(1, 4)
    now = _lbfgs._Descent(
        row=torch.tensor([0]),
        clean=flat,
        target=torch.tensor([0]),
        active=torch.tensor([True]),
        point=flat,
        lead=zero,
        odds=zero,
        rise=flat,
        damping=zero,
        best=flat,
        best_square=torch.tensor([torch.inf]),
        best_constant=zero,
        best_lead=zero,
        best_pace=zero,
        milestone=torch.tensor([torch.inf]),
        milestone_round=torch.tensor([0]),
        evaluations=torch.tensor([0]),
    )
    active = []
    for step, distance in enumerate(distances):
        lead = torch.tensor([-1.0 if distance is None else 1.0])
        verdict = _lbfgs._Verdict(hit=lead > 0, lead=lead, odds=lead, rise=flat)
        now.note(torch.full((1, 4), (distance or 0.0) / 2), verdict, zero, step)
        active.append(bool(now.active))
    assert active == [last is None or step < last for step in range(len(distances))]


def test_the_classifier_is_asked_about_no_more_images_than_are_in_a_chunk_or_on_their_way(digits):
    model, images, _, targets = digits
    recorded = Recorded(model)
    attack = lbfgs(recorded, images, targets, evaluations=100, chunk=20)
    assert max(recorded.asked) == 20
    assert min(recorded.asked) < 10
    # Finished images wait for the next look, and until a quarter of the rest is.
    assert sum(recorded.asked) < 1.25 * int(attack.evaluations.sum())


class NoWaiting(TorchDispatchMode):
    """Fails where the host would wait for the device to know a value or a number of values."""

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "masked_select", "equal"), name
        assert name not in ("index", "index_put_"), name  # by a mask, which is nonzero() in disguise
        return function(*arguments, **(settings or {}))


def test_the_host_waits_for_nothing_in_a_round(monkeypatch):
    advance, land, entered = _lbfgs._advance, _lbfgs._land, []

    def watched(function):
        def call(*given):
            entered.append(function)
            with NoWaiting():
                return function(*given)

        return call

    monkeypatch.setattr(_lbfgs, "_advance", watched(advance))
    monkeypatch.setattr(_lbfgs, "_land", watched(land))
    images, targets = random_images(6, 0, share=0.3)
    assert lbfgs(network(0), images, targets).success.any()
    assert entered.count(advance) >= 27
    assert entered.count(land) >= 1
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        images.sum().item()
    with pytest.raises(AssertionError, match="index"), NoWaiting():
        images[images > 0]


# What callers pass in


@pytest.mark.parametrize("when", ["within", "before"])
def test_inference_mode_changes_nothing(when):
    model = network(0).requires_grad_(requires_grad=False)
    images, targets = random_images(6, 0, share=0.3)
    expected = lbfgs(model, images, targets)
    with torch.inference_mode():
        made = images.clone(), targets.clone()
        found = lbfgs(model, *made) if when == "within" else None
    found = lbfgs(model, *made) if found is None else found
    assert torch.equal(found.images, expected.images)
    assert not found.images.is_inference()


def test_images_that_require_a_gradient_get_none():
    images, targets = random_images(4, 0, share=0.3)
    images.requires_grad_()
    found = lbfgs(network(0), images, targets)
    assert not found.images.requires_grad
    assert not found.l2.requires_grad
    assert images.grad is None


def nan(ahead):
    return torch.where(ahead < 0.2, torch.nan, ahead)


def infinite(ahead):
    return torch.where(ahead < 0.2, torch.inf, ahead)


def steep(ahead):
    """Itself, but for a gradient without end."""
    if ahead.requires_grad:
        ahead = ahead.clone()
        ahead.register_hook(lambda gradient: torch.where(ahead.detach() < 0.2, torch.inf, gradient))
    return ahead


@pytest.mark.parametrize(
    ("strange", "message"),
    [(nan, "logits must be finite"), (infinite, "logits must be finite"), (steep, "gradient of")],
)
def test_what_is_not_finite_is_noticed_though_it_comes_late(strange, message):
    """Not at the image itself, but on the way."""
    images = torch.full((1, 1, 4, 4), 0.5)
    plain = two_classes(torch.linspace(-1, 1, 16).view(1, 1, 4, 4), 0.8, at=images)

    def classifier(batch):
        logits = plain(batch)
        return torch.stack([strange(logits[:, 0]), logits[:, 1]], dim=1)

    with pytest.raises(ValueError, match=message):
        lbfgs(classifier, images, ONE)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("evaluations", 0),
        ("chunk", 0),
        ("confidence", 0.0),
        ("confidence", 1.0),
        ("confidence", 98),
        ("confidence", torch.nan),
    ],
)
def test_a_bad_setting_is_named(setting, value):
    with pytest.raises(ValueError, match=rf"{setting} must be .*; got {value}"):
        lbfgs(network(0), IMAGES, LABELS, **{setting: value})
