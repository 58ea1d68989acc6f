"""Is the committed registry whole and in step with the claims' tests, and are malformed registries refused in words?"""

import ast
import tomllib

import pytest

from vaecore.suite.judging import findings, registry
from vaecore.suite.judging.bound import Bound
from vaecore.suite.judging.registry import KINDS, REGISTRY, load_registry
from vaecore.toolkit import digest

MNIST = """
A1 > 0.80, A2 > 0.40, A3 > 0.10, A4 > 0.02, A5 > 0.25, A6 > 0.05, A7a > 0.40, A7b > 0.59, A7c > 0.36, A8 > 0.75, A9 >
0.55, A10 > 0.10, A11a > 0.03, A11b > 0.15, A12a > 0.02, A12b > 0.03, A13 < 0.60, A14 > 0.70, A15 > 0.04, A16a > 0.72,
A16b > 0.72, A16c > 0.65, A16d > 0.74, A17 < 0.02, A18a > 0.03, A18b < 0.68, A19a > 0.03, A19b > -0.01, A19c > 0.06,
A20a > 0.74, A20b > 0.75, A21a > -0.01, A21b > 0.00, A21c > -0.02, A21d < -0.03, A22a < 0.47, A22b > 0.75, A23 > 0.71,
B1 > 1.15, B2 < -0.10, B3 > 0.00, B4 < 0.50, B5 > 0.10, B6 < 0.002, B7 < -0.01, B8 > 0.005,
C1a > 0.95, C1b > 0.95, C1c > 0.95, C2a > 0.85, C2b > 0.85, C2c > 0.85, C3a > 0.60, C3b > 0.60, C3c > 0.60, C4a >
0.60, C4b > 0.85, C5a > 0.03, C6 < 0.20, C7 > 0.90, C8 > 0.85, C9 < 0.92, C10 < 0.78, C12a < 0.87, C12c > 0.09, C12d >
0.72, C13a < 0.40, C13b < 0.35, C13c > 0.67, C13d > 0.74, C14a < 0.25, C14b < 0.25, C14c < 0.75, C15b > 0.68, C16b >
0.21,
D1 > 0.80, D2a > 0.08, D2b > 0.10, D4 > 0.20, D5a < 0.25, D5b < 0.05, D6 > 0.85, D7 > 0.25, D8 > 0.10, D9 < 0.32, D11a
> 0.71, D11b > 0.63, D12a > 0.02, D12c > 0.01, D13 > 0.18,
E1 > 0.60, E2a > 0.60, E2b > 0.60, E4 > 0.95, E5a < -0.37, E5b < -0.23, E5c < -0.78, E5d < -0.25, E6 > 0.03, E7b <
-0.09, E8a < -0.09, E8b < -0.61, A27a > 0.04, A27b > 0.01,
A28a > 0.72, A28b > 0.74, E8e < -0.06, E8f < -0.53
"""
MARGINS = {  # equal to within a margin
    "A16f": Bound(0.02, 0.1),
    "C15a": Bound(0.02, 0.1),
    "D3": Bound(0.0, 0.05),
    "D10": Bound(0.0, 0.1),
    "E3": Bound(0.4, 0.6),
}
TOO_WEAK = {"C12b", "C16a", "C16c", "C16d", "D12b", "E8c", "E8d"}  # by the pilot
REPORTED = {"A7d", "A16e", *(f"A24{part}" for part in "abc"), *(f"C11{part}" for part in "abcdefgh"), "D11c", "E7a"}
LETTERS = {*(f"C{part}d" for part in range(1, 6)), *(f"C13{part}" for part in "efg")}  # for digits alone
LETTERS |= {*(f"C14{part}" for part in "def"), "C15c"}
COLOUR = {*(f"C{part}" for part in ("17a", "17b", "17c", "17d", "18a", "18b", "18c", "18d"))}  # sets for colour
REVERSED = {"A25", "B9", *(f"A26{part}" for part in "abcd")}  # on photographs
ENTRY = """
[A1]
kind = "finding"
sentence = "So it is."
estimand = "share"
source = "a study"
no_effect = "> 0.5"
mnist = { above = 0.8, pilot = "0.9", date = 2026-11-22 }
"""


def as_reported(text, *, but=()):
    """The entry without no effect and bound, save for a line that starts so, as one that is reported."""
    dropped = tuple({"no_effect", "mnist"} - {*but})
    return "\n".join([*(line for line in text.splitlines() if not line.startswith(dropped)), 'reported = "no pilot"\n'])


def marked_tests():
    """The id and the docstring's first paragraph of every claim's test, read from the source."""
    tests = []
    for path in sorted(REGISTRY.parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                tests += [
                    (mark.args[0].value, paragraph)
                    for mark in node.decorator_list
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.claim"
                ]
    return tests


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Give a function that loads a registry from text, in the place of this package's own."""
    path = tmp_path / "registry.toml"
    monkeypatch.setattr(registry, "REGISTRY", path)
    monkeypatch.setattr(findings, "REGISTRY", path)

    def read(text, dataset="mnist"):
        path.write_text(text, encoding="utf-8")
        return load_registry(dataset, path)

    return read


# The committed file


def test_mnist_bounds_are_the_registered_ones():
    claims = load_registry("mnist").claims
    expected = MARGINS | dict.fromkeys(REPORTED, Bound())
    for name, sign, end in (entry.split() for entry in MNIST.replace("\n", " ").split(",")):
        expected[name] = Bound(low=float(end)) if sign == ">" else Bound(high=float(end))
    assert {name: claim.bound for name, claim in claims.items() if claim.bound} == expected
    assert set(claims) - set(expected) == LETTERS | TOO_WEAK | COLOUR | REVERSED
    for name, claim in claims.items():
        assert bool(claim.reported) == (name in REPORTED)
        assert bool(claim.registered and claim.pilot) == (name not in REPORTED | set(claims) - set(expected))
        assert claim.kind in KINDS


def test_every_testable_claim_has_one_test_and_every_test_its_claim():
    claims = load_registry("mnist").claims
    tests = marked_tests()
    assert sorted(name for name, _ in tests) == sorted(name for name, claim in claims.items() if not claim.untested)
    assert dict(tests) == {name: claims[name].stated["sentence"] for name, _ in tests}


@pytest.mark.parametrize("dataset", ["mnist", "digits", "cifar-10"])
def test_no_bound_is_weaker_than_no_effect(dataset):
    for claim in load_registry(dataset).claims.values():
        if claim.kind != "limit" and claim.bound is not None:
            assert claim.bound.low >= claim.no_effect.low
            assert claim.bound.high <= claim.no_effect.high


@pytest.mark.parametrize(("dataset", "budget"), [("mnist", 0.2), ("digits", 0.2), ("cifar-10", 8 / 255)])
def test_bounds_stand_under_the_protocol_that_they_were_set_for(dataset, budget):
    usual = load_registry(dataset)
    assert load_registry(dataset, budget=budget, draws=10) == usual
    assert not usual.refused


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"budget": 8 / 255}, "8/255 and 10 draws"), ({"draws": 5}, "0.2 and 5 draws"), ({"budget": 0.1}, "0.1 and 10")],
)
def test_bounds_of_another_protocol_are_refused(asked, words):
    other = load_registry("mnist", **asked)
    start = "bounds registered for mnist are for an attack budget of 0.2 and 10 draws; this study has an attack budget"
    assert other.refused.startswith(f"{start} of {words}")
    for claim in other.claims.values():
        assert claim.bound == claim.no_effect
        assert not claim.registered
        assert claim.settable


def test_sentences_take_their_sizes_from_the_protocol():
    for budget, draws, sizes in ((8 / 255, 6, ("8/255", "12/255", "30", "3")), (0.1, 10, ("0.1", "0.15", "50", "5"))):
        claims = load_registry("mnist", budget=budget, draws=draws).claims
        one, more, many, few = sizes
        assert claims["A2"].sentence == f"FGSM images (epsilon {one}) are consistent less often than clean ones."
        assert claims["A13"].estimand == f"AUROC of the count, joint PGD {more} against clean"
        assert claims["A17"].estimand.startswith(
            f"AUROC of soft disagreement at {many} draws minus at {few}, FGSM {one}"
        )
        assert not any("{" in claim.sentence + claim.estimand for claim in claims.values())


def test_every_data_set_with_bounds_says_which_protocol_they_are_for():
    entries = tomllib.loads(REGISTRY.read_text(encoding="utf-8"))
    bounded = {key for entry in entries.values() for key, value in entry.items() if isinstance(value, dict)}
    assert bounded - {"mnist", "digits", "cifar-10"} == set()
    assert bounded <= set(entries["protocols"])


@pytest.mark.parametrize(
    "line",
    [
        "mnist = 3",
        'mnist = { budget = "8/0", draws = 10 }',
        "mnist = { budget = 0.2 }",
        "mnist = { budget = 0.2, draws = 0 }",
        "mnist = { budget = 2, draws = 10 }",
        "mnist = { budget = 0.2, draws = 10, steps = 3 }",
    ],
)
def test_a_protocol_that_cannot_be_read_is_refused(load, line):
    with pytest.raises(ValueError, match=r"registry.toml: \[protocols\] must have lines as mnist = .* got"):
        load(f"[protocols]\n{line}\n{ENTRY}")


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


def test_all_claims_may_share_one_error_rate():
    loaded = load_registry("mnist", error_rate="study")
    judged = [claim for claim in loaded.claims.values() if claim.bound and not claim.reported]
    assert {claim.level for claim in judged} == {1 - 0.05 / len(judged)}
    assert (loaded.error_rate, loaded.judged_families) == ("study", ["A", "B", "C", "D", "E"])


def test_unregistered_claims_do_not_count_in_their_family(load):
    second = ENTRY.replace("[A1]", "[A2]").replace("above = 0.8", 'unregistered = "power 0.5"')
    second = second.replace(", date = 2026-11-22", "")  # which only a bound needs
    loaded = load(ENTRY + second + ENTRY.replace("[A1]", "[A3]") + ENTRY.replace("[A1]", "[B1]"))
    levels = {name: claim.level for name, claim in loaded.claims.items()}
    assert levels == {"A1": 0.975, "A2": 0.975, "A3": 0.975, "B1": 0.95}
    assert (loaded.claims["A2"].bound, loaded.claims["A2"].unregistered) == (None, "power 0.5")
    assert [claim.id for claim in loaded.testable] == ["A1", "A3", "B1"]


def test_untested_claims_count_in_their_family_and_are_not_testable(load):
    loaded = load(ENTRY + ENTRY.replace("[A1]", "[A2]").replace("mnist =", 'untested = "not built yet"\nmnist ='))
    assert loaded.claims["A1"].level == 0.975
    assert [claim.id for claim in loaded.testable] == ["A1"]


@pytest.mark.parametrize("dataset", ["mnist", "digits", "mine.npz"])
def test_what_is_reported_has_no_bound_anywhere_and_no_share_of_the_error_rate(load, dataset):
    loaded = load(ENTRY + as_reported(ENTRY.replace("[A1]", "[A2]")), dataset)
    claim = loaded.claims["A2"]
    assert (claim.bound, claim.reported, claim.unregistered) == (Bound(), "no pilot", "")
    assert claim in loaded.testable
    assert loaded.claims["A1"].level == 0.95


def test_a_dataset_without_bounds_is_judged_against_no_effect():
    claims = load_registry("mine.npz").claims
    assert all(claim.bound == claim.no_effect and not claim.registered for claim in claims.values())
    assert {name for name, claim in claims.items() if claim.reported} == REPORTED
    texts = [str(claims[name].bound) for name in ("A1", "A2", "A17", "B1", "B2", "B6")]
    assert texts == ["> 0.50", "> 0.00", "< 0.05", "> 1.00", "< 0.00", "< 0.005"]


def test_a_claim_without_a_bound_where_others_have_one_is_not_registered(load):
    claims = load(ENTRY + ENTRY.replace("[A1]", "[A2]").replace("mnist =", "digits =")).claims
    assert (claims["A2"].bound, claims["A2"].unregistered) == (None, "no bound is registered for mnist")
    assert claims["A1"].level == 0.95


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
        (
            "above = 0.8",
            "above = 0.9, below = 0.6",
            "mnist: above must be less than below; got 0.9 and 0.6, which no interval lies between",
        ),
        ("above = 0.8", "below = 0.8", "mnist: its bound must lie where there is an effect, > 0.50; got < 0.80"),
        ("above = 0.8", "above = 0.4", "mnist: its bound must lie where there is an effect, > 0.50; got > 0.40"),
    ],
)
def test_a_malformed_registry_is_refused(load, old, new, problem):
    assert ENTRY.count(old) == 1
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared whole
        load(ENTRY.replace(old, new))
    assert str(caught.value) == f"claims/registry.toml, claim A1: {problem}"


@pytest.mark.parametrize("key", ["no_effect", "mnist"])
def test_what_is_reported_cannot_have_a_bound(load, key):
    with pytest.raises(ValueError, match=f"reported and not judged has no {key}"):
        load(as_reported(ENTRY, but=[key]))
