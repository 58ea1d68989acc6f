"""Perturbations of the size they claim, the same in any shards; each attack reaches what it aims at."""

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import cross_entropy

from vaecore import Images, outside, pgd, reconstruct
from vaecore.suite.study import perturbations
from vaecore.suite.study.cleaning import CLEANED
from vaecore.suite.study.conditions import (
    CLEAN,
    CONFIDENT,
    EVADE,
    EVADE_KNOWN,
    EVADE_MAGNET,
    FGSM,
    GAUSSIAN,
    GAUSSIAN_CONFIDENT,
    JOINT,
    LBFGS,
    MIX,
    NOISY,
    PGD,
    ROTATED,
    SIGN,
    UNIFORM,
)
from vaecore.suite.study.decisions import ASKED
from vaecore.suite.study.perturbations import at_distance, random_targets
from vaecore.suite.study.protocol import Protocol
from vaecore.toolkit import seed_for

KINDS = {one.kind.name: one for one in (*Protocol().conditions, *CLEANED, *ASKED) if one != MIX}


def grey(count, level=0.5, first=0):
    return {
        "pixels": torch.full((count, 1, 28, 28), level),
        "labels": torch.zeros(count, dtype=torch.int64),
        "indices": torch.arange(first, first + count),
    }


def some(columns, rows):
    return {name: column[rows] for name, column in columns.items()}


@pytest.fixture(scope="module")
def whole(perturbed, shard):
    """All images under each kind of condition."""
    attacks = {}
    for condition in KINDS.values():
        attacks[condition] = perturbed(condition, shard, attacks.get(condition.kind.twin_of))
    return attacks


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("split", ["halves", "reversed", "one and the rest"])
def test_shards_join_to_the_whole(perturbed, shard, whole, name, split):
    condition, count = KINDS[name], len(shard["pixels"])
    order = torch.arange(count - 1, -1, -1) if split == "reversed" else torch.arange(count)
    sizes = {"halves": [10, 10], "reversed": [count], "one and the rest": [1, count - 1]}[split]
    twin = whole.get(condition.kind.twin_of)
    parts = [
        perturbed(condition, some(shard, rows), None if twin is None else some(twin, rows))
        for rows in torch.split(order, sizes)
    ]
    # A step of L-BFGS enlarges what rounding leaves, and that depends on where in memory an image lies.
    tolerance = 1e-3 if condition.attack else 1e-5
    for column, values in whole[condition].items():
        joined = torch.cat([part[column] for part in parts])
        torch.testing.assert_close(joined, values[order], equal_nan=True, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("name", KINDS)
def test_an_attack_says_what_it_did(models, shard, whole, name):
    condition, attack = KINDS[name], whole[KINDS[name]]
    change = (attack["images"] - shard["pixels"]).flatten(1)
    left_out = ~attack["success"] if condition.kind.minimal else torch.zeros(len(change), dtype=torch.bool)
    if condition.attack and condition.attack != condition:
        left_out = whole[condition.attack]["l2"].isnan()
        assert attack["images"][left_out].equal(shard["pixels"][left_out])
    torch.testing.assert_close(attack["l2"][~left_out], change.norm(dim=1)[~left_out], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attack["linf"][~left_out], change.abs().amax(dim=1)[~left_out])
    assert attack["images"].min() >= 0
    assert attack["images"].max() <= 1
    assert bool((change == 0).all()) == (condition == CLEAN)
    if not condition.kind.knows:
        assert attack["success"].all()
        assert not attack["evaluations"].any()
        assert not attack["flags"].any()
    elif "vae" not in condition.kind.knows and not condition.kind.minimal:
        assert torch.equal(attack["success"], models(attack["images"]).argmax(dim=1) != shard["labels"])


@pytest.mark.parametrize("kind", [FGSM, UNIFORM, SIGN, PGD], ids=lambda kind: kind.name)
@pytest.mark.parametrize("budgets", [0.25, 1.5])
def test_changes_of_a_pixel_keep_within_epsilon_and_come_near_it(perturbed, shard, kind, budgets):
    linf = perturbed(kind(budgets), shard, steps=2)["linf"]
    assert linf.max() <= 0.2 * budgets + 1e-6
    assert linf.min() > 0.8 * 0.2 * budgets


def test_noise_on_grey_images_is_of_the_size_it_claims(perturbed):
    sign, uniform, fgsm, noisy = (
        perturbed(one, grey(40))["images"] - 0.5 for one in (SIGN(1), UNIFORM(1), FGSM(1), NOISY(0.5))
    )
    few = sign.numel() ** -0.5
    torch.testing.assert_close(sign.abs(), torch.full_like(sign, 0.2))
    assert abs(float((sign > 0).float().mean()) - 0.5) < 5 * 0.5 * few
    assert abs(float(uniform.mean())) < 5 * 0.2 / 3**0.5 * few
    assert float(uniform.square().mean()) == pytest.approx(0.04 / 3, rel=0.05)
    assert abs(float(noisy.mean())) < 5 * 0.1 * few
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.02)
    assert fgsm.abs().amax(dim=(1, 2, 3)).tolist() == pytest.approx([0.2] * 40, abs=1e-6)


def test_noise_follows_its_kind_seed_and_image_but_not_epsilon(perturbed):
    def pattern(condition, **at):
        first = at.pop("first", 0)
        return perturbed(condition, grey(6, first=first), **at)["images"] - 0.5

    small = pattern(SIGN(0.5))
    torch.testing.assert_close(2 * small, pattern(SIGN(1)))  # so that sizes are compared on the same draws
    shifted = pattern(SIGN(0.5), first=1)
    torch.testing.assert_close(shifted[:-1], small[1:])
    for unlike in (pattern(SIGN(0.5), seed=1), pattern(UNIFORM(0.5)), pattern(NOISY(1.5)), shifted):
        assert float(((unlike > 0) == (small > 0)).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_images_are_turned_as_the_set_outside_is(perturbed, shard):
    digits = Images(shard["pixels"], shard["labels"], "digits", "test")
    assert torch.equal(perturbed(ROTATED(30), shard)["images"], outside("rotated-30", digits, seed=0).pixels)


def test_fgsm_climbs_the_loss_of_the_label(models, perturbed, shard):
    images = perturbed(FGSM(0.25), shard)["images"]
    before, after = (
        cross_entropy(models(pixels), shard["labels"], reduction="none") for pixels in (shard["pixels"], images)
    )
    assert (after > before).float().mean() > 0.9


def test_pgd_is_pgd_on_the_classifier(models, perturbed, shard):
    settings = {"seed": seed_for("attack/pgd", 3), "indices": shard["indices"], "steps": 5, "keep_failed": True}
    expected = pgd(models, shard["pixels"], shard["labels"], epsilon=0.1, **settings)
    assert torch.equal(perturbed(PGD(0.5), shard, steps=5)["images"], expected.images)


def test_lbfgs_reaches_a_random_target_and_gaussian_noise_has_its_size(models, shard, whole):
    attack = whole[LBFGS]
    taken = models(shard["pixels"]).argmax(dim=1)
    targets = random_targets(shard["labels"], shard["indices"], classes=10, seed=3, predicted=taken)
    success = attack["success"]
    assert success.float().mean() > 0.8
    assert torch.equal(models(attack["images"]).argmax(dim=1)[success], targets[success])
    confident = whole[CONFIDENT]
    sure = models(confident["images"]).softmax(dim=1).amax(dim=1)[confident["success"]]
    assert sure.min() > 0.97
    assert confident["success"].any()
    for noise, of in ((GAUSSIAN, attack), (GAUSSIAN_CONFIDENT, confident)):
        reached = of["success"] & (of["l2"] > 0)
        assert reached.float().mean() > 0.5
        torch.testing.assert_close(whole[noise]["l2"][reached], of["l2"][reached], rtol=1e-3, atol=0)


def test_adaptive_attacks_stay_in_their_budget_and_mind_the_alarms(models, perturbed, shard):
    errors = []
    for condition in (JOINT(1.5), EVADE(1.5), EVADE_KNOWN(1.5), EVADE_MAGNET(1.5)):
        attack = perturbed(condition, shard, steps=15)
        assert attack["linf"].max() <= 0.3 + 1e-6
        assert attack["linf"].min() > 0.05
        draws = reconstruct(models, attack["images"], draws=10, seed=1)
        errors.append((draws - attack["images"][:, None]).square().mean(dim=(1, 2, 3, 4)))
    assert (errors[1] < errors[0]).float().mean() > 0.8
    assert not torch.equal(errors[1], errors[2])
    assert (errors[3] < errors[0]).float().mean() > 0.8


@pytest.mark.parametrize(
    ("condition", "draws", "known", "alarms"),
    [
        (EVADE(1), 5, False, {"mse": 0.01, "disagreement": 0.1, "max-softmax": 0.1}),
        (EVADE_KNOWN(1), 10, True, {"mse": 0.01, "disagreement": 0.1, "max-softmax": 0.1}),
        (EVADE_MAGNET(1), 5, False, {"magnet-error": 0.05, "magnet-divergence": 0.002}),
    ],
)
def test_an_attacker_knows_the_strictest_thresholds_and_draws_only_where_it_is_said(
    perturbed, shard, monkeypatch, condition, draws, known, alarms
):
    detectors, make = [], perturbations.VAEDetector
    monkeypatch.setattr(perturbations, "VAEDetector", lambda *a, **b: detectors.append(make(*a, **b)) or detectors[-1])
    perturbed(condition, {name: rows[:2] for name, rows in shard.items()})
    (detector,) = detectors
    assert detector.draws == draws
    assert detector.known_seed == (seed_for("reconstructions", 3) if known else None)
    assert detector.thresholds == pytest.approx(alarms)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_at_distance(level):
    images = grey(5, level)["pixels"]
    direction = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    l2 = torch.tensor([0.0, 0.01, 1.0, 7.0, torch.nan])
    moved = at_distance(images, direction, l2)
    change = moved - images
    torch.testing.assert_close(change.flatten(1).norm(dim=1), l2.nan_to_num(0.0), rtol=1e-3, atol=1e-6)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert ((change * direction) >= 0).all()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_random_targets_are_uniform_over_the_other_classes(classes):
    count = 20_000
    labels = torch.arange(count) % classes
    targets = random_targets(labels, torch.arange(count), classes=classes, seed=0)
    assert targets.dtype == torch.int64
    assert int(targets.min()) >= 0
    assert int(targets.max()) < classes
    times = Counter(((targets - labels) % classes).tolist())
    assert set(times) == set(range(1, classes))
    if classes > 2:
        assert chisquare(list(times.values())).pvalue > 1e-4
        other = random_targets(labels, torch.arange(count), classes=classes, seed=1)
        assert float((other == targets).float().mean()) == pytest.approx(1 / (classes - 1), abs=0.02)
    rows = torch.tensor([7, 3, 19_999])
    assert torch.equal(random_targets(labels[rows], rows, classes=classes, seed=0), targets[rows])


def test_random_targets_avoid_the_class_that_an_image_is_given():
    labels, predicted = torch.arange(20_000) % 10, torch.arange(20_000) // 10 % 10
    targets = random_targets(labels, torch.arange(20_000), classes=10, seed=0, predicted=predicted)
    assert not bool(((targets == labels) | (targets == predicted)).any())
    right = labels == predicted
    assert torch.equal(targets[right], random_targets(labels, torch.arange(20_000), classes=10, seed=0)[right])
    assert chisquare(torch.bincount(targets, minlength=10).tolist()).pvalue > 1e-4
