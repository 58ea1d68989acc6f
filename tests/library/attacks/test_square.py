"""Square Attack: every trial against the algorithm, and what a search without gradients must be able to do."""

import pytest
import torch
from torch import nn

from vaecore._noise import signs, words
from vaecore.attacks._attack import Sanity, class_loss
from vaecore.attacks._pgd import pgd
from vaecore.attacks._square import _put_square, _side, square


def network(seed, *, classes=5):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, classes))
    for parameter in model.parameters():
        parameter.data = 2 * torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
    return model.eval().requires_grad_(requires_grad=False)


MODEL = network(0)
IMAGES = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
IMAGES = torch.where(IMAGES < 0.2, 0, torch.where(IMAGES > 0.87, 1, IMAGES))
LABELS = MODEL(IMAGES).argmax(dim=1)
TARGETS = (LABELS + 1 + torch.arange(24) % 4) % 5


def one_by_one(images):
    """The classifier asked about each image alone, so that rounding cannot depend on the batch."""
    return torch.cat([MODEL(image) for image in images.split(1)])


class Recorded:
    """A victim that keeps, for each image, what it was asked: a list of (point, step, won, loss).

    drift: adds it times a random sign to the logits, for each image, step and class, as a randomised victim would.
    """

    def __init__(self, classifier=one_by_one, *, drift=0.0):
        self.classifier, self.drift, self.calls = classifier, drift, []

    def objective(self, aims, *, targeted, loss, indices, seed):
        del seed

        def objective(points, rows, step):
            logits = self.classifier(points)
            logits = logits + self.drift * signs(step, indices[rows], draws=1, size=logits.shape[1]).squeeze(1)
            won = (logits.argmax(dim=1) == aims[rows]) == targeted
            value = class_loss(logits, aims[rows], targeted=targeted, loss=loss)
            self.calls.append((points.clone(), rows.tolist(), step, won.tolist(), value.tolist()))
            assert not torch.is_grad_enabled()
            return won, value

        return objective

    def asked(self, image):
        """The questions about one image, those of the sanity checks left out."""
        told = []
        for points, rows, step, won, loss in self.calls[2:]:
            told += [(points[i], step, won[i], loss[i]) for i, row in enumerate(rows) if row == image]
        return told


def followed(asked, image, *, epsilon, queries):
    """Check an image's trials against the algorithm; its best point."""
    low, high = (image - epsilon).clamp(0, 1), (image + epsilon).clamp(0, 1)
    best, _, _, highest = asked[0]
    for column in range(image.shape[-1]):
        stripe = best[..., column]
        assert torch.equal(stripe, low[..., column]) or torch.equal(stripe, high[..., column])
    for query, (point, step, won, loss) in enumerate(asked):
        assert step == query
        if query:
            rows, columns = (point != best)[0].nonzero().T
            assert len(rows) > 0  # no query is spent on a point already known
            side = _side(query, queries, *image.shape[-2:])
            assert rows.max() - rows.min() < side
            assert columns.max() - columns.min() < side
            changed = point != best
            assert torch.equal(point[changed], low[changed]) or torch.equal(point[changed], high[changed])
        if won or loss > highest:
            best, highest = point, loss
        assert not won or query == len(asked) - 1
    return best


@pytest.mark.parametrize("loss", ["margin", "cross-entropy"])
@pytest.mark.parametrize("targets", [None, TARGETS], ids=["untargeted", "targeted"])
def test_every_trial_is_the_best_point_with_one_square_and_the_loss_never_falls(loss, targets):
    victim = Recorded()
    attack = square(
        victim, IMAGES, LABELS, epsilon=0.12, seed=0, queries=80, targets=targets, loss=loss, chunk=10, keep_failed=True
    )
    assert 0 < attack.success.sum() < 24  # both kinds are there to be followed
    for row in range(24):
        asked = victim.asked(row)
        assert attack.evaluations[row] == len(asked) <= 80
        assert torch.equal(attack.images[row], followed(asked, IMAGES[row], epsilon=0.12, queries=80))
        assert attack.success[row] == asked[-1][2]
        assert attack.success[row] or len(asked) == 80
    predicted = one_by_one(attack.images).argmax(dim=1)
    assert torch.equal(attack.success, predicted != LABELS if targets is None else predicted == targets)
    assert attack.flags.tolist() == [0] * 24


def test_each_pixel_changes_by_epsilon_up_or_down():
    images = 0.3 + 0.4 * IMAGES
    attack = square(MODEL, images, LABELS, epsilon=0.1, seed=0, queries=60, keep_failed=True)
    change = attack.images - images
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.1))
    assert bool((change > 0).any())
    assert bool((change < 0).any())
    torch.testing.assert_close(attack.linf, torch.full((24,), 0.1))


def test_points_stay_in_the_ball_and_the_box():
    for epsilon in (0.0, 0.3, 1.0):
        victim = Recorded()
        square(victim, IMAGES, LABELS, epsilon=epsilon, seed=1, queries=20)
        for points, rows, *_ in victim.calls:
            assert points.min() >= 0
            assert points.max() <= 1
            assert bool(((points - IMAGES[rows]).abs() <= epsilon + 1e-6).all())


def test_square_finds_what_masked_gradients_hide():
    """Rounding to 16 levels has a gradient of zero everywhere: PGD is blind, and says so; Square is not."""

    def masked(points):
        return MODEL((points * 15).round() / 15)

    labels = masked(IMAGES).argmax(dim=1)
    blind = pgd(masked, IMAGES, labels, epsilon=0.15, seed=0, steps=10, loss="margin", random_start=False)
    assert not blind.success.any()
    assert blind.flags.tolist() == [Sanity.ZERO_GRADIENT] * 24
    attack = square(masked, IMAGES, labels, epsilon=0.15, seed=0, queries=300)
    assert attack.success.float().mean() > 0.8
    assert torch.equal(attack.success, masked(attack.images).argmax(dim=1) != labels)
    assert attack.flags.tolist() == [0] * 24


def test_square_comes_near_the_optimum_of_a_linear_classifier():
    """The best point is epsilon times the weight's sign; the search must reach nearly its whole lead."""
    weight = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def classifier(points):
        ahead = 100 - ((points - 0.5) * weight).flatten(1).sum(dim=1)  # out of reach, so that all queries are spent
        return torch.stack([ahead, torch.zeros_like(ahead)], dim=1)

    images, labels = torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)
    attack = square(classifier, images, labels, epsilon=0.1, seed=0, queries=1000, keep_failed=True)
    gain = ((attack.images - images) * weight).flatten(1).sum(dim=1)
    assert bool((gain > 0.95 * 0.1 * weight.abs().sum()).all())
    assert attack.evaluations.tolist() == [1000] * 4


def test_square_of_each_image_does_not_depend_on_its_batch_mates():
    def attack(rows, **setting):
        victim = Recorded(drift=0.3)
        return square(victim, IMAGES[rows], LABELS[rows], epsilon=0.1, seed=0, queries=130, **setting)

    together = attack(slice(None))
    assert 2 < together.success.sum() < 22
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    for rows, apart in [
        (order, attack(order, indices=order, chunk=5)),
        (slice(7, 15), attack(slice(7, 15), first_index=7)),
    ]:
        for name in ("images", "success", "evaluations", "flags", "l2", "linf"):
            torch.testing.assert_close(
                getattr(apart, name), getattr(together, name)[rows], rtol=0, atol=0, equal_nan=True
            )


def test_square_follows_from_its_seed_and_the_index():
    def attack(seed, images=IMAGES, labels=LABELS, **setting):
        return square(MODEL, images, labels, epsilon=0.05, seed=seed, queries=8, keep_failed=True, **setting).images

    assert torch.equal(attack(0), attack(0))
    assert not bool((attack(0) == attack(1)).flatten(1).all(dim=1).any())
    twice = attack(0, IMAGES[[0, 0]], LABELS[[0, 0]])
    assert not torch.equal(twice[0], twice[1])
    same = attack(0, IMAGES[[0, 0]], LABELS[[0, 0]], indices=torch.tensor([5, 5]))
    assert torch.equal(same[0], same[1])


def test_later_blocks_of_queries_have_random_numbers_of_their_own():
    """Where nothing is ever accepted, a trial is a square on the stripes; none may repeat the first hundred's."""
    victim = Recorded(lambda points: torch.tensor([[1.0, 0.0]]).expand(len(points), 2))
    images = torch.full((1, 1, 8, 8), 0.5)
    square(victim, images, torch.tensor([0]), epsilon=0.1, seed=0, queries=400)
    trials = torch.cat([points.flatten(1) for points, *_ in victim.calls[2:]])
    assert not torch.equal(trials[101:200], trials[201:300])
    assert not torch.equal(trials[201:300], trials[301:400])


def test_a_success_counts_when_it_is_seen():
    """Of a randomised victim that is won at query 3 alone: asked again it would not be, but the search has ended."""

    class Fickle(Recorded):
        def objective(self, aims, **setting):
            objective = super().objective(aims, **setting)

            def fickle(points, rows, step):
                _, loss = objective(points, rows, step)
                return torch.full_like(rows, step == 3, dtype=torch.bool), loss

            return fickle

    victim = Fickle()
    attack = square(victim, IMAGES, LABELS, epsilon=0.01, seed=0, queries=10)
    assert attack.success.all()
    assert attack.evaluations.tolist() == [4] * 24
    for row in range(24):  # the point that won, whether its loss was the highest or not
        assert torch.equal(attack.images[row], victim.asked(row)[3][0])


def test_failures_are_withdrawn_unless_they_are_to_be_kept():
    kept = square(MODEL, IMAGES, LABELS, epsilon=0.1, seed=0, queries=50, keep_failed=True)
    found = square(MODEL, IMAGES, LABELS, epsilon=0.1, seed=0, queries=50)
    failed = ~found.success
    assert 0 < failed.sum() < 24
    assert torch.equal(found.images[failed], IMAGES[failed])
    assert torch.equal(found.images[~failed], kept.images[~failed])
    for norms in (found.l2, found.linf):
        assert torch.equal(norms.isnan(), failed)
    assert not kept.l2.isnan().any()
    torch.testing.assert_close(kept.linf, torch.full((24,), 0.1))
    assert found.warnings() == [f"{int(failed.sum())} of 24 images: the attack did not reach its aim"]


def test_no_budget_leaves_the_images_and_says_which_were_wrong_already():
    labels = torch.where(torch.arange(24) < 5, TARGETS, LABELS)
    attack = square(MODEL, IMAGES, labels, epsilon=0.0, seed=0, queries=4)
    assert attack.success.tolist() == [True] * 5 + [False] * 19
    assert torch.equal(attack.images, IMAGES)
    assert attack.evaluations.tolist() == [1] * 5 + [4] * 19


# The squares


def test_squares_shrink_as_in_the_paper():
    """p starts at 0.8 and is halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries."""
    sides = [_side(query, 10_000, 28, 28) for query in (1, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert sides == [25, 25, 18, 18, 13, 9, 6, 4, 3, 2, 2, 1]  # round(28 * sqrt(0.8 / 2**k))
    assert [_side(query, 1_000, 28, 28) for query in (1, 2, 5, 6, 50, 51, 801)] == [25, 18, 18, 13, 9, 6, 1]
    assert _side(1, 100, 4, 100) == 4  # never longer than the image's shorter side
    assert _side(99, 100, 2, 2) == 1


def test_squares_lie_anywhere_with_equal_chance():
    """Each of 6 x 4 places of a 3 x 3 square in an 8 x 6 image, each sign: chi-square with 47 degrees of freedom."""
    count = 9600
    drawn = words(0, torch.arange(count), draws=1, size=3).squeeze(1)
    points = torch.zeros(count, 1, 8, 6)
    put = _put_square(points, points - 1, points + 1, 3, drawn)
    assert put.abs().sum(dim=(1, 2, 3)).tolist() == [9] * count
    row = put.abs().amax(dim=3).argmax(dim=2).flatten()
    column = put.abs().amax(dim=2).argmax(dim=2).flatten()
    up = (put.amax(dim=(1, 2, 3)) > 0).long()
    observed = torch.bincount((row * 4 + column) * 2 + up, minlength=48).double()
    assert len(observed) == 48
    assert ((observed - 200).square() / 200).sum() < 83  # the upper 0.1%


def test_a_square_that_would_change_nothing_gets_the_other_sign():
    points = torch.zeros(200, 1, 5, 5)
    drawn = words(0, torch.arange(200), draws=1, size=3).squeeze(1)
    put = _put_square(points, points, points + 1, 2, drawn)
    assert put.sum(dim=(1, 2, 3)).tolist() == [4] * 200


# What callers pass in

SMALL, ZERO_ONE = torch.full((2, 1, 8, 8), 0.5), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("classifier", "images", "labels", "message"),
    [
        (MODEL, SMALL * 3, ZERO_ONE, r"images must lie in \[0, 1\]; got \[1.5, 1.5\]"),
        (MODEL, SMALL[:0], ZERO_ONE[:0], "images is empty"),
        (MODEL, SMALL, ZERO_ONE[:1], r"labels must be int64 of shape \(2,\)"),
        (MODEL, SMALL, ZERO_ONE + 4, "labels must be 0 to 4; got 4 to 5"),
        (network(0).train(), SMALL, ZERO_ONE, "evaluation mode; got Sequential in training mode"),
        (Recorded(network(0).train()), SMALL, ZERO_ONE, "evaluation mode; got Sequential in training mode"),
        (lambda batch: batch, SMALL, ZERO_ONE, r"must map 2 images to logits \(2, classes\); got \(2, 1, 8, 8\)"),
        (lambda batch: batch.flatten(1) * torch.nan, SMALL, ZERO_ONE, "logits must be finite"),
    ],
)
def test_bad_input_is_named(classifier, images, labels, message):
    with pytest.raises(ValueError, match=message):
        square(classifier, images, labels, epsilon=0.1, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epsilon": -0.1}, "epsilon must be from 0 to 1, as pixels are from 0 to 1; got -0.1"),
        ({"epsilon": torch.nan}, "epsilon must be from 0 to 1, .*; got nan"),
        ({"epsilon": 8}, r"epsilon must be from 0 to 1, .*; got 8 \(divide by 255"),
        ({"loss": "hinge"}, "loss must be 'cross-entropy' or 'margin'; got 'hinge'"),
        ({"queries": 0}, "queries must be 1 or more; got 0"),
        ({"chunk": 0}, "chunk must be 1 or more images; got 0"),
        ({"targets": torch.tensor([1, 1])}, r"targets must differ from the labels; 1 of 2 .*first at row 1"),
        ({"targets": torch.tensor([1, 5])}, "targets must be 0 to 4; got 1 to 5"),
        ({"first_index": -1}, "first_index must be 0 or more; got -1"),
        ({"indices": torch.tensor([0])}, r"indices must be int64 of shape \(2,\)"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        square(MODEL, SMALL, ZERO_ONE, **{"epsilon": 0.1, "seed": 0} | setting)


def test_the_seed_must_be_given():
    with pytest.raises(TypeError, match="seed"):
        square(MODEL, SMALL, ZERO_ONE, epsilon=0.1)


def test_square_needs_no_gradient_and_leaves_the_images_as_they_were():
    images = IMAGES.clone().requires_grad_()
    attack = square(lambda points: MODEL(points.detach()), images, LABELS, epsilon=0.1, seed=0, queries=5)
    assert not attack.images.requires_grad
    assert not attack.l2.requires_grad
    assert torch.equal(images, IMAGES)
