"""Is the terminal's summary readable on any terminal, and whole?"""

import pytest

from vaecore.suite.judging.verdict import outcome
from vaecore.suite.report import terminal
from vaecore.suite.results import number


def lines(results, **settings):
    """All that is printed."""
    settings = {"width": 80, "color": False, "unicode": False, **settings}
    verdicts = terminal.verdicts(results, width=settings["width"], color=settings["color"])
    return (verdicts + terminal.measured(results, **settings)).splitlines()


def test_summary_fits_80_columns_of_ascii_and_cuts_nothing(results):
    text = lines(results)
    assert max(map(len, text)) <= 80
    assert "".join(text).isascii()
    assert not any("\x1b" in line for line in text)
    words = " ".join("\n".join(text).split())
    for one in results["claims"]:  # the brackets are no markup
        estimate, low, high = (number(one[key]) for key in ("estimate", "low", "high"))
        interval = f"{estimate:.3f} [{low:.3f}, {high:.3f}]"
        numbers = f"{interval}, bound {one['bound']}, {one['runs']} x {one['images']:,}: "
        assert any(numbers in line and outcome(one) in line for line in text)
        assert one["sentence"] in words
        assert one["why"] in words
    assert "C1a, C2a, C3a, C4a, C5a, C11a, C11e, C13a, C13b, C13c, C13d, C14a, C14b" in words
    for flag in results["sanity_flags"]:
        assert flag in words


def test_flags_are_shown_whole_or_that_there_is_none(results):
    flags = ["lbfgs: 3 of 40 images: the attack did not reach its aim", "fgsm-0.1: " + " ".join(30 * ["word"])]
    text = lines(results | {"sanity_flags": flags})
    assert max(map(len, text)) <= 80
    assert all(flag in " ".join(" ".join(text).split()) for flag in flags)
    none = lines(results | {"sanity_flags": []})
    assert none[none.index("Sanity flags of the attacks") + 1] == "  none raised"


def test_colour_where_the_terminal_has_it(results):
    text = "\n".join(lines(results, color=True, unicode=True))
    for colour, verdict in (("32", "supported"), ("31", "refuted"), ("33", "inconclusive")):
        assert f"\x1b[{colour}m{verdict}" in text


def test_histogram_shares_add_up(results):
    (row,) = [line for line in lines(results) if line.startswith("clean ")]
    shares = [bar["share"] for bar in results["conditions"]["clean"]["distinct_labels"]]
    assert [float(word) for word in row.split()[1:6]] == pytest.approx([*shares[:4], sum(shares[4:])], abs=0.006)


def test_detection_shows_some_scores_and_the_best_of_all(results):
    cells = results["detection"]["cells"]
    (name, *_) = next(iter(cells.values()))
    (row,) = [line.split() for line in lines(results) if line.split()[:1] == [name] and "-" in line.split()[-1]]
    shown = ("mse", "latent-knn", "max-softmax")
    assert row[1:4] == [f"{cells[score][name]['auroc']:.2f}" for score in shown]
    best = max(cells, key=lambda score: cells[score][name]["auroc"])
    assert row[4:] == [f"{cells[best][name]['auroc']:.2f}", best]


def test_only_what_was_looked_at_is_shown(results):
    name = next(iter(next(iter(results["detection"]["cells"].values()))))
    some = terminal.only(results, {"clean", f"outside/{name}"})
    assert [*some["conditions"]] == ["clean"]
    assert {*map(tuple, some["detection"]["cells"].values())} == {(name,)}
    assert terminal.only(results, {"clean"})["detection"] is None
    assert not any(line.startswith("AUROC") for line in lines(terminal.only(results, {"clean"})))
