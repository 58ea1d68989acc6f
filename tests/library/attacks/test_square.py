"""Square Attack: every trial against the algorithm, and what a search without gradients must be able to do."""

from math import sqrt

import pytest
import torch

from vaecore import Sanity, pgd, square


def squares_side(query, queries, height, width):
    """Side of a query's square by the paper: p is 0.8 at first, halved after these queries of 10,000."""
    halvings = sum(query * 10_000 > after * queries for after in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
    return max(1, min(round(sqrt(0.8 * 2**-halvings * height * width)), height, width))


def questions_about(victim, image):
    """The search's questions about one image: its point, step, whether it won and the loss."""
    assert not any(asked.gradient for asked in victim.search())
    return [
        (asked.points[place], asked.step, bool(asked.won[place]), float(asked.loss[place]))
        for asked in victim.search()
        for place in (asked.rows == image).nonzero().flatten()
    ]


def follow(questions, image, *, epsilon, queries):
    """Check an image's trials against the algorithm; its best point."""
    ends = (image - epsilon).clamp(0, 1), (image + epsilon).clamp(0, 1)

    def is_at_an_end(pixels, where):
        return any(torch.allclose(pixels, end[where], rtol=0, atol=1e-7) for end in ends)

    best, _, _, highest = questions[0]
    for column in range(image.shape[-1]):
        assert is_at_an_end(best[..., column], (..., column))
    for query, (point, step, won, loss) in enumerate(questions):
        assert step == 0  # the draws of a randomised victim stay
        if query:
            changed = point != best
            rows, columns = changed[0].nonzero().T
            assert len(rows) > 0  # no query is spent on a point that was asked about already
            side = squares_side(query, queries, *image.shape[-2:])
            assert rows.max() - rows.min() < side
            assert columns.max() - columns.min() < side
            assert is_at_an_end(point[changed], changed)
        if won or loss > highest:
            best, highest = point, loss
        assert not won or query == len(questions) - 1
    return best


@pytest.mark.parametrize("loss", ["margin", "cross-entropy"])
@pytest.mark.parametrize("targeted", [False, True])
def test_every_trial_is_the_best_point_with_one_square_and_the_loss_never_falls(
    toy, one_by_one, recorder, loss, targeted
):
    victim = recorder(one_by_one(toy.model))
    setting = {"targets": toy.targets if targeted else None, "loss": loss, "chunk": 10, "keep_failed": True}
    attack = square(victim, toy.images, toy.labels, epsilon=0.12, seed=0, queries=80, **setting)
    assert 0 < attack.success.sum() < 24  # both kinds are there to be followed
    for row in range(24):
        questions = questions_about(victim, row)
        assert attack.evaluations[row] == len(questions) <= 80
        assert torch.equal(attack.images[row], follow(questions, toy.images[row], epsilon=0.12, queries=80))
        assert attack.success[row] == questions[-1][2]
        assert attack.success[row] or len(questions) == 80
    assert attack.flags.tolist() == [0] * 24


def test_each_pixel_changes_by_epsilon_up_or_down(toy):
    images = 0.3 + 0.4 * toy.images
    attack = square(toy.model, images, toy.labels, epsilon=0.1, seed=0, queries=60, keep_failed=True)
    change = attack.images - images
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.1))
    assert bool((change > 0).any())
    assert bool((change < 0).any())
    torch.testing.assert_close(attack.linf, torch.full((24,), 0.1))


def test_square_wins_where_gradients_are_masked(toy):
    """Rounding to 16 levels has a gradient of zero everywhere: PGD is blind, and says so; Square is not."""

    def masked(points):
        return toy.model((points * 15).round() / 15)

    labels = masked(toy.images).argmax(dim=1)
    blind = pgd(masked, toy.images, labels, epsilon=0.15, seed=0, steps=10, loss="margin", random_start=False)
    assert not blind.success.any()
    assert blind.flags.tolist() == [Sanity.ZERO_GRADIENT] * 24
    attack = square(lambda points: masked(points).detach(), toy.images, labels, epsilon=0.15, seed=0, queries=300)
    assert attack.success.float().mean() > 0.8
    assert torch.equal(attack.success, masked(attack.images).argmax(dim=1) != labels)
    assert attack.flags.tolist() == [0] * 24


def test_square_comes_near_the_optimum_of_a_linear_classifier(two_classes):
    """The best point is epsilon times the weight's sign; the search must reach nearly its whole lead."""
    weight = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    classifier = two_classes(weight, 100, at=0.5)  # out of reach, so that all queries are spent
    images, labels = torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)
    attack = square(classifier, images, labels, epsilon=0.1, seed=0, queries=1000, keep_failed=True)
    gain = ((attack.images - images) * weight).flatten(1).sum(dim=1)
    assert bool((gain > 0.95 * 0.1 * weight.abs().sum()).all())
    assert attack.evaluations.tolist() == [1000] * 4


class WonAt:
    """A victim that is won at one query alone: asked again it would not be. Its loss falls: no trial is accepted."""

    def __init__(self, recorder, query):
        self.recorder, self.query = recorder(lambda points: points.flatten(1)[:, :2]), query
        self.classifier = self.recorder.classifier

    def objective(self, aims, **setting):
        objective = self.recorder.objective(aims, **setting)

        def won_at(points, rows, step):
            objective(points, rows, step)
            query = len(self.recorder.search()) - 1
            return torch.full_like(rows, query == self.query, dtype=torch.bool), torch.full_like(
                points[:, 0, 0, 0], -query
            )

        return won_at

    def trials(self):
        """The points asked about: of the stripes, then of a square on them, (queries, n, 1, h, w)."""
        return torch.stack([asked.points for asked in self.recorder.search()])


def attack_until(recorder, query, images, *, queries):
    victim = WonAt(recorder, query)
    labels = torch.zeros(len(images), dtype=torch.int64)
    return square(victim, images, labels, epsilon=0.1, seed=0, queries=queries, chunk=50_000), victim.trials()


def test_a_success_counts_when_it_is_seen(toy, recorder):
    attack, trials = attack_until(recorder, 3, toy.images, queries=10)
    assert attack.success.all()
    assert attack.evaluations.tolist() == [4] * 24
    assert torch.equal(attack.images, trials[3])  # the point that won, though its loss was not the highest


def test_later_blocks_of_queries_have_random_numbers_of_their_own(recorder):
    """Where nothing is accepted, a trial is a square on the stripes; no hundred trials may repeat another hundred."""
    _, trials = attack_until(recorder, 400, torch.full((1, 1, 8, 8), 0.5), queries=400)
    assert not torch.equal(trials[101:200], trials[201:300])
    assert not torch.equal(trials[201:300], trials[301:400])


@pytest.mark.parametrize(
    ("sides", "queries", "of_query"),
    [
        # round(28 * sqrt(0.8 / 2**k)), for 10,000 queries as far as the fifth halving
        ((28, 28), 10_000, {1: 25, 10: 25, 11: 18, 50: 18, 51: 13, 201: 9, 501: 6}),
        ((28, 28), 1_000, {1: 25, 2: 18, 5: 18, 6: 13, 50: 9, 51: 6, 101: 4, 201: 3, 401: 2, 601: 2, 801: 1}),
        ((4, 100), 100, {1: 4}),  # never longer than the image's shorter side
        ((100, 4), 100, {1: 4}),
        ((2, 2), 100, {99: 1}),
    ],
)
def test_squares_shrink_as_in_the_paper(recorder, sides, queries, of_query):
    """p starts at 0.8 and is halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries."""
    _, trials = attack_until(recorder, max(of_query), torch.full((1, 1, *sides), 0.5), queries=queries)
    rows = [(trials[query] != trials[0]).any(dim=3).sum() for query in of_query]  # where a square changes a column
    assert rows == list(of_query.values())


def test_squares_lie_anywhere_with_equal_chance_and_have_either_sign(recorder):
    """Of 3 x 3 squares in 8 x 6 images: 6 x 4 places by a chi-square with 23 degrees of freedom, two signs.

    A square is seen whole on stripes of one sign alone, where it always has the other.
    """
    _, (stripes, trial) = attack_until(recorder, 1, torch.full((40_000, 1, 8, 6), 0.5), queries=100)
    changed = trial != stripes
    assert changed.flatten(1).any(dim=1).all()
    even = (stripes == stripes[..., :1]).flatten(1).all(dim=1)
    whole = changed[even]
    assert whole.sum(dim=(1, 2, 3)).tolist() == [9] * len(whole)
    row, column = whole.any(dim=3).long().argmax(dim=2).flatten(), whole.any(dim=2).long().argmax(dim=2).flatten()
    observed, expected = torch.bincount(row * 4 + column, minlength=24).double(), len(whole) / 24
    assert len(observed) == 24
    assert expected > 40
    assert ((observed - expected).square() / expected).sum() < 50  # the upper 0.1%
    risen = ((trial > 0.5) & changed)[~even].flatten(1).any(dim=1).double()
    assert abs(risen.mean() - 0.5) < 3.3 * 0.5 / len(risen) ** 0.5
