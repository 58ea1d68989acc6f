"""Does a verdict follow from its interval, bound and estimates alone, say what to do, and travel unharmed?"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, nct, t

from vaecore.suite.facts import Precondition
from vaecore.suite.judging.bound import Bound
from vaecore.suite.judging.registry import Registry
from vaecore.suite.judging.verdict import (
    Verdict,
    expected_supported,
    judge,
    near_bounds,
    no_verdict,
    not_run,
    tally,
)
from vaecore.suite.results import plain
from vaecore.suite.statistics.columns import Column, Origin
from vaecore.suite.statistics.estimates import auroc, difference, mean
from vaecore.suite.statistics.intervals import interval
from vaecore.suite.study.conditions import CLEAN, FGSM
from vaecore.suite.study.tables import Table

NAN = math.nan
UNDEFINED = [[1.0, NAN, 1.0]] * 2
BEYOND = "; the whole interval lies beyond the bound, so the claim does not hold here"


def numbers(verdict):
    return f"{verdict.estimate:.3f} [{verdict.low:.3f}, {verdict.high:.3f}]"


def of(values, *conditions, kept=1.0):
    """The mean of values that look at these conditions."""
    return mean(Column(values, Origin(frozenset(conditions), kept)))


@pytest.mark.parametrize(
    ("bound", "word", "end"),
    [
        (Bound(low=0.4), "supported", "bound > 0.40"),
        (Bound(low=0.6), "refuted", f"bound > 0.60{BEYOND}"),
        (Bound(high=0.6), "supported", "bound < 0.60"),
        (Bound(high=0.4), "refuted", f"bound < 0.40{BEYOND}"),
        (Bound(0.4, 0.6), "supported", "bound in (0.40, 0.60)"),
    ],
)
def test_supported_and_refuted_and_their_messages(claim, facts, values, bound, word, end):
    verdict = judge(claim(bound), [values(0.5)], facts)
    assert verdict.verdict == word
    assert verdict.message == f"A1 {word}: share = {numbers(verdict)} (level 0.9500, 5 runs x 400 images); {end}"
    assert numbers(verdict).startswith("0.500 [0.49")
    assert (verdict.claim, verdict.runs, verdict.images, verdict.level) == ("A1", 5, 400, 0.95)
    assert (verdict.bound, verdict.bound_low, verdict.bound_high) == (str(bound), bound.low, bound.high)
    assert (verdict.needed_images, verdict.needed_runs) == (None, None)


def test_inconclusive_says_how_many_images_or_runs_would_decide(claim, facts, values):
    near = claim(Bound(low=0.498))
    verdict = judge(near, [values(0.5)], facts)
    assert verdict.verdict == "inconclusive"
    assert 400 < verdict.needed_images < 8000
    assert 5 < verdict.needed_runs < 300
    assert verdict.message.endswith(
        f"; the interval straddles the bound; about {verdict.needed_images:,} images (--profile full),"
        f" or about {verdict.needed_runs:,} runs (--runs) would decide with a chance of 0.8,"
        " were the estimate and its variances the truth"
    )
    # As many images as asked for, with the same variances, do decide.
    more = values(0.5, images=int(1.3 * verdict.needed_images), seed=1)
    assert judge(near, [more], facts).verdict == "supported"
    few = judge(near, [values(0.5)], replace(facts, test_images=verdict.needed_images - 1))
    assert (few.needed_images, few.needed_runs) == (None, verdict.needed_runs)


def test_inconclusive_where_no_number_decides(claim, facts):
    verdict = judge(claim(Bound(low=0.5)), [mean(np.tile([0.0, 1.0], (2, 30)))], facts)
    assert verdict.message.endswith(
        "; the interval straddles the bound, and neither more runs nor the 1,000,000 test images would decide"
    )
    assert (verdict.needed_images, verdict.needed_runs) == (None, None)


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_images_of_a_set_outside_do_not_count_among_the_test_images_that_would_decide(claim, facts, rest):
    """Two of three images are outside; so many test images are asked for that they are enough, whatever the rest."""
    for seed in range(300):
        generator = np.random.default_rng(seed)
        estimate = auroc(generator.normal(size=(5, 400)), generator.normal(size=(5, 800)) + 0.03, paired=False)
        verdict, required = judge(claim(Bound(low=0.5)), [estimate], facts), interval(estimate, 0.95).required(0.5)
        if verdict.verdict == "inconclusive" and required.images and required.images % 3 == rest:
            break
    assert required.images % 3 == rest
    assert verdict.needed_images == math.ceil(required.images / 3)
    assert "5 runs x 400 + 800 images" in verdict.message
    assert f"about {verdict.needed_images:,} test images, and more of the set outside (--profile" in verdict.message


def test_nan_is_inconclusive_with_its_reason(claim, facts):
    verdict = judge(claim(Bound(low=0.5)), [mean(UNDEFINED)], facts)
    assert verdict.verdict == "inconclusive"
    assert verdict.message == (
        "A1 inconclusive: share = nan [nan, nan] (level 0.9500, 2 runs x 3 images); bound > 0.50;"
        " no interval: 2 of 6 values are not finite"
    )
    assert math.isnan(verdict.power)


@pytest.mark.parametrize("bound", [Bound(low=0.4), Bound(low=0.498), Bound(low=0.6)])
@pytest.mark.parametrize("too_little", ["one run", "smoke"])
def test_a_study_that_is_too_small_neither_supports_nor_refutes(claim, facts, values, bound, too_little):
    verdict = judge(claim(bound), [values(0.5)], replace(facts, too_little=too_little))
    assert (verdict.verdict, verdict.amiss, verdict.outcome) == ("not judged", too_little, f"not judged: {too_little}")
    assert verdict.message.endswith(
        "; one run or the smoke profile is too little to judge a claim: use --profile standard"
    )
    assert (verdict.needed_images, verdict.needed_runs) == (None, None)


def precondition(value, *undermines):
    return Precondition("too dark", "mean pixel", value, 0.5, frozenset(undermines))


@pytest.mark.parametrize(
    ("found", "pilot", "outcome"),
    [
        (precondition(0.5, "A"), False, "supported"),
        (precondition(0.49, "B", "fgsm-0.1"), False, "supported"),
        (precondition(0.49, "A"), False, "not judged: too dark"),
        (precondition(0.49, "clean"), False, "not judged: too dark"),
        (precondition(float("nan"), "clean"), False, "not judged: too dark"),
        (precondition(0.49, "B"), True, "pilot"),
        (precondition(0.49, "A"), True, "not judged: too dark"),
    ],
)
def test_a_precondition_that_is_not_met_undermines_a_family_or_a_condition(claim, facts, found, pilot, outcome):
    looked = Column(np.ones((2, 30)), Origin(frozenset({"clean"})))
    verdict = judge(claim(Bound(low=0.5)), [mean(looked)], replace(facts, pilot=pilot), [found])
    assert verdict.outcome == outcome
    assert (verdict.why == "mean pixel: 0.49 (0.5 or more would be enough)") == (
        outcome.startswith("not") and found.value == 0.49
    )


def test_the_message_says_what_the_interval_does_not_cover(claim, facts, values):
    one_run = judge(claim(Bound(low=0.4)), [values(0.5, runs=1)], facts)
    assert one_run.message.endswith("1 run x 400 images); bound > 0.40; one run: the interval covers images only")
    finished = judge(claim(Bound(low=0.4)), [values(0.5)], replace(facts, finished=("vae",)))
    assert finished.message.endswith("; one vae in all runs: the interval does not cover its training")


def test_smallest_of_several_is_judged(claim, facts, values):
    steps = [values(0.3), values(0.1, seed=1), values(0.5, seed=2)]
    verdict = judge(claim(Bound(low=0.05)), steps, facts)
    assert verdict.verdict == "supported"
    assert verdict.estimate == pytest.approx(0.1)
    assert judge(claim(Bound(low=0.2)), steps, facts).verdict == "refuted"
    each = judge(claim(Bound(low=0.0)), [mean([[0.1, 0.1], [0.4, 0.4]]), mean([[0.3, 0.3], [0.2, 0.2]])], facts)
    assert each.per_run == pytest.approx((0.1, 0.2))  # the smallest of each run
    with pytest.raises(ValueError, match=r"^claim A1 needs an estimate to conclude; got none$"):
        judge(claim(Bound(low=0.4)), [], facts)


def test_a_difference_is_judged_as_it_stands(claim, facts, values):
    verdict = judge(claim(Bound(low=0.1)), [difference(values(0.9), values(0.2, seed=1))], facts)
    assert verdict.estimate == pytest.approx(0.7)
    assert verdict.verdict == "supported"


# Conditions, and the share of images kept


def test_a_verdict_has_the_conditions_of_its_estimates(claim, facts):
    ones = np.ones((2, 400))
    pair = difference(of(ones, "lbfgs"), of(0 * ones, "gaussian-lbfgs"))
    verdict = judge(claim(Bound(low=0.5)), [pair, of(ones, "clean")], facts)
    assert verdict.conditions == ("clean", "gaussian-lbfgs", "lbfgs")
    assert judge(claim(Bound(low=0.5)), [mean(ones)], facts).conditions == ()


@pytest.mark.parametrize(("failed", "told"), [(0.0, False), (0.004, False), (0.1, True)])
def test_a_verdict_tells_on_how_many_images_the_attack_failed(claim, facts, failed, told):
    values = Column(np.ones((2, 400)), Origin(frozenset({"fgsm-0.2"}), failed=failed))
    verdict = judge(claim(Bound(low=0.5)), [mean(values)], facts)
    assert verdict.verdict == "supported"
    assert ("the attack failed on 10% of the images, which are among those looked at" in verdict.message) == told


@pytest.mark.parametrize(("kept", "word"), [(380, "supported"), (379, "not judged")])
def test_below_a_share_of_0_95_of_images_kept_nothing_is_judged(claim, facts, kept, word):
    """The share is the smallest of all that the claim looks at, through arithmetic and in any of several estimates."""
    whole = Table.of({"l2": np.ones((2, 400))}, Origin(frozenset({"lbfgs"})))
    left, clean = whole.take(np.arange(kept), of=400)["l2"], np.ones((2, kept))
    for estimates in ([mean(left)], [mean((left + clean) > 1)], [mean(clean), mean(left[:, :200])]):
        verdict = judge(claim(Bound(low=0.5)), estimates, facts)
        assert verdict.verdict == word
        hint = "the attack succeeded in all runs on 95% of the images only: what is left is no fair sample"
        assert verdict.message.endswith(hint) == (word == "not judged")
        assert (verdict.needed_images, verdict.needed_runs) == (None, None)
    assert judge(claim(Bound(high=0.5)), [mean(left)], facts).verdict == word.replace("supported", "refuted")


def test_tables_that_a_test_only_looks_at_change_no_verdict(tiny, claim, facts):
    """Neither before nor after: conditions and kept share are the estimate's own."""
    estimate = mean(tiny.table(CLEAN)["confidence"] > 0)
    before = judge(claim(Bound(low=0.5)), [estimate], facts)
    table, _ = tiny.paired(FGSM(1), CLEAN)
    table = table.take(np.arange(2), of=12)
    assert (table["l2"].origin.kept, table.origin.conditions) == (2 / 12, {"fgsm-0.2"})
    after = judge(claim(Bound(low=0.5)), [estimate], facts)
    assert (before.verdict, before.conditions) == ("supported", ("clean",))
    assert after == before


# Pilots, and claims that are reported


@pytest.mark.parametrize(
    ("no_effect", "centre", "suggested"),
    [(Bound(low=0.0), 0.347, "> 0.17"), (Bound(high=0.0), -0.347, "< -0.17"), (Bound(low=0.0), -0.3, "> 0.00")],
)
def test_pilot_suggests_a_bound_and_judges_nothing(claim, facts, values, no_effect, centre, suggested):
    registered = claim(Bound(low=0.9), no_effect=no_effect)
    verdict = judge(registered, [values(centre)], replace(facts, pilot=True))
    assert (verdict.verdict, verdict.bound) == ("pilot", suggested)
    assert verdict.message == (
        f"A1 pilot: share = {numbers(verdict)} (level 0.9500, 5 runs x 400 images); bound {suggested}"
    )
    assert (verdict.power > 0.99) == (centre != -0.3)


def test_pilot_of_nan_suggests_no_effect(claim, facts):
    verdict = judge(claim(None), [mean(UNDEFINED)], replace(facts, pilot=True))
    assert (verdict.verdict, verdict.bound) == ("pilot", "> 0.00")


@pytest.mark.parametrize("pilot", [False, True])
@pytest.mark.parametrize("centre", [-0.5, 0.5])
def test_what_is_reported_is_measured_and_not_judged(claim, facts, values, pilot, centre):
    """Whatever the value, in a pilot or not; NaN stays visible."""
    reported, facts = claim(Bound(), no_effect=Bound(), reported="no pilot"), replace(facts, pilot=pilot)
    verdict = judge(reported, [values(centre)], facts)
    assert (verdict.verdict, verdict.bound) == ("reported", "none")
    assert verdict.estimate == pytest.approx(centre)
    assert verdict.low < centre < verdict.high
    assert math.isnan(verdict.power)
    assert numbers(verdict) in verdict.message
    undefined = judge(reported, [mean(UNDEFINED)], facts)
    assert undefined.verdict == "reported"
    assert "no interval" in undefined.message


# Power


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("margins", [-2, 0, 1, 1.5, 2, 20])
def test_power_is_the_chance_of_a_t_test(claim, facts, values, margins, sign):
    """That of a noncentral t, at the interval's degrees of freedom: one margin from the bound about half."""
    estimate = values(0.5 * sign)
    first = judge(claim(Bound(low=-9.0)), [estimate], facts)
    margin, freedom = first.estimate - first.low, first.spreads[0].freedom
    bound = Bound(low=0.5 - margins * margin) if sign > 0 else Bound(high=-0.5 + margins * margin)
    quantile = t.ppf(0.975, freedom)
    expected = 1.0 if margins == 20 else nct.sf(quantile, freedom, quantile * margins)
    assert judge(claim(bound), [estimate], facts).power == pytest.approx(expected, abs=2e-3)


def test_power_follows_the_level(claim, facts, values):
    wide, narrow = (judge(claim(Bound(low=0.49), level=level), [values(0.5)], facts) for level in (0.999, 0.9))
    assert 0 < wide.power < narrow.power < 1


# Another study


@pytest.mark.parametrize(
    ("bound", "word"),
    [
        (Bound(low=0.48), "supported"),
        (Bound(low=0.4935), "supported"),
        (Bound(low=0.4965), "inconclusive"),
        (Bound(low=0.52), "refuted"),
        (Bound(0.4935, 0.5065), "supported"),
        (Bound(0.5065, 0.6), "refuted"),
    ],
)
def test_a_verdict_knows_how_often_another_study_would_give_it(claim, facts, values, bound, word):
    """Against pairs of studies whose truth is the estimate of a third, drawn anew for each pair."""
    registered = claim(bound)
    verdict = judge(registered, [values(0.5)], facts)
    assert verdict.verdict == word
    generator, words = np.random.default_rng(5), []
    (spread,) = verdict.spreads
    for _ in range(300):
        variance = spread.freedom / generator.chisquare(spread.freedom)
        truth = 0.5 + spread.standard_error * math.sqrt(variance) * generator.standard_normal()
        error = spread.standard_error * math.sqrt(variance)
        seen = error * math.sqrt(generator.chisquare(spread.freedom) / spread.freedom)
        other = replace(spread, estimate=truth + error * generator.standard_normal(), standard_error=seen)
        low, high = other.ends(0.95)
        words.append(bound.verdict(replace(interval(values(0.5), 0.95), low=low, high=high)))
    assert verdict.same == pytest.approx(words.count(word) / 300, abs=0.08)
    assert verdict.again_supported == pytest.approx(words.count("supported") / 300, abs=0.08)
    assert (near_bounds([verdict.to_json()]) == {"A1": verdict.same}) == (verdict.same < 0.9)


def test_another_study_is_not_guessed_where_nothing_is_judged(claim, facts, values):
    bound = claim(Bound(low=0.4))
    ways = [
        judge(bound, [values(0.5)], replace(facts, too_little="smoke")),
        judge(bound, [values(0.5)], replace(facts, pilot=True)),
        judge(bound, [mean(UNDEFINED)], facts),
        judge(claim(Bound(), no_effect=Bound(), reported="no pilot"), [values(0.5)], facts),
    ]
    assert all(math.isnan(verdict.same) and math.isnan(verdict.again_supported) for verdict in ways)
    found = [verdict.to_json() for verdict in ways]
    assert (near_bounds(found), expected_supported(found)) == ({}, None)
    assert near_bounds([{"claim": "A1"}, {"claim": "A2", "same": None}, {"claim": "A3", "same": 0.0}]) == {"A3": 0.0}


def test_the_number_supported_that_is_to_be_expected():
    """Claims of a family rise and fall together: of two of chance 0.5 both or none; families do not."""
    sure = [{"claim": f"B{number}", "again_supported": 1.0} for number in range(1, 11)]
    half = [{"claim": f"A{number}", "again_supported": 0.5} for number in (1, 2)]
    assert expected_supported(sure) == (10, 10)
    assert expected_supported([*sure, *half]) == (10, 12)
    assert expected_supported([*sure, {"claim": "A1", "again_supported": 0.98}]) == (11, 11)
    unlike = [{"claim": "A1", "again_supported": 0.01}, {"claim": "A2", "again_supported": 0.99}]
    assert expected_supported(unlike) == (1, 1)
    alone = [{"claim": f"{letter}1", "again_supported": 0.5} for letter in "ACDEFGHI"]
    low, high = expected_supported(alone)
    assert (low, high) == (binom.ppf(0.025, 8, 0.5), binom.ppf(0.975, 8, 0.5))


def test_the_greatest_of_several_is_judged(claim, facts, values):
    steps = [values(0.3), values(0.1, seed=1), values(0.5, seed=2)]
    verdict = judge(claim(Bound(high=0.45)), steps, facts, pick="greatest")
    assert (verdict.verdict, verdict.pick) == ("refuted", "greatest")
    assert verdict.estimate == pytest.approx(0.5)
    each = [mean([[0.1, 0.1], [0.4, 0.4]]), mean([[0.3, 0.3], [0.2, 0.2]])]
    assert judge(claim(Bound(low=0.0)), each, facts, pick="greatest").per_run == pytest.approx((0.3, 0.4))


# Many verdicts


@pytest.mark.parametrize(
    "estimate", [[[0.0, 1.0, 1.0]] * 2, [[0.0, 0.5, 1.0]] * 2, UNDEFINED], ids=["shares", "unlimited", "nan"]
)
@pytest.mark.parametrize("bound", [Bound(low=0.499), Bound(high=0.5)], ids=str)
def test_a_verdict_travels_through_json(claim, facts, estimate, bound):
    verdict = judge(claim(bound), [of(estimate, "clean"), of(estimate, "lbfgs")], facts)
    back = Verdict.from_json(json.loads(json.dumps(plain(verdict.to_json()), allow_nan=False)))
    assert repr(back) == repr(verdict)  # NaN is not equal to itself


def test_what_was_not_run_is_listed_with_the_reason(claim):
    bound = Bound(low=0.0)
    claims = [
        claim(bound, name="A1"),
        claim(bound, name="A2"),
        claim(None, name="A3", unregistered="no power"),
        claim(bound, name="A4", untested="not built yet"),
        claim(bound, name="C1", outside="kmnist"),
        claim(bound, name="C2", outside="notmnist"),
    ]
    registry = Registry({one.id: one for one in claims}, "0")

    def lacks(claim):
        return "not at hand" if claim.outside == "kmnist" else ""

    assert [one.id for one in not_run(registry, lacks, {"A1"})] == ["A2", "C2"]
    assert not_run(registry, lacks, {"A1", "A2", "C2"}) == []
    assert no_verdict(registry, lacks, {"A1"}) == {
        "A2": "not run",
        "A3": "no power",
        "A4": "not built yet",
        "C1": "not at hand",
        "C2": "not run",
    }


def test_verdicts_are_counted_in_words():
    assert tally(["refuted", "supported", "refuted"]) == "1 supported, 2 refuted"
