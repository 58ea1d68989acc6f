"""Evidence of E5 to E7 and B6 to B8: what is fitted, on which images, what is asked of it, and what the report says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from vaecore import ClassifierConfig, VAEConfig, aurc, ece, fit_temperature, reconstruct
from vaecore._noise import seed_for
from vaecore._store import Store
from vaecore.suite.report import figures_decisions, style
from vaecore.suite.study import calibration, decisions
from vaecore.suite.study.decisions import (
    ALL,
    ASKED,
    CLEAN,
    JUDGES,
    MEAN,
    MEAN_SCALED,
    MIX,
    NOISY,
    NOWHERE,
    PLAIN,
    SCALED,
    SIGNALS,
    TURNED,
)
from vaecore.suite.study.draws import LBFGS
from vaecore.suite.study.study import Dataset, Profile, Study


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A study of two short-trained pairs of reference models on some digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VAECORE_DATA", raising=False)  # so that the only set outside is the embedded one
        configs = VAEConfig(epochs=5, batch_size=50), ClassifierConfig(epochs=4, batch_size=50)
        for module in ("claims.cleaning", "claims.study"):
            patch.setattr(f"{module}.reference_configs", lambda _: configs)
        study = Study(
            Dataset("digits", "for tests"),
            Profile("test", runs=2, images=200, lbfgs_images=50, adaptive_images=10),
            Store(tmp_path_factory.mktemp("decisions")),
            device=torch.device("cpu"),
        )
        assert len(study.runs) == 2
        study.decisions.table(CLEAN)
        yield study


@pytest.fixture(scope="module")
def gathered(small):
    return calibration.gather(small)


@pytest.fixture(scope="module")
def results(small, gathered):
    return {"decisions": gathered, "dataset": {"name": "digits"}, "seeds": small.seeds}


def again(small, **changes):
    study = replace(small, wall_seconds={}, looked_at=set(), **changes)
    study._runs.update(dict(enumerate(small.runs)))
    return study


def test_what_is_fitted_does_not_depend_on_test_images(small):
    other = again(small)
    other.__dict__["test"] = replace(small.test, pixels=small.test.pixels.flip(3))
    judges = [study.decisions._judge(0, small.run(0)) for study in (small, other)]
    assert judges[0].temperatures == judges[1].temperatures
    for name in (ALL, "confidence+mse"):
        first, second = (judge.regressions[name][-1].coef_ for judge in judges)
        assert np.array_equal(first, second)
    assert not np.array_equal(small.decisions.table(CLEAN)["mse"], other.decisions.table(CLEAN)["mse"])


@pytest.mark.parametrize("condition", [CLEAN, NOISY])
def test_the_figures_are_those_of_plain_code(small, condition):
    table, run = small.decisions.table(condition), small.run(1)
    held, places = small.held_out
    test_pixels, test_labels, test_places, _ = small.decisions._images(run, condition)
    sides = {}
    for role, pixels, labels, index in (
        ("held-out", held.pixels, held.labels, places),
        ("test", test_pixels, test_labels, test_places),
    ):
        logits = run.classifier(pixels).double().numpy()
        drawn = reconstruct(run.vae, pixels, draws=10, seed=seed_for(f"decisions/{role}", run.seed), indices=index)
        drawn_logits = run.classifier(drawn.flatten(0, 1)).double().numpy().reshape(len(pixels), 10, -1)
        probability = softmax(drawn_logits, axis=2)
        own = np.take_along_axis(probability, logits.argmax(1)[:, None, None], axis=2)[:, :, 0]
        square = (drawn - pixels.unsqueeze(1)).square().mean(dim=(1, 2, 3, 4)).double().numpy()
        mean = np.log(probability.mean(axis=1))
        sides[role] = logits, mean, labels.numpy(), {"mse": square, "disagreement": 1 - own.mean(axis=1)}
    logits, mean, labels, signals = sides["held-out"]
    temperatures = {SCALED: fit_temperature(logits, labels), MEAN_SCALED: fit_temperature(mean, labels)}

    def log_probability(role, judge):
        logits, mean, _, _ = sides[role]
        values = mean if judge in (MEAN, MEAN_SCALED) else logits
        return log_softmax(values / temperatures.get(judge, 1), axis=1)

    labels = sides["test"][2]
    for judge in (PLAIN, SCALED, MEAN, MEAN_SCALED):
        expected = log_probability("test", judge)
        np.testing.assert_array_equal(table[f"{judge}/right"][1], expected.argmax(1) == labels)
        nll = log_loss(labels, np.exp(expected), labels=range(10))
        assert table[f"{judge}/class-nll"][1].mean() == pytest.approx(nll, rel=1e-4)
        brier = ((np.exp(expected) - np.eye(10)[labels]) ** 2).sum(1)
        np.testing.assert_allclose(table[f"{judge}/class-brier"][1], brier, atol=1e-5)
        np.testing.assert_allclose(table[f"{judge}/confidence"][1], np.exp(expected.max(1)), atol=1e-5)
    right = {role: side[0].argmax(1) == side[2] for role, side in sides.items()}
    for judge, name in (("confidence", None), ("confidence+mse", "mse"), ("confidence+disagreement", "disagreement")):
        columns = {}
        for role, (_, _, _, signals) in sides.items():
            confidence = np.exp(log_probability(role, SCALED).max(1)).clip(1e-12, 1 - 1e-12)
            signal = [] if name is None else [np.log(signals[name].clip(1e-12))]
            columns[role] = np.stack([np.log(confidence) - np.log1p(-confidence), *signal], axis=1)
        centre, scale = columns["held-out"].mean(0), columns["held-out"].std(0)
        model = LogisticRegression().fit((columns["held-out"] - centre) / scale, right["held-out"])
        probability = model.predict_proba((columns["test"] - centre) / scale)[:, 1]
        expected = log_loss(right["test"], probability, labels=[False, True])
        assert table[f"{judge}/nll"][1].mean() == pytest.approx(expected, rel=1e-2)
        np.testing.assert_array_equal(table[f"{judge}/right"][1], right["test"])


def test_nll_of_being_right_is_that_of_the_confidence(small):
    table = small.decisions.table(TURNED)
    for judge in JUDGES:
        right, confidence = table[f"{judge}/right"], table[f"{judge}/confidence"]
        with np.errstate(divide="ignore"):
            expected = -np.where(right, np.log(confidence), np.log1p(-confidence))
        sure = confidence > 1 - 1e-9
        np.testing.assert_allclose(table[f"{judge}/nll"][~sure], expected[~sure], rtol=1e-5, atol=1e-9)
        assert np.isfinite(table[f"{judge}/nll"]).all()


def test_an_answer_that_is_surely_wrong_costs_a_finite_number_of_nats():
    logits = torch.tensor([[1000.0, 0.0, 0.0], [1000.0, 0.0, 0.0]])
    columns = {"logits": logits, "mean": logits} | dict.fromkeys(SIGNALS, torch.ones(2))
    judges = decisions._Judges({SCALED: 1.0, MEAN_SCALED: 1.0}, {})
    found = judges.ask(decisions._Seen(columns), torch.tensor([0, 1]))
    assert found[f"{PLAIN}/nll"].tolist() == pytest.approx([0.0, 1000 - np.log(2)])
    assert found[f"{PLAIN}/class-nll"].tolist() == pytest.approx([0.0, 1000.0])
    assert found[f"{PLAIN}/class-brier"].tolist() == pytest.approx([0.0, 2.0])


def test_shifted_images_are_shifted(small):
    images = {condition: small.decisions._images(small.run(0), condition) for condition in ASKED if condition != MIX}
    clean = images[CLEAN][0]
    for condition, (pixels, labels, places, found) in images.items():
        count = small.count(condition)
        assert len(pixels) == len(labels) == len(places) == len(found) == count
        assert torch.equal(places, small.indices[:count])
        assert condition == CLEAN or not torch.equal(pixels, clean[:count])
        assert condition in decisions.ATTACKED or found.all()
    noisy = images[NOISY][0]
    change = (noisy - clean)[(noisy > 0) & (noisy < 1) & (clean > 0.4)]
    assert 0.15 < change.std() < 0.3  # 0.3, cut off at 0 and 1
    assert (images["fgsm-0.2"][0] - clean).abs().max() <= 0.2 + 1e-6
    right = {condition: small.decisions.table(condition)[f"{PLAIN}/right"].mean() for condition in images}
    assert right[CLEAN] >= max(right.values())
    assert right[CLEAN] > max(right["fgsm-0.2"], right["rotated-60"])
    found = small.decisions.table(LBFGS)
    assert not found[f"{PLAIN}/right"][found["found"]].any()


def test_half_of_the_mix_is_from_outside_and_never_right(small):
    pixels, labels, places, found = small.decisions._images(small.run(0), MIX)
    assert small.decisions.outsiders() == ["letters"]
    assert len(pixels) == len(labels) == len(places) == len(found) == 200
    assert torch.equal(pixels[:100], small.test.pixels[small.indices[:100]])
    assert (labels == NOWHERE).tolist() == [False] * 100 + [True] * 100
    letters, index = small.outside.images("letters")
    assert torch.equal(pixels[100:], letters.pixels[:100])
    assert torch.equal(places[100:], index[:100])
    table = small.decisions.table(MIX)
    for judge in JUDGES:
        assert not table[f"{judge}/right"][:, 100:].any()
    assert np.isnan(table[f"{PLAIN}/class-nll"][:, 100:]).all()


def test_small_sets_outside_are_shared_out_and_repeated(small, monkeypatch):
    study = again(small)
    few = small.outside.images("letters")[0].take(slice(7))
    monkeypatch.setattr(study.decisions, "outsiders", lambda: ["one", "two", "three"])
    monkeypatch.setattr(study.outside, "images", lambda _: (few, torch.arange(7)))
    pixels, labels, places = study.decisions._mix(small.test.pixels[:20], torch.zeros(20, dtype=int), torch.arange(20))
    assert (len(pixels), int((labels == NOWHERE).sum())) == (20, 10)
    assert places[10:].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]


def test_without_sets_outside_the_mix_is_of_images_whose_pixels_are_permuted(tiny):
    assert tiny.decisions.outsiders() == ["permuted"]


def test_without_a_wrong_answer_there_is_nothing_to_learn():
    logits = torch.eye(3)[torch.arange(30) % 3] * 5
    labels = torch.arange(30) % 3
    seen = decisions._Seen({"logits": logits, "mean": logits} | dict.fromkeys(SIGNALS, torch.ones(30)))
    found = decisions._Judges.fit(seen, labels).ask(seen, labels)
    assert found[f"{PLAIN}/right"].all()
    for judge in decisions.REGRESSIONS:
        assert found[f"{judge}/nll"].isnan().all()
    assert found[f"{SCALED}/nll"].isfinite().all()


def test_what_is_computed_is_kept(small, monkeypatch):
    expected = small.decisions.table(TURNED)
    monkeypatch.setattr(decisions, "Features", None)
    np.testing.assert_array_equal(again(small).decisions.table(TURNED)[f"{ALL}/nll"], expected[f"{ALL}/nll"])


# What the report says


def test_the_report_has_every_judge_and_condition(small, gathered):
    assert [*gathered["measures"]] == [*ASKED]
    for condition, judges in gathered["measures"].items():
        assert [*judges] == [*JUDGES]
        table = small.decisions.table(condition)
        if condition == LBFGS:
            table = table.take(np.flatnonzero(table["found"].all(axis=0)))
        for judge, found in judges.items():
            right, confidence = table[f"{judge}/right"], table[f"{judge}/confidence"]
            assert found["accuracy"]["estimate"] == pytest.approx(right.mean())
            each = [ece(*one) for one in zip(confidence, right, strict=True)]
            assert found["ece_width"] == {"mean": pytest.approx(np.mean(each)), "least": min(each), "most": max(each)}
            areas = [aurc(1 - one, ~two) for one, two in zip(confidence, right, strict=True)]
            assert found["aurc"]["estimate"] == pytest.approx(np.mean(areas))
            parts = found["brier_parts"]
            whole = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within"]
            assert found["brier"]["estimate"] == pytest.approx(whole)
            assert ("class_nll" in found) == (judge in decisions.CLASSES and condition != MIX)
    assert gathered["held_out"] == len(small.held_out[0])


def test_diagrams_hold_every_image_and_curves_end_at_the_risk_of_all(small, gathered):
    for condition in ASKED:
        for rows in gathered["reliability"][condition].values():
            assert sum(row["count"] for row in rows) == 2 * gathered["images"][condition]
            assert all(row["low"] <= row["confidence"] <= row["high"] or row["count"] for row in rows)
        for by, one in gathered["refusing"][condition].items():
            judge = calibration.REFUSED_BY[by]
            accuracy = gathered["measures"][condition][judge]["accuracy"]["estimate"]
            assert one["curve"][-1]["coverage"] == 1
            assert one["curve"][-1]["estimate"] == pytest.approx(1 - accuracy)


def test_without_training_images_nothing_is_said(tiny):
    study = replace(tiny, wall_seconds={}, looked_at=set())
    study.outside.__dict__["train"] = None
    assert calibration.gather(study) is None


def test_the_page_has_a_row_for_every_judge(results):
    lines = calibration.page(results).splitlines()
    for judge in JUDGES:
        assert sum(line.startswith(f"| {judge} |") for line in lines) == len(ASKED)
    one = results["decisions"]["measures"][CLEAN][SCALED]["nll"]
    assert f"{one['estimate']:.4f} [{one['low']:.4f}, {one['high']:.4f}]" in "\n".join(lines)


@pytest.mark.parametrize("draw", [figures_decisions.reliability_diagrams, figures_decisions.risk_coverage])
def test_figures_are_drawn_from_what_json_keeps_and_the_same_twice(results, draw):
    first, second = (style.render(draw(which), "png") for which in (results, json.loads(json.dumps(results))))
    assert first == second
