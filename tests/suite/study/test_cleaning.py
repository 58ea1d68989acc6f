"""Purifiers against loops by hand: who attacks what, who judges, what is shared, and what the report says."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vaecore import (
    BitDepth,
    LatentSearch,
    Purified,
    Purifier,
    Store,
    VAEPurifier,
    flips,
    pgd,
    reconstruct_labels,
    square,
)
from vaecore.suite.images import unpack
from vaecore.suite.study import cleaning
from vaecore.suite.study.cleaning import (
    ATTACKED,
    CLEANED,
    CLEANING,
    CURVE,
    KNOWING,
    MAJORITY,
    NONE,
    PURIFIERS,
    STEPS,
    Row,
    attack_purifier,
    curve_tasks,
    judge_attacks,
    judged_attacks,
    names,
    purifiers,
)
from vaecore.suite.study.conditions import CLEAN, FGSM, GAUSSIAN, LBFGS, PGD, PURIFIED, SIGN
from vaecore.suite.study.plain import BITS, SEARCH, THRESHOLD
from vaecore.suite.study.sections import cleaning as section
from vaecore.suite.study.study import Study
from vaecore.toolkit import normal, seed_for

SLOW = {SEARCH, "autoencoder"}


@pytest.fixture(scope="module")
def study(tiny, tmp_path_factory):
    """The tiny study without the purifiers that take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "PURIFIERS", {name: row for name, row in PURIFIERS.items() if name not in SLOW})
        setup = replace(tiny.setup)
        setup.__dict__["background"] = True  # though its images are noise
        yield Study.of(setup, Store(tmp_path_factory.mktemp("cleaning")))


@pytest.fixture(scope="module")
def content(study):
    """What the report says of it."""
    return section.section(study)


@pytest.fixture
def shard(study):
    return study.setup.shard((0, 12)).tensors


def models(study, *chosen):
    run = study.run(0)
    return purifiers(chosen, run.seed, 10, 5, background=True, vae=run.vae, autoencoder=None, classifier=run.classifier)


# The evidence


@pytest.mark.parametrize(
    "condition", [CLEAN, FGSM(1), SIGN(0.5), PGD(1), LBFGS, GAUSSIAN], ids=lambda one: one.kind.name
)
def test_labels_are_right_as_by_hand(study, condition):
    table, count = study.table(condition, of=CLEANING), CLEANING.count(study.setup, condition)
    rows = study.setup.shard((0, count)).tensors
    labels = rows["labels"]
    for number, run in enumerate(study.runs):
        attack = study.setup.attack(condition, number, (0, count))
        images = (study.plan.results([attack])[0] if attack.stage else study.plan.make(attack))["images"]
        assert table[NONE][number].tolist() == (run.classifier(images).argmax(1) == labels).tolist()
        binary = run.classifier((images >= 0.5).float()).argmax(1)
        assert table[THRESHOLD][number].tolist() == (binary == labels).tolist()
        at = {"seed": seed_for("purifier", run.seed), "indices": rows["indices"]}
        drawn = reconstruct_labels(run.vae, run.classifier, images, draws=10, **at).numpy()
        votes = np.stack([np.bincount(row, minlength=3) for row in drawn])
        clear = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1
        assert clear.any()
        assert ((votes.argmax(axis=1) == labels.numpy())[clear] == table[MAJORITY][number][clear]).all()


def test_claims_take_all_images_and_what_is_only_shown_few(study):
    counts = {condition: CLEANING.count(study.setup, condition) for condition in CLEANED}
    every = {CLEAN, FGSM(1), FGSM(1.5), SIGN(0.5), SIGN(1.5), PGD(1)}
    assert counts == {one: 12 if one in {*every, LBFGS, GAUSSIAN} else 6 for one in CLEANED}


def test_attacks_through_purifiers_are_judged_by_draws_they_have_not_seen(study, shard, monkeypatch):
    seeds, views = [], VAEPurifier.views

    def recorded(self, images, indices, seed):
        seeds.append((seed, torch.is_grad_enabled(), self.draws))
        return views(self, images, indices, seed)

    monkeypatch.setattr(VAEPurifier, "views", recorded)
    task = judged_attacks(study.setup, PURIFIED(0.75, label=MAJORITY), 0, 2)
    attack = task.inputs["through"]
    through = attack_purifier(
        **attack.arguments, shard=attack.inputs["shard"].tensors, models=models(study, attack.arguments["name"])
    )
    attacker = {(seed, draws) for seed, gradient, draws in seeds if gradient}
    assert len(attacker) == STEPS
    assert {draws for _, draws in attacker} == {5}
    seeds.clear()
    some, classifier = {name: column[:2] for name, column in shard.items()}, study.run(0).classifier
    right = judge_attacks(MAJORITY, "cpu", some, classifier, models(study, MAJORITY), through, through, None, None)
    assert {(seed, draws) for seed, _, draws in seeds} == {(seed_for("purifier", 0), 10)}
    assert seed_for("purifier", 0) not in {seed for seed, _ in attacker}
    assert set(right) == {"through", "ignoring", NONE}


def test_two_decisions_of_one_loss_share_an_attack_and_all_purifiers_one_that_ignores_them(study):
    tasks = {name: judged_attacks(study.setup, PURIFIED(1, label=name), 0, 2) for name in names(study.setup)}
    attacks = {kind: {name: task.inputs[kind].key for name, task in tasks.items()} for kind in ("ignoring", "through")}
    assert len(set(attacks["ignoring"].values())) == 1
    through = attacks["through"]
    assert through[MAJORITY] == through["vae-mean-softmax"]
    assert len(set(through.values())) == len(through) - 1
    assert judged_attacks(study.setup, PURIFIED(1, label="blur"), 1, 2).inputs["ignoring"].key not in through.values()


def test_the_attack_that_ignores_purifiers_is_pgd_on_the_classifier(study, shard):
    task = judged_attacks(study.setup, PURIFIED(0.5, label="blur"), 0, 12)
    (ignoring,) = study.plan.results([task.inputs["ignoring"]])
    settings = {
        "seed": seed_for("attack/purified", 0),
        "indices": shard["indices"],
        "keep_failed": True,
        "steps": STEPS,
    }
    expected = pgd(study.run(0).classifier, shard["pixels"], shard["labels"], epsilon=0.1, **settings)
    torch.testing.assert_close(ignoring["images"], expected.images)


def test_what_has_no_exact_gradient_is_attacked_without_one_as_well(study, monkeypatch):
    monkeypatch.setattr(cleaning, "PURIFIERS", PURIFIERS)
    kinds = {key: {kind for kind in KNOWING if task.inputs[kind]} for key, task in curve_tasks(study.setup).items()}
    expected = {key: {"ignoring", "through"} for key in kinds}
    expected |= {(name, size): set(KNOWING) for name in (THRESHOLD, BITS) for size in CURVE}
    expected |= {("jpeg", size): {"ignoring", "through", "queried"} for size in CURVE}
    expected[SEARCH, 1.5] = {"ignoring", "through", "queried"}
    assert kinds == expected


@pytest.mark.parametrize("kind", ["flipped", "queried"])
def test_attacks_without_a_gradient_are_those_of_the_library(study, shard, kind):
    model = models(study, BITS)[BITS]
    found = attack_purifier(kind, BITS, 0.2, 3, 5, "cpu", shard, {BITS: model})["images"]
    given = shard["pixels"], shard["labels"]
    common = {"epsilon": 0.2, "seed": seed_for("attack/purified", 3), "indices": shard["indices"], "keep_failed": True}
    if kind == "flipped":
        expected = flips(model.classifier, *given, rounding=BitDepth(2), **common)
    else:
        expected = square(model, *given, queries=500, **common)
    torch.testing.assert_close(found, expected.images)


def test_attacks_through_purifiers_are_those_of_each_run(study):
    both = study.table(PURIFIED(1, label="vae-posterior-mean"), of=ATTACKED)
    (first,) = study.plan.results([curve_tasks(study.setup)["vae-posterior-mean", 1.0]])
    assert both["through"].shape == (2, 8)
    np.testing.assert_array_equal(both["through"][0, :4], first["through"])
    assert both["through"].mean() < both["ignoring"].mean()


def test_the_search_gets_fewer_images(tiny, tmp_path, monkeypatch):
    row = Row(lambda parts: LatentSearch(parts.vae, steps=2, starts=1))
    monkeypatch.setattr(cleaning, "PURIFIERS", {SEARCH: row})
    monkeypatch.setattr(cleaning, "SEARCHED", 2)
    monkeypatch.setattr(cleaning, "SEARCHES_ATTACKED", 3)
    setup = replace(tiny.setup, protocol=replace(tiny.setup.protocol, shard=5))  # so that shards have none for it
    study = Study.of(setup, Store(tmp_path))
    assert study.table(PURIFIED(1, label=SEARCH), of=ATTACKED)["through"].shape == (2, 3)
    table = study.table(CLEAN, of=CLEANING)
    assert (table[SEARCH].shape, table[NONE].shape) == ((2, 2), (2, 12))
    (found,) = study.paired(LBFGS, of=CLEANING)
    assert found[SEARCH].shape == found[NONE].shape  # of which a claim takes all


def test_without_training_images_there_is_no_autoencoder(tiny, untrained, monkeypatch):
    monkeypatch.setattr(cleaning, "PURIFIERS", PURIFIERS)
    assert set(names(tiny.setup)) - set(names(untrained)) == {"autoencoder"}
    assert [*curve_tasks(untrained)] == [(name, size) for name in names(untrained) for size in CURVE]


class Jittered(Purifier):
    """A user's random purifier, of more draws than attackers average over, that can't be had with fewer."""

    draws, random = 7, True

    def views(self, images, indices, seed):
        noise = normal(seed, indices, draws=7, size=images[0].numel(), device=images.device)
        return (images.unsqueeze(1) + 0.1 * noise.view(len(images), 7, *images.shape[1:])).clamp(0, 1)


def test_a_random_purifier_of_another_kind_is_attacked_with_all_its_draws(study, shard, monkeypatch):
    monkeypatch.setitem(cleaning.PURIFIERS, "jittered", Row(lambda _: Jittered()))
    asked = []

    def recorded(victim, *images, **settings):
        asked.append((victim, settings))
        return pgd(victim, *images, **settings)

    monkeypatch.setattr(cleaning, "pgd", recorded)
    images = attack_purifier("through", "jittered", 0.2, 0, 5, "cpu", shard, models(study, "jittered"))["images"]
    assert (images - shard["pixels"]).abs().max() <= 0.2 + 1e-6
    ((victim, settings),) = asked
    assert isinstance(victim, Purified)
    assert victim.purifier.draws == 7
    assert settings["step_size"] == pytest.approx(4 * 0.2 / STEPS)  # as it is random


# What the report says


def test_an_attack_that_knows_less_and_wins_more_is_flagged(study):
    def flags(planted):
        """planted: kinds of attacks on a purifier, of a size, that win all 50 images; no other attack wins any."""
        right = [
            {kind: torch.full((50,), kind not in planted.get(key, ())) for kind in (*KNOWING, NONE)}
            for key in curve_tasks(study.setup)
        ]
        table = SimpleNamespace(columns={"through": np.zeros((2, 50), bool), "ignoring": np.zeros((2, 50), bool)})
        plan = SimpleNamespace(results=lambda *_: right)
        return section.flags(SimpleNamespace(setup=study.setup, plan=plan, table=lambda *_, **__: table))

    every = dict.fromkeys(curve_tasks(study.setup), KNOWING)
    assert flags({}) == flags(every) == []
    (flag,) = flags({(THRESHOLD, 1.0): ["ignoring"]})
    assert flag.startswith("PGD 0.2 through threshold wins 0%, PGD that does not know it 100% (50 images): an attack")
    (flag,) = flags({("median", 0.5): ["queried"]} | {("blur", 0.5): KNOWING})
    assert flag.startswith("PGD 0.1 through median wins 0%, Square 100%")


def test_the_results_have_every_condition_purifier_and_size(study, content):
    every = names(study.setup)
    assert len(PURIFIERS) == 13
    assert len(every) == 11
    protocol = study.setup.protocol
    assert [*content["accuracy"]] == [*map(protocol.name, CLEANED)]
    for condition in CLEANED:
        row, table = content["accuracy"][protocol.name(condition)], study.table(condition, of=CLEANING)
        assert [*row] == [NONE, *every]
        assert row[NONE]["accuracy"] == pytest.approx(table[NONE].mean())
        assert content["images"][protocol.name(condition)] == CLEANING.count(study.setup, condition)
    assert [*content["attacked"]] == every
    for rows in content["attacked"].values():
        assert [row["epsilon"] for row in rows] == [0.05, 0.1, 0.15, 0.2, 0.3]
        for row in rows:
            assert row["worst"]["accuracy"] <= min(row[key]["accuracy"] for key in KNOWING if key in row)


def test_the_strip_shows_an_image_of_each_class(content):
    strip = content["strip"]
    assert strip["labels"] == [0, 1, 2]
    assert [(row["condition"], row["purifier"]) for row in strip["rows"]] == [
        (condition, name)
        for condition in ("clean", "fgsm-0.2", "pgd-0.2", "lbfgs")
        for name in ("", "vae-mean-softmax", THRESHOLD)
    ]
    clean = unpack(strip["rows"][0]["pixels"])
    assert clean.shape == (3, 8, 8)
    np.testing.assert_array_equal(unpack(strip["rows"][2]["pixels"]), np.where(clean >= 128, 255, 0))
    assert all(1 / 3 <= confidence <= 1 for row in strip["rows"] for confidence in row["confidence"])
