"""Does a comparison of two reports find what moved, and nothing else? Simulated studies whose truth is known."""

import json
import math
import sys

import numpy as np
import pytest
from scipy.stats import norm, ttest_ind

from vaecore.suite.cli import main
from vaecore.suite.judging.registry import Bound, Claim, load_registry
from vaecore.suite.judging.verdict import judge
from vaecore.suite.report import summary as report
from vaecore.suite.report.compare import MOVED, UNKNOWN, UNSEEN, compare, markdown, text
from vaecore.suite.results import SCHEMA, load, plain
from vaecore.suite.statistics import coverage
from vaecore.suite.statistics.intervals import Spread, change, interval, mean, smallest

INF = math.inf


def results(estimates, *, level=0.95, **changes):
    """Give the results of a study that concluded these estimates, by claim, as JSON has them."""
    claims = []
    for name, estimate in estimates.items():
        registered = Claim(name, "finding", "So it is.", f"share {name}", "here", Bound(low=0.5), Bound(low=0.5), level)
        parts = estimate if isinstance(estimate, list) else [estimate]
        verdict = judge(registered, parts, decisive=True, pilot=False, available=10**6)
        facts = {"kind": "finding", "sentence": "So it is.", "estimand": registered.estimand, "source": "here"}
        claims.append({**verdict.to_json(), **facts})
    whole = {
        "schema": SCHEMA,
        "made": "2026-11-25T00:00:00+00:00",
        "git_revision": "f00",
        "pilot": False,
        "dataset": {"name": "mine.npz", "test_images": 400, "test_digest": "a" * 32, "train_digest": None},
        "registry_digest": "b" * 32,
        "profile": "standard",
        "draws": 10,
        "precision": "float32",
        "seeds": [0, 1],
        "images": {"clean": 400, "lbfgs": 100},
        "models": {"vae": "reference", "classifier": "reference", "fixed": False, "digests": [{"vae": "c"}] * 2},
        "claims": claims,
        "not_concluded": {},
        "conditions": {"clean": {"accuracy": 0.99, "consistent": 0.9, "l2": 0.0, "mse": 0.01, "images": 400}},
        "environment": {
            "python": "3.11",
            "system": "Linux",
            "processor": "one",
            "threads": 1,
            "workers": 1,
            "gpu": None,
            "packages": {"torch": "2.15"},
        },
        "wall_seconds": {"training": 12.0},
    }
    return json.loads(json.dumps(plain(whole | changes), allow_nan=False))


def share(probability, *, seed, runs=5, images=400):
    return mean(np.random.default_rng(seed).random((runs, images)) < probability)


def test_the_same_weights_on_other_images_are_not_said_to_be_on_the_same():
    one = results({"A1": share(0.8, seed=0)})
    for changes in ({"images": {"clean": 800, "lbfgs": 100}}, {"draws": 20}, {"seeds": [1, 2]}):
        found = compare(one, one | changes)
        assert not any("the same weights on the same images" in note for note in found.notes)


def test_identical_reports_have_moved_in_nothing():
    one = results({"A1": share(0.8, seed=0), "A2": mean(np.ones((5, 400))), "B1": [share(0.3, seed=1)] * 3})
    found = compare(one, one)
    assert [(change.change, change.word) for change in found.changes] == [(0.0, UNSEEN)] * 3
    assert all(change.low < 0 < change.high for change in found.changes)
    assert found.differs == {}
    assert found.only == ({}, {})
    assert found.notes[0].startswith("the same weights on the same images: 0 of 3 estimates differ, which is due to")


def test_a_move_is_found_with_its_size_and_both_verdicts():
    before, after = share(0.8, seed=0), share(0.4, seed=1)
    found = compare(results({"A1": before, "A2": before}), results({"A1": after, "A2": before}, draws=20))
    moved, still = found.changes
    assert (moved.word, still.word) == (MOVED, UNSEEN)
    assert moved.change == after.value - before.value
    assert moved.low < moved.change < moved.high < 0
    assert moved.verdicts == ("supported", "refuted")
    assert moved.before == (before.value, *ends(before))
    assert found.differs == {"draws": ("10", "20")}
    assert any(note.startswith("the draws differ") for note in found.notes)


def ends(estimate):
    found = interval(estimate, 0.95)
    return found.low, found.high


# The interval of a change


def runs_only(values):
    """Give an estimate whose images agree within each run."""
    return mean(np.repeat(np.asarray(values)[:, None], 400, axis=1))


def test_where_runs_vary_alone_it_is_welchs():
    before, after = np.array([0.1, 0.4, 0.2, 0.7, 0.3]), np.array([1.0, 1.1, 0.9])
    expected = ttest_ind(after, before, equal_var=False).confidence_interval(0.99)
    one, other = (interval(runs_only(values), 0.95).spreads for values in (before, after))
    assert change(one, other, 0.99) == pytest.approx((after.mean() - before.mean(), *expected))


def test_ends_come_from_the_near_ends_of_the_two_intervals():
    """Zou & Donner (2008), equation 3, of two shares near 1, whose intervals are not symmetric."""
    one, other = (Spread(value, 0.01, 6.0, 400, 400, (0.0, 1.0)) for value in (0.97, 0.9))
    (low, high), (other_low, other_high) = (spread.ends(0.95, 12.0) for spread in (one, other))  # equal errors: 6 + 6
    assert 0.97 - low > 1.1 * (high - 0.97)
    expected = (
        -0.07 - math.sqrt((0.9 - other_low) ** 2 + (high - 0.97) ** 2),
        -0.07 + math.sqrt((other_high - 0.9) ** 2 + (0.97 - low) ** 2),
    )
    assert change((one,), (other,), 0.95) == pytest.approx((-0.07, *expected))


def test_of_the_smallest_of_several_it_follows_their_intervals():
    parts = [share(probability, seed=seed) for seed, probability in enumerate((0.5, 0.52, 0.9))]
    found = smallest(parts, 0.95)
    one = Spread(found.estimate, 1e-12, 10.0, 400, 400, (-INF, INF))  # known all but exactly
    moved, low, high = change((one,), found.spreads, 0.95)
    assert moved == 0
    assert (-low, high) == pytest.approx((found.estimate - found.low, found.high - found.estimate), rel=0.2)


def test_it_covers_a_true_shift():
    """Shares of 0.9 and 0.97 of the same images, five runs each that differ: 300 pairs, 0.95."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        image, runs = generator.standard_normal(400), 0.2 * generator.standard_normal((10, 1))
        score = np.sqrt(0.5) * (image + generator.standard_normal((10, 400))) + runs
        shares = score[:5] < np.sqrt(1.04) * norm.ppf(0.9), score[5:] < np.sqrt(1.04) * norm.ppf(0.97)
        _, low, high = change(*(interval(mean(values), 0.95).spreads for values in shares), 0.95)
        hits += low <= 0.07 <= high
    assert 0.9 < hits / 300 < 1


# One error rate for all claims


def test_claims_share_one_error_rate():
    """Twelve claims of the same truth, 100 pairs of studies: at most 14 with any false move, once in a thousand."""
    generator, alarms, each = np.random.default_rng(1), 0, 0
    scenario = coverage.proportion
    for _ in range(100):
        pair = [{f"A{k}": scenario(generator, 5, 0.07)[0][0] for k in range(12)} for _ in range(2)]
        found = compare(*(results(estimates) for estimates in pair))
        assert found.level == 1 - 0.05 / (12 - len(found.of(MOVED)))
        alarms += bool(found.of(MOVED))
        spreads = [[interval(estimate, 0.95).spreads for estimate in one.values()] for one in pair]
        each += any(not low <= 0 <= high for _, low, high in (change(*two, 0.95) for two in zip(*spreads, strict=True)))
    assert alarms <= 14
    assert each > 20  # what it would be at 0.95 each


def test_levels_step_down_as_claims_move():
    far, near = np.array([0.1, 0.3, 0.2, 0.4, 0.3]), np.array([0.1, 0.3, 0.2, 0.4, 0.3]) + 0.17
    assert 0.025 < ttest_ind(near, far, equal_var=False).pvalue < 0.05
    alone = compare(results({"A1": runs_only(far)}), results({"A1": runs_only(near)}))
    assert [one.word for one in alone.changes] == [MOVED]
    still = {"A1": runs_only(far), "A2": runs_only(far)}
    with_still = compare(results(still), results(still | {"A1": runs_only(near)}))
    assert [one.word for one in with_still.changes] == [UNSEEN, UNSEEN]
    assert with_still.level == 0.975
    with_moved = compare(results(still), results({"A1": runs_only(near), "A2": runs_only(far + 9)}))
    assert [one.word for one in with_moved.changes] == [MOVED, MOVED]
    assert with_moved.level == 0.95
    assert all(one.low > 0 for one in with_moved.changes)


def test_a_true_shift_is_seen():
    """A share that falls from 0.8 to 0.7, five runs of 400 images, among ten claims."""
    seen = 0
    for seed in range(50):
        before = {f"A{k}": share(0.8, seed=[seed, k]) for k in range(10)}
        found = compare(results(before), results(before | {"A0": share(0.7, seed=[seed, 99])}))
        seen += [one.claim for one in found.of(MOVED)] == ["A0"]
    assert seen > 45


# What cannot be told


def test_without_an_interval_one_cannot_tell():
    good, bad = share(0.8, seed=0), mean(np.full((5, 400), np.nan))
    found = compare(results({"A1": good, "A2": good}), results({"A1": bad, "A2": good}))
    assert found.changes[0].why == "no interval in B: 2000 of 2000 values are not finite"
    assert [one.word for one in found.changes] == [UNKNOWN, UNSEEN]
    assert found.level == 0.95  # it counts for none
    assert found.to_json()["changes"][0]["change"] is None


def test_one_run_of_models_that_vary_cannot_tell():
    one = results({"A1": share(0.8, seed=0, runs=1)})
    found = compare(one, results({"A1": share(0.1, seed=1)}))
    assert found.changes[0].word == UNKNOWN
    assert found.changes[0].why.startswith("one run in A: its interval covers images only")
    fixed = results({"A1": share(0.8, seed=0, runs=1)}, models=one["models"] | {"fixed": True})
    assert compare(fixed, results({"A1": share(0.1, seed=1)})).changes[0].word == MOVED


def test_another_estimand_is_not_compared():
    one, other = results({"A1": share(0.8, seed=0)}), results({"A1": share(0.1, seed=1)})
    other["claims"][0]["estimand"] = "another share"
    assert compare(one, other).changes[0].why == "another estimand: 'share A1' in A, 'another share' in B"


def test_values_that_all_agree_and_have_no_range_cannot_tell():
    one = results({"A1": mean(np.full((5, 400), 3.0))})
    assert compare(one, one).changes[0].why.startswith("no finite interval in A: ")


def test_claims_in_one_report_only_are_named_with_the_reason():
    one = results({"A1": share(0.8, seed=0), "A2": share(0.8, seed=0)}, not_concluded={"A3": "power 0.1"})
    other = results({"A1": share(0.8, seed=0), "A3": share(0.8, seed=0)}, not_concluded={})
    found = compare(one, other)
    assert found.only == ({"A2": "not registered"}, {"A3": "power 0.1"})
    assert "Concluded in B only: A3 (power 0.1)." in shown(found)


def test_other_images_pilots_and_smoke_are_noted_loudly():
    one = results({"A1": share(0.8, seed=0)})
    other = results({"A1": share(0.8, seed=0)}, pilot=True, profile="smoke", seeds=[1000, 1001])
    other["dataset"] = one["dataset"] | {"name": "other.npz", "test_digest": "d" * 32}
    found = compare(one, other)
    assert [note.partition(":")[0] for note in found.notes] == [
        "THE TEST IMAGES DIFFER",
        "B is a pilot",
        "B is a smoke test",
    ]
    assert set(found.differs) == {"data set", "test images", "pilot", "profile", "seeds"} | {"weights"} & set(
        found.differs
    )


# How it is shown


def shown(found, width=80):
    return text(found, width=width, color=False, unicode=False)


@pytest.fixture(scope="module")
def pair():
    """Give two studies in which one claim moved, one did not and one cannot be told."""
    nan = mean(np.full((5, 400), np.nan))
    before = {"A1": share(0.8, seed=0), "A11a": share(0.8, seed=1), "B1": nan}
    return results(before), results(
        before | {"A1": share(0.4, seed=1)}, registry_digest="e" * 32, wall_seconds={"training": 3.0, "scores": 1.0}
    )


def test_on_a_terminal_of_80_columns_without_colour(pair):
    lines = shown(compare(*pair)).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("\x1b" in line or "\u2026" in line for line in lines)
    assert "".join(lines).isascii()
    expected = compare(*pair).changes[0]
    (row,) = [line for line in lines if line.startswith("A1 ")]
    assert row.split() == [
        "A1",
        *(f"{one[0]:.3f}" for one in (expected.before, expected.after)),
        f"{expected.change:+.3f}",
        "supported",
        "->",
    ]
    (below,) = [line for line in lines if line.endswith("refuted")]
    assert f"[{expected.low:+.3f}, {expected.high:+.3f}]" in below
    assert [line for line in lines if line.endswith("claims")] == [
        "Moved: 1 of 3 claims",
        "No movement seen: 1 of 3 claims",
        "Cannot tell: 1 of 3 claims",
    ]
    assert "registry   bbbbbbbbbbbb   eeeeeeeeeeee" in lines
    assert "clean       0.990 0.990   0.900 0.900   0.00 0.00   0.0100 0.0100" in lines
    assert "training 12 and 3 s, scores - and 1 s." in " ".join(lines[-2:])


def test_colour_where_the_terminal_has_it(pair):
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
    """Give a function that runs the command on two folders with reports, and gives status, output and errors."""
    for name, one in zip("ab", pair, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(one), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["claims", "compare", *arguments])
        try:
            status = main()
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def test_folders_and_files_are_compared(command):
    status, out, err = command("a", "b/results.json")
    assert (status, err) == (0, "")
    assert out.startswith("A: a\nB: b/results.json\n")


def test_json_holds_all_digits_and_no_nan(command, pair):
    status, out, _ = command("a", "b", "--json")
    assert status == 0
    assert json.loads(out) == json.loads(json.dumps(compare(*pair, ("a", "b")).to_json(), allow_nan=False))


@pytest.mark.parametrize(("two", "status"), [(("a", "b"), 1), (("a", "a"), 0)])
def test_a_move_fails_where_that_is_asked_for(command, two, status):
    assert command(*two, "--fail-on-move")[0] == status


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "c must be a results.json or the folder of a report; there is no c"),
        ("{", "c must be what `pytest claims` wrote; it can't be read: Expecting property name"),
        ("[]", f"c must have schema {SCHEMA}; got None"),
        ('{"schema": 1}', f"c must have schema {SCHEMA}; got 1 (written by another version"),
    ],
)
def test_what_is_no_report_is_a_usage_error(command, tmp_path, content, message):
    if content is not None:
        (tmp_path / "c").write_text(content, encoding="utf-8")
    status, out, err = command("a", "c")
    assert (status, out) == (2, "")
    assert f"error: {message}" in err


def test_a_report_that_a_study_wrote_compares_with_itself(tiny, tmp_path, monkeypatch):
    """The results that `gather` gives hold all that a comparison reads."""
    registry = load_registry("mine.npz")
    for stage in ("detection", "cleaning", "calibration"):
        monkeypatch.setattr(f"claims.{stage}.gather", lambda _: None)
    monkeypatch.setattr("claims.sanity.trials", lambda _: {})
    monkeypatch.setattr("claims.sanity.flags", lambda *_: [])
    monkeypatch.setattr("claims.cleaning.flags", lambda _: [])
    monkeypatch.setattr("claims.sanity.SWEEPS", {})
    monkeypatch.setattr("claims.sanity.WEAKER", [])
    verdict = judge(registry.claims["A1"], [share(0.8, seed=0, runs=2)], decisive=True, pilot=False, available=12)
    gathered = report.gather(tiny, registry, [verdict], pilot=False)
    (tmp_path / "results.json").write_text(json.dumps(plain(gathered)), encoding="utf-8")
    found = compare(load(tmp_path), load(tmp_path))
    assert [one.word for one in found.changes] == [UNSEEN]
    assert set(found.conditions) == set(gathered["conditions"])
    assert found.differs == {}
