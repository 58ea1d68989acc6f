"""Evidence of E5 to E7 and B6 to B8: what is fitted, on which images, what is asked of it, and what the report says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from vaecore import ClassifierConfig, Images, Store, VAEConfig, aurc, ece, fit_temperature, reconstruct
from vaecore.suite import CLEAN, DECISIONS, FGSM, LBFGS, MIX, NOISY, ROTATED, Study
from vaecore.suite.report.figures import decisions as figures
from vaecore.suite.report.figures import style
from vaecore.suite.report.markdown import decisions as markdown
from vaecore.suite.study import setup as of_setup
from vaecore.suite.study.decisions import (
    ALL,
    ASKED,
    ATTACKED,
    CLASSES,
    JUDGES,
    MEAN,
    MEAN_SCALED,
    NO_CLASS,
    PLAIN,
    REGRESSIONS,
    SCALED,
    SIGNALS,
    ask,
    fit_judges,
    judges,
    outsiders,
)
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.suite.study.sections import decisions as section
from vaecore.suite.study.setup import Dataset, Setup
from vaecore.toolkit import seed_for


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A study of two short-trained pairs of reference models on some digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VAECORE_DATA", raising=False)  # so that the only set outside is the embedded one
        configs = VAEConfig(epochs=5, batch_size=50), ClassifierConfig(epochs=4, batch_size=50)
        patch.setattr(of_setup, "reference_configs", lambda _: configs)
        profile = Profile("test", runs=2, images=200, lbfgs_images=50, adaptive_images=10)
        setup = Setup(Dataset("digits", "for tests"), Protocol(profile), device=torch.device("cpu"))
        yield Study.of(setup, Store(tmp_path_factory.mktemp("decisions")))


@pytest.fixture(scope="module")
def gathered(small):
    return section.section(small)


@pytest.fixture(scope="module")
def results(small, gathered):
    return {"decisions": gathered, "dataset": {"name": "digits"}, "seeds": small.setup.seeds}


def name(condition):
    return Protocol().name(condition)


def inputs(study, condition):
    """The images that judges are asked about, their labels and indices, and whether an attack reached its aim."""
    task = DECISIONS.tasks(study.setup, condition)[0]
    labels, parts = task.inputs["labels"].tensors["labels"], task.inputs["parts"]
    given = [part.inputs["shard"].tensors for part in parts]
    attacks = [part.inputs["attack"] for part in parts]
    made = [study.plan.results([one])[0] if one.stage else study.plan.make(one) for one in attacks if one is not None]
    pixels = torch.cat([one["images"] for one in made] or [one["pixels"] for one in given])
    success = torch.cat([one["success"] for one in made]) if made else torch.ones(len(pixels), dtype=torch.bool)
    return pixels, labels, torch.cat([one["indices"] for one in given]), success


def test_what_is_fitted_does_not_depend_on_test_images(small):
    setup = replace(small.setup)
    setup.__dict__["test"] = replace(small.setup.test, pixels=small.setup.test.pixels.flip(3))
    other = Study(setup, small.plan)
    fitted = [study.plan.make(judges(study.setup, 0)) for study in (small, other)]
    assert fitted[0].temperatures == fitted[1].temperatures
    for judge in (ALL, "confidence+mse"):
        first, second = (one.regressions[judge][-1].coef_ for one in fitted)
        assert np.array_equal(first, second)
    first, second = (study.table(CLEAN, of=DECISIONS)["mse"] for study in (small, other))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("condition", [CLEAN, NOISY(0.3)], ids=name)
def test_the_figures_are_those_of_plain_code(small, condition):
    table, run = small.table(condition, of=DECISIONS).columns, small.run(1)
    held, places = small.setup.held_out
    test_pixels, test_labels, test_places, _ = inputs(small, condition)
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
    for judge, extra in (
        ("confidence", None),
        ("confidence+mse", "mse"),
        ("confidence+disagreement", "disagreement"),
    ):
        columns = {}
        for role, (_, _, _, signals) in sides.items():
            confidence = np.exp(log_probability(role, SCALED).max(1)).clip(1e-12, 1 - 1e-12)
            signal = [] if extra is None else [np.log(signals[extra].clip(1e-12))]
            columns[role] = np.stack([np.log(confidence) - np.log1p(-confidence), *signal], axis=1)
        centre, scale = columns["held-out"].mean(0), columns["held-out"].std(0)
        model = LogisticRegression().fit((columns["held-out"] - centre) / scale, right["held-out"])
        probability = model.predict_proba((columns["test"] - centre) / scale)[:, 1]
        expected = log_loss(right["test"], probability, labels=[False, True])
        assert table[f"{judge}/nll"][1].mean() == pytest.approx(expected, rel=1e-2)
        np.testing.assert_array_equal(table[f"{judge}/right"][1], right["test"])


def test_nll_of_being_right_is_that_of_the_confidence(small):
    table = small.table(ROTATED(45), of=DECISIONS).columns
    for judge in JUDGES:
        right, confidence = table[f"{judge}/right"], table[f"{judge}/confidence"]
        with np.errstate(divide="ignore"):
            expected = -np.where(right, np.log(confidence), np.log1p(-confidence))
        sure = confidence > 1 - 1e-9
        np.testing.assert_allclose(table[f"{judge}/nll"][~sure], expected[~sure], rtol=1e-5, atol=1e-9)
        assert np.isfinite(table[f"{judge}/nll"]).all()


def asked(logits, held_labels, labels):
    """What judges fitted on held-out labels say of the same logits."""
    seen = {"logits": logits, "mean": logits, "success": torch.ones(len(logits), dtype=torch.bool)}
    seen |= dict.fromkeys(SIGNALS, torch.ones(len(logits)))
    return ask((seen,), {"labels": labels}, fit_judges(seen, {"labels": held_labels}))


def test_an_answer_that_is_surely_wrong_costs_a_finite_number_of_nats():
    logits = torch.tensor([[1000.0, 0.0, 0.0], [1000.0, 0.0, 0.0]])
    columns = asked(logits, torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert columns[f"{PLAIN}/nll"].tolist() == pytest.approx([0.0, 1000 - np.log(2)])
    assert columns[f"{PLAIN}/class-nll"].tolist() == pytest.approx([0.0, 1000.0])
    assert columns[f"{PLAIN}/class-brier"].tolist() == pytest.approx([0.0, 2.0])


def test_shifted_images_are_shifted(small):
    images = {condition: inputs(small, condition) for condition in ASKED if condition != MIX}
    clean = images[CLEAN][0]
    for condition, (pixels, labels, places, success) in images.items():
        count = small.setup.count(condition)
        assert len(pixels) == len(labels) == len(places) == len(success) == count
        assert torch.equal(places, small.setup.indices[:count])
        assert condition == CLEAN or not torch.equal(pixels, clean[:count])
        assert condition in ATTACKED or success.all()
    noisy = images[NOISY(0.3)][0]
    change = (noisy - clean)[(noisy > 0) & (noisy < 1) & (clean > 0.4)]
    assert 0.15 < change.std() < 0.3  # 0.3, cut off at 0 and 1
    assert (images[FGSM(1)][0] - clean).abs().max() <= 0.2 + 1e-6
    right = {one: small.table(one, of=DECISIONS).columns[f"{PLAIN}/right"].mean() for one in images}
    assert right[CLEAN] >= max(right.values())
    assert right[CLEAN] > max(right[FGSM(1)], right[ROTATED(60)])
    fooled = small.table(LBFGS, of=DECISIONS).columns
    assert not fooled[f"{PLAIN}/right"][fooled["success"]].any()


def test_half_of_the_mix_is_from_outside_and_never_right(small):
    pixels, labels, places, _ = inputs(small, MIX)
    assert outsiders(small.setup) == ["letters"]
    assert len(pixels) == len(labels) == len(places) == 200
    assert torch.equal(pixels[:100], small.setup.test.pixels[small.setup.indices[:100]])
    assert (labels == NO_CLASS).tolist() == [False] * 100 + [True] * 100
    letters, index = small.outside.images(small.outside.condition("letters"))
    assert torch.equal(pixels[100:], letters.pixels[:100])
    assert torch.equal(places[100:], index[:100])
    table = small.table(MIX, of=DECISIONS).columns
    for judge in JUDGES:
        assert not table[f"{judge}/right"][:, 100:].any()
    assert np.isnan(table[f"{PLAIN}/class-nll"][:, 100:]).all()


def test_small_sets_outside_are_shared_out_and_repeated(small, monkeypatch):
    setup = replace(small.setup)
    setup.__dict__["sets"] = sets = replace(small.setup.sets)
    few = Images(torch.rand(7, 1, 28, 28), None, "few", "test")
    sets.__dict__["sources"] = dict.fromkeys(["one", "two", "three"], "")
    monkeypatch.setattr(sets, "images", lambda _: (few, torch.arange(7)))
    _, labels, places, _ = inputs(Study(setup, small.plan), MIX)
    assert int((labels == NO_CLASS).sum()) == 100
    shares = [33, 33, 34]
    assert places[100:].tolist() == [place % 7 for share in shares for place in range(share)]


def test_without_sets_outside_the_mix_is_of_images_whose_pixels_are_permuted(tiny):
    assert outsiders(tiny.setup) == ["permuted"]


def test_without_a_wrong_answer_there_is_nothing_to_learn():
    logits, labels = torch.eye(3)[torch.arange(30) % 3] * 5, torch.arange(30) % 3
    columns = asked(logits, labels, labels)
    assert columns[f"{PLAIN}/right"].all()
    for judge in REGRESSIONS:
        assert columns[f"{judge}/nll"].isnan().all()
    assert columns[f"{SCALED}/nll"].isfinite().all()


# What the report says


def test_the_report_has_every_judge_and_condition(small, gathered):
    assert [*gathered["measures"]] == [name(condition) for condition in ASKED]
    for condition in ASKED:
        judged = gathered["measures"][name(condition)]
        assert [*judged] == [*JUDGES]
        table = small.paired(condition, of=DECISIONS)[0].columns
        for judge, measures in judged.items():
            right, confidence = table[f"{judge}/right"], table[f"{judge}/confidence"]
            assert measures["accuracy"]["estimate"] == pytest.approx(right.mean())
            each = [ece(*one) for one in zip(confidence, right, strict=True)]
            spread = {"mean": pytest.approx(np.mean(each)), "least": min(each), "most": max(each)}
            assert measures["ece_width"] == spread
            areas = [aurc(1 - one, ~two) for one, two in zip(confidence, right, strict=True)]
            assert measures["aurc"]["estimate"] == pytest.approx(np.mean(areas))
            parts = measures["brier_parts"]
            whole = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within"]
            assert measures["brier"]["estimate"] == pytest.approx(whole)
            assert ("class_nll" in measures) == (judge in CLASSES and condition != MIX)
    assert gathered["held_out"] == len(small.setup.held_out[0])


def test_diagrams_hold_every_image_and_curves_end_at_the_risk_of_all(gathered):
    for condition, diagrams in gathered["reliability"].items():
        for rows in diagrams.values():
            assert sum(row["count"] for row in rows) == 2 * gathered["images"][condition]
            assert all(row["low"] <= row["confidence"] <= row["high"] or row["count"] for row in rows)
        for by, one in gathered["refusing"][condition].items():
            accuracy = gathered["measures"][condition][section.REFUSED_BY[by]]["accuracy"]["estimate"]
            assert one["curve"][-1]["coverage"] == 1
            assert one["curve"][-1]["estimate"] == pytest.approx(1 - accuracy)


def test_without_training_images_nothing_is_said(tiny):
    setup = replace(tiny.setup)
    setup.__dict__["train_or_none"] = None
    assert section.section(Study(setup, tiny.plan)) is None


def test_the_page_has_a_row_for_every_judge(results):
    lines = markdown.page(results).splitlines()
    for judge in JUDGES:
        assert sum(line.startswith(f"| {judge} |") for line in lines) == len(ASKED)
    one = results["decisions"]["measures"]["clean"][SCALED]["nll"]
    assert f"{one['estimate']:.4f} [{one['low']:.4f}, {one['high']:.4f}]" in "\n".join(lines)


@pytest.mark.parametrize("draw", [figures.reliability_diagrams, figures.risk_coverage])
def test_figures_are_drawn_from_what_json_keeps_and_the_same_twice(results, draw):
    first, second = (style.render(draw(which), "png") for which in (results, json.loads(json.dumps(results))))
    assert first == second
