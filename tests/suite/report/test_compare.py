"""Does a comparison of two reports find what moved, and nothing else? Simulated studies whose truth is known."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_ind

from vaecore.suite.cli import main
from vaecore.suite.judging.bound import Bound
from vaecore.suite.judging.registry import Claim
from vaecore.suite.judging.verdict import judge
from vaecore.suite.report.compare import MOVED, OLDEST_SCHEMA, UNKNOWN, UNSEEN, compare, markdown, text
from vaecore.suite.results import SCHEMA, load, plain, to_json
from vaecore.suite.statistics import coverage
from vaecore.suite.statistics.estimates import mean
from vaecore.suite.statistics.intervals import change, interval

WHOLE = {
    "schema": SCHEMA,
    "made": "2026-11-25T00:00:00+00:00",
    "git_revision": "f00",
    "pilot": False,
    "dataset": {
        "name": "mine.npz",
        "why": "as asked",
        "test_images": 400,
        "test_digest": "a" * 32,
        "train_digest": None,
    },
    "registry_digest": "b" * 32,
    "families": {"A": "Shares"},
    "bounds": None,
    "command": "pytest claims",
    "intervals_cover": "training runs and test images",
    "accuracy_per_run": [0.99, 0.98],
    "threats": {"clean": "No attacker."},
    "profile": "standard",
    "budget": 0.2,
    "draws": 10,
    "precision": "float32",
    "seeds": [0, 1],
    "images": {"clean": 400, "lbfgs": 100},
    "models": {
        "vae": "reference",
        "classifier": "reference",
        "fixed": False,
        "digests": [{"vae": "c", "classifier": "d"}] * 2,
    },
    "not_concluded": {},
    "conditions": {
        "clean": {"accuracy": 0.99, "consistent": 0.9, "l2": 0.0, "mse": 0.01, "images": 400, "success": 1.0, "kl": 9.0}
    },
    "environment": {"python": "3.11", "system": "Linux", "processor": "one", "threads": 1, "workers": 1, "gpu": None}
    | {"packages": {"torch": "2.15"}},
    "wall_seconds": {"computing": 12.0},
    "task_seconds": {"models": 9.0},
}


TEXTS = ("kind", "sentence", "estimand", "source", "registered", "pilot", "reported")


@pytest.fixture(scope="module")
def study(tiny):
    """Give a function that makes the results of a study that concluded estimates, by claim, as JSON has them."""
    facts = replace(tiny.facts, test_images=10**6)

    def make(estimates, pick="smallest", **changes):
        claims = []
        for name, estimate in estimates.items():
            bound, parts = Bound(low=0.5), estimate if isinstance(estimate, list) else [estimate]
            claim = Claim(name, "finding", "So it is.", f"share {name}", "a study", bound, bound, 0.95)
            texts = {key: getattr(claim, key) for key in TEXTS}
            verdict = judge(claim, parts, facts, pick=pick)
            claims.append({**verdict.to_json(), **texts, "no_effect": {"low": 0.5, "high": None}})
        return json.loads(json.dumps(plain(WHOLE | {"claims": claims} | changes), allow_nan=False))

    return make


def share(probability, *, seed, runs=5, images=400):
    return mean(np.random.default_rng(seed).random((runs, images)) < probability)


def runs_only(values):
    """An estimate whose images agree within each run."""
    return mean(np.tile(np.asarray(values)[:, None], 400))


UNDEFINED = mean(np.full((5, 400), np.nan))


def words(comparison):
    return [change.word for change in comparison.changes]


# What moved


def test_identical_reports_have_moved_in_nothing(study):
    one = study({"A1": share(0.8, seed=0), "A2": mean(np.ones((5, 400))), "B1": [share(0.3, seed=1)] * 3})
    comparison = compare(one, one)
    assert [(change.change, change.word) for change in comparison.changes] == [(0.0, UNSEEN)] * 3
    assert all(change.low < 0 < change.high for change in comparison.changes)
    assert (comparison.differs, comparison.only) == ({}, ({}, {}))
    assert comparison.notes[0].startswith(
        "the same weights on the same images: 0 of 3 estimates differ; what moves one"
    )
    for changes in ({"images": {"clean": 800, "lbfgs": 100}}, {"draws": 20}, {"seeds": [1, 2]}):
        notes = compare(one, one | changes).notes
        assert not any("the same weights on the same images" in note for note in notes)


def test_the_greatest_of_several_is_compared_as_such(study):
    """Its change has the ends of the greatest, not of the smallest; older reports have no other than the smallest."""
    low, high, higher = share(0.3, seed=0), share(0.6, seed=1), share(0.9, seed=2)
    before, after = (study({"A1": [low, top]}, pick="greatest") for top in (high, higher))
    (moved,) = compare(before, after).changes
    assert moved.change == after["claims"][0]["estimate"] - before["claims"][0]["estimate"] == higher.value - high.value
    assert moved.word == MOVED
    for results in (before, after):
        del results["claims"][0]["pick"]
    assert compare(before, after).changes[0].change == 0


def test_another_version_and_source_are_a_difference(study):
    older = study({"A1": share(0.8, seed=0)})
    one, other = (
        older | {"version": "1", "source_digest": "a" * 32},
        older | {"version": "2", "source_digest": "b" * 32},
    )
    assert compare(one, one).differs == {}
    assert compare(one, other).differs == {
        "vaecore": ("1", "2"),
        "source": ("digest aaaaaaaaaaaa", "digest bbbbbbbbbbbb"),
    }
    assert compare(older, one).differs["vaecore"] == ("unknown", "1")


def test_another_error_rate_is_a_difference(study):
    one = study({"A1": share(0.8, seed=0)})
    assert compare(one, one | {"error_rate": "family"}).differs == {}
    assert compare(one, one | {"error_rate": "study"}).differs == {"error rate": ("0.05 by family", "0.05 by study")}


@pytest.mark.parametrize("registry", ["b" * 32, "e" * 32])
def test_bounds_and_registries_that_differ_are_said_and_shown(study, registry):
    """Nothing moved, and yet a verdict differs, as its bound does."""
    estimates = {"A1": share(0.8, seed=0), "A2": share(0.8, seed=0), "B1": UNDEFINED}
    one, other = study(estimates), study(estimates, registry_digest=registry)
    registries = ["the registries differ, but no claim that both concluded had another bound"]
    other_registry = registry != one["registry_digest"]
    assert [note for note in compare(one, other).notes if "differ, but" in note] == registries * other_registry
    other["claims"][0] |= {"bound": "> 0.90", "verdict": "refuted"}
    comparison = compare(one, other)
    assert words(comparison) == [UNSEEN, UNSEEN, UNKNOWN]
    what = "registries" if other_registry else "bounds"
    (note,) = [note for note in comparison.notes if note.startswith(f"the {what} differ: 1 claim had another bound")]
    assert "another verdict does not mean that anything moved" in note
    assert comparison.to_json()["changes"][0]["bounds"] == ["> 0.50", "> 0.90"]
    lines = shown(comparison).splitlines()
    place = lines.index("Bounds that differ: 1 of 3 claims")
    table = [line.split() for line in lines[place + 1 : place + 5] if "bound" in line or "A" in line]
    assert table[-1] == ["A1", ">", "0.50", ">", "0.90", "supported", "->", "refuted"]
    assert max(map(len, lines)) <= 80
    assert "| A1 | > 0.50 | > 0.90 | supported -> refuted |" in markdown(comparison).splitlines()
    del one["claims"][0]["bound"]  # as in older results
    assert compare(one, other).changes[0].bounds == ("unknown", "> 0.90")


def test_a_move_is_found_with_its_size_and_both_verdicts(study):
    before, after = share(0.8, seed=0), share(0.4, seed=1)
    comparison = compare(study({"A1": before, "A2": before}), study({"A1": after, "A2": before}, draws=20))
    moved, _ = comparison.changes
    ends = interval(before, 0.95)
    assert words(comparison) == [MOVED, UNSEEN]
    assert moved.change == after.value - before.value
    assert moved.low < moved.change < moved.high < 0
    assert moved.verdicts == ("supported", "refuted")
    assert moved.before == (before.value, ends.low, ends.high)
    assert comparison.differs == {"draws": ("10", "20")}
    assert any(note.startswith("the draws differ") for note in comparison.notes)


def test_claims_share_one_error_rate(study):
    """Twelve claims of the same truth, 100 pairs of studies: at most 14 with any false move, once in a thousand."""
    generator, alarms, each = np.random.default_rng(1), 0, 0
    for _ in range(100):
        pair = [{f"A{k}": coverage.proportion(generator, 5, 0.07)[0][0] for k in range(12)} for _ in range(2)]
        comparison = compare(*map(study, pair))
        assert comparison.level == 1 - 0.05 / (12 - len(comparison.of(MOVED)))
        alarms += bool(comparison.of(MOVED))
        spreads = [[interval(estimate, 0.95).spreads for estimate in one.values()] for one in pair]
        each += any(not low <= 0 <= high for _, low, high in (change(*two, 0.95) for two in zip(*spreads, strict=True)))
    assert alarms <= 14
    assert each > 20  # what it would be at 0.95 each


def test_levels_step_down_as_claims_move(study):
    far = np.array([0.1, 0.3, 0.2, 0.4, 0.3])
    near = far + 0.17
    assert 0.025 < ttest_ind(near, far, equal_var=False).pvalue < 0.05
    assert words(compare(study({"A1": runs_only(far)}), study({"A1": runs_only(near)}))) == [MOVED]
    still = {"A1": runs_only(far), "A2": runs_only(far)}
    with_still = compare(study(still), study(still | {"A1": runs_only(near)}))
    assert (words(with_still), with_still.level) == ([UNSEEN, UNSEEN], 0.975)
    with_moved = compare(study(still), study({"A1": runs_only(near), "A2": runs_only(far + 9)}))
    assert (words(with_moved), with_moved.level) == ([MOVED, MOVED], 0.95)
    assert all(change.low > 0 for change in with_moved.changes)


def test_a_true_shift_is_seen(study):
    """A share that falls from 0.8 to 0.7, five runs of 400 images, among ten claims."""
    seen = 0
    for seed in range(50):
        before = {f"A{k}": share(0.8, seed=[seed, k]) for k in range(10)}
        comparison = compare(study(before), study(before | {"A0": share(0.7, seed=[seed, 99])}))
        seen += [change.claim for change in comparison.of(MOVED)] == ["A0"]
    assert seen > 45


# What cannot be told


def test_without_an_interval_one_cannot_tell(study):
    good = share(0.8, seed=0)
    comparison = compare(study({"A1": good, "A2": good}), study({"A1": UNDEFINED, "A2": good}))
    assert comparison.changes[0].why == "no interval in B: 2000 of 2000 values are not finite"
    assert words(comparison) == [UNKNOWN, UNSEEN]
    assert comparison.level == 0.95  # it counts for none
    assert comparison.to_json()["changes"][0]["change"] is None
    agreeing = study({"A1": mean(np.full((5, 400), 3.0))})
    assert compare(agreeing, agreeing).changes[0].why.startswith("no finite interval in A: ")


def test_one_run_of_models_that_vary_cannot_tell(study):
    one, five = study({"A1": share(0.8, seed=0, runs=1)}, seeds=[0]), study({"A1": share(0.1, seed=1)})
    comparison = compare(one, five)
    assert words(comparison) == [UNKNOWN]
    assert comparison.changes[0].why.startswith("one run in A: its interval covers images only")
    assert words(compare(one | {"models": one["models"] | {"fixed": True}}, five)) == [MOVED]


def test_of_the_same_weights_and_images_one_run_can_tell_and_what_is_undefined_does_not_differ(study):
    one = study({"A1": share(0.8, seed=0, runs=1), "B1": UNDEFINED, "B2": UNDEFINED})
    comparison = compare(one, one)
    assert words(comparison) == [UNSEEN, UNKNOWN, UNKNOWN]
    assert comparison.notes[0].startswith("the same weights on the same images: 0 of 3 estimates differ; ")
    other = study({"A1": share(0.1, seed=1, runs=1), "B1": UNDEFINED, "B2": share(0.8, seed=0)})
    comparison = compare(one, other)
    assert words(comparison) == [MOVED, UNKNOWN, UNKNOWN]
    assert " 2 of 3 estimates differ, the largest by 0." in comparison.notes[0]
    assert words(compare(one, other | {"seeds": [5]})) == [UNKNOWN] * 3


def test_another_estimand_is_not_compared(study):
    one, other = study({"A1": share(0.8, seed=0)}), study({"A1": share(0.1, seed=1)})
    other["claims"][0]["estimand"] = "another share"
    assert compare(one, other).changes[0].why == "another estimand: 'share A1' in A, 'another share' in B"


def test_claims_in_one_report_only_are_named_with_the_reason(study):
    good = share(0.8, seed=0)
    one = study({"A1": good, "A2": good}, not_concluded={"A3": "power 0.1"})
    comparison = compare(one, study({"A1": good, "A3": good}))
    assert comparison.only == ({"A2": "not registered"}, {"A3": "power 0.1"})
    assert "Concluded in B only: A3 (power 0.1)." in shown(comparison)


def test_other_images_pilots_and_smoke_are_noted_loudly(study):
    one = study({"A1": share(0.8, seed=0)})
    other = one | {"pilot": True, "profile": "smoke", "seeds": [1000, 1001]}
    other["dataset"] = one["dataset"] | {"name": "other.npz", "test_digest": "d" * 32}
    comparison = compare(one, other)
    notes = [note.partition(":")[0] for note in comparison.notes]
    assert notes == ["THE TEST IMAGES DIFFER", "B is a pilot", "B is a smoke test"]
    assert set(comparison.differs) == {"data set", "test images", "pilot", "profile", "seeds"}


# How it is shown


def shown(comparison, width=80):
    return text(comparison, width=width, color=False, unicode=False)


@pytest.fixture(scope="module")
def pair(study):
    """Give two studies in which one claim moved, one did not and one cannot be told."""
    before = {"A1": share(0.8, seed=0), "A11a": share(0.8, seed=1), "B1": UNDEFINED}
    changes = {"registry_digest": "e" * 32, "wall_seconds": {"computing": 3.0}}
    changes |= {"task_seconds": {"models": 9.0, "scores": 1.0}}
    return study(before), study(before | {"A1": share(0.4, seed=1)}, **changes)


def test_on_a_terminal_of_80_columns_without_colour(pair):
    lines = shown(compare(*pair)).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("\x1b" in line or "\u2026" in line for line in lines)
    assert "".join(lines).isascii()
    expected = compare(*pair).changes[0]
    (row,) = [line for line in lines if line.startswith("A1 ")]
    numbers = [f"{expected.before[0]:.3f}", f"{expected.after[0]:.3f}", f"{expected.change:+.3f}"]
    assert row.split() == ["A1", *numbers, "supported", "->"]
    (below,) = [line for line in lines if line.endswith("refuted")]
    assert f"[{expected.low:+.3f}, {expected.high:+.3f}]" in below
    assert [line for line in lines if line.endswith("claims")] == [
        "Moved: 1 of 3 claims",
        "No movement seen: 1 of 3 claims",
        "Cannot tell: 1 of 3 claims",
    ]
    assert "registry   bbbbbbbbbbbb   eeeeeeeeeeee" in lines
    assert "clean       0.990 0.990   0.900 0.900   0.00 0.00   0.0100 0.0100" in lines
    assert "computing 12 and 3 s, tasks: models 9 and 9 s, tasks: scores - and 1 s." in " ".join(lines[-3:])
    assert "\x1b[" in text(compare(*pair), width=80, color=True, unicode=True)


def test_as_markdown_every_row_has_the_columns_of_its_head(pair):
    other = pair[1] | {"models": pair[1]["models"] | {"vae": "a|b:vae"}}
    page = markdown(compare(pair[0], other))
    lines = page.splitlines()
    assert "## Claims: 1 moved, 1 no movement seen, 1 cannot tell" in lines
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 3
    assert all(len({line.replace("\\|", "").count("|") for line in block}) == 1 for block in blocks)
    assert "| VAE | reference | a\\|b:vae |" in lines
    assert any(line.startswith("| **moved** | A1 | ") for line in lines)
    assert "- B1: cannot tell; no interval in A: 2000 of 2000 values are not finite" in lines


# The command


@pytest.fixture
def command(tmp_path, monkeypatch, capsys, pair):
    """Give a function that runs the command beside two folders with reports, and gives status, output and errors."""
    for name, results in zip("ab", pair, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes(to_json(results))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = main(["compare", *arguments])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def test_folders_and_files_are_compared(command, pair):
    status, out, err = command("a", "b/results.json")
    assert (status, err) == (0, "")
    assert out.startswith("A: a\nB: b/results.json\n")
    status, out, _ = command("a", "b", "--json")
    assert status == 0
    assert json.loads(out) == json.loads(json.dumps(compare(*pair, ("a", "b")).to_json(), allow_nan=False))
    assert command("a", "b", "--markdown")[1] == markdown(compare(*pair, ("a", "b")))


@pytest.mark.parametrize(("two", "status"), [(("a", "b"), 1), (("a", "a"), 0)])
def test_a_move_fails_where_that_is_asked_for(command, two, status):
    assert command(*two, "--fail-on-move")[0] == status


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "c must be a results.json or the folder of a report; there is no file c"),
        ("{", "c must be what `pytest claims` wrote; it can't be read: Expecting property name"),
        ("[]", f"c must have schema {SCHEMA}; got None"),
        ('{"schema": "3"}', f"c must have schema {SCHEMA}; got '3'"),
        ("[" * 100_000, "c must be what `pytest claims` wrote; it can't be read: "),
        (f'{{"schema": {SCHEMA}}}', "c must be what `pytest claims` wrote; made is missing (damaged?"),
        ('{"schema": 2}', "c must be what `pytest claims` wrote; made is missing (damaged?"),
        ('{"schema": 1}', f"c must have schema {SCHEMA}; got 1 (written by another version"),
        (f'{{"schema": {SCHEMA + 1}}}', f"c must have schema {SCHEMA}; got {SCHEMA + 1} (written by another version"),
    ],
)
def test_what_is_no_report_is_a_usage_error(command, tmp_path, content, message):
    if content is not None:
        (tmp_path / "c").write_text(content, encoding="utf-8")
    status, out, err = command("a", "c")
    assert (status, out) == (2, "")
    assert f"error: {message}" in err
    assert "Traceback" not in err


def test_a_file_that_gives_nothing_is_not_waited_for(command, tmp_path):
    os.mkfifo(tmp_path / "c")
    assert "c must be a results.json or the folder of a report; there is no file c" in command("a", "c")[2]


def test_reports_of_the_schema_before_can_be_compared_and_not_be_drawn(command, tmp_path, pair):
    assert OLDEST_SCHEMA == 2
    (tmp_path / "b" / "results.json").write_bytes(to_json(pair[1] | {"schema": 2}))
    assert command("a", "b")[0] == 0
    with pytest.raises(ValueError, match=f"must have schema {SCHEMA}; got 2"):
        load(tmp_path / "b")


def test_a_report_that_a_study_wrote_compares_with_itself(results, tmp_path):
    (tmp_path / "results.json").write_bytes(to_json(results))
    comparison = compare(load(tmp_path), load(tmp_path))
    assert {change.claim: change.word for change in comparison.changes} == {
        "A1": UNSEEN,
        "A2": UNSEEN,
        "A5": UNSEEN,
        "B1": UNKNOWN,
    }
    assert set(comparison.conditions) == set(results["conditions"])
    assert comparison.differs == {}
