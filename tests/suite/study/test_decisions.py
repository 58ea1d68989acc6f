"""Judges of confidence: what is fitted, on which images, what is asked of it, and what the report says."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from vaecore import ClassifierConfig, Store, VAEConfig, aurc, calibrated_ece, ece, fit_temperature, reconstruct
from vaecore.suite.study.conditions import CLEAN, FGSM, LBFGS, MIX, NOISY, OUTSIDE, PGD, ROTATED
from vaecore.suite.study.decisions import (
    ALL,
    ASKED,
    CLASSES,
    DECISIONS,
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
from vaecore.suite.study.plain import ROUNDING, SEARCH, latent_search
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.suite.study.sections import decisions as section
from vaecore.suite.study.setup import Dataset, Setup
from vaecore.suite.study.study import Study
from vaecore.toolkit import seed_for

CONFIGS = VAEConfig(epochs=5, batch_size=50), ClassifierConfig(epochs=4, batch_size=50)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two short-trained pairs of reference models on some digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VAECORE_DATA", raising=False)  # so that the only set outside is the embedded one
        patch.setattr("vaecore.suite.study.setup.reference_configs", lambda _: CONFIGS)
        profile = Profile("test", runs=2, images=200, lbfgs_images=50, adaptive_images=10)
        setup = Setup(Dataset("digits", "for tests"), Protocol(profile), device=torch.device("cpu"))
        yield Study.of(setup, Store(tmp_path_factory.mktemp("decisions")))


@pytest.fixture(scope="module")
def content(study):
    """What the report says of it."""
    return section.section(study)


def table(study, condition):
    return study.table(condition, of=DECISIONS)


def perturbed(study, condition, number=0):
    """The images of a condition as a run sees them."""
    attack = study.setup.attack(condition, number, (0, study.setup.count(condition)))
    return study.plan.results([attack])[0] if attack.stage else study.plan.make(attack)


# What is fitted and asked


def test_what_is_fitted_does_not_depend_on_test_images(study):
    other = replace(study.setup)
    other.__dict__["test"] = replace(study.setup.test, pixels=study.setup.test.pixels.flip(3))
    for number in range(2):
        assert judges(other, number).key == judges(study.setup, number).key
        assert DECISIONS.tasks(other, CLEAN)[number].key != DECISIONS.tasks(study.setup, CLEAN)[number].key
    assert judges(study.setup, 0).key != judges(study.setup, 1).key


@pytest.mark.parametrize("condition", [CLEAN, NOISY(1.5)], ids=["clean", "noisy"])
def test_columns_are_those_of_plain_code(study, condition):
    columns, run = table(study, condition), study.runs[1]
    held, places = study.setup.held_out(run.seed), study.setup.held_places(run.seed).tensors["places"]
    test = study.setup.shard((0, 200)).tensors
    sides = {}
    for role, pixels, labels, index in (
        ("held-out", held.pixels, held.labels, places),
        ("test", perturbed(study, condition, 1)["images"], test["labels"], test["indices"]),
    ):
        logits = run.classifier(pixels).double().numpy()
        drawn = reconstruct(run.vae, pixels, draws=10, seed=seed_for(f"decisions/{role}", run.seed), indices=index)
        drawn_logits = run.classifier(drawn.flatten(0, 1)).double().numpy().reshape(len(pixels), 10, -1)
        probability = softmax(drawn_logits, axis=2)
        own = np.take_along_axis(probability, logits.argmax(1)[:, None, None], axis=2)[:, :, 0]
        square = (drawn - pixels.unsqueeze(1)).square().mean(dim=(1, 2, 3, 4)).double().numpy()
        mean = np.log(probability.mean(axis=1))
        behind = {
            "threshold": run.classifier((pixels >= 0.5).float()),
            "bit-depth": run.classifier((pixels * 3).round() / 3),
        }
        logits = {"logits": logits, "mean": mean} | {name: each.double().numpy() for name, each in behind.items()}
        sides[role] = logits, labels.numpy(), {"mse": square, "disagreement": 1 - own.mean(axis=1)}
    whose = {PLAIN: "logits", SCALED: "logits", MEAN: "mean", MEAN_SCALED: "mean"}
    whose |= {f"{name}-temperature": name for name in ROUNDING}
    held_logits, labels, _ = sides["held-out"]
    scaled = [judge for judge in whose if "temperature" in judge]
    temperatures = {judge: fit_temperature(held_logits[whose[judge]], labels) for judge in scaled}

    def log_probability(role, judge):
        return log_softmax(sides[role][0][whose[judge]] / temperatures.get(judge, 1), axis=1)

    labels = sides["test"][1]
    assert f"{SEARCH}-temperature/right" not in columns
    for judge in whose:
        expected = log_probability("test", judge)
        np.testing.assert_array_equal(columns[f"{judge}/right"][1], expected.argmax(1) == labels)
        nll = log_loss(labels, np.exp(expected), labels=range(10))
        assert columns[f"{judge}/class-nll"][1].mean() == pytest.approx(nll, rel=1e-4)
        brier = ((np.exp(expected) - np.eye(10)[labels]) ** 2).sum(1)
        np.testing.assert_allclose(columns[f"{judge}/class-brier"][1], brier, atol=1e-5)
        np.testing.assert_allclose(columns[f"{judge}/confidence"][1], np.exp(expected.max(1)), atol=1e-5)
    right = {role: side[0]["logits"].argmax(1) == side[1] for role, side in sides.items()}
    for judge, name in (("confidence", None), ("confidence+mse", "mse"), ("confidence+disagreement", "disagreement")):
        features = {}
        for role, (_, _, signals) in sides.items():
            confidence = np.exp(log_probability(role, SCALED).max(1)).clip(1e-12, 1 - 1e-12)
            signal = [] if name is None else [np.log(signals[name].clip(1e-12))]
            features[role] = np.stack([np.log(confidence) - np.log1p(-confidence), *signal], axis=1)
        centre, scale = features["held-out"].mean(0), features["held-out"].std(0)
        model = LogisticRegression().fit((features["held-out"] - centre) / scale, right["held-out"])
        probability = model.predict_proba((features["test"] - centre) / scale)[:, 1]
        expected = log_loss(right["test"], probability, labels=[False, True])
        assert columns[f"{judge}/nll"][1].mean() == pytest.approx(expected, rel=1e-2)
        np.testing.assert_array_equal(columns[f"{judge}/right"][1], right["test"])


def test_nll_of_being_right_is_that_of_the_confidence(study):
    columns = table(study, ROTATED(45))
    for judge in (judge for judge in JUDGES if f"{judge}/right" in columns):
        right, confidence = columns[f"{judge}/right"], columns[f"{judge}/confidence"]
        with np.errstate(divide="ignore"):
            expected = -np.where(right, np.log(confidence), np.log1p(-confidence))
        sure = confidence > 1 - 1e-9
        np.testing.assert_allclose(columns[f"{judge}/nll"][~sure], expected[~sure], rtol=1e-5, atol=1e-9)
        assert np.isfinite(columns[f"{judge}/nll"]).all()


@pytest.mark.parametrize("condition", [FGSM(1), LBFGS], ids=["fgsm", "lbfgs"])
def test_the_search_is_asked_about_the_first_images(study, condition):
    run, few, judge = study.runs[1], 50, f"{SEARCH}-temperature"
    held, places = study.setup.held_out(run.seed), study.setup.held_places(run.seed).tensors["places"]
    attacked, test = perturbed(study, condition, 1)["images"], study.setup.shard((0, 200)).tensors
    logits = [
        run.classifier(
            latent_search(run.vae).views(pixels[:few], index[:few], seed_for(f"decisions/{role}", run.seed))[:, 0]
        )
        for role, pixels, index in (("held-out", held.pixels, places), ("test", attacked, test["indices"]))
    ]
    temperature = fit_temperature(logits[0].detach(), held.labels[:few])
    expected = log_softmax(logits[1].detach().double().numpy() / temperature, axis=1)
    columns, labels = table(study, condition), test["labels"][:few].numpy()
    assert columns[f"{judge}/right"].shape == (2, few)
    np.testing.assert_array_equal(columns[f"{judge}/right"][1], expected.argmax(1) == labels)
    np.testing.assert_allclose(
        columns[f"{judge}/class-nll"][1], -expected[np.arange(few), labels], rtol=1e-3, atol=1e-5
    )


def looks(logits):
    """What `look` would give, by these logits alone."""
    signals = dict.fromkeys(SIGNALS, torch.ones(len(logits)))
    every = dict.fromkeys(("logits", "mean", *ROUNDING), logits)
    return {**every, "success": torch.ones(len(logits), dtype=torch.bool), **signals}


NEVER_WRONG = looks(torch.eye(3)[torch.arange(30) % 3] * 5), {"labels": torch.arange(30) % 3}


def test_without_a_wrong_answer_there_is_nothing_to_learn():
    answers = ask(NEVER_WRONG[:1], NEVER_WRONG[1], fit_judges(*NEVER_WRONG))
    assert answers[f"{PLAIN}/right"].all()
    for judge in REGRESSIONS:
        assert answers[f"{judge}/nll"].isnan().all()
    assert answers[f"{SCALED}/nll"].isfinite().all()


def test_an_answer_that_is_surely_wrong_costs_a_finite_number_of_nats():
    logits = torch.tensor([[1000.0, 0.0, 0.0], [1000.0, 0.0, 0.0]])
    answers = ask((looks(logits),), {"labels": torch.tensor([0, 1])}, fit_judges(*NEVER_WRONG))
    assert answers[f"{PLAIN}/nll"].tolist() == pytest.approx([0.0, 1000 - np.log(2)])
    assert answers[f"{PLAIN}/class-nll"].tolist() == pytest.approx([0.0, 1000.0])
    assert answers[f"{PLAIN}/class-brier"].tolist() == pytest.approx([0.0, 2.0])


# Which images


@pytest.mark.slow
def test_shifted_images_are_shifted_and_asked_about(study):
    clean = study.setup.shard((0, 200)).tensors["pixels"]
    right = {}
    for condition in ASKED:
        if condition == MIX:
            continue
        images, count = perturbed(study, condition)["images"], study.setup.count(condition)
        columns = table(study, condition)
        assert len(images) == count == columns["mse"].shape[1]
        assert (condition == CLEAN) == torch.equal(images, clean[:count])
        assert condition in (FGSM(1), PGD(1), LBFGS) or columns["success"].all()
        right[condition] = columns[f"{PLAIN}/right"].mean()
    noisy = perturbed(study, NOISY(1.5))["images"]
    change = (noisy - clean)[(noisy > 0) & (noisy < 1) & (clean > 0.4)]
    assert 0.15 < change.std() < 0.3  # 0.3, cut off at 0 and 1
    assert (perturbed(study, FGSM(1))["images"] - clean).abs().max() <= 0.2 + 1e-6
    assert right[CLEAN] > max(right[FGSM(1)], right[ROTATED(60)])
    attacked = table(study, LBFGS)
    assert not attacked[f"{PLAIN}/right"][attacked["success"]].any()


def mixed(setup):
    """Pixels, labels and indices of the mix, as tasks take them."""
    task = DECISIONS.tasks(setup, MIX)[0]
    (look,) = task.inputs["parts"]
    return *look.inputs["shard"].tensors.values(), task.inputs["labels"].tensors["labels"]


def test_half_of_the_mix_is_from_outside_and_never_right(study):
    setup = study.setup
    pixels, indices, labels = mixed(setup)
    assert outsiders(setup) == ["letters"]
    assert len(pixels) == len(labels) == len(indices) == 200
    assert torch.equal(pixels[:100], setup.test.pixels[setup.indices[:100]])
    assert (labels == NO_CLASS).tolist() == [False] * 100 + [True] * 100
    letters, index = setup.sets.images(OUTSIDE(label="letters"))
    assert torch.equal(pixels[100:], letters.pixels[:100])
    assert torch.equal(indices[100:], index[:100])
    columns = table(study, MIX)
    for judge in (judge for judge in JUDGES if f"{judge}/right" in columns):
        assert not columns[f"{judge}/right"][:, 100:].any()
    assert np.isnan(columns[f"{PLAIN}/class-nll"][:, 100:]).all()


def test_small_sets_outside_are_shared_out_and_repeated(study):
    setup = replace(study.setup, protocol=Protocol(Profile("test", 1, 20, 20, 10)))
    few = study.setup.sets.images(OUTSIDE(label="letters"))[0].take(slice(7))
    sources = dict.fromkeys(("one.npz", "two.npz", "mirrored", "three.npz"))
    setup.__dict__["sets"] = SimpleNamespace(sources=sources, images=lambda _: (few, torch.arange(7)))
    pixels, indices, labels = mixed(setup)
    assert (len(pixels), int((labels == NO_CLASS).sum())) == (20, 10)
    assert indices[10:].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]


def test_without_sets_outside_the_mix_is_of_images_whose_pixels_are_permuted(tiny):
    assert outsiders(tiny.setup) == ["permuted"]


# What the report says


def test_the_report_has_every_judge_and_condition(study, content):
    assert [*content["measures"]] == [*map(study.setup.protocol.name, ASKED)]
    for condition, of_judges in zip(ASKED, content["measures"].values(), strict=True):
        searched = f"{SEARCH}-temperature"
        assert [*of_judges] == [judge for judge in JUDGES if judge != searched or condition == LBFGS]
        columns = study.paired(condition, of=DECISIONS)[0]
        for judge, measures in of_judges.items():
            right, confidence = columns[f"{judge}/right"], columns[f"{judge}/confidence"]
            assert measures["accuracy"]["estimate"] == pytest.approx(right.mean())
            each = [ece(*one) for one in zip(confidence, right, strict=True)]
            spread = {"mean": pytest.approx(np.mean(each)), "least": min(each), "most": max(each)}
            seen = [calibrated_ece(one, draws=2000, seed=1) for one in confidence]
            assert measures["ece_width"] == spread | {"calibrated": pytest.approx(np.mean(seen), rel=0.15, abs=1e-4)}
            areas = [aurc(1 - one, ~two) for one, two in zip(confidence, right, strict=True)]
            assert measures["aurc"]["estimate"] == pytest.approx(np.mean(areas))
            parts = measures["brier_parts"]
            whole = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within"]
            assert measures["brier"]["estimate"] == pytest.approx(whole)
            assert ("class_nll" in measures) == (judge in CLASSES and condition != MIX)
    assert content["held_out"] == len(study.setup.held_out(0))
    reached = [study.plan.results([study.setup.attack(LBFGS, number, (0, 50))])[0]["success"] for number in range(2)]
    assert content["images"]["lbfgs"] == int((reached[0] & reached[1]).sum())


def test_diagrams_hold_every_image_and_curves_end_at_the_risk_of_all(content):
    for condition, images in content["images"].items():
        for rows in content["reliability"][condition].values():
            assert sum(row["count"] for row in rows) == 2 * images
            confidences = [row["confidence"] for row in rows]
            assert len({int(15 * one * (1 - 1e-9)) for one in confidences}) == len(confidences)  # a row for each bin
            assert not any(row["low"] > row["estimate"] or row["estimate"] > row["high"] for row in rows)
        for by, refusing in content["refusing"][condition].items():
            accuracy = content["measures"][condition][section.REFUSED_BY[by]]["accuracy"]["estimate"]
            assert refusing["curve"][-1]["coverage"] == 1
            assert refusing["curve"][-1]["estimate"] == pytest.approx(1 - accuracy)
    assert ALL in content["refusing"]["clean"]


def test_without_training_images_nothing_is_said(untrained, tmp_path):
    assert section.section(Study.of(untrained, Store(tmp_path))) is None
