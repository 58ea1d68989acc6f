"""The ensemble against its parts: who attacks which images, with what aim, and what counts."""

import pytest
import torch
from torch.testing import assert_close

from vaecore import pgd, square, worst_case
from vaecore.toolkit import class_loss, seed_for

EFFORT = {"steps": 4, "queries": 30}


def saturated(toy):
    """The toy's classifier with such logits that many a cross-entropy has no gradient."""
    return lambda images: 60 * toy.model(images)


def alone(toy, seed):
    """The ensemble's attacks, each on all images."""
    common = {"epsilon": 0.08, "keep_failed": True}
    likely = toy.model(toy.images).scatter(1, toy.labels.unsqueeze(1), -torch.inf).argsort(dim=1, descending=True)
    given = saturated(toy), toy.images, toy.labels
    yield pgd(*given, seed=seed_for("worst-case/0", seed), steps=4, **common)
    for number in range(1, 5):
        own = {"seed": seed_for(f"worst-case/{number}", seed), "targets": likely[:, number - 1]}
        yield pgd(*given, steps=4, loss="dlr", **own, **common)
    yield square(*given, seed=seed_for("worst-case/5", seed), queries=30, **common)


def test_each_attack_takes_what_the_others_left_and_all_wins_count(toy):
    attack = worst_case(saturated(toy), toy.images, toy.labels, epsilon=0.08, seed=3, **EFFORT)
    parts = list(alone(toy, 3))
    wins = torch.stack([part.success for part in parts])
    assert torch.equal(attack.success, wins.any(dim=0))
    assert wins[0].sum() < attack.success.sum() < 24  # the others win what the first does not, and not everything
    first = wins.long().argmax(dim=0)
    for row, number in enumerate(first.tolist()):
        spent = sum(int(part.evaluations[row]) for part in parts[: number + 1 if wins[:, row].any() else None])
        assert attack.evaluations[row] == spent
        expected = parts[number].images[row] if attack.success[row] else toy.images[row]
        assert_close(attack.images[row], expected)
    kept = worst_case(saturated(toy), toy.images, toy.labels, epsilon=0.08, seed=3, keep_failed=True, **EFFORT)
    assert_close(kept.images[~kept.success], parts[0].images[~kept.success])


def test_it_aims_at_likely_classes_first_and_at_no_more_than_asked(toy, recorder):
    victim = recorder(toy.model)
    aims = []
    own = victim.objective
    victim.objective = lambda aims_, **setting: aims.append((aims_, setting)) or own(aims_, **setting)
    attack = worst_case(victim, toy.images, toy.labels, epsilon=0.0, seed=0, targets=2, **EFFORT)
    assert not attack.success.any()
    ranks = toy.model(toy.images).argsort(dim=1, descending=True)
    asked = [(setting["targeted"], setting["loss"]) for _, setting in aims]
    assert asked == [(False, "cross-entropy"), (True, "dlr"), (True, "dlr"), (False, "margin")]
    for (given, _), expected in zip(aims, (toy.labels, ranks[:, 1], ranks[:, 2], toy.labels), strict=True):
        assert torch.equal(given, expected)


def test_two_classes_have_a_margin_and_no_dlr(network):
    model, images = network(0, classes=2), torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert worst_case(model, images, model(images).argmax(1), epsilon=0.5, seed=0, **EFFORT).success.any()
    with pytest.raises(ValueError, match=r"'dlr' needs 3 classes or more; got 2 \(use 'margin'\)"):
        pgd(model, images, model(images).argmax(1), epsilon=0.5, seed=0, loss="dlr")


@pytest.mark.parametrize("targeted", [False, True])
def test_dlr_is_the_paper_s(targeted):
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    label = logits.argmax(dim=1)
    target = (label + 1) % 6
    loss = class_loss(logits, target if targeted else label, targeted=targeted, loss="dlr")
    for row, value in enumerate(loss):
        z, (first, second, third, fourth) = logits[row], logits[row].sort(descending=True).values[:4]
        if targeted:  # equation 7, where the label leads
            assert_close(value, -(z[label[row]] - z[target[row]]) / (first - (third + fourth) / 2))
        else:  # equation 6
            assert_close(value, -(z[label[row]] - second) / (first - third))
