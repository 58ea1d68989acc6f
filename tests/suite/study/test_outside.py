"""Scores of sets outside: fitted on training images alone, for each run; the matrix and figures of the report."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from claims import test_outside
from vaecore import OUTSIDE_MADE, Store, scores
from vaecore.suite.images import unpack
from vaecore.suite.statistics.columns import Origin
from vaecore.suite.statistics.estimates import auroc
from vaecore.suite.statistics.intervals import interval
from vaecore.suite.study import outside
from vaecore.suite.study.conditions import AWAY, HIDDEN, HIDDEN_BY, HOME, INSIDE, OUTSIDE
from vaecore.suite.study.outside import (
    ABROAD,
    HIDDEN_FROM,
    HIDING,
    P_VALUES,
    SCORES,
    fit,
    p_values,
    score,
)
from vaecore.suite.study.sections import outside as section
from vaecore.suite.study.sections.outside import MEASURES, compare_scores
from vaecore.suite.study.sets import FOR_COLOUR
from vaecore.suite.study.study import Study

MADE = [name for name in OUTSIDE_MADE if name not in FOR_COLOUR]
FEW = 8  # images of the tiny study that adaptive attacks take
MIRRORED = OUTSIDE(label="mirrored")


@pytest.fixture(scope="module")
def content(tiny):
    """What the report says of the tiny study."""
    return section.section(tiny)


def table(study, condition):
    return study.table(condition, of=SCORES)


# Scores


def test_scores_are_fitted_on_training_images_alone_once_a_run(tiny, tmp_path, monkeypatch):
    fitted_on, original = [], outside.fit_scores

    def recorded(vae, classifier, train, **settings):
        fitted_on.append(train)
        return original(vae, classifier, train, **settings)

    monkeypatch.setattr(outside, "fit_scores", recorded)
    # Seeds of its own, as a process keeps what it has fitted.
    study = Study.of(replace(tiny.setup, first_seed=7), Store(tmp_path))
    for condition in (INSIDE, MIRRORED):
        assert table(study, condition)["mse"].shape == (2, 12)
    assert len(fitted_on) == 4  # the expensive scores of each run, and the others
    seen = [study.setup.seen(seed).pixels for seed in study.setup.seeds]
    assert all(any(torch.equal(train, pixels) for pixels in seen) for train in fitted_on)
    for condition in (INSIDE, MIRRORED):  # what is said of an image does not follow from the others
        for number in range(2):
            run, some = study.run(number), study.setup.sets.shard(condition, 0, 6).tensors
            train = study.setup.training.tensors, study.setup.held_places(run.seed).tensors
            fits = [fit(run.seed, 10, "cpu", dear, run.vae, run.classifier, *train) for dear in (False, True)]
            for name, column in score("cpu", 4, some, *fits).items():
                of = 4 if scores[name].expensive else 6
                np.testing.assert_array_equal(column, table(study, condition)[name][number, :of], err_msg=name)


def test_every_score_is_there_for_every_run(tiny):
    columns = table(tiny, OUTSIDE(label="dimmed-0.3"))
    assert set(columns.columns) == set(scores)
    for name, column in columns.columns.items():
        assert column.shape == (2, FEW if scores[name].expensive else 12), name
        assert np.isfinite(column).all(), name
    assert not np.array_equal(columns["mse"][0], columns["mse"][1])
    np.testing.assert_array_equal(columns["mean-pixel"][0], columns["mean-pixel"][1])
    assert columns["mse"].origin == Origin(frozenset({"outside/dimmed-0.3"}))


def test_finished_models_without_training_images_have_the_other_scores(untrained, tmp_path):
    untrained.check()
    study = Study.of(untrained, Store(tmp_path / "cache"))
    others = {name for name, one in scores.items() if "training images" not in one.needs}
    content = section.section(study)
    assert set(content["cells"]) == others < set(scores)
    assert content["latent"]["of"] == "test"
    assert test_outside.detection(study, "mse", "mirrored").influence.shape == (1, 12)
    with pytest.raises(ValueError, match=r"latent-knn learns from training images, of which tests.npz has none"):
        test_outside.detection(study, "latent-knn", "mirrored")


# The matrix


@pytest.mark.parametrize("label", ["mirrored", "dimmed-0.3", "uniform-noise"])
def test_cells_are_what_scikit_learn_says(tiny, content, label):
    inside, beyond = (table(tiny, condition) for condition in (INSIDE, OUTSIDE(label=label)))
    for name in scores:
        truth = np.repeat([0, 1], inside[name].shape[1])
        cell, runs = content["cells"][name][label], [*zip(inside[name], beyond[name], strict=True)]
        values = [np.concatenate(run) for run in runs]
        assert cell["auroc"] == pytest.approx(np.mean([roc_auc_score(truth, both) for both in values]))
        out = np.mean([average_precision_score(truth, both) for both in values])
        assert cell["aupr_out"] == pytest.approx(out)
        within = np.mean([average_precision_score(1 - truth, -both) for both in values])
        assert cell["aupr_in"] == pytest.approx(within)
        # 95% of 12 images are 12, and of 8 are 8: what passes is what no inside image exceeds.
        assert cell["fpr95"] == pytest.approx(np.mean([(high <= low.max()).mean() for low, high in runs]))
        assert cell["low"] <= cell["auroc"] <= cell["high"]


def test_the_matrix_is_whole_or_of_some_sets(tiny, content):
    assert [*content["cells"]] == [*scores]
    groups = content["groups"]
    assert [*groups] == sorted(MADE, key=lambda name: (groups[name] != "far", MADE.index(name)))
    assert {*groups.values()} == {"far", "covariate shift"}
    assert all([*row] == [*groups] for row in content["cells"].values())
    only = section.matrix(tiny, [MIRRORED])
    assert only == {name: {"mirrored": row["mirrored"]} for name, row in content["cells"].items()}


def test_made_sets_are_paired_with_what_they_are_made_of_and_files_are_not(tiny, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (40, 8, 8), np.uint8)
    np.savez(tmp_path / "random.npz", images=images)
    study = Study.of(replace(tiny.setup, ood=(str(tmp_path / "random.npz"),)), Store(tmp_path / "cache"))
    for label, paired in (("mirrored", True), ("random.npz", False)):
        inside, beyond = (table(study, condition)["mean-pixel"] for condition in (INSIDE, OUTSIDE(label=label)))
        expected = interval(auroc(inside, beyond, paired=paired), section.LEVEL)
        other = interval(auroc(inside, beyond, paired=not paired), section.LEVEL)
        cell = section.matrix(study, [OUTSIDE(label=label)])["mean-pixel"][label]
        assert (cell["low"], cell["high"]) == (expected.low, expected.high) != (other.low, other.high)
        claimed = test_outside.detection(study, "mean-pixel", label)
        assert claimed.influence.shape[1] == (12 if paired else 24)
        assert claimed.outside == (0 if paired else 12)
        assert claimed.origin.conditions == {"outside/inside", f"outside/{label}"}


def measures(inside, beyond):
    """The measures of one score of some runs."""
    parts = [tuple({"mse": torch.from_numpy(row)} for row in rows) for rows in (inside, beyond)]
    columns = compare_scores(0.95, False, len(inside), *parts)
    return {name: float(columns[f"mse/{name}"]) for name in MEASURES}


def test_scores_that_are_infinite_rank_and_those_that_are_nan_have_no_measures():
    generator = np.random.default_rng(0)
    inside, beyond = generator.normal(size=(2, 50)), generator.normal(size=(2, 50)) + 1
    beyond[:, :3] = np.inf
    expected = np.mean([(high[:, None] > low).mean() for low, high in zip(inside, beyond, strict=True)])
    assert measures(inside, beyond)["auroc"] == pytest.approx(expected)
    beyond[0, 0] = np.nan
    assert all(map(math.isnan, measures(inside, beyond).values()))
    assert all(map(math.isnan, measures(inside[:, :1], beyond[:, 1:2]).values()))


# Alarms, images that hide, and other VAEs


@pytest.fixture(scope="module")
def beside(tiny, tmp_path_factory):
    """The tiny study beside a set of 200 images."""
    folder = tmp_path_factory.mktemp("beside")
    images = np.random.default_rng(1).random((200, 8, 8), dtype=np.float32) ** 3
    np.savez(folder / "dark.npz", images=images)
    return Study.of(replace(tiny.setup, ood=(str(folder / "dark.npz"),)), Store(folder / "cache"))


DARK, HIDING_DARK = OUTSIDE(label="dark.npz"), HIDDEN(HIDDEN_BY, label="dark.npz")


@pytest.mark.parametrize(("condition", "of"), [(INSIDE, SCORES), (DARK, SCORES), (HIDING_DARK, HIDING)])
def test_p_values_count_images_held_out_with_as_high_a_score(beside, condition, of):
    scored, values = beside.table(condition, of=of), beside.table(condition, of=P_VALUES)
    names = {name for name in scored.columns if name.rpartition("/")[2] in scores}
    assert {*values.columns} == {name for name in names if not scores[name.rpartition("/")[2]].expensive}
    for number, run in enumerate((beside.run(0), beside.run(1))):
        held = {name: column[None] for name, column in beside.setup.held(run.seed).tensors.items()}
        train = beside.setup.training.tensors, beside.setup.held_places(run.seed).tensors
        fitted = fit(run.seed, 10, "cpu", False, run.vae, run.classifier, *train)
        known = fitted(held["pixels"][0], indices=held["indices"][0])
        for name in ("mse", "latent-knn") if of is SCORES else ("mse/mse", "mse/latent-knn"):
            judge, new = known[name.rpartition("/")[2]].numpy(), scored[name][number]
            as_high = (judge >= np.asarray(new)[:, None]).sum(axis=1)
            np.testing.assert_allclose(values[name][number], (1 + as_high) / (1 + len(judge)))


def test_a_score_that_is_nan_raises_no_alarm_and_leaves_none_out():
    scored, held = {"mse": torch.tensor([0.1, math.nan])}, {"mse": torch.tensor([0.2, 0.0])}
    assert p_values(scored, held)["mse"].isnan().all()
    assert p_values({"mse": scored["mse"][:1]}, held)["mse"].tolist() == [2 / 3]


def test_images_that_hide_lower_the_score_that_they_hide_from(beside):
    before, after = beside.table(DARK, of=SCORES), beside.table(HIDING_DARK, of=HIDING)
    for name in HIDDEN_FROM:
        clean = before[name][:, :FEW]
        assert after[f"{name}/{name}"].shape == (2, FEW)
        lowered = clean - after[f"{name}/{name}"]
        assert (lowered > -1e-6).all()
        assert lowered.mean() > 0.05 * clean.mean()
        assert lowered.mean() > max((clean - after[f"{other}/{name}"]).mean() for other in HIDDEN_FROM if other != name)


def test_a_vae_of_another_set_has_not_seen_what_it_is_judged_on(beside, monkeypatch):
    learnt, original = [], outside.fit_scores

    def recorded(vae, classifier, train, **settings):
        learnt.append(train)
        return original(vae, classifier, train, **settings)

    monkeypatch.setattr(outside, "fit_scores", recorded)
    home, away = (beside.table(kind(label="dark.npz"), of=ABROAD) for kind in (HOME, AWAY))
    assert home["mse"].shape == (2, 12)
    whole, unseen, places = beside.setup.sets.parted(DARK)
    assert [len(train) for train in learnt] == [120, 120] == [len(whole) - len(unseen)] * 2
    images = whole.pixels[places]
    assert not any((image == train).flatten(1).all(dim=1).any() for image in images for train in learnt)
    np.testing.assert_allclose(home["mean-pixel"][0], images.mean(dim=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(away["mean-pixel"], table(beside, INSIDE)["mean-pixel"])
    assert not np.array_equal(home["mse"][0], home["mse"][1])
    classifies = {name for name, one in scores.items() if "classifier" in one.needs or one.expensive}
    assert {*home.columns} == {*scores} - classifies
    area = test_outside.abroad(beside, "mse", "dark.npz")
    assert area.value == pytest.approx(
        np.mean([(b[:, None] > a).mean() for a, b in zip(home["mse"], away["mse"], strict=True)])
    )


def test_shares_found_are_those_of_low_p_values(content, tiny):
    assert content["abroad"] is content["hiding"] is None  # no set of characters is at hand
    for label, condition in (("inside", INSIDE), ("mirrored", MIRRORED)):
        values = tiny.table(condition, of=P_VALUES)
        for name, row in content["found"]["shares"].items():
            assert row[label] == pytest.approx((values[name] <= 0.05).mean())
    assert test_outside.alarms(tiny, MIRRORED, "kl").value == content["found"]["shares"]["kl"]["mirrored"]


# What figures show


def test_histograms_are_of_the_best_and_the_worst_set(content, tiny):
    for name, histogram in content["histograms"].items():
        aurocs = {label: cell["auroc"] for label, cell in content["cells"][name].items()}
        assert aurocs[histogram["best"]] == max(aurocs.values())
        assert aurocs[histogram["worst"]] == min(aurocs.values())
        assert set(histogram["shares"]) == {"inside", histogram["best"], histogram["worst"]}
        for shares in histogram["shares"].values():
            assert len(shares) == len(histogram["edges"]) - 1
            assert sum(shares) == pytest.approx(1)
    histogram = content["histograms"]["mse"]
    counts = np.histogram(table(tiny, INSIDE)["mse"][0].astype(float), histogram["edges"])[0]
    assert np.allclose(histogram["shares"]["inside"], counts / 12)


def test_histograms_stand_what_is_not_finite():
    """No study has such scores; so the histogram is asked for alone."""
    low = np.array([np.linspace(0, 1, 100)])
    tables = {"inside": {"mse": low}, "a": {"mse": np.where(low > 0.5, np.inf, low)}, "b": {"mse": low * np.nan}}
    row = {"a": {"auroc": 0.7}, "b": {"auroc": math.nan}}
    histogram = section._histogram("mse", row, tables)
    assert (histogram["best"], histogram["worst"]) == ("a", "a")
    assert np.isfinite(histogram["edges"]).all()
    assert histogram["shares"]["a"][-1] == pytest.approx(0.5, abs=0.02)


def test_extremes_are_the_ends_of_each_score(content, tiny):
    for condition in (INSIDE, *tiny.outside.conditions):
        images, indices = tiny.outside.images(condition)
        for name, ends in content["extremes"][condition.label or "inside"].items():
            column = table(tiny, condition)[name][0]
            assert ends["least"]["score"] == sorted(column.tolist())[:4]
            assert ends["most"]["score"] == sorted(column.tolist())[:-5:-1]
            for end in ends.values():
                places = [indices.tolist().index(index) for index in end["index"]]
                assert column[places].tolist() == end["score"]
                grey = (images.pixels[places, 0] * 255).round().to(torch.uint8).numpy()
                np.testing.assert_array_equal(unpack(end["pixels"]), grey)


def test_the_latent_map_is_a_plane_of_the_training_images(content, tiny):
    latent = content["latent"]
    assert [*latent["points"]] == ["inside", *MADE, "fgsm-0.2", "lbfgs"]
    vae, setup = tiny.run(0).vae, tiny.setup
    with torch.no_grad():
        means = vae.encode(setup.train.pixels)[0].double()
        inside = vae.encode(setup.test.pixels[setup.indices])[0].double()
    values, vectors = torch.linalg.eigh((means - means.mean(0)).T @ (means - means.mean(0)))
    assert latent["explained"] == pytest.approx((values.flip(0)[:2] / values.sum()).tolist())
    expected = (inside - means.mean(0)) @ vectors.flip(1)[:, :2]
    np.testing.assert_allclose(np.abs(latent["points"]["inside"]), expected.abs().numpy(), atol=1e-3)
