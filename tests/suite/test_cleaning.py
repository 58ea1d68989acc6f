"""Evidence of family D against loops by hand: who attacks what, who judges, what is kept; and the plain autoencoder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vaecore import VAEConfig, fit_vae, load_images, pgd, reconstruct_labels
from vaecore._noise import seed_for
from vaecore._purifiers import VAEPurifier
from vaecore._store import Store
from vaecore.models._autoencoder import fit_autoencoder
from vaecore.suite.packing import unpack
from vaecore.suite.report import figures_cleaning, style
from vaecore.suite.report import summary as report
from vaecore.suite.study import cleaning
from vaecore.suite.study.cleaning import CLEANED, MAJORITY, NONE, SEARCH, SIZES, THRESHOLD, Cleaning
from vaecore.suite.study.draws import DRAWS, EOT_DRAWS, Table


def fresh(study, **changes):
    """The same study, which has computed nothing yet."""
    return replace(study, wall_seconds={}, looked_at=set(), **changes)


@pytest.fixture(scope="module")
def gathered(tiny):
    return cleaning.gather(tiny)


@pytest.fixture(scope="module")
def results(tiny, gathered):
    return {"cleaning": gathered, "dataset": {"name": tiny.test.name}, "seeds": tiny.seeds}


# The evidence


@pytest.mark.parametrize("condition", ["clean", "fgsm-0.2", "sign-0.1", "pgd-0.2", "lbfgs", "gaussian-lbfgs"])
def test_labels_are_right_as_by_hand(tiny, condition):
    table = tiny.cleaning.table(condition)
    count = tiny.count(condition)
    indices = tiny.indices[:count]
    labels = tiny.test.labels[indices]
    for number, run in enumerate(tiny.runs):
        shard = cleaning.Shard(tiny.test.pixels[indices], labels, indices, run.seed)
        twin = torch.from_numpy(tiny.table("lbfgs")["l2"][number]) if condition == "gaussian-lbfgs" else None
        images = cleaning.attacked(run, shard, condition, twin).images
        assert table[NONE][number].tolist() == (run.classifier(images).argmax(1) == labels).tolist()
        binary = run.classifier((images >= 0.5).float()).argmax(1)
        assert table[THRESHOLD][number].tolist() == (binary == labels).tolist()
        seed = seed_for("purifier", run.seed)
        drawn = reconstruct_labels(run.vae, run.classifier, images, draws=10, seed=seed, indices=indices).numpy()
        votes = np.stack([np.bincount(row, minlength=3) for row in drawn])
        clear = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1
        assert clear.any()
        assert ((votes.argmax(axis=1) == labels.numpy())[clear] == table[MAJORITY][number][clear]).all()
    assert table["found"].dtype == bool


def test_pgd_is_pgd_on_the_classifier(tiny):
    run, indices = tiny.run(0), tiny.indices
    labels = tiny.test.labels[indices]
    shard = cleaning.Shard(tiny.test.pixels[indices], labels, indices, run.seed)
    found = cleaning.attacked(run, shard, "pgd-0.1")
    seed = seed_for("attack/pgd", run.seed)
    expected = pgd(run.classifier, shard.pixels, labels, epsilon=0.1, seed=seed, indices=indices, keep_failed=True)
    assert torch.equal(found.images, expected.images)
    assert found.linf.max() <= 0.1 + 1e-6


def test_attacks_through_purifiers_are_judged_by_draws_they_have_not_seen(tiny, tmp_path, monkeypatch):
    seeds, original = [], VAEPurifier.views

    def views(self, images, indices, seed):
        seeds.append((seed, torch.is_grad_enabled(), self.draws))
        return original(self, images, indices, seed)

    monkeypatch.setattr(VAEPurifier, "views", views)
    study = fresh(tiny, store=Store(tmp_path))
    found = study.cleaning.attacked(MAJORITY, 0.15, curve=True)
    attacker = {(seed, draws) for seed, gradient, draws in seeds if gradient}
    defender = {(seed, draws) for seed, gradient, draws in seeds if not gradient} - attacker
    assert len(attacker) == cleaning.STEPS
    assert {draws for _, draws in attacker} == {EOT_DRAWS}
    assert (seed_for("purifier", tiny.run(0).seed), DRAWS) in defender
    assert found["through"].shape == (1, tiny.trial_images)


def test_two_decisions_of_one_loss_share_an_attack_and_all_purifiers_one_that_ignores_them(tiny, tmp_path, monkeypatch):
    victims, original = [], cleaning.pgd

    def attack(victim, *given, **told):
        victims.append(victim)
        return original(victim, *given, **told)

    monkeypatch.setattr(cleaning, "pgd", attack)
    study = fresh(tiny, store=Store(tmp_path))
    shared = [study.cleaning.attacked(name, 0.1, curve=True) for name in (MAJORITY, "vae-mean-softmax", "blur")]
    assert len(victims) == 3  # through the ten views, on the classifier alone, through the blur
    assert sum(victim is study.run(0).classifier for victim in victims) == 1
    for table in shared[1:]:
        np.testing.assert_array_equal(table[NONE], shared[0][NONE])


def test_purifiers_without_a_gradient_are_queried(tiny, tmp_path, monkeypatch):
    asked, original = {}, cleaning.square

    def attack(victim, *given, **told):
        asked[type(victim.purifier).__name__] = told["queries"]
        return original(victim, *given, **told)

    monkeypatch.setattr(cleaning, "square", attack)
    study = fresh(tiny, store=Store(tmp_path))
    for name in study.cleaning.models(0):
        table = study.cleaning.attacked(name, 0.2, curve=True)
        assert ("queried" in table.columns) == (name in (SEARCH, THRESHOLD, "bit-depth"))
    assert asked == {
        "LatentSearch": cleaning.SEARCH_QUERIES,
        "Threshold": cleaning.QUERIES,
        "BitDepth": cleaning.QUERIES,
    }


def test_attacks_through_purifiers_are_those_of_each_run(tiny):
    both, first = (tiny.cleaning.attacked("vae-posterior-mean", 0.2, curve=curve) for curve in (False, True))
    assert both["through"].shape == (2, 10)
    np.testing.assert_array_equal(both["through"][:1, : tiny.trial_images], first["through"])
    assert both["through"].mean() < both["ignoring"].mean()


def test_the_search_gets_fewer_images(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "SEARCHED", 2)
    assert tiny.cleaning.attacked(SEARCH, 0.2)["through"].shape == (2, 2)
    monkeypatch.setattr("claims.study.SHARD", 5)  # so that there are shards without any for it
    study = fresh(tiny, store=Store(tmp_path))
    assert study.cleaning.table("clean")[SEARCH].shape == (2, 2)
    assert study.cleaning.table("clean")[NONE].shape == (2, 12)


def test_what_is_computed_is_kept(tiny, gathered, monkeypatch):
    monkeypatch.setattr(cleaning, "_right", None)
    monkeypatch.setattr(cleaning, "attacked", None)
    monkeypatch.setattr(cleaning, "_strip", lambda _: gathered["strip"])
    assert cleaning.gather(fresh(tiny)) == gathered


def test_without_training_images_there_is_no_autoencoder(tiny, tmp_path):
    study = fresh(tiny, store=Store(tmp_path))
    study.outside.__dict__["train"] = None
    assert set(tiny.cleaning.models(0)) - set(study.cleaning.models(0)) == {"autoencoder"}


# What the report says


def test_an_attack_that_knows_less_and_wins_more_is_flagged(tiny, monkeypatch):
    def attacked(_, name, epsilon, *, curve):
        assert curve
        worse = name == THRESHOLD and epsilon == 0.2
        return Table({"through": np.full((1, 50), worse), "ignoring": np.zeros((1, 50), bool), NONE: np.ones((1, 50))})

    monkeypatch.setattr(Cleaning, "attacked", attacked)
    (flag,) = cleaning.flags(tiny)
    assert flag.startswith("PGD 0.2 through threshold wins 0%, PGD that ignores it 100%")

    def queried(_, name, epsilon, *, curve):
        table = attacked(_, "blur", epsilon, curve=curve)
        masked = name == SEARCH and epsilon == 0.1
        return Table({**table.columns, "through": np.full((1, 50), masked), "queried": np.zeros((1, 50), bool)})

    monkeypatch.setattr(Cleaning, "attacked", queried)
    flags = cleaning.flags(tiny)
    assert any(flag.startswith("PGD 0.1 through latent-search wins 0%, Square 100%") for flag in flags)


def test_the_results_have_every_condition_purifier_and_size(tiny, gathered):
    names = [*tiny.cleaning.models(0)]
    assert len(names) == 12
    assert [*gathered["accuracy"]] == [*CLEANED]
    for condition, row in gathered["accuracy"].items():
        assert [*row] == [NONE, *names]
        assert row[NONE]["accuracy"] == pytest.approx(tiny.cleaning.table(condition)[NONE].mean())
        assert gathered["images"][condition] == tiny.cleaning.count(condition)
    assert [*gathered["attacked"]] == names
    for rows in gathered["attacked"].values():
        assert [row["epsilon"] for row in rows] == [*SIZES]
        for row in rows:
            assert row["worst"]["accuracy"] <= min(row[key]["accuracy"] for key in cleaning.KNOWING if key in row)


def test_the_strip_shows_an_image_of_each_class(tiny, gathered):
    strip = gathered["strip"]
    assert strip["labels"] == [0, 1, 2]
    assert [(row["condition"], row["purifier"]) for row in strip["rows"]] == [
        (condition, name) for condition in cleaning.STRIP for name in (NONE, *cleaning.SHOWN)
    ]
    clean = strip["rows"][0]
    assert unpack(clean["pixels"]).shape == (3, 8, 8)
    binary = unpack(strip["rows"][2]["pixels"])
    np.testing.assert_array_equal(binary, np.where(unpack(clean["pixels"]) >= 128, 255, 0))
    assert all(1 / 3 <= confidence <= 1 for row in strip["rows"] for confidence in row["confidence"])


@pytest.mark.parametrize("draw", [figures_cleaning.accuracy_by_epsilon, figures_cleaning.cleaned_images])
def test_figures_are_drawn_from_what_json_keeps_and_the_same_twice(results, draw):
    first, second = (style.render(draw(which), "png") for which in (results, json.loads(json.dumps(results))))
    assert first == second


def test_curves_show_every_accuracy(results):
    figure = figures_cleaning.accuracy_by_epsilon(results)
    panels = [panel for panel in figure.axes if panel.get_visible()]
    for panel, (name, rows) in zip(panels, results["cleaning"]["attacked"].items(), strict=True):
        assert panel.get_title().startswith(name)
        shown = [line.get_ydata().tolist() for line in panel.get_lines()]
        kinds = [key for key in ("ignoring", "through", "queried", NONE) if key in rows[0]]
        assert shown == [[row[key]["accuracy"] for row in rows] for key in kinds]


def test_the_summary_has_both_tables(results):
    lines = []
    report._cleaning_section(results, lines.append)
    text = "\n".join(lines)
    for condition, row in results["cleaning"]["accuracy"].items():
        shown = " | ".join(f"{row[name]['accuracy']:.3f}" if name in row else "-" for name in row)
        assert f"| {condition} | {results['cleaning']['images'][condition]} | {shown}" in text
    for name, rows in results["cleaning"]["attacked"].items():
        kinds = [key for key in ("ignoring", "through", "queried", "worst") if key in rows[0]]
        cell = " / ".join(f"{rows[0][key]['accuracy']:.2f}" for key in kinds)
        assert f"| {name} | {rows[0]['images']} | {cell} |" in text


# The plain autoencoder


def test_an_autoencoder_has_no_spread_and_reconstructs_better_than_a_vae():
    train = load_images("digits", "train").take(slice(300))
    config = VAEConfig(epochs=30, batch_size=50)
    plain, vae = (fit(train, config, seed=0, device="cpu") for fit in (fit_autoencoder, fit_vae))
    errors = [float((VAEPurifier(model)(train.pixels) - train.pixels).square().mean()) for model in (plain, vae)]
    assert errors[0] < 0.8 * errors[1]
    draws = VAEPurifier(plain, draws=3).views(train.pixels[:5], torch.arange(5), 0)
    torch.testing.assert_close(draws, VAEPurifier(plain)(train.pixels[:5]).unsqueeze(1).expand_as(draws))
    again = fit_autoencoder(train, config, seed=0, device="cpu")
    assert torch.equal(again.pixels.weight, plain.pixels.weight)
