"""Sets outside, their scores for each run, the matrix and figures of family C: right, kept, nothing peeked at."""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from claims import test_outside
from vaecore import scores
from vaecore._store import Store
from vaecore.data._images import TORCHVISION, Images
from vaecore.data._outside import OUTSIDE_MADE
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.judging.verdict import judge
from vaecore.suite.packing import unpack
from vaecore.suite.report import figures_outside, style, terminal
from vaecore.suite.report import summary as report
from vaecore.suite.statistics.intervals import auroc, interval, mean
from vaecore.suite.study import detection, outside
from vaecore.suite.study.draws import Table
from vaecore.suite.study.outside import INSIDE, Outside
from vaecore.suite.study.study import Dataset

MADE = [*OUTSIDE_MADE]
REGISTRY = load_registry("mine.npz")


def fresh(study, **changes):
    """The same study, which has computed nothing yet."""
    return replace(study, wall_seconds={}, looked_at=set(), **changes)


@pytest.fixture(scope="module")
def gathered(tiny):
    return detection.gather(tiny)


@pytest.fixture(scope="module")
def results(tiny, gathered):
    """What the figures and pages look at."""
    return {"detection": gathered, "dataset": {"name": tiny.test.name}, "seeds": tiny.seeds}


# Which sets there are


def of(size, root, asked=(), name="mine"):
    """The sets beside a data set of images of this size."""
    test = Images(torch.full((4, 1, *size), 0.5), None, name, "test")
    return Outside(SimpleNamespace(test=test, root=str(root)), tuple(map(str, asked)))


def a_file(path, size=(8, 8), count=3):
    """A set of random images."""
    path.parent.mkdir(exist_ok=True)
    np.savez(path, images=np.random.default_rng(1).integers(0, 256, (count, *size), np.uint8))
    return path


def test_made_sets_are_there_for_any_images(tmp_path):
    assert [*of((8, 8), tmp_path).sources] == MADE
    assert [*of((12, 8), tmp_path).sources] == MADE
    assert [*of((9, 8), tmp_path).sources] == [name for name in MADE if name != "shuffled-patches"]


def test_letters_and_files_at_hand_join_images_of_mnist_s_size(tmp_path):
    for name in ("kmnist-test", "other"):
        a_file(tmp_path / "ood" / f"{name}.npz", (28, 28))
    found = of((28, 28), tmp_path)
    assert [*found.sources] == [*MADE, "letters", "kmnist-test.npz", "other.npz"]
    assert found.find("kmnist") == "kmnist-test.npz"
    assert found.find("other") == "other.npz"
    assert found.find("letters") == "letters"
    assert "letters" not in of((28, 28), tmp_path, name="letters").sources


def test_what_is_asked_for_is_there_under_its_name(tmp_path):
    path = a_file(tmp_path / "other.npz")
    assert [*of((8, 8), tmp_path, ["rotated-45", path, "rotated-45"]).sources] == [*MADE, "rotated-45", "other.npz"]


def test_files_at_hand_that_do_not_fit_are_left_out_with_a_reason(tmp_path, tiny):
    a_file(tmp_path / "ood" / "fits.npz")
    a_file(tmp_path / "ood" / "large.npz", (9, 9))
    (tmp_path / "ood" / "broken.npz").write_bytes(b"not a file of arrays")
    found = of((8, 8), tmp_path)
    assert [*found.sources] == [*MADE, "fits.npz"]
    assert set(found.left_out) == {"letters", "large.npz", "broken.npz"}
    assert found.left_out["letters"] == "28x28 in grey, where mine is 8x8 in grey"
    assert "9x9" in found.left_out["large.npz"]
    study = fresh(tiny, root=str(tmp_path))
    study.check()
    assert any(line.startswith("set outside left out: large.npz: ") for line in terminal.header(study, REGISTRY))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["mine.npz"], "mine.npz"),  # the inside set itself
        (["a/x.npz", "b/x.npz"], "two x.npz"),
        (["large.npz"], "9x9"),
        (["dimmed-2"], "below 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_where_it_is_asked_for(tmp_path, asked, message):
    for name, size in (("mine", (8, 8)), ("a/x", (8, 8)), ("b/x", (8, 8)), ("large", (9, 9))):
        a_file(tmp_path / f"{name}.npz", size)
    paths = [tmp_path / one if one.endswith(".npz") else one for one in asked]
    with pytest.raises(ValueError, match=message):
        _ = of((8, 8), tmp_path, paths, name="mine.npz").sources


def test_a_file_is_no_made_set_whatever_its_name(tmp_path, tiny):
    study = fresh(tiny, ood=(str(a_file(tmp_path / "rotated-mine.npz", count=40)),), store=Store(tmp_path))
    assert not study.outside.is_made("rotated-mine.npz")
    assert len(study.outside.images("rotated-mine.npz")[0]) == 12
    assert study.outside.scores("rotated-mine.npz")["mse"].shape == (2, 12)


def test_what_was_asked_for_goes_before_what_is_at_hand(tmp_path):
    a_file(tmp_path / "ood" / "kmnist.npz")
    mine = a_file(tmp_path / "mine" / "kmnist-of-mine.npz")
    assert of((8, 8), tmp_path).find("kmnist") == "kmnist.npz"
    assert of((8, 8), tmp_path, [mine]).find("kmnist") == "kmnist-of-mine.npz"


def test_a_set_that_is_not_at_hand_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(outside, "probe", lambda _: False)
    found = of((28, 28), tmp_path)
    assert found.find("kmnist") is None
    assert found.lacks("kmnist") == "takes images of kmnist, which are not at hand (--ood path/to/kmnist.npz)"
    assert found.lacks("letters") == found.lacks("") == ""


def test_a_set_of_torchvision_s_is_fetched_where_its_server_answers(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(outside, "probe", lambda name: asked.append(name) or True)
    monkeypatch.setattr(Outside, "_load", lambda _, source: source)
    found = of((28, 28), tmp_path)
    assert found.find("kmnist") == found.find("kmnist") == "kmnist"
    assert found.find("notmnist") is None  # torchvision has none
    assert sorted(asked) == sorted({*TORCHVISION} - {found.study.test.name})  # each once, all at the same time
    assert of((8, 8), tmp_path).find("kmnist") is None  # it would not fit
    assert of((28, 28), tmp_path, name="kmnist").find("kmnist") is None


def test_a_download_that_fails_after_all_is_a_set_that_is_not_at_hand(tmp_path, monkeypatch):
    def broken(_, source):
        raise OSError("the connection was reset")

    found = of((28, 28), tmp_path)
    assert "letters" in found.sources
    monkeypatch.setattr(outside, "probe", lambda _: True)
    monkeypatch.setattr(Outside, "_load", broken)
    assert found.find("kmnist") is None
    assert found.left_out["kmnist"] == "the connection was reset"
    assert "kmnist" not in found.sources


def test_a_set_asked_for_is_looked_at_before_anything_is_computed(tiny):
    with pytest.raises(ValueError, match="nosuch"):
        fresh(tiny, ood=("nosuch",)).check()
    fresh(tiny, ood=("rotated-45",)).check()


def test_images_of_made_sets_are_made_of_the_study_s_images(tiny):
    inside, indices = tiny.outside.images(INSIDE)
    assert torch.equal(inside.pixels, tiny.test.pixels[tiny.indices])
    mirrored, same = tiny.outside.images("mirrored")
    assert torch.equal(mirrored.pixels, inside.pixels.flip(3))
    assert torch.equal(same, indices)


def test_of_a_loaded_set_a_random_part_is_taken(tiny, tmp_path):
    images = np.arange(100, dtype=np.float32).reshape(-1, 1, 1).repeat(8, 1).repeat(8, 2) / 100
    np.savez(tmp_path / "steps.npz", images=images)
    study = fresh(tiny, ood=(str(tmp_path / "steps.npz"),))
    assert not study.outside.is_made("steps.npz")
    part, indices = study.outside.images("steps.npz")
    assert len(part) == len(indices.unique()) == study.profile.images == 12
    assert torch.equal(part.pixels[:, 0, 0, 0], torch.from_numpy(images[:, 0, 0])[indices])
    assert indices.tolist() != sorted(indices.tolist())


# Scores


def test_scores_are_learnt_from_training_images_alone(tiny, tmp_path, monkeypatch):
    learnt, original = [], outside.fit_scores

    def fit(vae, classifier, train, **settings):
        learnt.append(train)
        return original(vae, classifier, train, **settings)

    monkeypatch.setattr(outside, "fit_scores", fit)
    study = fresh(tiny, store=Store(tmp_path))
    for name in (INSIDE, "mirrored"):
        assert study.outside.scores(name)["mse"].shape == (2, 12)
    assert len(learnt) == len(study.runs)  # once a run, for all sets
    assert all(torch.equal(train, study.train.pixels) for train in learnt)
    # Half as many test images: what is said of those that stay is the same.
    fewer = fresh(tiny, store=Store(tmp_path / "fewer"), profile=replace(tiny.profile, images=6))
    for name, column in fewer.outside.scores("mirrored").columns.items():
        np.testing.assert_array_equal(column, study.outside.scores("mirrored")[name][:, :6], err_msg=name)


def test_scores_are_kept_and_those_of_another_image_are_not_taken_for_them(tiny, monkeypatch):
    expected = tiny.outside.scores("mirrored")
    monkeypatch.setattr(outside, "fit_scores", None)
    again = fresh(tiny).outside
    for name, column in again.scores("mirrored").columns.items():
        np.testing.assert_array_equal(column, expected[name])
    with pytest.raises(TypeError):
        again.scores("rotated-17")  # new, so it has to be computed


def test_finished_models_without_training_images_have_the_other_scores(tiny, tmp_path):
    images = np.random.default_rng(0).random((30, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "tests.npz", test_images=images, test_labels=np.arange(30) % 3)
    module = sys.modules[tiny.vae.partition(":")[0]]
    module.finished_vae, module.finished_classifier = module.vae(0).eval(), module.classifier(0).eval()
    study = fresh(
        tiny,
        dataset=Dataset(str(tmp_path / "tests.npz"), "as asked"),
        vae=tiny.vae.replace(":vae", ":finished_vae"),
        classifier=tiny.classifier.replace(":classifier", ":finished_classifier"),
        store=Store(tmp_path),
    )
    study.check()
    assert study.outside.train is None
    untaught = {name for name, score in scores.items() if "training images" not in score.needs}
    found = detection.gather(study)
    assert set(found["cells"]) == untaught < set(scores)
    assert found["latent"]["of"] == "test"
    assert test_outside.detection(study, "mse", "mirrored").influence.shape == (1, 12)
    with pytest.raises(ValueError, match=r"latent-knn learns from training images, of which tests.npz has none"):
        test_outside.detection(study, "latent-knn", "mirrored")


class Odd:
    """A VAE whose log-odds are not those of its images."""

    def __init__(self, vae, factor):
        self.encode, self.decode, self.factor = vae.encode, vae.decode, factor

    def decode_logits(self, latents):
        return self.factor * torch.logit(self.decode(latents)).flatten(1)


def test_log_odds_that_are_not_those_of_the_images_are_refused(tiny, tmp_path):
    for factor, message in ((1.0, None), (2.0, "decode_logits must be the log-odds")):
        study = fresh(tiny, store=Store(tmp_path))
        study._runs.update({number: replace(run, vae=Odd(run.vae, factor)) for number, run in enumerate(tiny.runs)})
        with pytest.raises(ValueError, match=message) if message else nullcontext():
            study.outside.scores("mirrored")


def test_every_score_is_there_for_every_run(tiny):
    table = tiny.outside.scores("dimmed-0.3")
    assert set(table.columns) == set(scores)
    for name, column in table.columns.items():
        assert column.shape == (2, 12), name
        assert np.isfinite(column).all(), name
    assert not np.array_equal(table["mse"][0], table["mse"][1])
    np.testing.assert_array_equal(table["mean-pixel"][0], table["mean-pixel"][1])


def test_sets_are_noted_among_what_was_looked_at(tiny):
    tiny.looked_at.clear()
    for name in ("mirrored", INSIDE):
        tiny.outside.scores(name)
    tiny.table("clean")
    assert Outside.named(sorted(tiny.looked_at)) == ["mirrored"]


# The matrix


@pytest.mark.parametrize("one", ["mirrored", "dimmed-0.3", "uniform-noise"])
def test_cells_are_what_scikit_learn_says(tiny, gathered, one):
    inside, found = tiny.outside.scores(INSIDE), tiny.outside.scores(one)
    labels = np.repeat([0, 1], 12)
    for name in scores:
        cell = gathered["cells"][name][one]
        values = [np.concatenate(pair) for pair in zip(inside[name], found[name], strict=True)]
        assert cell["auroc"] == pytest.approx(np.mean([roc_auc_score(labels, both) for both in values]))
        out = np.mean([average_precision_score(labels, both) for both in values])
        assert cell["aupr_out"] == pytest.approx(out)
        within = np.mean([average_precision_score(1 - labels, -both) for both in values])
        assert cell["aupr_in"] == pytest.approx(within)
        # 95% of 12 images are 12: what passes is what no inside image exceeds.
        passed = np.mean([(high <= low.max()).mean() for low, high in zip(inside[name], found[name], strict=True)])
        assert cell["fpr95"] == pytest.approx(passed)
        assert cell["low"] <= cell["auroc"] <= cell["high"]


def test_the_matrix_is_whole_and_is_kept(tiny, gathered, monkeypatch):
    assert [*gathered["cells"]] == [*scores]
    assert all([*row] == MADE for row in gathered["cells"].values())
    monkeypatch.setattr(detection, "_cell", None)
    assert detection.matrix(fresh(tiny), MADE) == gathered["cells"]
    only = detection.matrix(tiny, ["mirrored"])
    assert only == {name: {"mirrored": row["mirrored"]} for name, row in gathered["cells"].items()}


def test_made_sets_are_paired_with_what_they_are_made_of_and_files_are_not(tiny, tmp_path):
    study = fresh(tiny, ood=(str(a_file(tmp_path / "random.npz", count=40)),))
    for name, paired in (("mirrored", True), ("random.npz", False)):
        inside, found = (study.outside.scores(one)["mean-pixel"] for one in (INSIDE, name))
        expected = interval(auroc(inside, found, paired=paired), detection.LEVEL)
        other = interval(auroc(inside, found, paired=not paired), detection.LEVEL)
        cell = detection.matrix(study, [name])["mean-pixel"][name]
        assert (cell["low"], cell["high"]) == (expected.low, expected.high) != (other.low, other.high)
        claimed = test_outside.detection(study, "mean-pixel", name)
        assert claimed.influence.shape[1] == (12 if paired else 24)
        assert claimed.outside == (0 if paired else 12)


def test_scores_that_are_infinite_rank_and_those_that_are_nan_have_no_measures():
    generator = np.random.default_rng(0)
    inside, found = generator.normal(size=(2, 50)), generator.normal(size=(2, 50)) + 1
    found[:, :3] = np.inf
    cell = detection._cell(inside, found, paired=False)
    expected = np.mean([(high[:, None] > low).mean() for low, high in zip(inside, found, strict=True)])
    assert cell["auroc"] == pytest.approx(expected)
    found[0, 0] = np.nan
    assert all(np.isnan(value) for value in detection._cell(inside, found, paired=False).values())
    assert all(np.isnan(value) for value in detection._cell(inside[:, :1], found[:, 1:2], paired=False).values())


def test_histograms_stand_what_is_not_finite():
    low = np.array([np.linspace(0, 1, 100)])
    high = np.where(low > 0.5, np.inf, low)
    tables = {INSIDE: Table({"mse": low}), "a": Table({"mse": high}), "b": Table({"mse": low * np.nan})}
    row = {"a": {"auroc": 0.7}, "b": {"auroc": float("nan")}}
    found = detection._histogram("mse", row, tables)
    assert (found["best"], found["worst"]) == ("a", "a")
    assert np.isfinite(found["edges"]).all()
    assert found["shares"]["a"][-1] == pytest.approx(0.5, abs=0.02)


# What figures show


def test_histograms_are_of_the_best_and_the_worst_set(gathered, tiny):
    for name, one in gathered["histograms"].items():
        aurocs = {key: cell["auroc"] for key, cell in gathered["cells"][name].items()}
        assert aurocs[one["best"]] == max(aurocs.values())
        assert aurocs[one["worst"]] == min(aurocs.values())
        assert set(one["shares"]) == {INSIDE, one["best"], one["worst"]}
        for shares in one["shares"].values():
            assert len(shares) == len(one["edges"]) - 1
            assert sum(shares) == pytest.approx(1)
    edges = np.array(gathered["histograms"]["mse"]["edges"])
    counts = np.histogram(tiny.outside.scores(INSIDE)["mse"][0].astype(float), edges)[0]
    assert np.allclose(gathered["histograms"]["mse"]["shares"][INSIDE], counts / 12)


def test_extremes_are_the_ends_of_each_score(gathered, tiny):
    for name, of_set in gathered["extremes"].items():
        images, indices = tiny.outside.images(name)
        for score, ends in of_set.items():
            column = tiny.outside.scores(name)[score][0]
            assert ends["least"]["score"] == sorted(column.tolist())[:4]
            assert ends["most"]["score"] == sorted(column.tolist())[:-5:-1]
            for end in ends.values():
                places = [indices.tolist().index(index) for index in end["index"]]
                assert column[places].tolist() == end["score"]
                grey = (images.pixels[places, 0] * 255).round().to(torch.uint8).numpy()
                np.testing.assert_array_equal(unpack(end["pixels"]), grey)


def test_the_latent_map_is_a_plane_of_the_training_images(gathered, tiny):
    latent = gathered["latent"]
    assert [*latent["points"]] == [INSIDE, *MADE, "fgsm-0.2", "lbfgs"]
    vae, train = tiny.run(0).vae, tiny.train.pixels
    with torch.no_grad():
        means = vae.encode(train)[0].double()
        inside = vae.encode(tiny.test.pixels[tiny.indices])[0].double()
    values, vectors = torch.linalg.eigh((means - means.mean(0)).T @ (means - means.mean(0)))
    assert latent["explained"] == pytest.approx((values.flip(0)[:2] / values.sum()).tolist())
    expected = (inside - means.mean(0)) @ vectors.flip(1)[:, :2]
    np.testing.assert_allclose(np.abs(latent["points"][INSIDE]), expected.abs().numpy(), atol=1e-3)


@pytest.mark.parametrize(
    "draw",
    [
        figures_outside.detection_matrix,
        figures_outside.score_histograms,
        figures_outside.latent_space,
        figures_outside.extreme_images,
    ],
)
def test_figures_are_drawn_from_what_json_keeps_and_the_same_twice(results, draw):
    read = json.loads(json.dumps(results))
    first, second = (style.render(draw(which), "png") for which in (results, read))
    assert first == second
    assert first.startswith(b"\x89PNG")


def test_the_heat_map_has_every_number(results):
    axes = figures_outside.detection_matrix(results).axes[0]
    cells = results["detection"]["cells"]
    assert [text.get_text() for text in axes.texts] == [
        f"{cell['auroc']:.2f}" for row in cells.values() for cell in row.values()
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*scores]
    assert [label.get_text() for label in axes.get_xticklabels()] == MADE


def test_no_histogram_panel_is_left_empty(results):
    panels = [panel for panel in figures_outside.score_histograms(results).axes if panel.get_visible()]
    assert [panel.get_title() for panel in panels] == [*scores]


def test_the_page_has_a_table_for_each_measure(results):
    text = report.detection_page(results)
    cells = results["detection"]["cells"]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| score")]
    assert len(rows) == 4 * len(scores)
    assert {line.count("|") for line in rows} == {2 + len(MADE)}
    for name, row in cells.items():
        shown = [f"{cell['auroc']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" for cell in row.values()]
        assert f"| {name} | {' | '.join(shown)} |" in rows
        for measure in ("aupr_out", "aupr_in", "fpr95"):
            assert f"| {name} | {' | '.join(f'{cell[measure]:.3f}' for cell in row.values())} |" in rows
        assert f"- **{name}**: {scores[name].description}" in text


def test_the_terminal_shows_the_sets_that_claims_took(tiny, gathered):
    registry = load_registry("mine.npz")
    concluded = judge(
        registry.claims["C6"],
        [mean(np.ones((2, 60)), limits=(0, 1))],
        decisive=True,
        pilot=False,
        available=10**6,
        conditions=("outside/dimmed-0.3", "outside/inside"),
    )
    text = terminal.summary(tiny, registry, [concluded], (), width=80, color=False, unicode=False)
    row = next(line for line in text.splitlines() if line.startswith("dimmed-0.3"))
    column = {name: cells["dimmed-0.3"]["auroc"] for name, cells in gathered["cells"].items()}
    assert row.split()[1:5] == [f"{column[name]:.2f}" for name in ("mse", "latent-knn", "max-softmax", "mean-pixel")]
    assert row.split()[5] == f"{max(column.values()):.2f}"
    assert not any(line.startswith("mirrored") for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= 80


def test_a_set_is_named_on_the_command_line_as_often_as_wanted(tiny):
    study = fresh(tiny, ood=("rotated-45", "dimmed-0.5"))
    assert [*study.outside.sources][-2:] == ["rotated-45", "dimmed-0.5"]
    assert study.outside.is_made("rotated-45")
