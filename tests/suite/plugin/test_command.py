"""Does the command `vaecore` do from any folder what it says, and say what to do where it can't?"""

import sys

import pytest

from vaecore.suite.plugin.options import OPTIONS
from vaecore.suite.results import load

OK, ERROR, NOT_ALL_SUPPORTED = 0, 2, 8


@pytest.fixture
def command(pytester, monkeypatch):
    """Give a function that runs `python -m vaecore` in an empty folder."""
    monkeypatch.setenv("COLUMNS", "150")
    return lambda *words: pytester.run(sys.executable, "-m", "vaecore", *words)


LESS = """
from functools import partial
from vaecore import fit_scores
from vaecore.suite.plugin import figure_tasks
from vaecore.suite.study import outside
from vaecore.suite.study.cleaning import PURIFIERS
outside.fit_scores = partial(fit_scores, regret_steps=2, posterior_steps=2)
figure_tasks.shown = lambda _: ["convergence"]
del PURIFIERS["latent-search"]
"""  # what takes long


@pytest.mark.slow
def test_claims_are_judged_and_reported_from_any_folder(command, project, small):
    with (project.path / "conftest.py").open("a", encoding="utf-8") as file:
        file.write(LESS)
    given = ["--dataset=mine.npz", "--profile=smoke", "--cache-dir=cache", "-k", "B4", "-p", "conftest"]
    given += ["--vae=models:TinyVAE", "--classifier=models:TinyClassifier"]

    def folders():
        return {path.name for path in project.path.iterdir() if path.is_dir() and path.name.isalpha()}

    result = command("claims", *given)
    assert result.ret == NOT_ALL_SUPPORTED
    result.stdout.fnmatch_lines(["profile: smoke, 1 run *", "B4 *", "1 not judged", "No report was written: *"])
    assert folders() == {"cache"}
    result = command("claims", *given, "--report-dir=out")
    result.stdout.fnmatch_lines(["Report: out/mine.npz/index.html"])
    assert folders() == {"cache", "out"}
    results = load(project.path / "out/mine.npz")
    assert [one["claim"] for one in results["claims"]] == ["B4"]
    assert results["not_concluded"]["A2"] == "not run"
    assert results["seeds"] == [0]
    names = {path.name for path in (project.path / "out/mine.npz").iterdir()}
    assert {"results.json", "index.html", "summary.md", "detection.md", "convergence.png"} <= names
    page = (project.path / "out/mine.npz/index.html").read_bytes()
    command("page", "out/mine.npz").stdout.fnmatch_lines(["out/mine.npz/index.html"])
    assert (project.path / "out/mine.npz/index.html").read_bytes() == page
    result = command("compare", "out/mine.npz", "out/mine.npz", "--fail-on-move")
    assert result.ret == OK
    result.stdout.fnmatch_lines(["The two studies differ in nothing."])
    result = command("cache", "--cache-dir=cache")
    assert result.ret == OK
    result.stdout.fnmatch_lines(["cache", "*draws*"])


def test_help_lists_the_options_of_the_claims(command):
    result = command("claims", "--help")
    assert result.ret == OK
    text = result.stdout.str()
    assert text.startswith("usage: vaecore claims [options]")
    assert all(f"\n  {name}" in text for name in OPTIONS)
    assert "--capture" not in text  # of pytest's own hundred
    assert "All options of pytest work, too" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "*error: the following arguments are required: command"),
        (["judge"], "*error: argument command: invalid choice: 'judge' (choose from *claims*compare*page*cache*)"),
        (["compare", "a", "b"], "*error: a must be a results.json or the folder of a report; there is no file a"),
        (["page", "a"], "*error: a must be a results.json or the folder of a report; there is no file a"),
        (
            ["cache", "--cache-dir=a"],
            "*error: there is no cache in a (nothing has been computed yet, or *)",
        ),
    ],
)
def test_what_can_t_be_done_is_one_line(command, words, message):
    result = command(*words)
    assert result.ret == ERROR
    result.stderr.fnmatch_lines(["usage: vaecore *", message], consecutive=True)
    assert result.outlines == []
