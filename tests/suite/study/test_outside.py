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
from vaecore.suite.study.conditions import INSIDE, OUTSIDE
from vaecore.suite.study.outside import SCORES, fit, score
from vaecore.suite.study.sections import outside as section
from vaecore.suite.study.sections.outside import MEASURES, compare_scores
from vaecore.suite.study.study import Study

MADE = [*OUTSIDE_MADE]
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
    assert len(fitted_on) == 2
    pairs = zip(fitted_on, study.setup.seeds, strict=True)
    assert all(torch.equal(train, study.setup.seen(seed).pixels) for train, seed in pairs)
    for condition in (INSIDE, MIRRORED):  # what is said of an image does not follow from the others
        for number in range(2):
            run, some = study.run(number), study.setup.sets.shard(condition, 0, 6).tensors
            train = study.setup.training.tensors, study.setup.held_places(run.seed).tensors
            few = score("cpu", some, fit(run.seed, "cpu", run.vae, run.classifier, *train))
            for name, column in few.items():
                np.testing.assert_array_equal(column, table(study, condition)[name][number, :6], err_msg=name)


def test_every_score_is_there_for_every_run(tiny):
    columns = table(tiny, OUTSIDE(label="dimmed-0.3"))
    assert set(columns.columns) == set(scores)
    for name, column in columns.columns.items():
        assert column.shape == (2, 12), name
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
    truth = np.repeat([0, 1], 12)
    for name in scores:
        cell, runs = content["cells"][name][label], [*zip(inside[name], beyond[name], strict=True)]
        values = [np.concatenate(run) for run in runs]
        assert cell["auroc"] == pytest.approx(np.mean([roc_auc_score(truth, both) for both in values]))
        out = np.mean([average_precision_score(truth, both) for both in values])
        assert cell["aupr_out"] == pytest.approx(out)
        within = np.mean([average_precision_score(1 - truth, -both) for both in values])
        assert cell["aupr_in"] == pytest.approx(within)
        # 95% of 12 images are 12: what passes is what no inside image exceeds.
        assert cell["fpr95"] == pytest.approx(np.mean([(high <= low.max()).mean() for low, high in runs]))
        assert cell["low"] <= cell["auroc"] <= cell["high"]


def test_the_matrix_is_whole_or_of_some_sets(tiny, content):
    assert [*content["cells"]] == [*scores]
    assert all([*row] == MADE for row in content["cells"].values())
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
