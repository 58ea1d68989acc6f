"""Is the committed registry whole, in step with the tests, and are malformed ones refused in words?"""

import ast
import math

import pytest

from vaecore._store import digest
from vaecore.suite.judging.registry import KINDS, REGISTRY, Bound, Claim, load_registry
from vaecore.suite.statistics.intervals import Interval

INF, NAN = float("inf"), float("nan")
MNIST = {
    "A1": "> 0.80",
    "A2": "> 0.40",
    "A3": "> 0.10",
    "A4": "> 0.02",
    "A5": "> 0.25",
    "A6": "> 0.05",
    "A7": "> 0.50",
    "A8": "> 0.75",
    "A9": "> 0.55",
    "A10": "> 0.10",
    "A11a": "> 0.03",
    "A11b": "> 0.15",
    "A12a": "> 0.02",
    "A12b": "> 0.03",
    "A13": "< 0.60",
    "A14": "> 0.70",
    "A15": "> 0.04",
    "A16a": "none",
    "A16b": "none",
    "A16c": "none",
    "A16d": "none",
    "A17": "< 0.02",
    "B1": "> 1.15",
    "B2": "< -0.10",
    "B3": "> 0.00",
    "B4": "< 0.50",
    "B5": "> 0.10",
    "B6": "< 0.002",
    "B7": "< -0.01",
    "B8": "> 0.005",
    "C1a": "> 0.95",
    "C1b": "> 0.95",
    "C1c": "> 0.95",
    "C2a": "> 0.85",
    "C2b": "> 0.85",
    "C2c": "> 0.85",
    "C3a": "> 0.60",
    "C3b": "> 0.60",
    "C3c": "> 0.60",
    "C4a": "> 0.60",
    "C4b": "> 0.85",
    "C5a": "> 0.03",
    "C6": "< 0.20",
    "C7": "> 0.90",
    "C8": "> 0.85",
    "C9": "< 0.92",
    "C10": "< 0.65",
    **dict.fromkeys((f"C11{part}" for part in "abcdefgh"), "none"),
    "D1": "> 0.80",
    "D2a": "> 0.08",
    "D2b": "> 0.10",
    "D3": "in (0.00, 0.05)",
    "D4": "> 0.20",
    "D5a": "< 0.25",
    "D5b": "< 0.05",
    "D6": "> 0.85",
    "D7": "> 0.25",
    "D8": "> 0.10",
    "E1": "> 0.60",
    "E2a": "> 0.60",
    "E2b": "> 0.60",
    "E3": "in (0.40, 0.60)",
    "E4": "> 0.95",
    "E5a": "< -0.37",
    "E5b": "< -0.23",
    "E5c": "< -0.78",
    "E5d": "< -0.25",
    "E6": "> 0.03",
    "E7a": "none",
    "E7b": "< -0.09",
}
ENTRY = """
[A1]
kind = "finding"
sentence = "So it is."
estimand = "share"
source = "here"
no_effect = "> 0.5"
mnist = { above = 0.8, pilot = "0.9", date = 2026-11-22 }
"""


def marked_tests():
    """Give the id and the docstring's first paragraph of every claim's test, read from the source."""
    found = []
    for path in sorted(REGISTRY.parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            ids = [
                mark.args[0].value
                for mark in node.decorator_list
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.claim"
            ]
            paragraph = (ast.get_docstring(node) or "").split("\n\n")[0]
            found += [(name, " ".join(paragraph.split())) for name in ids]
    return found


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Give a function that loads a registry from text, in the place of this package's own."""
    path = tmp_path / "registry.toml"
    monkeypatch.setattr("claims.registry.REGISTRY", path)

    def read(text, dataset="mnist"):
        path.write_text(text, encoding="utf-8")
        return load_registry(dataset, path)

    return read


# The committed file


def test_mnist_bounds_are_the_registered_ones():
    claims = load_registry("mnist").claims
    registered = {name: claim for name, claim in claims.items() if not claim.unregistered}
    assert {name: str(claim.bound) for name, claim in registered.items()} == MNIST
    assert set(claims) - set(registered) == {"C1d", "C2d", "C3d", "C4d", "C5d"}  # letters are for digits
    assert all(bool(claim.reported) != bool(claim.registered and claim.pilot) for claim in registered.values())
    assert all(claim.kind in KINDS for claim in claims.values())


def test_bounds_to_the_last_digit():
    claims = load_registry("mnist").claims
    numbers = {name: float(text.split()[1]) for name, text in MNIST.items() if text[0] in "<>"}
    sides = {name: (claims[name].bound.high if MNIST[name][0] == "<" else claims[name].bound.low) for name in numbers}
    assert sides == numbers


def test_every_testable_claim_has_one_test_and_every_test_its_claim():
    claims = load_registry("mnist").claims
    tests = marked_tests()
    assert sorted(name for name, _ in tests) == sorted(name for name, claim in claims.items() if not claim.untested)
    assert dict(tests) == {name: claims[name].sentence for name, _ in tests}


def test_no_bound_is_weaker_than_no_effect():
    for claim in load_registry("mnist").claims.values():
        if claim.kind != "limit" and claim.bound is not None:
            assert claim.bound.low >= claim.no_effect.low
            assert claim.bound.high <= claim.no_effect.high


def test_digest_is_the_files():
    assert load_registry("mnist").digest == digest(REGISTRY)


# Levels and data sets


@pytest.mark.parametrize("dataset", ["mnist", "mine.npz"])
def test_a_family_shares_one_error_rate(dataset):
    claims = load_registry(dataset).claims.values()
    for family in "ABCDE":
        members = [claim for claim in claims if claim.family == family and claim.bound and not claim.reported]
        assert {claim.level for claim in members} == {1 - 0.05 / len(members)}
    assert {claim.family for claim in claims} == {"A", "B", "C", "D", "E"}


def test_unregistered_claims_do_not_count_in_their_family(load):
    second = ENTRY.replace("[A1]", "[A2]").replace("above = 0.8", 'unregistered = "power 0.5"')
    registry = load(ENTRY + second + ENTRY.replace("[A1]", "[A3]") + ENTRY.replace("[A1]", "[B1]"))
    assert {name: claim.level for name, claim in registry.claims.items()} == {
        "A1": 0.975,
        "A2": 0.975,
        "A3": 0.975,
        "B1": 0.95,
    }
    assert registry.claims["A2"].bound is None
    assert registry.claims["A2"].unregistered == "power 0.5"
    assert [claim.id for claim in registry.testable] == ["A1", "A3", "B1"]


def test_untested_claims_count_in_their_family_and_are_not_testable(load):
    registry = load(ENTRY + ENTRY.replace("[A1]", "[A2]").replace("mnist =", 'untested = "not built yet"\nmnist ='))
    assert registry.claims["A1"].level == 0.975
    assert [claim.id for claim in registry.testable] == ["A1"]


@pytest.mark.parametrize("dataset", ["mnist", "digits", "mine.npz"])
def test_what_is_reported_has_no_bound_anywhere_and_no_share_of_the_error_rate(load, dataset):
    lines = [line for line in ENTRY.replace("[A1]", "[A2]").splitlines() if not line.startswith(("no_effect", "mnist"))]
    registry = load(ENTRY + "\n".join([*lines, 'reported = "no pilot"', ""]), dataset)
    claim = registry.claims["A2"]
    assert (claim.bound, claim.reported, claim.unregistered) == (Bound(), "no pilot", "")
    assert claim in registry.testable
    assert registry.claims["A1"].level == 0.95


@pytest.mark.parametrize("key", ["no_effect", "mnist"])
def test_what_is_reported_cannot_have_a_bound(load, key):
    lines = [line for line in ENTRY.splitlines() if line.startswith(key) or not line.startswith(("no_effect", "mnist"))]
    with pytest.raises(ValueError, match=f"reported and not judged has no {key}"):
        load("\n".join([*lines, 'reported = "no pilot"', ""]))


def test_a_dataset_without_bounds_is_judged_against_no_effect():
    claims = load_registry("mine.npz").claims
    assert all(claim.bound == claim.no_effect and not claim.registered for claim in claims.values())
    reported = {name for name, claim in claims.items() if claim.reported}
    assert reported == {*(f"A16{part}" for part in "abcd"), *(f"C11{part}" for part in "abcdefgh"), "E7a"}
    assert {name: str(claims[name].bound) for name in ("A1", "A2", "A17", "B1", "B2", "B6")} == {
        "A1": "> 0.50",
        "A2": "> 0.00",
        "A17": "< 0.05",
        "B1": "> 1.00",
        "B2": "< 0.00",
        "B6": "< 0.005",
    }


def test_a_claim_without_a_bound_where_others_have_one_is_not_registered(load):
    registry = load(ENTRY + ENTRY.replace("[A1]", "[A2]").replace("mnist =", "digits ="))
    assert registry.claims["A2"].bound is None
    assert registry.claims["A2"].unregistered == "no bound is registered for mnist"
    assert registry.claims["A1"].level == 0.95


# Malformed registries


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("source", "sauce", "unknown key sauce; no source"),
        ("mnist", "minst", "unknown key minst"),
        ('"finding"', '"fact"', "kind must be one of finding, control, baseline, limit; got fact"),
        ('kind = "finding"', "", "no kind; kind must be one of finding, control, baseline, limit; got None"),
        ('no_effect = "> 0.5"', "", "no no_effect"),
        ("above = 0.8, ", "", "mnist must have above, below or unregistered"),
        (", date = 2026-11-22", "", "mnist must have the date on which its bound was set"),
        ("pilot", "pilots", "unknown key mnist.pilots"),
    ],
)
def test_a_malformed_registry_is_refused(load, old, new, problem):
    assert ENTRY.count(old) == 1
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared whole
        load(ENTRY.replace(old, new))
    assert str(caught.value) == f"claims/registry.toml, claim A1: {problem}"


def test_an_unregistered_bound_needs_no_date(load):
    registry = load(ENTRY.replace("above = 0.8", 'unregistered = "x"').replace(", date = 2026-11-22", ""))
    assert registry.claims["A1"].unregistered == "x"


# Bounds


def between(low, high):
    return Interval((low + high) / 2, low, high, 0.95, 5, 100, 0.1, 0.1, 0.1, (-INF, INF), 100)


@pytest.mark.parametrize(
    ("bound", "interval", "verdict"),
    [
        (Bound(low=0.5), (0.51, 0.6), "supported"),
        (Bound(low=0.5), (0.5, 0.6), "inconclusive"),  # it touches
        (Bound(low=0.5), (0.4, 0.6), "inconclusive"),
        (Bound(low=0.5), (0.4, 0.5), "inconclusive"),
        (Bound(low=0.5), (0.4, 0.49), "refuted"),
        (Bound(high=0.5), (0.4, 0.49), "supported"),
        (Bound(high=0.5), (0.4, 0.5), "inconclusive"),
        (Bound(high=0.5), (0.5, 0.6), "inconclusive"),
        (Bound(high=0.5), (0.51, 0.6), "refuted"),
        (Bound(0.4, 0.6), (0.41, 0.59), "supported"),
        (Bound(0.4, 0.6), (0.3, 0.7), "inconclusive"),
        (Bound(0.4, 0.6), (0.5, 0.7), "inconclusive"),
        (Bound(0.4, 0.6), (0.61, 0.7), "refuted"),
        (Bound(0.4, 0.6), (0.1, 0.39), "refuted"),
        (Bound(low=0.5), (NAN, NAN), "inconclusive"),
        (Bound(high=0.5), (NAN, NAN), "inconclusive"),
        (Bound(low=0.5), (NAN, 0.7), "inconclusive"),
        (Bound(low=0.5), (-INF, INF), "inconclusive"),
    ],
)
def test_verdict_of_a_bound(bound, interval, verdict):
    assert bound.verdict(between(*interval)) == verdict


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (Bound(low=0.8), "> 0.80"),
        (Bound(high=0.5), "< 0.50"),
        (Bound(high=-0.1), "< -0.10"),
        (Bound(low=0.005), "> 0.005"),
        (Bound(high=0.002), "< 0.002"),
        (Bound(0.4, 0.6), "in (0.40, 0.60)"),
    ],
)
def test_a_bound_as_text(bound, text):
    assert str(bound) == text


@pytest.mark.parametrize(
    ("estimate", "nearest"), [(0.0, 0.4), (0.45, 0.4), (0.55, 0.6), (9.0, 0.6)], ids=["below", "low", "high", "above"]
)
def test_nearest_side_of_a_bound(estimate, nearest):
    assert Bound(0.4, 0.6).nearest(estimate) == nearest
    assert Bound(low=0.4).nearest(estimate) == 0.4
    assert Bound(high=0.6).nearest(estimate) == 0.6


@pytest.mark.parametrize(
    ("no_effect", "pilot", "suggested"),
    [
        (Bound(low=0.5), 0.885, Bound(low=0.69)),  # 0.6925
        (Bound(low=0.0), 0.695, Bound(low=0.34)),  # 0.3475
        (Bound(high=0.0), -0.289, Bound(high=-0.14)),  # -0.1445
        (Bound(high=0.5), 0.18, Bound(high=0.34)),
        (Bound(high=0.5), 0.181, Bound(high=0.35)),  # 0.3405, up, towards no effect
        (Bound(low=0.5), 0.4, Bound(low=0.5)),  # on the wrong side
        (Bound(high=0.0), 0.2, Bound(high=0.0)),
        (Bound(low=0.5), math.nan, Bound(low=0.5)),
        (Bound(high=0.5), math.nan, Bound(high=0.5)),
        (Bound(0.4, 0.6), 0.484, Bound(0.4, 0.6)),  # equal to within a margin: nothing to go half-way from
    ],
)
def test_suggested_bound_is_half_way_and_rounded_towards_no_effect(no_effect, pilot, suggested):
    claim = Claim("A1", "finding", "s", "e", "here", no_effect, None, 0.95)
    assert claim.suggested(pilot) == suggested


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (Bound(), "none"),
        (Bound(low=0.8), "> 0.80"),
        (Bound(high=0.0021), "< 0.0021"),
        (Bound(0.4, 0.6), "in (0.40, 0.60)"),
        (Bound(0.001, 0.004), "in (0.001, 0.004)"),
    ],
)
def test_a_bound_reads_as_it_is(bound, text):
    assert str(bound) == text
