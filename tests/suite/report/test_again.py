"""Do terminal, summary and page name the claims near their bounds, and say how many may be supported?"""

from itertools import pairwise

import pytest

from vaecore.suite.report import again, page, terminal
from vaecore.suite.report.markdown import summary

STYLE = {"width": 80, "color": False, "unicode": False}


@pytest.fixture
def near(results, claim):
    """Results of which one claim is near its bound, one is not, and one was written before there were chances."""
    claims = [claim("X1", same=0.62, again_supported=0.62), claim("X2", same=0.97, again_supported=0.97), claim("X3")]
    return results | {"claims": claims, "expected_supported": [1, 2], "families": {"X": "Own"}}


def words(text):
    return " ".join(text.split())


def test_a_claim_near_its_bound_is_marked_and_named(near):
    said = (
        (
            "Near their bounds: X1 (0.62); another study of this design, with trainings and images of its own, gives"
            " the same verdict with this chance, below 0.9."
        ),
        "Such a study may be expected to support 1 to 2 of 2 claims.",
    )
    assert again.sentences(near) == list(said)
    shown = terminal.verdicts(near, width=STYLE["width"], color=STYLE["color"])
    lines = shown.splitlines()  # a claim's numbers follow its sentence
    marked = [before.split()[0] for before, line in pairwise(lines) if line.endswith("~supported")]
    assert marked == ["X1"]
    text, drawn = summary.summary(near), page.render(near, {})
    rows = [line for line in text.splitlines() if line.startswith("| X")]
    assert [("**supported**, near its bound |" in row) for row in rows] == [True, False, False]
    assert drawn.count("finding, near its bound") == 1
    assert "0.62: the chance that another study of this design gives it" in drawn
    for rendered in (shown, text, drawn):
        assert all(sentence in words(rendered) for sentence in said)


def test_without_such_claims_it_says_so_and_without_chances_nothing(near):
    calm = near | {"claims": near["claims"][1:], "expected_supported": [1, 1]}
    assert again.sentences(calm) == [
        (
            "No claim is near its bound: another study of this design, with trainings and images of its own, gives each"
            " verdict with a chance of 0.9 or more."
        ),
        "Such a study may be expected to support 1 of 1 claim.",
    ]
    older = {key: value for key, value in near.items() if key != "expected_supported"}
    assert again.sentences(older) == again.sentences(near | {"expected_supported": None}) == []


def test_the_error_rate_of_the_whole_is_said(near, claim):
    two = near | {"claims": [claim("X1"), claim("Y1"), claim("Z1", reported="no pilot")]}
    family = "their error rate is 0.05 a family, so at most 0.10 for the 2 together."
    study = "their error rate is 0.05 for all claims together."
    older = {key: value for key, value in two.items() if key != "error_rate"}
    for results, said in ((two, family), (older, family), (two | {"error_rate": "study"}, study)):
        assert said in words(summary.summary(results))
        assert said in words(page.render(results, {}))
