"""Attacks find a planted weakness, and claim none where there is none (Zimmermann et al. 2022).

The signs that a result means less than it seems are planted one by one, too: each flag must show where its sign is.
"""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout, softmax

from vaecore import Attack, Sanity, fgsm, lbfgs, pgd, square
from vaecore.toolkit import class_loss, normal, seed_for, signs

SIDE, WEAK = 12, 4  # class 4 has no images: the planted direction leads to it
REACH = 0.6  # how far along the hidden direction class 4 begins, in L2; 0.05 in L-infinity


def noise(name, rows):
    """Signs for rows of pixels, always the same."""
    return signs(seed_for(name, 0), torch.arange(rows), draws=1, size=SIDE * SIDE).squeeze(1)


class Planted(nn.Module):
    """Logits of classes 0 to 3 by the nearest of prototypes far apart; of class 4 by a hidden direction.

    A logit is linear in the image, then bent, all alike and rising: so the nearest point of another class is known
    exactly, while gradients vary threefold along the way.
    """

    def __init__(self, *, planted=True):
        super().__init__()
        prototypes = 0.15 * noise("prototypes", 4)
        blocks = noise("hidden", 1)[0, :9].view(3, 3).repeat_interleave(4, dim=0).repeat_interleave(4, dim=1)
        self.hidden = blocks.flatten() / SIDE  # of length 1
        centred = prototypes.repeat(5, 1) + 0.03 * noise("images", 20)
        centred -= torch.outer(centred @ self.hidden, self.hidden)
        self.images = (0.5 + centred).view(-1, 1, SIDE, SIDE)
        self.labels = torch.arange(20) % 4
        self.weight = torch.cat([2 * prototypes, 7 * planted * self.hidden.unsqueeze(0)])
        height = prototypes.square().sum(dim=1)
        # At REACH along the hidden direction class 4 is level with the image's own class, all else equal. It is
        # the runner-up from the start, towards which alone the untargeted margin climbs.
        self.bias = torch.cat([-height, (height.mean() - 7 * REACH if planted else -height.mean()).view(1)])
        self.eval()

    def scores(self, images):
        return (images.flatten(1) - 0.5) @ self.weight.T + self.bias

    def forward(self, images):
        scores = self.scores(images)
        return scores + 0.5 * scores.sin()

    def distance(self, norm):
        """How far each of the images is from the nearest point of another class (which may lie outside the box)."""
        scores = self.scores(self.images)
        lead = scores.gather(1, self.labels.unsqueeze(1)) - scores
        apart = torch.linalg.vector_norm(
            self.weight[self.labels].unsqueeze(1) - self.weight, ord=1 if norm == "linf" else 2, dim=2
        )
        return torch.where(apart > 0, lead / apart, torch.inf).amin(dim=1)


def one_target(attack):
    """The attack with class 4 as its target."""
    return lambda model, images, labels, **setting: attack(
        model, images, labels, targets=torch.full_like(labels, WEAK), **setting
    )


seeded = partial(pgd, seed=0)
constant = partial(seeded, step_size=0.01)
ATTACKS = {
    "fgsm linf": ("linf", fgsm),
    "fgsm l2": ("l2", partial(fgsm, norm="l2")),
    "fgsm linf targeted": ("linf", one_target(fgsm)),
    "pgd linf adaptive": ("linf", seeded),
    "pgd linf adaptive margin": ("linf", partial(seeded, loss="margin")),
    "pgd linf adaptive targeted": ("linf", one_target(seeded)),
    "pgd linf constant": ("linf", constant),
    "pgd linf constant targeted": ("linf", one_target(constant)),
    "pgd l2 adaptive": ("l2", partial(seeded, norm="l2")),
    "pgd l2 adaptive targeted": ("l2", one_target(partial(seeded, norm="l2"))),
    "pgd l2 constant": ("l2", partial(seeded, norm="l2", step_size=0.1)),
    "pgd l2 constant margin targeted": ("l2", one_target(partial(seeded, norm="l2", step_size=0.1, loss="margin"))),
    "square": ("linf", partial(square, seed=0)),
    "square targeted": ("linf", one_target(partial(square, seed=0))),
}
BUDGETED = pytest.mark.parametrize(("norm", "attack"), ATTACKS.values(), ids=ATTACKS.keys())


@BUDGETED
def test_the_planted_direction_is_found(norm, attack):
    model = Planted()
    nearest, other = model.distance(norm), Planted(planted=False).distance(norm)
    budget = 1.5 * float(nearest.max())
    assert budget < 0.9 * float(other.min())  # nothing else is in reach
    found = attack(model, model.images, model.labels, epsilon=budget)
    assert found.success.all()
    assert model(found.images).argmax(dim=1).tolist() == [WEAK] * 20
    change = (found.images - model.images).flatten(1)
    assert bool((change @ model.hidden > 0.6 * REACH).all())
    assert bool((getattr(found, norm) <= budget + 1e-6).all())
    assert bool((getattr(found, norm) >= nearest - 1e-5).all())
    assert found.warnings() == []


@BUDGETED
@pytest.mark.parametrize("planted", [True, False], ids=["out of reach", "nothing planted"])
def test_nothing_is_claimed_where_nothing_is_in_reach(norm, attack, planted):
    model, distance = Planted(planted=planted), Planted().distance(norm)
    found = attack(
        model, model.images, model.labels, epsilon=float(0.97 * distance.min() if planted else 1.5 * distance.max())
    )
    assert not found.success.any()
    assert torch.equal(found.images, model.images)
    assert found.warnings() == ["20 of 20 images: the attack did not reach its aim"]


def test_lbfgs_finds_the_planted_direction_and_nothing_nearer():
    model = Planted()
    found = lbfgs(model, model.images, torch.full((20,), WEAK))
    assert found.success.all()
    assert model(found.images).argmax(dim=1).tolist() == [WEAK] * 20
    nearest = model.distance("l2")
    assert bool((found.l2 >= nearest - 1e-4).all())
    assert bool((found.l2 < 1.05 * nearest).all())
    assert found.warnings() == []


def test_lbfgs_claims_nothing_where_nothing_is_planted():
    model = Planted(planted=False)
    model.bias[WEAK] = -30  # below what any image in the box can bring the others down to
    found = lbfgs(model, model.images, torch.full((20,), WEAK))
    assert not found.success.any()
    assert found.l2.isnan().all()


# The flags, each planted alone

MODEL = Planted()
IMAGES, LABELS = MODEL.images[:12], MODEL.labels[:12]
NONE, ALL = [0] * 12, torch.ones(12, dtype=torch.int64)
GRADIENT = {
    "fgsm linf": partial(fgsm, epsilon=0.05),
    "fgsm l2": partial(fgsm, epsilon=0.5, norm="l2"),
    "pgd constant": partial(pgd, epsilon=0.05, seed=0, steps=3, step_size=0.02),
    "pgd adaptive": partial(pgd, epsilon=0.5, seed=0, steps=3, norm="l2"),
    "pgd targeted": one_target(partial(pgd, epsilon=0.05, seed=0, steps=3, loss="margin", restarts=2)),
    "lbfgs": lambda model, images, labels: lbfgs(model, images, torch.full_like(labels, WEAK), evaluations=4),
}
EVERY = GRADIENT | {"square": partial(square, epsilon=0.05, seed=0, queries=3)}
BY_GRADIENT = pytest.mark.parametrize("attack", GRADIENT.values(), ids=GRADIENT.keys())
BY_ANY = pytest.mark.parametrize("attack", EVERY.values(), ids=EVERY.keys())


def masked(images):
    """Gradients of zero where the upper left corner is grey: there the image is rounded."""
    grey = (images[:, :, :2, :2] - 0.5).abs().amax(dim=(1, 2, 3)) < 0.3
    return MODEL(torch.where(grey.view(-1, 1, 1, 1), (images * 31).round() / 31, images))


@BY_ANY
def test_a_sound_classifier_raises_no_flag(attack):
    for model in (MODEL, lambda images: MODEL(images).exp(), lambda images: MODEL(images).relu()):
        assert attack(model, IMAGES, LABELS).flags.tolist() == NONE


@BY_GRADIENT
def test_zero_gradients_are_flagged_in_the_images_that_have_them(attack):
    images = IMAGES.clone()
    images[::3, :, :2, :2] = 0.9
    found = attack(masked, images, LABELS)
    expected = [0 if row % 3 == 0 else int(Sanity.ZERO_GRADIENT) for row in range(12)]
    assert found.flags.tolist() == expected
    assert (
        "8 of 12 images: the gradient is exactly zero at the attack's first point: the loss is saturated or masked"
        " (try loss='margin')" in found.warnings()
    )


def endless(images):
    """Gradients that are not finite: the root of zero is harmless forwards, infinite times zero backwards."""
    return MODEL(images) + (images - images.detach()).square().sum(dim=(1, 2, 3)).sqrt().view(-1, 1)


@pytest.mark.parametrize("classifier", [masked, endless])
def test_square_has_no_gradient_to_flag(classifier):
    assert square(classifier, IMAGES, LABELS, epsilon=0.05, seed=0, queries=3).flags.tolist() == NONE


@BY_ANY
def test_probabilities_are_flagged(attack):
    found = attack(lambda images: softmax(MODEL(images), dim=1), IMAGES, LABELS)
    assert found.flags.tolist() == [int(Sanity.PROBABILITIES)] * 12
    assert (
        "12 of 12 images: the classifier's outputs look like probabilities; attacks expect logits, and a second"
        " softmax hides gradients (leave the softmax out)" in found.warnings()
    )


@BY_ANY
@pytest.mark.parametrize("kind", ["dropout left on", "noise added"])
def test_a_random_classifier_is_flagged(attack, kind):
    generator = torch.Generator().manual_seed(0)

    def classifier(images):
        if kind == "noise added":
            return MODEL(images) + 0.01 * torch.randn(len(images), 5, generator=generator)
        return MODEL(dropout(images, 0.1, training=True))  # not a module: its mode cannot be checked

    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = attack(classifier, IMAGES, LABELS)
    assert found.flags.tolist() == [int(Sanity.RANDOMISED)] * 12
    assert (
        "12 of 12 images: the classifier answers differently when asked twice: gradients are those of one draw, and"
        " success is luck (average over draws, or fix its noise)" in found.warnings()
    )


class Standardised(nn.Module):
    """The classifier of images that are standardised over the batch, by a batch norm without running statistics."""

    def __init__(self):
        super().__init__()
        self.norm, self.inner = nn.BatchNorm2d(1, track_running_stats=False), MODEL

    def forward(self, images):
        return self.inner(0.5 + 0.1 * self.norm(images))


@BY_ANY
@pytest.mark.parametrize("count", [2, 12])
def test_a_classifier_whose_answer_depends_on_the_batch_is_flagged(attack, count):
    found = attack(Standardised().eval(), IMAGES[:count], LABELS[:count])
    assert found.flags.tolist() == [int(Sanity.BATCH_DEPENDENT)] * count
    assert (
        f"{count} of {count} images: the answer for an image depends on the other images of its batch: success may not"
        " hold image by image (a batch norm without running statistics, or a mean over the batch?)" in found.warnings()
    )


@pytest.mark.parametrize(
    "attack", [fgsm, partial(pgd, steps=2), partial(square, queries=3)], ids=["fgsm", "pgd", "square"]
)
@pytest.mark.parametrize(
    ("adds", "flag"), [("fixed noise", 0), ("noise", Sanity.RANDOMISED), ("the batch's mean", Sanity.BATCH_DEPENDENT)]
)
def test_a_victim_whose_objective_is_random_is_flagged_unless_its_noise_is_fixed(attack, adds, flag):
    """Or depends on the batch; though its classifier is sound."""
    generator = torch.Generator().manual_seed(0)

    class Victim:
        classifier = MODEL

        def objective(self, aims, *, targeted, loss, indices, seed):
            def objective(points, rows, step):
                logits, aim = MODEL(points), aims[rows]
                added = {
                    "fixed noise": normal(seed_for(f"{step}", seed), indices[rows], draws=1, size=1).flatten(),
                    "noise": torch.randn(len(rows), generator=generator),
                    "the batch's mean": logits.mean(),
                }[adds]
                value = class_loss(logits, aim, targeted=targeted, loss=loss) + 0.01 * added
                return (logits.argmax(dim=1) == aim) == targeted, value

            return objective

    found = attack(Victim(), IMAGES, LABELS, epsilon=0.05, seed=0)
    assert found.flags.tolist() == [int(flag)] * 12


def test_flags_add_up():
    """Probabilities of a saturated classifier, answered at random."""
    generator = torch.Generator().manual_seed(0)

    def classifier(images):
        kept = softmax(1e4 * masked(images), dim=1)
        turn = torch.randint(1, 5, (1,), generator=generator)
        return kept.roll(int(turn), dims=1)

    found = pgd(classifier, IMAGES, LABELS, epsilon=0.05, seed=0, steps=2)
    assert found.flags.tolist() == [int(Sanity.ZERO_GRADIENT | Sanity.PROBABILITIES | Sanity.RANDOMISED)] * 12


def test_warnings_say_in_words_what_the_flags_say():
    nothing = torch.zeros(3)
    success = torch.tensor([True, True, False])
    flags = torch.tensor([int(Sanity.ZERO_GRADIENT | Sanity.PROBABILITIES), int(Sanity.PROBABILITIES), 0])
    failed, still, probabilities = Attack(torch.zeros(3, 1, 2, 2), success, nothing, nothing, nothing, flags).warnings()
    assert failed == "1 of 3 images: the attack did not reach its aim"
    assert still.startswith("1 of 3 images: the gradient is exactly zero")
    assert probabilities.startswith("2 of 3 images: the classifier's outputs look like probabilities")
    assert Attack(torch.zeros(3, 1, 2, 2), success | True, nothing, nothing, nothing, 0 * flags).warnings() == []
