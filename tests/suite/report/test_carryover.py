"""What carries over from one data set to another: states, fates, what is said of them, and files."""

import math

import numpy as np
import pytest

from vaecore.suite import cli
from vaecore.suite.report.carryover import NONE, OPEN, SHOWN, TURNED, carry_over, markdown
from vaecore.suite.report.figures.carryover import effects
from vaecore.suite.results import to_json

ABOVE, BELOW, WITHIN, ANY = (0.5, None), (None, 0.0), (0.4, 0.6), (None, None)


def study(name, *, budget=0.2, lacking=(), **claims):
    """Results with these claims: no effect, estimate and ends of the interval."""
    return {
        "dataset": {"name": name},
        "seeds": [0, 1],
        "budget": budget,
        "not_concluded": dict(lacking),
        "claims": [
            {
                "claim": claim,
                "estimand": f"estimand of {claim}",
                "estimate": estimate,
                "low": low,
                "high": high,
                "no_effect": {"low": no_effect[0], "high": no_effect[1]},
            }
            for claim, (no_effect, estimate, low, high) in claims.items()
        ],
    }


@pytest.mark.parametrize(
    ("no_effect", "low", "high", "state"),
    [
        (ABOVE, 0.51, 0.9, SHOWN),
        (ABOVE, 0.49, 0.9, OPEN),
        (ABOVE, 0.1, 0.5, TURNED),
        (BELOW, -0.2, -0.1, SHOWN),
        (BELOW, -0.2, 0.1, OPEN),
        (BELOW, 0.1, 0.2, TURNED),
        (WITHIN, 0.41, 0.59, SHOWN),
        (WITHIN, 0.41, 0.61, OPEN),
        (WITHIN, 0.61, 0.7, TURNED),
        (ABOVE, None, None, OPEN),  # no interval
    ],
)
def test_a_state_is_where_the_whole_interval_lies(no_effect, low, high, state):
    middle = None if low is None else (low + high) / 2
    one = study("one", A1=(no_effect, middle, low, high))
    assert [side.state for side in carry_over(one, one).claims[0].sides] == [state, state]


A = study(
    "mnist",
    A1=(ABOVE, 0.9, 0.8, 0.95),
    A2=(ABOVE, 0.9, 0.8, 0.95),
    A10=(ABOVE, 0.9, 0.8, 0.95),
    B1=(BELOW, -1.0, -2.0, -0.5),
    B2=(WITHIN, 0.5, 0.45, 0.55),
    C1=(ABOVE, 0.5, 0.4, 0.6),
    C2=(ANY, 0.5, 0.4, 0.6),
)
B = study(
    "cifar|10",
    budget=8 / 255,
    lacking={"B1": "needs images with a background"},
    A1=(ABOVE, 0.7, 0.6, 0.8),
    A2=(ABOVE, 0.2, 0.1, 0.3),
    A10=(ABOVE, 0.6, 0.4, 0.8),
    B2=(WITHIN, 0.5, 0.45, 0.55),
    C1=(ABOVE, 0.2, 0.1, 0.3),
    D1=(BELOW, -0.2, -0.3, -0.1),
)


def test_fates_are_those_of_what_is_shown():
    carried = carry_over(A, B)
    assert {claim.claim: claim.fate for claim in carried.claims} == {
        "A1": "carries over",
        "A2": "turns round",
        "A10": "is open there",
        "B1": "not measured there",
        "B2": "carries over",
        "C1": f"{OPEN} / {TURNED}",
        "D1": f"{NONE} / {SHOWN}",
    }
    assert carried.names == ("mnist (2 runs, epsilon 0.2)", "cifar|10 (2 runs, epsilon 8/255)")
    lacking = carried.claims[3].sides[1]
    assert (lacking.state, lacking.why) == (NONE, "needs images with a background")


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (
            "AUROC at {5 draws} draws minus at {draws}, FGSM {1.5 budget}",
            "AUROC at 5 x the draws minus at the draws, FGSM 1.5 budget",
        ),
        ("majority of {draws} reconstructions", "majority of the draws"),
    ],
)
def test_an_estimand_holds_for_any_protocol(stated, words):
    claims = [claim | {"stated": stated} for claim in B["claims"]]
    assert {one.estimand for one in carry_over(B | {"claims": claims}, B | {"claims": claims}).claims} == {words}


def test_what_is_not_judged_shows_nothing():
    judged = {claim["claim"]: claim for claim in B["claims"]}
    claims = [*judged.values(), judged["A1"] | {"verdict": "not judged", "amiss": "smoke"}]
    (side,) = [one.sides[1] for one in carry_over(A, B | {"claims": claims}).claims if one.claim == "A1"]
    assert (side.state, side.why) == (NONE, "not judged: smoke")


def test_effects_are_above_0_on_the_claimed_side():
    claims = {claim.claim: claim for claim in carry_over(A, B).claims}
    assert claims["A2"].effect(0.2) == pytest.approx(-0.3)
    assert claims["B1"].effect(-1.0) == pytest.approx(1.0)
    assert math.isnan(claims["B2"].null)


def test_the_table_has_every_claim_once_in_the_order_of_ids_with_both_estimates():
    text = markdown(carry_over(A, B), "figure.svg")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "estimand of" in line]
    assert [row[0][2:] for row in rows] == ["A1", "B2", "A2", "A10", "B1", "C1", "D1"]
    assert rows[0][1:] == ["estimand of A1", "0.900 [0.800, 0.950]", "0.700 [0.600, 0.800]", "> 0.5 |"]
    assert rows[4][3] == "needs images with a background"
    assert (
        "Of 5 effects shown on A, so many on B: carries over: 2, turns round: 1, is open there: 1, not measured" in text
    )
    assert "![Effects on A and B](figure.svg)" in text
    assert "cifar|10" not in text  # a bar would end a table's cell


def test_the_figure_shows_claims_with_an_effect_in_both_and_names_what_does_not_carry_over():
    panel = effects(carry_over(A, B)).axes[0]
    points = {
        tuple(np.round([line.get_xdata()[0], line.get_ydata()[0]], 6))
        for line in panel.lines
        if len(line.get_xdata()) == 1
    }
    assert points == {(0.4, 0.2), (0.4, -0.3), (0.4, 0.1), (0.0, -0.3)}
    assert {text.get_text() for text in panel.texts} == {"A2", "A10", "C1"}
    assert {text.get_text() for text in panel.get_legend().get_texts()} == {
        "carries over",
        "turns round",
        "is open there",
        "not shown on A",
    }


def test_the_command_writes_both_files(results, tmp_path, capsys):
    results_file, folder = tmp_path / "results.json", tmp_path / "new" / "folder"
    results_file.write_bytes(to_json(results))
    assert cli.main(["carry-over", str(results_file), str(results_file), str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'carry-over.md'}\n"
    assert (folder / "carry-over.svg").read_bytes().startswith(b"<?xml")
    assert "(carry-over.svg)" in (folder / "carry-over.md").read_text()
