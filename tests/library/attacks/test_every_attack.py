"""What holds for every attack: budgets, failures, flags, independence of the batch, users' models, and bad input."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vaecore import fgsm, flips, lbfgs, pgd, square, worst_case
from vaecore.toolkit import to_evaluation

ATTACKS = {
    "fgsm": partial(fgsm, epsilon=0.1),
    "fgsm-l2": partial(fgsm, epsilon=0.8, norm="l2"),
    "pgd": partial(pgd, seed=0, epsilon=0.05, steps=6, step_size=0.03),
    "pgd-l2": partial(pgd, seed=0, epsilon=0.4, norm="l2", steps=6, step_size=0.2),
    "auto-pgd": partial(pgd, seed=0, epsilon=0.05, steps=6),
    "auto-pgd-l2": partial(pgd, seed=0, epsilon=0.4, norm="l2", steps=6),
    "square": partial(square, seed=0, epsilon=0.1, queries=50),
    "worst-case": partial(worst_case, seed=0, epsilon=0.05, steps=4, targets=2, queries=20),
    "flips": partial(flips, rounding=lambda images: (images * 15).round() / 15, seed=0, epsilon=0.05, steps=4),
    "lbfgs": lbfgs,  # whose third argument is the targets
}
EVERY = list(ATTACKS)
ONE = [name for name in EVERY if name not in ("worst-case", "flips")]
BUDGETED = [name for name in ONE if name != "lbfgs"]
SEEDED = [name for name in BUDGETED if "fgsm" not in name]  # of which the seed must be given
PGD = [name for name in SEEDED if "pgd" in name]
GREY, LABELS = torch.full((2, 1, 8, 8), 0.5), torch.tensor([0, 1])
FIELDS = ("images", "success", "evaluations", "flags", "l2", "linf")


# What an attack did


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("targeted", [False, True])
def test_successes_are_the_classifier_s_and_failures_are_withdrawn_unless_kept(toy, name, targeted):
    aims = {"targets": toy.targets, "epsilon": 1.6 if "l2" in name else 0.15} if targeted else {}
    withdrawn, kept = (
        ATTACKS[name](toy.model, toy.images, toy.labels, keep_failed=keep, **aims) for keep in (False, True)
    )
    predicted = toy.model(kept.images).argmax(dim=1)
    assert torch.equal(kept.success, predicted == toy.targets if targeted else predicted != toy.labels)
    assert torch.equal(withdrawn.success, kept.success)
    failed = ~kept.success
    assert 0 < failed.sum() < 24
    assert torch.equal(withdrawn.images[failed], toy.images[failed])
    assert torch.equal(withdrawn.images[~failed], kept.images[~failed])
    for norms in (withdrawn.l2, withdrawn.linf):
        assert torch.equal(norms.isnan(), failed)
    assert not kept.l2.isnan().any()
    assert bool((kept.linf > 0.02).all())
    assert kept.constant is None
    assert withdrawn.warnings() == [f"{int(failed.sum())} of 24 images: the attack did not reach its aim"]


@pytest.mark.parametrize("name", SEEDED)
def test_no_budget_leaves_the_images_and_says_which_were_wrong_already(toy, name):
    labels = torch.where(torch.arange(24) < 5, toy.targets, toy.labels)
    effort = {"queries": 4} if name == "square" else {"restarts": 2}
    attack = ATTACKS[name](toy.model, toy.images, labels, epsilon=0.0, **effort)
    assert attack.success.tolist() == [True] * 5 + [False] * 19
    torch.testing.assert_close(attack.images, toy.images, rtol=0, atol=1e-7)
    assert bool((attack.l2[:5] < 1e-6).all())
    assert attack.l2[5:].isnan().all()
    spent = (1, 4) if name == "square" else (6, 12)
    assert attack.evaluations.tolist() == [spent[0]] * 5 + [spent[1]] * 19


@pytest.mark.parametrize("name", BUDGETED)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    epsilon=st.floats(0, 1),
    step_size=st.floats(1e-3, 2),
    steps=st.integers(1, 12),
    sharpness=st.sampled_from([0.1, 1.0, 100.0]),
    loss=st.sampled_from(["cross-entropy", "margin", "dlr"]),
)
def test_points_stay_in_the_ball_and_the_box_and_norms_are_true(
    network, recorder, name, seed, epsilon, step_size, steps, sharpness, loss
):
    """Also where a transposed image is not contiguous, on which a projection of a flat copy would be lost."""
    model = network(seed)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    images = torch.where(images < 0.3, 0, images).transpose(2, 3)
    victim = recorder(lambda points: sharpness * model(points))
    setting = {"epsilon": epsilon, "keep_failed": True}
    if name in SEEDED:
        setting |= {"seed": seed, "loss": loss} | ({"queries": 20} if name == "square" else {"steps": steps})
    if name in ("pgd", "pgd-l2"):
        setting["step_size"] = step_size
    attack = ATTACKS[name](victim, images, torch.arange(4), **setting)
    questions = [(attack.images, torch.arange(4)), *((asked.points, asked.rows) for asked in victim.search())]
    for points, rows in questions:
        assert points.min() >= 0
        assert points.max() <= 1
        change = (points - images[rows]).flatten(1)
        norm = change.norm(dim=1) if "l2" in name else change.abs().amax(dim=1)
        assert bool((norm <= epsilon).all())  # with epsilon as a float32
    change = (attack.images - images).flatten(1)
    torch.testing.assert_close(attack.l2, change.norm(dim=1))
    torch.testing.assert_close(attack.linf, change.abs().amax(dim=1))


@pytest.mark.parametrize("name", BUDGETED)
def test_an_image_does_not_depend_on_its_batch_mates(toy, one_by_one, recorder, name):
    """Exactly, also where the victim is randomised."""
    effort = {"queries": 130} if name == "square" else {"restarts": 2} if name in PGD else {}

    def attack(rows, **setting):
        victim = recorder(one_by_one(toy.model), drift=0.3)
        return ATTACKS[name](victim, toy.images[rows], toy.labels[rows], **effort, **setting)

    together = attack(slice(None))
    assert 0 < together.success.sum() < 24
    assert together.flags.tolist() == [0] * 24  # the noise is fixed by image and step: asked twice, it is the same
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    for rows, apart in [
        (order, attack(order, indices=order, chunk=5)),
        (slice(7, 15), attack(slice(7, 15), first_index=7)),
    ]:
        for field in FIELDS:
            expected = getattr(together, field)[rows]
            torch.testing.assert_close(getattr(apart, field), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in SEEDED if name != "auto-pgd"])  # which goes from corner to corner
def test_an_attack_follows_from_its_seed_and_the_image_s_index(toy, name):
    effort = {"queries": 8} if name == "square" else {"steps": 2}

    def attack(rows=slice(None), seed=0, **setting):
        arguments = {"seed": seed, "keep_failed": True} | effort | setting
        return ATTACKS[name](toy.model, toy.images[rows], toy.labels[rows], **arguments).images

    assert torch.equal(attack(), attack())
    assert not bool((attack() == attack(seed=1)).flatten(1).all(dim=1).any())
    twice, same = attack([0, 0]), attack([0, 0], indices=torch.tensor([5, 5]))
    assert not torch.equal(twice[0], twice[1])
    assert torch.equal(same[0], same[1])


@pytest.mark.parametrize("name", EVERY)
def test_one_image_at_a_time_gives_the_same(toy, one_by_one, name):
    together, apart = (
        ATTACKS[name](one_by_one(toy.model), toy.images[:6], toy.targets[:6], **chunk) for chunk in ({}, {"chunk": 1})
    )
    for field in FIELDS:
        torch.testing.assert_close(getattr(apart, field), getattr(together, field), equal_nan=True)


@pytest.mark.parametrize("name", EVERY)
def test_rounding_beyond_the_ends_is_clipped_from_a_copy(toy, name):
    images, rounded = toy.images, torch.where(toy.images == 1, 1.0000001, toy.images)
    rounded[images == 0] = -9e-9
    kept = rounded.clone()
    expected, attack = (ATTACKS[name](toy.model, given, toy.targets) for given in (images, rounded))
    for field in FIELDS:
        torch.testing.assert_close(getattr(attack, field), getattr(expected, field), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(rounded, kept)


# What callers pass in


@pytest.mark.parametrize("name", EVERY)
def test_the_classifier_and_the_images_are_left_as_they_were(toy, network, name):
    model = network(0).requires_grad_()
    kept = torch.ones_like(model[1].weight)
    model[1].weight.grad = kept.clone()
    images = toy.images.clone().requires_grad_()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            attack = ATTACKS[name](model, images, toy.targets)
        assert not attack.images.requires_grad
        assert not attack.l2.requires_grad
    assert torch.equal(model[1].weight.grad, kept)
    assert model[3].weight.grad is None
    assert images.grad is None
    assert torch.equal(images, toy.images)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("when", ["within", "before"])
def test_inference_mode_changes_nothing(toy, name, when):
    aims = {"targets": toy.targets} if name in BUDGETED else {}
    expected = ATTACKS[name](toy.model, toy.images, toy.labels, **aims)
    with torch.inference_mode():
        images, labels, aims = toy.images.clone(), toy.labels.clone(), {key: aims[key].clone() for key in aims}
        attack = ATTACKS[name](toy.model, images, labels, **aims) if when == "within" else None
    attack = ATTACKS[name](toy.model, images, labels, **aims) if attack is None else attack
    assert torch.equal(attack.images, expected.images)
    assert not attack.images.is_inference()


@pytest.mark.parametrize("name", [name for name in EVERY if name != "square"])
def test_a_classifier_made_in_inference_mode_is_named(toy, network, name):
    with torch.inference_mode():
        model = network(0)
    with pytest.raises(ValueError, match=r"must be made outside torch.inference_mode .*copy.deepcopy\(model\)"):
        ATTACKS[name](model, toy.images, toy.targets)
    ATTACKS[name](copy.deepcopy(model), toy.images, toy.targets)


@pytest.mark.parametrize("name", EVERY)
def test_what_a_classifier_writes_into_and_its_dtype_change_nothing(toy, habit, name):
    images = toy.images.clone()
    attack, expected = (ATTACKS[name](wrap(toy.model), images, toy.targets) for wrap in habit)
    assert torch.equal(images, toy.images)
    for field in FIELDS:
        torch.testing.assert_close(getattr(attack, field), getattr(expected, field), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", BUDGETED)
def test_a_victim_s_objective_may_write_into_points_and_give_other_numbers(toy, recorder, name):
    class Spoiling(type(recorder(toy.model))):
        def objective(self, aims, **setting):
            asked = super().objective(aims, **setting)

            def objective(points, rows, step):
                won, loss = asked(points.clone(), rows, step)
                points.zero_()
                return won, loss.double()

            return objective

    attack, expected = (ATTACKS[name](make(toy.model), toy.images, toy.labels) for make in (Spoiling, recorder))
    assert torch.equal(attack.images, expected.images)
    assert torch.equal(attack.success, expected.success)


CLOSED = {
    "scripted": torch.jit.script,
    "traced": lambda model: torch.jit.trace(model, GREY),
    "frozen": lambda model: torch.jit.freeze(torch.jit.script(model)),
    "exported": lambda model: torch.export.export(
        model, (GREY,), dynamic_shapes=({0: torch.export.Dim("images")},)
    ).module(),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("way", CLOSED)
def test_a_classifier_that_cannot_be_looked_into_is_attacked_all_the_same(toy, name, way):
    closed = CLOSED[way](toy.model)
    expected = ATTACKS[name](toy.model, toy.images, toy.targets)
    for wrap in (lambda model: model, lambda model: to_evaluation(nn.Sequential(nn.Identity(), model))):
        attack = ATTACKS[name](wrap(closed), toy.images, toy.targets)
        torch.testing.assert_close(attack.images, expected.images, rtol=0, atol=1e-4)
        assert torch.equal(attack.success, expected.success)
        assert torch.equal(attack.flags, expected.flags)


# Victims


class Lookalike(nn.Module):
    """A classifier with the attributes of a victim, which mean something else."""

    def __init__(self, model, objective):
        super().__init__()
        self.classifier, self.objective = model[-1:], objective
        self.features = model[:-1]

    def forward(self, images):
        return self.classifier(self.features(images))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("objective", ["margin", nn.CrossEntropyLoss(), torch.dot, lambda aims, loss: loss(aims)])
def test_a_classifier_with_attributes_of_a_victim_is_a_classifier(toy, name, objective):
    model = Lookalike(toy.model, objective).eval()
    assert torch.equal(*(ATTACKS[name](each, toy.images, toy.targets).images for each in (model, toy.model)))


@pytest.mark.parametrize("name", BUDGETED)
def test_a_victim_may_be_a_module_that_can_be_called_as_well(toy, recorder, name):
    """Like `Purified`: it is known by the names of its objective's arguments."""

    class Callable(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.classifier = recorder(toy.model), toy.model

        def forward(self, images):
            raise AssertionError

        def objective(self, aims, *, targeted, loss, indices, seed):
            return self.inner.objective(aims, targeted=targeted, loss=loss, indices=indices, seed=seed)

    victim = Callable().eval()
    attack, expected = (ATTACKS[name](each, toy.images, toy.labels) for each in (victim, toy.model))
    assert torch.equal(attack.images, expected.images)
    assert len(victim.inner.questions) > 2


def test_lbfgs_says_which_attacks_take_victims(toy, recorder):
    with pytest.raises(TypeError, match=r"lbfgs must be given a classifier.*; got Recorder \(.*fgsm, pgd and square"):
        lbfgs(recorder(toy.model), toy.images, toy.targets)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("target", [None, SimpleNamespace(classifier=abs), SimpleNamespace(objective=abs)])
def test_what_is_neither_classifier_nor_victim_is_named(toy, name, target):
    with pytest.raises(TypeError, match=f"classifier.*; got {type(target).__name__}"):
        ATTACKS[name](target, toy.images, toy.labels)


def detached_within(model):
    return lambda batch: model(batch.detach())


def open_dropout(model):
    return nn.Sequential(nn.Dropout(), model).eval().append(nn.Dropout())


SAME = None  # the classifier as it is


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("change", "images", "labels", "message"),
    [
        (SAME, GREY * 3, LABELS, r"images must lie in \[0, 1\]; got \[1.5, 1.5\]"),
        (SAME, GREY * torch.nan, LABELS, "images must be finite"),
        (SAME, GREY[:0], LABELS[:0], "images is empty"),
        (SAME, GREY, LABELS[:1], r"(labels|targets) must be int64 of shape \(2,\)"),
        (SAME, GREY, LABELS + 4, "(labels|targets) must be 0 to 4; got 4 to 5"),
        (SAME, GREY, LABELS - 1, "(labels|targets) must be 0 and up; got -1 to 0"),
        (nn.Module.train, GREY, LABELS, r"evaluation mode; got Sequential in training mode \(call"),
        (open_dropout, GREY, LABELS, "got Dropout in training mode"),
        (lambda _: lambda x: x, GREY, LABELS, r"must map 2 images to logits \(2, classes\); got \(2, 1, 8, 8\)"),
        (lambda _: lambda x: x.flatten(1).log() - torch.inf, GREY, LABELS, "logits must be finite"),
        (lambda _: lambda x: x.flatten(1) * torch.nan, GREY, LABELS, "logits must be finite"),
    ],
)
def test_bad_input_is_named(network, name, change, images, labels, message):
    model = network(0)
    with pytest.raises(ValueError, match=message):
        ATTACKS[name](model if change is SAME else change(model), images, labels)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "square"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: lambda x: (x - x.detach()).sqrt().flatten(1), "gradient of the loss .* must be finite"),
        (lambda _: lambda x: x.detach().flatten(1), "must be differentiable"),
        (detached_within, "must be differentiable"),
    ],
)
def test_a_gradient_that_cannot_be_had_is_named(network, name, change, message):
    with pytest.raises(ValueError, match=message):
        ATTACKS[name](change(network(0)), GREY, LABELS)


@pytest.mark.parametrize("name", BUDGETED)
def test_a_victim_s_classifier_in_training_mode_is_named(network, recorder, name):
    with pytest.raises(ValueError, match="evaluation mode; got Sequential in training mode"):
        ATTACKS[name](recorder(network(0).train()), GREY, LABELS)


@pytest.mark.parametrize(
    ("names", "setting", "message"),
    [
        (BUDGETED, {"epsilon": -0.1}, "epsilon must be from 0 to [18], as pixels are from 0 to 1; got -0.1"),
        (BUDGETED, {"epsilon": torch.nan}, "epsilon must be from 0 to [18], .*; got nan"),
        (BUDGETED, {"epsilon": 25.5}, r"epsilon must be from 0 to [18], .*; got 25.5 \(divide by 255"),
        (["pgd-l2", "fgsm-l2"], {"epsilon": 8.5}, "epsilon must be from 0 to 8, .*; got 8.5"),
        (["pgd", "fgsm"], {"norm": "l1"}, "norm must be 'linf' or 'l2'; got 'l1'"),
        (EVERY, {"chunk": 0}, "chunk must be 1 or more; got 0"),
        (BUDGETED, {"targets": torch.tensor([1, 1])}, r"targets must differ from the labels; 1 of 2 .*first at row 1"),
        (BUDGETED, {"targets": torch.tensor([1, 5])}, "targets must be 0 to 4; got 1 to 5"),
        (BUDGETED, {"targets": torch.tensor([1])}, r"targets must be int64 of shape \(2,\)"),
        (SEEDED, {"loss": "hinge"}, "loss must be 'cross-entropy', 'margin' or 'dlr'; got 'hinge'"),
        (BUDGETED, {"first_index": -1}, "first_index must be 0 or more, .*; got -1"),
        (BUDGETED, {"indices": torch.tensor([0])}, r"indices must be int64 of shape \(2,\)"),
        (PGD, {"steps": 0}, "steps must be 1 or more; got 0"),
        (PGD, {"restarts": 0}, "restarts must be 1 or more; got 0"),
        (PGD, {"restarts": 2, "random_start": False}, "restarts must be 1 without a random start; got 2"),
        (PGD, {"step_size": 0.0}, "step_size must be above 0, and finite; got 0.0"),
        (PGD, {"step_size": torch.nan}, "step_size must be above 0, and finite; got nan"),
        (PGD, {"step_size": torch.inf}, "step_size must be above 0, and finite; got inf"),
        (["square"], {"queries": 0}, "queries must be 1 or more; got 0"),
        (["lbfgs"], {"evaluations": 0}, "evaluations must be 1 or more; got 0"),
        (["lbfgs"], {"confidence": 0.0}, "confidence must be above 0 and below 1; got 0.0"),
        (["lbfgs"], {"confidence": 1.0}, "confidence must be above 0 and below 1; got 1.0"),
        (["lbfgs"], {"confidence": 98}, "confidence must be above 0 and below 1; got 98"),
        (["lbfgs"], {"confidence": torch.nan}, "confidence must be above 0 and below 1; got nan"),
    ],
)
def test_a_bad_setting_is_named(toy, names, setting, message):
    for name in names:
        with pytest.raises(ValueError, match=message):
            ATTACKS[name](toy.model, GREY, LABELS, **setting)


@pytest.mark.parametrize("name", SEEDED)
def test_a_bad_loss_is_named_before_a_victim_is_asked(toy, name):
    class Deaf:
        classifier = toy.model

        def objective(self, aims, **setting):
            raise AssertionError

    with pytest.raises(ValueError, match="loss must be"):
        ATTACKS[name](Deaf(), GREY, LABELS, loss="hinge")


@pytest.mark.parametrize("attack", [pgd, square, worst_case])
def test_the_seed_must_be_given(toy, attack):
    with pytest.raises(TypeError, match="seed"):
        attack(toy.model, GREY, LABELS, epsilon=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("name", EVERY)
def test_a_gpu_gives_what_a_cpu_gives(toy, name):
    expected = ATTACKS[name](toy.model, toy.images, toy.targets)
    found = ATTACKS[name](copy.deepcopy(toy.model).cuda(), toy.images.cuda(), toy.targets.cuda())
    for field in FIELDS:
        assert getattr(found, field).is_cuda, field
    assert torch.equal(found.success.cpu(), expected.success)
    assert (found.images.cpu() - expected.images).abs().mean() < 1e-3
