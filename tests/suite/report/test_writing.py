"""Is a report whole and strict, does what goes wrong leave the old one, and are its Markdown pages made of results?"""

import json
import os

import pytest

from vaecore.suite.report import page, terminal
from vaecore.suite.report.figures.catalogue import FIGURES, caption
from vaecore.suite.report.markdown import decisions, outside, summary
from vaecore.suite.report.tables import TABLES
from vaecore.suite.report.writing import write, write_verdicts
from vaecore.suite.results import number, to_json

TIDY = {f"{name}.csv" for name in TABLES}

# The files


def refuse(text):
    raise AssertionError(f"JSON has no {text}")


def test_written_files(results, files, tmp_path):
    folder = tmp_path / "new" / "mine"
    write(folder, results, files)
    pages = {"decisions.md", "detection.md", "index.html", "results.json", "summary.md"} | TIDY
    assert {path.name for path in folder.iterdir()} == pages | set(files)
    content = json.loads((folder / "results.json").read_text(), parse_constant=refuse)
    assert [claim["estimate"] for claim in content["claims"]] == [1.0, -1.0, 0.0, None]
    assert set(content) == set(results)
    assert (folder / "summary.md").read_text() == summary.summary(results)
    assert all((folder / name).read_bytes() == figure for name, figure in files.items())


def test_what_an_earlier_study_had_more_to_show_goes(results, files, tmp_path):
    write(tmp_path, results, files)
    (tmp_path / "notes.txt").write_text("a user's own")
    fewer = {
        name: figure for name, figure in files.items() if name.partition(".")[0] not in {"reliability", "risk-coverage"}
    }
    write(tmp_path, {**results, "decisions": None}, fewer)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"detection.md", "index.html", "results.json", "summary.md", "notes.txt"} | TIDY | set(fewer)


def test_what_a_killed_report_left_goes_with_the_next_and_a_user_s_own_files_stay(results, files, tmp_path):
    """Of every file that a report may hold, whether this one has it or not."""
    names = [*files, "decisions.md", "detection.md", "index.html", "results.json", "summary.md", *TIDY]
    own = [tmp_path / ".notes.txt.a1.tmp", tmp_path / "summary.md.tmp"]
    left = [tmp_path / f".{name}.a1b2.tmp" for name in names]
    for path in (*own, *left):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    write(tmp_path, {**results, "decisions": None}, {})
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in own)


def test_of_own_claims_alone_there_are_results_and_a_page(results, tmp_path):
    (tmp_path / "detection.csv").write_text("of an earlier study, which looked at sets outside")
    write_verdicts(tmp_path, results | {"detection": None})
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "results.json", "claims.csv", "conditions.csv"}


def test_what_cannot_be_written_whole_leaves_the_old_results(results, files, tmp_path):
    (tmp_path / "results.json").write_text("old")
    with pytest.raises(TypeError):  # not JSON
        write(tmp_path, {**results, "git_revision": {"set"}}, files)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json"}
    (tmp_path / "summary.md").mkdir()
    with pytest.raises(OSError, match=r"summary\.md"):
        write(tmp_path, results, files)
    assert (tmp_path / "results.json").read_text() == "old"


# The pages


def test_summary_names_every_claim_verdict_and_number(results):
    text = summary.summary(results)
    assert text.startswith(
        "# Claims on mine.npz, profile standard\n\n1 supported, 1 refuted, 2 inconclusive. 2 training "
    )
    assert "test images: 12 clean, 12 lbfgs; 10 draws an image." in text
    assert f"Registry {results['registry_digest'][:12]}." in text
    assert f", vaecore {results['version']}, source digest\n{results['source_digest']}, git " in text
    lines = text.splitlines()
    for one in results["claims"]:
        (row,) = [line for line in lines if line.startswith(f"| {one['claim']} |")]
        assert f"| **{one['verdict']}** | {one['runs']} x {one['images']} |" in row
        assert f"| {number(one['low']):.3f} to {number(one['high']):.3f} | {one['bound']} |" in row
        assert one["sentence"] in row
    expected = [f"- {name}: {reason}" for name, reason in results["not_concluded"].items()]
    expected += [f"- {flag}" for flag in results["sanity_flags"]]
    for pair in results["weaker_attacks"]:
        attacks = " | ".join(f"{attack['name']} | {attack['success']:.2f}" for attack in pair)
        expected.append(f"| {attacks} | {pair[0]['images']} |")
    assert set(expected) <= set(lines)
    for name, one in results["conditions"].items():
        assert f"\n| {name} | {one['images']} | {one['accuracy']:.3f} | " in text
    assert {line.count("|") for line in lines if line.startswith(("| A", "| B", "| claim"))} == {10}
    changed = summary.summary(results | {"sanity_flags": [], "pilot": True})
    assert changed.startswith("# Claims on mine.npz, pilot\n")
    assert "- No sanity flag was raised.\n" in changed


def test_every_figure_stands_on_a_page_with_its_caption(results):
    pages = summary.summary(results) + outside.page(results)
    for name in FIGURES:
        said = caption(results, name)
        assert pages.count(f"\n![{said.title}]({name}.png)\n\n{said}\n") == 1, name


@pytest.mark.parametrize("name", ["summary", "outside", "decisions", "terminal", "page"])
def test_what_is_read_back_looks_as_what_was_measured(results, name):
    """All renderings need nothing but `results.json`, in which what is not a number is null."""
    style = {"width": 80, "color": False, "unicode": False}
    render = {
        "summary": summary.summary,
        "outside": outside.page,
        "decisions": decisions.page,
        "terminal": lambda results: (
            terminal.verdicts(results, width=style["width"], color=style["color"]) + terminal.measured(results, **style)
        ),
        "page": lambda results: page.render(results, {}),
    }[name]
    assert render(json.loads(to_json(results))) == render(results)
