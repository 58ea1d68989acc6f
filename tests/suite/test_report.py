"""Is the report whole, strict, the same each time, and readable on any terminal? And `python -m claims cache`?"""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from vaecore._store import Store, digest
from vaecore.suite import cli as command
from vaecore.suite.judging.verdict import judge
from vaecore.suite.report import figures, style, terminal
from vaecore.suite.report import summary as report
from vaecore.suite.statistics.intervals import mean
from vaecore.suite.study.draws import CONDITIONS, SHOWN

NAN = float("nan")


# The results


def test_results_hold_everything(results, registry, verdicts, tiny):
    assert [one["verdict"] for one in results["claims"]] == ["supported", "refuted", "inconclusive", "inconclusive"]
    assert set(results["claims"][0]) >= {"claim", "estimate", "low", "high", "level", "bound", "runs", "images"}
    assert set(results["claims"][0]) >= {"kind", "sentence", "estimand", "source", "per_run", "power", "registered"}
    assert results["claims"][0]["sentence"] == registry.claims["A1"].sentence
    assert set(results["not_concluded"]) == set(registry.claims) - {verdict.claim for verdict in verdicts}
    assert results["not_concluded"]["A3"] == "not run"
    assert results["dataset"]["name"] == "mine.npz"
    assert results["dataset"]["test_digest"] == tiny.test.digest
    assert results["dataset"]["train_digest"] is None  # no model was trained on it
    assert results["registry_digest"] == registry.digest
    assert results["seeds"] == [0, 1]
    counts = {name: 8 if "lbfgs" in name or name in SHOWN else 10 if "joint" in name else 12 for name in CONDITIONS}
    assert results["images"] == counts
    assert len({digest["vae"] for digest in results["models"]["digests"]}) == 2


def test_conditions_are_the_evidence(results, tiny):
    assert list(results["conditions"]) == list(CONDITIONS)
    for name, one in results["conditions"].items():
        (table,) = tiny.paired(name)
        assert one["images"] == table["label"].shape[1] <= tiny.count(name)
        assert one["accuracy"] == pytest.approx((table["predicted"] == table["label"]).mean())
        assert one["mse"] == pytest.approx(table["draw_mse"].mean(), rel=1e-5)
        shares = [bar["share"] for bar in one["distinct_labels"]]
        assert len(shares) == 10
        assert sum(shares) == pytest.approx(1)
        assert one["consistent"] == pytest.approx(shares[0])
        assert all(bar["low"] <= bar["share"] <= bar["high"] for bar in one["distinct_labels"])


def test_an_attack_that_hardly_succeeds_costs_its_row_and_not_the_report(tiny, registry, verdicts, monkeypatch):
    columns = tiny.table("lbfgs-0.98").columns
    failed = type(tiny.table("clean"))({**columns, "success": np.zeros_like(columns["success"])})
    monkeypatch.setitem(tiny._tables, "lbfgs-0.98", failed)
    results = report.gather(tiny, registry, verdicts, pilot=False)
    assert set(CONDITIONS) - set(results["conditions"]) == {"lbfgs-0.98", "gaussian-lbfgs-0.98"}
    assert "lbfgs-0.98: 16 of 16 images: the attack did not reach its aim" in results["sanity_flags"]


def test_error_by_confidence_counts_every_image_once(results, tiny):
    clean = tiny.table("clean")
    rows = results["error_by_confidence"]
    assert len(rows) == 20
    assert sum(row["count"] for row in rows) == clean["confidence"].size
    for row in rows:
        inside = (clean["confidence"] >= row["from"]) & (clean["confidence"] < row["to"])
        assert row["count"] == inside.sum()
        if inside.any():
            assert row["mse"] == pytest.approx(clean.mse[inside].mean())
        else:
            assert math.isnan(row["mse"])


def test_full_confidence_falls_into_the_last_bin(tiny, monkeypatch):
    clean = tiny.table("clean")
    full = type(clean)({**clean.columns, "confidence": np.ones_like(clean["confidence"])})
    monkeypatch.setattr(tiny, "table", lambda _name: full)
    assert [row["count"] for row in report._error_by_confidence(tiny)] == [0] * 19 + [24]


# The files


def refuse(text):
    raise AssertionError(f"JSON has no {text}")


def test_what_an_earlier_study_had_more_to_show_goes(results, tmp_path):
    report.write(tmp_path, results)
    (tmp_path / "notes.txt").write_text("a user's own")
    report.write(tmp_path, {**results, "decisions": None})
    left = {path.name for path in tmp_path.iterdir()}
    assert "notes.txt" in left
    assert not {"decisions.md", "reliability.png", "risk-coverage.svg"} & left
    assert {"summary.md", "convergence.png"} <= left


def test_written_files(results, tmp_path):
    report.write(tmp_path / "new" / "mine", results)
    folder = tmp_path / "new" / "mine"
    assert sorted(path.name for path in folder.iterdir()) == [
        "accuracy-by-epsilon.png",
        "accuracy-by-epsilon.svg",
        "cleaned-images.png",
        "cleaned-images.svg",
        "contact-sheet.png",
        "contact-sheet.svg",
        "convergence.png",
        "convergence.svg",
        "decisions.md",
        "detection-matrix.png",
        "detection-matrix.svg",
        "detection.md",
        "distinct-labels.png",
        "distinct-labels.svg",
        "error-by-confidence.png",
        "error-by-confidence.svg",
        "extreme-images.png",
        "extreme-images.svg",
        "index.html",
        "latent-space.png",
        "latent-space.svg",
        "reliability.png",
        "reliability.svg",
        "results.json",
        "risk-coverage.png",
        "risk-coverage.svg",
        "score-histograms.png",
        "score-histograms.svg",
        "summary.md",
    ]
    read = json.loads((folder / "results.json").read_text(), parse_constant=refuse)
    assert read["claims"][3]["estimate"] is None
    assert read["claims"][0]["estimate"] == 1.0
    assert set(read) == set(results)
    assert (folder / "summary.md").read_text() == report.summary(results)


def test_summary_names_every_claim_verdict_and_number(results, registry, tiny):
    text = report.summary(results)
    assert text.startswith(
        "# Claims on mine.npz, profile standard\n\n1 supported, 1 refuted, 2 inconclusive. 2 training "
    )
    assert "test images: 12 clean, 8 lbfgs; 10 draws an image." in text
    for one in results["claims"]:
        row = next(line for line in text.splitlines() if line.startswith(f"| {one['claim']} |"))
        assert f"| **{one['verdict']}** | {one['runs']} x {one['images']} |" in row
        assert one["sentence"] in row
        assert f"| {one['low']:.3f} to {one['high']:.3f} | {one['bound']} |" in row
    for name, reason in results["not_concluded"].items():
        assert f"\n- {name}: {reason}\n" in text
    for name in CONDITIONS:
        assert f"\n| {name} | {results['conditions'][name]['images']} | " in text
    assert f"Registry {registry.digest[:12]}." in text
    for flag in results["sanity_flags"]:
        assert f"\n- {flag}\n" in text
    assert "- No sanity flag was raised.\n" in report.summary({**results, "sanity_flags": []})
    for weak, strong in results["weaker_attacks"]:
        shares = weak["success"], strong["success"]
        row = f"| {weak['name']} | {shares[0]:.2f} | {strong['name']} | {shares[1]:.2f} | {tiny.trial_images} |\n"
        assert row in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith(("| A", "| B", "| claim"))}
    assert widths == {10}


def test_pilot_summary_says_so(results):
    assert report.summary({**results, "pilot": True}).startswith("# Claims on mine.npz, pilot\n")


@pytest.mark.parametrize("call", [1, 4], ids=["at once", "at the last figure"])
def test_an_interrupted_report_leaves_no_results(results, tmp_path, monkeypatch, call):
    calls = []

    def render(figure, suffix):
        calls.append(suffix)
        if len(calls) == call:
            raise KeyboardInterrupt
        return b"figure"

    monkeypatch.setattr(style, "render", render)
    with pytest.raises(KeyboardInterrupt):
        report.write(tmp_path, results)
    assert not list(tmp_path.iterdir())  # figures are drawn before anything is written


def test_results_that_are_not_json_leave_the_old_ones(results, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "render", lambda _figure, _suffix: b"figure")
    (tmp_path / "results.json").write_text("old")
    with pytest.raises(TypeError):
        report.write(tmp_path, {**results, "made": object()})
    assert (tmp_path / "results.json").read_text() == "old"


def test_figures_are_drawn_again_only_when_what_they_show_changes(results, tiny, tmp_path, monkeypatch):
    drawn = []

    def render(_, suffix):
        drawn.append(suffix)
        return f"figure {len(drawn)}".encode()

    monkeypatch.setattr(style, "render", render)
    study = replace(tiny, store=Store(tmp_path / "cache"))
    folder, again = tmp_path / "one", tmp_path / "two"
    report.write(folder, results, study)
    count = len(drawn)
    assert {path.suffix for path in folder.iterdir()} == {".png", ".svg", ".md", ".json", ".html"}
    assert len(list(folder.glob("*.png"))) + len(list(folder.glob("*.svg"))) == count > 10
    report.write(again, results | {"made": "later"}, study)  # which no figure shows
    assert len(drawn) == count
    assert all((again / path.name).read_bytes() == path.read_bytes() for path in folder.glob("*.png"))
    report.write(again, results | {"seeds": [5]}, study)
    assert len(drawn) == 2 * count


# The figures


def bars(share=0.1, low=0.05, high=0.2):
    return {"distinct_labels": [{"share": share, "low": low, "high": high}] * 10}


def rows(*changes):
    made = [
        {"from": k / 20, "to": (k + 1) / 20, "count": 30, "mse": 0.02, "low": 0.01, "high": 0.03} for k in range(20)
    ]
    for number, change in changes:
        made[number] |= change
    return made


def drawing(conditions=None, errors=None):
    """Give the part of the results that the figures draw."""
    return {
        "conditions": {"clean": bars(), "lbfgs": bars(), "sign-0.1": bars()} if conditions is None else conditions,
        "error_by_confidence": rows() if errors is None else errors,
        "draws": 10,
        "seeds": [0, 1],
        "dataset": {"name": "mine.npz"},
    }


EMPTY = {"count": 0, "mse": NAN, "low": NAN, "high": NAN}
UNSURE = {"count": 1, "low": NAN, "high": NAN}
CASES = {
    "usual": drawing(),
    "one condition": drawing(conditions={"clean": bars()}),
    "empty bins": drawing(errors=rows((0, EMPTY), (7, EMPTY))),
    "no interval in a bin": drawing(errors=rows((3, UNSURE))),
    "no interval in any bin": drawing(errors=rows(*((k, UNSURE) for k in range(20)))),
    "no image in any bin": drawing(errors=rows(*((k, EMPTY) for k in range(20)))),
    "interval below zero": drawing(errors=rows((3, {"low": -0.5, "high": 0.9}))),
    "no intervals of shares": drawing(conditions={"clean": bars(low=NAN, high=NAN)}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("draw", [figures.distinct_labels, figures.error_by_confidence])
def test_figures_are_drawn_and_the_same_twice(draw, case):
    if draw is figures.error_by_confidence and "conditions" in case:
        pytest.skip("the figure has no conditions")
    svg = style.render(draw(CASES[case]), "svg")
    assert b"<svg" in svg
    assert b"<dc:date>" not in svg
    assert style.render(draw(CASES[case]), "svg") == svg


def test_convergence_shows_every_trial(results):
    figure = figures.convergence(results)
    assert [panel.get_xlabel() for panel in figure.axes] == [
        "$\\epsilon$ (L-infinity, pixel intensity)",
        "steps (count)",
        "EOT draws a step (count)",
    ]
    lines_drawn = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines_drawn) == {
        "PGD on the detector",
        "PGD on the classifier",
        "Square on the detector",
        "Square on the classifier",
        "BPDA on the detector",
    }
    for label, sweep in (("PGD on the detector", "epsilon"), ("PGD on the classifier", "epsilon, classifier alone")):
        assert list(lines_drawn[label].get_ydata()) == [trial["success"] for trial in results["trials"][sweep]]
    assert list(figure.axes[1].lines[0].get_xdata()) == [trial["steps"] for trial in results["trials"]["steps"]]
    assert style.render(figure, "svg") == style.render(figures.convergence(results), "svg")


@pytest.mark.parametrize("draw", [figures.distinct_labels, figures.error_by_confidence])
def test_png_is_the_same_twice(draw):
    png = style.render(draw(CASES["usual"]), "png")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert style.render(draw(CASES["usual"]), "png") == png


def test_an_empty_bin_has_no_bar_and_a_count_of_nought():
    figure = figures.error_by_confidence(drawing(errors=rows((0, EMPTY), (3, UNSURE))))
    counts, errors = figure.axes
    assert len([patch for patch in errors.patches if patch.get_height() > 0]) == 19
    assert [text.get_text() for text in counts.texts] == ["0", "30", "30", "1", *["30"] * 16]


def test_panels_show_the_shares():
    figure = figures.distinct_labels(drawing(conditions={"clean": bars(0.25, 0.2, 0.3), "lbfgs": bars(0.75, 0.7, 0.8)}))
    shown = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in shown] == ["clean", "L-BFGS"]
    assert [panel.patches[0].get_height() for panel in shown] == [0.25, 0.75]


# The terminal


def lines(tiny, registry, verdicts, flags=(), **settings):
    settings = {"width": 80, "color": False, "unicode": False, **settings}
    return terminal.summary(tiny, registry, verdicts, flags, **settings).splitlines()


def test_summary_fits_80_columns(tiny, registry, verdicts):
    text = lines(tiny, registry, verdicts)
    assert max(map(len, text)) <= 80
    assert not any("\x1b" in line for line in text)
    words = " ".join("\n".join(text).split())
    for verdict in verdicts:  # whole, and not cut to a dot or a bracket less
        interval = f"{verdict.estimate:.3f} [{verdict.low:.3f}, {verdict.high:.3f}]"
        assert any(interval in line and line.rstrip().endswith(verdict.verdict) for line in text)
        assert verdict.bound in words
    assert "C1a, C2a, C3a, C4a, C5a, C11a, C11e: takes images of kmnist" in words
    assert text[text.index("Sanity flags of the attacks") + 1] == "  none raised"


def test_sanity_flags_are_shown_whole_and_fit(tiny, registry, verdicts):
    flags = ["lbfgs: 3 of 40 images: the attack did not reach its aim", "fgsm-0.1: " + 30 * "word "]
    text = lines(tiny, registry, verdicts, flags=flags)
    assert max(map(len, text)) <= 80
    words = " ".join(" ".join(text).split())
    for flag in flags:
        assert " ".join(flag.split()) in words


def test_brackets_are_not_taken_for_markup(tiny, registry):
    verdict = judge(
        registry.claims["A1"],
        [mean(np.tile([0, 1], (2, 30)))],
        decisive=True,
        pilot=False,
        available=60,
        conditions=("clean",),
    )
    text = "\n".join(lines(tiny, registry, [verdict]))
    assert f"0.500 [{verdict.low:.3f}, {verdict.high:.3f}]" in text


def test_ascii_where_the_terminal_has_no_unicode(tiny, registry, verdicts):
    text = "\n".join(lines(tiny, registry, verdicts))
    assert text.isascii(), sorted(set(text) - set(map(chr, range(128))))


def test_colour_where_the_terminal_has_it(tiny, registry, verdicts):
    text = "\n".join(lines(tiny, registry, verdicts, color=True, unicode=True))
    for colour, verdict in (("32", "supported"), ("31", "refuted"), ("33", "inconclusive")):
        assert f"\x1b[{colour}m{verdict}" in text


def test_histogram_shares_add_up(tiny, registry, verdicts):
    row = next(line for line in lines(tiny, registry, verdicts) if line.startswith("clean "))
    shares = [float(word) for word in row.split()[1:6]]
    distinct = tiny.table("clean").distinct
    assert shares == pytest.approx([*((distinct == k).mean() for k in range(1, 5)), (distinct > 4).mean()], abs=0.006)


def test_tally():
    assert terminal.tally(["refuted", "supported", "refuted"]) == "1 supported, 2 refuted"


# python -m claims cache


def cache(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["claims", "cache", *options])
    return command.main()


def test_cache_shows_and_clears(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VAECORE_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("COLUMNS", "200")
    store = Store(tmp_path / "c")
    for number in range(3):
        store.get("models", digest(number), lambda: {"weight": torch.zeros(2**18)})
    assert cache(monkeypatch) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "c") in shown
    row = next(line for line in shown.splitlines() if "models" in line)
    assert "".join(c if c.isalnum() or c == "." else " " for c in row).split() == ["models", "3", "3.0"]
    assert "deleted" not in shown
    assert cache(monkeypatch, "--clear") == 0
    assert "deleted" in capsys.readouterr().out
    assert store.usage() == []


def test_a_cache_that_is_not_there_is_not_made(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        cache(monkeypatch, "--cache-dir", str(tmp_path / "mistyped"))
    assert stopped.value.code == 2
    assert "error: there is no cache in " in capsys.readouterr().err
    assert not (tmp_path / "mistyped").exists()
