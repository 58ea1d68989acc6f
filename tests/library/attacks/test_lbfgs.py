"""The L-BFGS attack against closed forms, against scipy image by image, and in what it costs."""

import itertools
from functools import partial
from math import log

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from bench.reference import scipy_lbfgs
from vaecore import Sanity, lbfgs
from vaecore.attacks import _lbfgs  # for what no call of `lbfgs` shows; each use says why

ONE = torch.tensor([1])
GREY = torch.full((1, 1, 4, 4), 0.5)
RAMP = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)  # weights for GREY
LADDER = torch.arange(10.0)  # logits of which only class 9 wins


@pytest.fixture(scope="session")
def rough(network):
    """Give a function that makes a random classifier of ten classes with kinks."""
    return partial(network, layer=nn.ReLU, classes=10, gain=1)


def random_images(count, seed, *, share):
    """Random images, of whose pixels a share are at the bounds, and random targets."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    images = torch.where(torch.rand(images.shape, generator=generator) < share, images.round(), images)
    return images, torch.randint(10, (count,), generator=generator)


class Counted:
    """The same classifier, which keeps how many images it was asked about each time, the flags' two checks left out."""

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


def test_the_nearest_point_of_a_hyperplane_is_reached(two_classes):
    """Inside the box the change is margin * w / ||w||^2, and c, with the target at p = 1/2, 4 * margin / ||w||^2."""
    weight = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    square = weight.square().sum()
    margins = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])
    grey = torch.full((1, 1, 6, 6), 0.5)
    images = grey - (margins.view(-1, 1, 1, 1) - 2) * weight / square
    attack = lbfgs(two_classes(weight, 2.0, at=grey), images, torch.ones(5, dtype=torch.int64))
    assert attack.success.all()
    assert_close(attack.l2, margins / square.sqrt(), rtol=1e-3, atol=0)
    assert_close(attack.constant, 4 * margins / square, rtol=1e-3, atol=0)
    assert_close(attack.images, (grey + 2 * weight / square).expand_as(images), rtol=0, atol=1e-3)


@pytest.mark.parametrize("sharpness", [1e-3, 1.0, 1e3, 1e15])
def test_the_scale_of_the_logits_changes_c_alone(two_classes, sharpness):
    attack = lbfgs(two_classes(RAMP, 0.8, at=GREY, sharpness=sharpness), GREY, ONE)
    assert_close(attack.l2[0], 0.8 / RAMP.norm(), rtol=2e-3, atol=0)
    assert_close(sharpness * attack.constant[0], 4 * 0.8 / RAMP.square().sum(), rtol=2e-3, atol=0)


def test_c_allows_for_rivals(two_classes):
    """Level with nine rivals, the target has p = 1/10, and c * (1 - p) * ||w|| = 2 * distance."""

    def classifier(batch):
        return two_classes(-RAMP, -0.8, at=GREY)(batch)[:, [0] + [1] * 9]

    attack = lbfgs(classifier, GREY, torch.tensor([0]))
    assert_close(attack.l2[0], 0.8 / RAMP.norm(), rtol=2e-3, atol=0)
    assert_close(attack.constant[0], 2 / 0.9 * 0.8 / RAMP.square().sum(), rtol=1e-2, atol=0)


def test_pixels_at_the_bounds_are_held_and_the_free_ones_used(two_classes):
    """Half of the pixels sit at 0 and would have to fall: the nearest success moves the other half alone."""
    weight = torch.linspace(0.5, 1.5, 16).view(1, 1, 4, 4)
    images = torch.full((1, 1, 4, 4), 0.4)
    images[..., 2:] = 0
    weight[..., 2:] *= -1
    attack = lbfgs(two_classes(weight, 1.0, at=images), images, ONE)
    assert_close(attack.l2[0], 1 / weight[..., :2].norm(), rtol=2e-3, atol=0)
    assert bool((attack.images[..., 2:] == 0).all())


def test_a_bound_is_reached_on_the_way(two_classes):
    """One strong pixel saturates at 1 after 0.1; the weak one has to do the rest: 0.4 = (1.1 - 3 * 0.1) / 2."""
    images, weight = torch.tensor([0.9, 0.2]).view(1, 1, 1, 2), torch.tensor([3.0, 2.0]).view(1, 1, 1, 2)
    attack = lbfgs(two_classes(weight, 1.1, at=images), images, ONE)
    assert_close(attack.images.flatten(), torch.tensor([1.0, 0.6]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("confidence", [0.4, 0.5, 0.9, 0.98, 0.9999])
def test_confidence_moves_the_boundary_by_its_log_odds(two_classes, confidence):
    images = torch.full((1, 1, 6, 6), 0.5)
    weight = torch.linspace(-4, 4, 36).view(1, 1, 6, 6)  # steep, or high confidence is only beyond the bounds
    classifier = two_classes(weight, 1.0, at=images)
    attack = lbfgs(classifier, images, ONE, confidence=confidence)
    distance = (1 + log(confidence / (1 - confidence))) / weight.norm()
    assert_close(attack.l2[0], distance, rtol=2e-3, atol=0)
    assert_close(attack.constant[0], 4 * distance / weight.norm(), rtol=2e-3, atol=0)
    assert 0 <= probability(classifier, attack.images, ONE) - confidence < 1e-3


def test_an_image_with_that_confidence_already_is_left_alone(two_classes):
    classifier = two_classes(torch.ones(1, 1, 4, 4), -2.0, at=GREY)  # p = 0.881
    for confidence, moved in [(None, False), (0.3, False), (0.88, False), (0.89, True)]:
        attack = lbfgs(classifier, GREY, ONE, confidence=confidence)
        assert attack.success.all()
        assert bool(attack.l2 > 0) == bool(attack.constant > 0) == bool(attack.evaluations > 1) == moved


def test_curvature_is_that_of_the_bfgs_formula_over_the_last_pairs():
    """Dense, from the Gauss-Newton matrix on, damped throughout; a pair without positive curvature is skipped.

    Of the class itself: with a wrong direction the attack only takes longer.
    """
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
    assert_close(curvature.solve(gradient, extra, axis, stiffness), gradient @ inverse)
    for move, change in zip(moves, changes, strict=True):
        curvature.add(move, change)
    for move, change in [(moves[i], changes[i] + 1.5 * moves[i]) for i in (3, 4, 6, 7)]:
        weight = 1 / (move @ change.T)
        left = torch.eye(6) - weight * move.T @ change
        inverse = left @ inverse @ left.T + weight * move.T @ move
    assert_close(curvature.solve(gradient, extra, axis, stiffness), gradient @ inverse, rtol=1e-4, atol=0)


# How near


@pytest.fixture
def looks_each_round(monkeypatch):
    """Let the attack look after each round what is over; else the classifier is asked about finished images too."""
    monkeypatch.setattr(_lbfgs, "_ROUNDS", 1)


@pytest.mark.usefixtures("looks_each_round")
def test_the_nearest_of_all_successes_seen_is_returned(digits):
    model, images, _, targets = digits
    for image, target in zip(images[:16].split(1), targets[:16].split(1), strict=True):
        distances = []

        def classifier(batch, distances=distances, image=image, target=target):
            logits = model(batch)
            if logits.argmax(1) == target:
                distances.append((batch.detach() - image).norm())
            return logits

        attack = lbfgs(classifier, image, target)
        # A success that leads by no more than rounding does not count.
        assert_close(attack.l2[0], torch.stack(distances).min(), rtol=1e-4, atol=0)


@pytest.mark.slow
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


def test_the_scipy_reference_reaches_the_nearest_point_of_a_hyperplane(two_classes):
    reference = scipy_lbfgs(two_classes(RAMP, 0.8, at=GREY), GREY, ONE)
    assert_close(reference.l2[0], 0.8 / RAMP.norm(), rtol=0.01, atol=0)


@pytest.mark.slow
def test_success_is_as_frequent_as_scipy_s_where_it_is_rare(rough):
    """Deep networks at random have classes that hardly any image has."""
    ours = theirs = 0
    for seed in range(4):
        model = rough(seed, depth=3)
        images, targets = random_images(10, seed, share=0.3)
        ours += int(lbfgs(model, images, targets).success.sum())
        theirs += int(scipy_lbfgs(model, images, targets, iterations=20).success.sum())
    assert 10 < theirs < 30
    assert ours >= theirs


def test_a_success_is_only_just_one(digits, one_by_one):
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
    reached = probability(model, attack.images, targets)[attack.success]
    assert bool((reached >= 0.98 - 1e-6).all())
    assert reached.median() < 0.9801
    assert bool((attack.l2 > lbfgs(model, images, targets).l2)[attack.success].all())


EFFORTS = (28, 80, 96, 148)  # gradients: a descent, one more after a detour, one from halfway, a detour again


@pytest.fixture(scope="module")
def by_effort(digits):
    """L-BFGS on twenty images, for each effort."""
    model, images, _, targets = digits
    return {effort: lbfgs(model, images[:20], targets[:20], evaluations=effort) for effort in EFFORTS}


def test_no_image_is_farther_for_more_effort(digits, by_effort):
    model, images, _, targets = digits
    images, targets = images[:20], targets[:20]
    for less, more in itertools.pairwise(by_effort.values()):
        assert bool((more.l2 <= less.l2).all())
    for attack in by_effort.values():
        assert torch.equal(model(attack.images).argmax(dim=1), targets)
        assert attack.images.min() >= 0
        assert attack.images.max() <= 1
        assert_close(attack.l2, (attack.images - images).flatten(1).norm(dim=1))


def test_detours_leave_the_minimum_in_which_a_descent_ends(digits, by_effort):
    """Of many images they find a nearer one than a descent of 148 gradients, here of a private function."""
    model, images, _, targets = digits
    images, targets = images[:20], targets[:20]
    with torch.no_grad():
        judge, clean = _lbfgs._Judge(model, images.shape[1:], None), images.flatten(1)
        longest = _lbfgs._descend(judge, clean, clean, targets, judge.look(clean, targets), 148).square.sqrt()
    assert (by_effort[148].l2 < 0.9997 * longest).float().mean() > 0.4


def test_effort_that_pays_for_no_further_descent_changes_nothing(digits, by_effort):
    model, images, _, targets = digits
    for effort, same in [(79, 28), (95, 80)]:
        attack = lbfgs(model, images[:20], targets[:20], evaluations=effort)
        assert torch.equal(attack.images, by_effort[same].images)
        assert torch.equal(attack.evaluations, by_effort[same].evaluations)


@pytest.mark.parametrize("effort", [28, 96])
def test_untargeted_any_other_class_will_do(digits, effort):
    """It comes as near as the best of nine attacks, each towards another class, on most images."""
    model, images, labels, _ = digits
    images, labels = images[:12], model(images[:12]).argmax(dim=1)
    attack = lbfgs(model, images, labels, targeted=False, evaluations=effort)
    assert attack.success.all()
    assert bool((model(attack.images).argmax(dim=1) != labels).all())
    towards = [lbfgs(model, images, (labels + step) % 10, evaluations=effort).l2 for step in range(1, 10)]
    nearest = torch.stack(towards).nan_to_num(nan=torch.inf).amin(dim=0)
    ratio = attack.l2 / nearest
    assert ratio.median() < 1.01
    assert ratio.mean() < 1.1


def test_untargeted_the_nearest_point_of_a_hyperplane_is_reached(two_classes):
    for confidence, odds in [(None, 0.0), (0.9, log(9))]:
        attack = lbfgs(two_classes(4 * RAMP, 0.8, at=GREY), GREY, 1 - ONE, targeted=False, confidence=confidence)
        assert_close(attack.l2[0], (0.8 + odds) / (4 * RAMP).norm(), rtol=2e-3, atol=0)
    wrong = lbfgs(
        two_classes(RAMP, 0.8, at=GREY), GREY, ONE, targeted=False
    )  # an image without its label is left alone
    assert wrong.l2.tolist() == [0.0]


def test_with_a_confidence_any_other_classes_have_it_together():
    """Level, two rivals of the label have p = 2/3; each alone has a half where the three are level."""

    def classifier(batch):
        ahead = 1 - batch.flatten(1).sum(dim=1)
        return torch.stack([ahead, torch.zeros_like(ahead), torch.zeros_like(ahead)], dim=1)

    image = torch.zeros(1, 1, 2, 2)
    for confidence, logit in [(None, 0.0), (0.5, log(2)), (0.8, log(2) - log(4))]:
        attack = lbfgs(classifier, image, 1 - ONE, targeted=False, confidence=confidence)
        assert_close(attack.l2[0], torch.tensor((1 - logit) / 2), rtol=2e-3, atol=0)


# Each image by itself


@pytest.mark.parametrize(("effort", "count"), [(28, 12), (96, 6)])
def test_an_image_does_not_depend_on_its_batch_mates(digits, one_by_one, effort, count):
    """But by rounding, when the classifier is asked about each image alone; one row has its target already."""
    model, images, _, targets = digits
    images, targets = images[:count], targets[:count].clone()
    targets[3] = model(images[3:4]).argmax(1)
    together = lbfgs(one_by_one(model), images, targets, evaluations=effort)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    apart = lbfgs(one_by_one(model), images[order], targets[order], chunk=5, evaluations=effort)
    for field in ("images", "l2", "constant", "evaluations"):
        assert_close(getattr(together, field)[order], getattr(apart, field), rtol=1e-5, atol=1e-6)


def test_a_batch_is_near_its_parts(digits):
    """In an ordinary classifier only rounding differs, which may turn a decision of the search but not its outcome."""
    model, images, _, targets = digits
    together, apart = lbfgs(model, images, targets), lbfgs(model, images, targets, chunk=13)
    difference = (together.l2 - apart.l2).abs()
    assert bool((difference <= 0.1 * apart.l2).all())
    assert (difference <= 1e-4 * apart.l2).float().mean() > 0.75


def test_the_norm_is_zero_where_the_target_is_predicted_already(digits):
    model, images, _, _ = digits
    attack = lbfgs(model, images[:4], model(images[:4]).argmax(1), evaluations=200)
    assert attack.success.all()
    assert torch.equal(attack.images, images[:4])
    assert attack.l2.tolist() == attack.linf.tolist() == attack.constant.tolist() == [0] * 4
    assert attack.evaluations.tolist() == [1] * 4


def test_a_failure_is_the_clean_image_and_nan(two_classes):
    """Class 2 never wins; row 0, which asks for it, fails without harm to row 1, which asks for class 1."""
    winnable = two_classes(RAMP, 0.8, at=GREY)

    def classifier(batch):
        logits = winnable(batch)
        return torch.cat([logits, logits.amin(dim=1, keepdim=True) - 1], dim=1)

    attack = lbfgs(classifier, GREY.repeat(2, 1, 1, 1), torch.tensor([2, 1]))
    assert attack.success.tolist() == [False, True]
    assert torch.equal(attack.images[:1], GREY)
    for field in (attack.l2, attack.linf, attack.constant):
        assert field.isnan().tolist() == [True, False]
    assert attack.evaluations[0] > 1
    assert attack.warnings() == ["1 of 2 images: the attack did not reach its aim"]


def test_a_gradient_of_zero_is_no_error_but_a_failure_and_a_flag():
    def flat(batch):
        return batch.flatten(1).sum(dim=1, keepdim=True) * 0 + torch.tensor([[2.0, 0.0]])

    attack = lbfgs(flat, GREY.repeat(2, 1, 1, 1), torch.tensor([1, 0]))
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
    assert_close(attack.l2, torch.tensor([1.5]), rtol=2e-3, atol=0)
    assert attack.flags.tolist() == [int(Sanity.ZERO_GRADIENT)]


@pytest.mark.slow
# Here an image that needs no attack kept moving, by so little that the reciprocal of its curvature overflowed.
@example(seed=0, sharpness=100.0, share=1.0, confidence=None, effort=28, targeted=True)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    sharpness=st.sampled_from([0.1, 1.0, 10.0, 100.0, 1e12]),
    share=st.floats(0, 1),
    confidence=st.sampled_from([None, 0.2, 0.98]),
    effort=st.sampled_from([28, 96]),
    targeted=st.booleans(),
)
def test_whatever_the_classifier_images_stay_in_the_box_and_figures_are_true(
    rough, seed, sharpness, share, confidence, effort, targeted
):
    """Random images with a random share of pixels at the bounds, random networks from flat to saturated."""
    model = rough(seed)
    images, targets = random_images(6, seed, share=share)

    def classifier(batch):
        return sharpness * model(batch)

    settings = {"targeted": targeted, "confidence": confidence, "evaluations": effort}
    attack = lbfgs(classifier, images, targets, **settings)
    won = attack.success
    assert attack.images.min() >= 0
    assert attack.images.max() <= 1
    change = (attack.images - images).flatten(1)
    assert_close(attack.l2[won], change.norm(dim=1)[won])
    assert_close(attack.linf[won], change.abs().amax(dim=1)[won])
    assert torch.equal(won, ~attack.l2.isnan())
    assert torch.equal(attack.images[~won], images[~won])
    if confidence is None:
        assert bool(((classifier(attack.images).argmax(dim=1) == targets)[won] == targeted).all())
    else:
        reached = probability(classifier, attack.images, targets)[won]
        assert bool(((reached if targeted else 1 - reached) >= confidence - 1e-6).all())


# What it costs


def test_evaluations_are_within_their_bound(digits):
    """As many as asked for, and three without a gradient for each descent."""
    model, images, _, targets = digits
    images, targets = images[:10], targets[:10]
    assert int(lbfgs(model, images, targets).evaluations.max()) <= 28 + 3
    assert int(lbfgs(model, images, targets, evaluations=7).evaluations.max()) <= 4 * 7 + 3
    assert int(lbfgs(model, images, targets, evaluations=96).evaluations.max()) <= 96 + 3 * 3

    def lost(batch):
        return model(batch) * 0 + LADDER

    # Three more descents of an image without success; and, of 100, a detour and two more.
    for evaluations, last in [(1, 4), (2, 8), (9, 36), (28, 112), (100, 112 + 52 + 16)]:
        attack = lbfgs(lost, images, targets, evaluations=evaluations)
        assert attack.evaluations[targets != 9].tolist() == [last] * int((targets != 9).sum())


@pytest.mark.usefixtures("looks_each_round")
def test_evaluations_are_those_that_the_classifier_saw(digits):
    model, images, _, targets = digits
    for image, target in zip(images[:4].split(1), targets[:4].split(1), strict=True):
        for effort in (28, 164):
            counted = Counted(model)
            attack = lbfgs(counted, image, target, evaluations=effort)
            assert attack.evaluations.tolist() == [len(counted.asked)]


def test_a_descent_ends_when_it_has_come_no_nearer_for_fifteen_rounds(two_classes):
    """A linear classifier takes a few rounds."""
    attack = lbfgs(two_classes(RAMP, 0.8, at=GREY), GREY, ONE)
    assert 1 + 15 + 3 < attack.evaluations[0] < 28 + 3


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
    """The round after which an image at these distances is no longer active; None: it stays so.

    Of the class itself, as no classifier can choose where the search goes.
    """
    zero, flat, none, infinite = torch.zeros(1), torch.zeros(1, 4), torch.tensor([0]), torch.tensor([torch.inf])
    now = _lbfgs._Descent(
        **dict.fromkeys(("clean", "point", "rise", "best"), flat),
        **dict.fromkeys(("lead", "odds", "damping", "best_constant", "best_lead", "best_pace"), zero),
        **dict.fromkeys(("row", "aim", "milestone_round", "evaluations"), none),
        **dict.fromkeys(("best_square", "milestone"), infinite),
        active=torch.tensor([True]),
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
    counted = Counted(model)
    attack = lbfgs(counted, images, targets, chunk=20)
    assert max(counted.asked) == 20
    assert min(counted.asked) < 10
    # Finished images wait for the next look, and until a quarter of the rest is.
    assert sum(counted.asked) < 1.25 * int(attack.evaluations.sum())


class NoWaiting(TorchDispatchMode):
    """Fails where the host would wait for the device to know a value or a number of values."""

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "masked_select", "equal"), name
        assert name not in ("index", "index_put_"), name  # by a mask, which is nonzero() in disguise
        return function(*arguments, **(settings or {}))


def test_the_host_waits_for_nothing_in_a_round(rough, monkeypatch):
    """Of private functions: between rounds it does wait, to see what is over."""
    entered = []

    def watch(name):
        function = getattr(_lbfgs, name)

        def call(*arguments):
            entered.append(name)
            with NoWaiting():
                return function(*arguments)

        monkeypatch.setattr(_lbfgs, name, call)

    watch("_advance")
    watch("_land")
    watch("_detour")
    images, targets = random_images(6, 0, share=0.3)
    assert lbfgs(rough(0), images, targets, evaluations=80).success.any()
    assert entered.count("_advance") >= 27
    assert entered.count("_detour") == 1
    assert entered.count("_land") >= 1
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        images.sum().item()
    with pytest.raises(AssertionError, match="index"), NoWaiting():
        images[images > 0]


# What callers pass in


def steep(ahead):
    """Itself, but for a gradient without end."""
    if ahead.requires_grad:
        ahead = ahead.clone()
        ahead.register_hook(lambda gradient: torch.where(ahead.detach() < 0.2, torch.inf, gradient))
    return ahead


@pytest.mark.parametrize(
    ("strange", "message"),
    [
        (lambda ahead: torch.where(ahead < 0.2, torch.nan, ahead), "logits must be finite"),
        (lambda ahead: torch.where(ahead < 0.2, torch.inf, ahead), "logits must be finite"),
        (steep, "gradient of"),
    ],
)
def test_what_is_not_finite_is_noticed_though_it_comes_late(two_classes, strange, message):
    """Not at the image itself, but on the way."""
    plain = two_classes(RAMP, 0.8, at=GREY)

    def classifier(batch):
        logits = plain(batch)
        return torch.stack([strange(logits[:, 0]), logits[:, 1]], dim=1)

    with pytest.raises(ValueError, match=message):
        lbfgs(classifier, GREY, ONE)
