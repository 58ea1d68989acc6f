"""Do results hold all that a report shows, and do they say what the study measured?"""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import vaecore
from vaecore import VAE, Store, VAEConfig
from vaecore.suite.images import pack, unpack
from vaecore.suite.plugin import reporting
from vaecore.suite.plugin.code import source_digest
from vaecore.suite.report import page
from vaecore.suite.report.compare import compare, text
from vaecore.suite.report.figures.catalogue import FIGURES
from vaecore.suite.results import damage_of, to_json
from vaecore.suite.study import collect
from vaecore.suite.study.conditions import CLEAN, CONFIDENT, GAUSSIAN_CONFIDENT
from vaecore.suite.study.contact_sheet import IMAGES, SHEET
from vaecore.suite.study.executors import Here
from vaecore.suite.study.protocol import PILOT_SEED, PROFILES, Protocol, profile_of
from vaecore.suite.study.sections import consistency
from vaecore.suite.study.study import Study
from vaecore.suite.study.tables import Table

# Facts and verdicts


def test_results_hold_facts_verdicts_and_what_the_registry_says(results, registry, verdicts, tiny):
    assert [one["verdict"] for one in results["claims"]] == ["supported", "refuted", "inconclusive", "inconclusive"]
    for one, verdict in zip(results["claims"], verdicts, strict=True):
        claim = registry.claims[verdict.claim]
        assert repr({key: one[key] for key in verdict.to_json()}) == repr(verdict.to_json())  # with NaN
        for key in ("kind", "sentence", "estimand", "source", "registered", "pilot", "reported"):
            assert one[key] == getattr(claim, key)
        assert one["no_effect"] == {"low": claim.no_effect.low, "high": claim.no_effect.high}
    assert set(results["not_concluded"]) == set(registry.claims) - {verdict.claim for verdict in verdicts}
    assert results["not_concluded"]["A3"] == "not run"
    assert results["dataset"]["test_digest"] == tiny.setup.test.digest
    assert results["dataset"]["train_digest"] == tiny.setup.train.digest
    assert results["dataset"]["train_use"] == tiny.setup.train_use
    assert (results["registry_digest"], results["seeds"], results["draws"]) == (registry.digest, [0, 1], 10)
    assert (results["version"], results["source_digest"]) == (vaecore.__version__, source_digest())
    assert results["images"] == tiny.facts.images
    assert len({digest["vae"] for digest in results["models"]["digests"]}) == 2
    assert results["threats"].keys() == {*results["images"]}
    assert json.loads(to_json(results))["claims"][3]["estimate"] is None


def test_the_command_gives_these_results_and_names_no_folder(tiny, registry, results, tmp_path):
    models, few = " ".join(f"--{kind} {text}" for text, kind in tiny.setup.options), "--images 12"
    assert (
        results["command"]
        == f"pytest claims --dataset mine.npz --profile standard --runs 2 {few} --device cpu {models}"
    )
    assert str(Path(tiny.setup.dataset.name).parent) not in to_json(results).decode()

    np.savez(tmp_path / "cats and dogs.npz", images=np.random.default_rng(0).random((30, 8, 8), dtype=np.float32))
    VAE(VAEConfig(4, 8), (8, 8)).save(tmp_path / "mine.safetensors")
    setup = replace(
        tiny.setup,
        protocol=Protocol(replace(PROFILES["full"], runs=3)),
        vae=str(tmp_path / "mine.safetensors"),
        precision="bfloat16",
        ood=("rotated-30", str(tmp_path / "cats and dogs.npz")),
        first_seed=PILOT_SEED,
    )
    command = reporting.head(Study.of(setup, Store(tmp_path / "cache")), registry, [])["command"]
    assert command == (
        "pytest claims --dataset mine.npz --profile full --runs 3 --device cpu --precision bfloat16"
        f" --vae mine.safetensors --classifier {tiny.setup.classifier} --ood rotated-30 --ood 'cats and dogs.npz'"
        " --pilot"
    )
    few = Protocol(profile_of("standard", 2, 300, 0.5), 1 / 255, 6)
    command = reporting.head(Study.of(replace(setup, protocol=few), Store(tmp_path / "cache")), registry, [])["command"]
    assert "--runs 2 --images 300 --attack-share 0.5 --epsilon 1/255 --draws 6" in command
    other = replace(tiny.setup, first_seed=5)
    command = reporting.head(Study.of(other, Store(tmp_path / "cache")), registry, [])["command"]
    assert "--runs 2 --first-seed 5 --images" in command
    usual = replace(setup, protocol=Protocol(PROFILES["full"]))
    assert "--runs" not in reporting.head(Study.of(usual, Store(tmp_path / "cache")), registry, [])["command"]


class Refusing(Here):
    """An executor that may not be asked."""

    def submit(self, task, needs):
        raise AssertionError(f"{task.title} must not be computed")


def test_all_that_a_report_says_is_kept(results, tiny):
    again = collect.everything(Study.of(tiny.setup, tiny.plan.store, Refusing()))
    assert to_json(again) == to_json({key: results[key] for key in again})


# Damage

DAMAGES = (..., None, 1e60, "x", [], {})  # ...: it is missing
FIGURES_ALONE = {"measures", "reliability", "refusing", "histograms", "points", "accuracy", "contact_sheet", "trials"}


def places(value, where=()):
    """Every place of plain values, of alike items the first, as a row of keys."""
    if isinstance(value, dict):
        alike = (
            len(value) > 3
            and len({repr(sorted(one)) if isinstance(one, dict) else type(one) for one in value.values()}) == 1
        )
        keys = [*value][:1] if alike and where else [*value]
    else:
        keys = range(min(1, len(value))) if isinstance(value, list) else ()
    for key in keys:
        yield (*where, key)
        yield from places(value[key], (*where, key))


@pytest.mark.slow
def test_damaged_results_are_told_from_those_that_can_be_shown(results):
    """Each place is damaged in each way: then its damage is named, or `compare` and the page can do without it."""
    results = json.loads(to_json(results | {"claims": results["claims"][:1]}))
    files = {f"{name}.png": b"" for name in FIGURES}
    assert damage_of(results) == ""
    told = shown = 0
    for *where, key in places(results):
        holder = results
        for one in where:
            holder = holder[one]
        whole = holder.copy()
        for damage in () if key == "schema" or FIGURES_ALONE & {*where} else DAMAGES:
            if damage is ...:
                del holder[key]
            else:
                holder[key] = damage
            if damage_of(results):
                told += 1
            else:
                text(compare(results, results), width=80, color=False, unicode=False)
                page.render(results, files)
                shown += 1
            holder.clear()
            (holder.update if isinstance(holder, dict) else holder.extend)(whole)
    assert told > 400
    assert shown > 100


# What was measured


def test_conditions_are_the_evidence(results, tiny):
    assert list(results["conditions"]) == list(results["images"])
    for name, one in results["conditions"].items():
        (table,) = tiny.paired(name)
        assert one["images"] == table["label"].shape[1] <= results["images"][name]
        assert one["accuracy"] == pytest.approx((table["predicted"] == table["label"]).mean())
        assert one["mse"] == pytest.approx(table["draw_mse"].mean(), rel=1e-5)
        shares = [bar["share"] for bar in one["distinct_labels"]]
        assert shares == pytest.approx([(table.distinct == count).mean() for count in range(1, 11)])
        assert one["consistent"] == pytest.approx(shares[0])
        assert all(bar["low"] <= bar["share"] <= bar["high"] for bar in one["distinct_labels"])


def test_an_attack_that_hardly_succeeds_costs_its_row_and_not_the_report(tiny, tmp_path, monkeypatch):
    """A classifier that is never as sure as the attack on it wants."""
    name = tiny.setup.classifier.partition(":")[0]
    module = sys.modules[name]

    class Unsure(module.classifier):
        def forward(self, images):
            return super().forward(images) / 100

    monkeypatch.setattr(module, "unsure", Unsure, raising=False)
    setup = replace(tiny.setup, classifier=f"{name}:unsure")
    study = Study.of(setup, Store(tmp_path))
    names = [setup.protocol.name(one) for one in (CLEAN, CONFIDENT, GAUSSIAN_CONFIDENT)]
    results = collect.looked_at(study, names)
    assert list(results["conditions"]) == ["clean"]
    assert "lbfgs-0.98: 24 of 24 images: the attack did not reach its aim" in results["sanity_flags"]


def test_error_by_confidence_counts_every_image_once(results, tiny):
    clean = tiny.table("clean")
    rows = results["error_by_confidence"]
    assert len(rows) == 20
    assert sum(row["count"] for row in rows) == clean["confidence"].size
    for row in rows:
        inside = (clean["confidence"] >= row["from"]) & (clean["confidence"] < row["to"])
        assert row["count"] == inside.sum()
        expected = clean.mse[inside].mean() if inside.any() else math.nan
        assert row["mse"] == pytest.approx(expected, nan_ok=True)


def test_full_confidence_falls_into_the_last_bin():
    full = Table.of({"confidence": np.ones((2, 12)), "draw_mse": np.ones((2, 12, 10))})
    rows = consistency.error_by_confidence(SimpleNamespace(table=lambda _: full))
    assert [row["count"] for row in rows] == [0] * 19 + [24]


def test_the_contact_sheet_shows_the_evidence(results, tiny):
    sheet, setup = results["contact_sheet"], tiny.setup
    indices = setup.indices[:IMAGES]
    assert sheet["indices"] == indices.tolist()
    assert sheet["labels"] == setup.test.labels[indices].tolist()
    assert [row["condition"] for row in sheet["rows"]] == [setup.protocol.name(condition) for condition in SHEET]
    for row in sheet["rows"]:
        columns = {name: column[0, :IMAGES] for name, column in tiny.table(row["condition"]).columns.items()}
        assert row["label"] == columns["predicted"].tolist()
        assert row["success"] == columns["success"].tolist()
        assert row["draw_label"] == columns["draw_label"][:, :10].tolist()
        images, draws = (unpack(row[key]).astype(float) / 255 for key in ("pixels", "draws"))
        error = np.square(draws.reshape(IMAGES, 10, 8, 8) - images[:, None]).mean(axis=(2, 3))
        np.testing.assert_allclose(error, columns["draw_mse"][:, :10], atol=5e-3)  # 8-bit pixels


# Images as text


@pytest.mark.parametrize(("channels", "shape"), [(1, (4, 5, 6)), (3, (4, 5, 6, 3))], ids=["grey", "colour"])
def test_images_come_back(channels, shape):
    images = np.random.default_rng(0).random((4, channels, 5, 6), dtype=np.float32)
    back = unpack(json.loads(json.dumps(pack(images))))
    assert back.shape == shape
    np.testing.assert_array_equal(back.reshape(4, 5, 6, channels), np.moveaxis((images * 255).round(), 1, -1))


@pytest.mark.parametrize("shape", [(4, 2, 5, 6), (4, 5, 6)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must be \(n, 1, h, w\) or \(n, 3, h, w\); got"):
        pack(np.zeros(shape, dtype=np.float32))
