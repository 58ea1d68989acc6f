"""Does a verdict follow from its interval and bound, say what to do, and travel unharmed?"""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from vaecore.suite.judging.registry import Bound, Claim, Registry
from vaecore.suite.judging.verdict import Verdict, judge, not_run
from vaecore.suite.statistics.intervals import auroc, difference, interval, mean

NO_EFFECT = Bound(low=0.0)
SETTINGS = {"decisive": True, "pilot": False, "available": 10**6, "conditions": ("clean", "lbfgs")}


def claim(bound, *, no_effect=NO_EFFECT, level=0.95, name="A1", **rest):
    return Claim(name, "finding", "So it is.", "share", "here", no_effect, bound, level, **rest)


def values(centre, *, runs=5, images=400, spread=0.1, seed=0):
    """Give an estimate whose images vary about `centre`, the mean of each run."""
    noise = np.random.default_rng(seed).normal(size=(runs, images)) * spread
    return mean(noise - noise.mean(axis=1, keepdims=True) + centre)


def numbers(verdict):
    return f"{verdict.estimate:.3f} [{verdict.low:.3f}, {verdict.high:.3f}]"


@pytest.mark.parametrize(
    ("bound", "verdict", "end"),
    [
        (Bound(low=0.4), "supported", "bound > 0.40"),
        (
            Bound(low=0.6),
            "refuted",
            "bound > 0.60; the whole interval lies beyond the bound, so the claim does not hold here",
        ),
        (Bound(high=0.6), "supported", "bound < 0.60"),
        (
            Bound(high=0.4),
            "refuted",
            "bound < 0.40; the whole interval lies beyond the bound, so the claim does not hold here",
        ),
        (Bound(0.4, 0.6), "supported", "bound in (0.40, 0.60)"),
    ],
)
def test_three_ways_and_their_messages(bound, verdict, end):
    found = judge(claim(bound), [values(0.5)], **SETTINGS)
    assert found.verdict == verdict
    assert found.message == f"A1 {verdict}: share = {numbers(found)} (level 0.9500, 5 runs x 400 images); {end}"
    assert numbers(found).startswith("0.500 [0.49")
    assert (found.claim, found.runs, found.images, found.level) == ("A1", 5, 400, 0.95)
    assert (found.needed_images, found.needed_runs) == (None, None)
    assert found.conditions == ("clean", "lbfgs")
    assert found.bound == str(bound)


def test_inconclusive_says_how_many_images_or_runs_would_decide():
    found = judge(claim(Bound(low=0.498)), [values(0.5)], **SETTINGS)
    assert found.verdict == "inconclusive"
    assert 400 < found.needed_images < 5000
    assert 5 < found.needed_runs < 50
    assert found.message.endswith(
        f"; the interval straddles the bound; about {found.needed_images:,} images (--profile full),"
        f" or about {found.needed_runs:,} runs (--runs) would decide"
    )
    # As many images as asked for, with the same variances, do decide.
    more = judge(claim(Bound(low=0.498)), [values(0.5, images=int(1.3 * found.needed_images), seed=1)], **SETTINGS)
    assert more.verdict == "supported"


def test_inconclusive_where_no_number_decides():
    found = judge(claim(Bound(low=0.5)), [mean(np.tile([0.0, 1.0], (2, 30)))], **SETTINGS)
    assert found.message.endswith(
        "; the interval straddles the bound, and neither more runs nor the 1,000,000 test images would decide"
    )
    assert (found.needed_images, found.needed_runs) == (None, None)


def test_nan_is_inconclusive_with_its_reason():
    found = judge(claim(Bound(low=0.5)), [mean([[1.0, math.nan, 1.0]] * 2)], **SETTINGS)
    assert found.verdict == "inconclusive"
    assert found.message == (
        "A1 inconclusive: share = nan [nan, nan] (level 0.9500, 2 runs x 3 images); bound > 0.50;"
        " no interval: 2 of 6 values are not finite"
    )
    assert math.isnan(found.power)


@pytest.mark.parametrize(
    ("bound", "verdict"), [(Bound(low=0.4), "inconclusive"), (Bound(low=0.6), "refuted")], ids=["clear", "beyond"]
)
def test_smoke_may_refute_and_never_supports(bound, verdict):
    found = judge(claim(bound), [values(0.5)], **{**SETTINGS, "decisive": False})
    assert found.verdict == verdict
    hint = "; one run or the smoke profile is too little to support a claim: use --profile standard"
    assert found.message.endswith(hint) == (verdict == "inconclusive")
    assert (found.needed_images, found.needed_runs) == (None, None)


@pytest.mark.parametrize(
    ("no_effect", "centre", "suggested"),
    [(Bound(low=0.0), 0.347, "> 0.17"), (Bound(high=0.0), -0.347, "< -0.17"), (Bound(low=0.0), -0.3, "> 0.00")],
)
def test_pilot_suggests_a_bound_and_judges_nothing(no_effect, centre, suggested):
    registered = Bound(low=0.9)
    found = judge(claim(registered, no_effect=no_effect), [values(centre)], **{**SETTINGS, "pilot": True})
    assert (found.verdict, found.bound) == ("pilot", suggested)
    assert found.message == (
        f"A1 pilot: share = {numbers(found)} (level 0.9500, 5 runs x 400 images); bound {suggested}"
    )
    assert (found.power > 0.99) == (centre != -0.3)


def test_pilot_of_nan_suggests_no_effect():
    found = judge(claim(None), [mean([[math.nan, 1.0]])], **{**SETTINGS, "pilot": True})
    assert (found.verdict, found.bound) == ("pilot", "> 0.00")


def test_smallest_of_several_is_judged():
    steps = [values(0.3), values(0.1, seed=1), values(0.5, seed=2)]
    found = judge(claim(Bound(low=0.05)), steps, **SETTINGS)
    assert found.verdict == "supported"
    assert found.estimate == pytest.approx(0.1)
    assert found.per_run == pytest.approx(steps[1].per_run.tolist())
    assert judge(claim(Bound(low=0.2)), steps, **SETTINGS).verdict == "refuted"


def test_per_run_takes_each_runs_smallest():
    first, second = mean([[0.1, 0.1], [0.4, 0.4]]), mean([[0.3, 0.3], [0.2, 0.2]])
    assert judge(claim(Bound(low=0.0)), [first, second], **SETTINGS).per_run == pytest.approx((0.1, 0.2))


def test_one_run_is_said():
    found = judge(claim(Bound(low=0.4)), [values(0.5, runs=1)], **SETTINGS)
    assert found.message.endswith("1 runs x 400 images); bound > 0.40; one run: the interval covers images only")


def test_no_estimate_is_refused():
    with pytest.raises(ValueError, match=r"^claim A1 needs an estimate to conclude; got none$"):
        judge(claim(Bound(low=0.4)), [], **SETTINGS)


@pytest.mark.parametrize("estimate", [values(0.5), mean([[math.nan, 1.0]])], ids=["numbers", "nan"])
def test_a_verdict_travels_through_json(estimate):
    found = judge(claim(Bound(low=0.499)), [estimate], **SETTINGS)
    back = Verdict.from_json(json.loads(json.dumps(found.to_json())))
    assert isinstance(back.per_run, tuple)
    assert isinstance(back.conditions, tuple)
    assert repr(back) == repr(found)  # NaN is not equal to itself


# Power


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("margins", "expected"), [(1, 0.5), (2, norm.cdf(1.96)), (0, norm.cdf(-1.96)), (20, 1), (-2, 0)]
)
def test_power_is_the_chance_to_clear(margins, expected, sign):
    """One margin from the bound the interval's end lies on it, so half of all studies clear it."""
    estimate = values(0.5 * sign)
    first = judge(claim(Bound(low=-9.0)), [estimate], **SETTINGS)
    margin = first.estimate - first.low
    bound = Bound(low=0.5 - margins * margin) if sign > 0 else Bound(high=-0.5 + margins * margin)
    assert judge(claim(bound), [estimate], **SETTINGS).power == pytest.approx(expected, abs=1e-3)


def test_power_follows_the_level():
    estimate = values(0.5)
    wide = judge(claim(Bound(low=0.49), level=0.999), [estimate], **SETTINGS)
    narrow = judge(claim(Bound(low=0.49), level=0.9), [estimate], **SETTINGS)
    assert 0 < wide.power < narrow.power < 1


def test_images_of_a_set_outside_do_not_count_among_the_test_images_that_would_decide():
    generator = np.random.default_rng(0)
    inside, found = generator.normal(size=(5, 400)), generator.normal(size=(5, 800)) + 0.03
    estimate = auroc(inside, found, paired=False)
    total = interval(estimate, 0.95).required(0.5).images
    verdict = judge(claim(Bound(low=0.5)), [estimate], **SETTINGS)
    assert verdict.verdict == "inconclusive"
    assert verdict.needed_images == math.ceil(total / 3)
    assert "5 runs x 400 + 800 images" in verdict.message
    assert (
        f"about {verdict.needed_images:,} test images, and more of the set outside (--profile full)" in verdict.message
    )


# What was not run


def test_not_run_lists_registered_claims_with_a_test():
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
    study = SimpleNamespace(outside=SimpleNamespace(lacks=lambda kind: "not at hand" if kind == "kmnist" else ""))
    assert [one.id for one in not_run(registry, study, {"A1"})] == ["A2", "C2"]
    assert not_run(registry, study, {"A1", "A2", "C2"}) == []


def test_a_difference_is_judged_as_it_stands():
    found = judge(claim(Bound(low=0.1)), [difference(values(0.9), values(0.2, seed=1))], **SETTINGS)
    assert found.estimate == pytest.approx(0.7)
    assert found.verdict == "supported"


@pytest.mark.parametrize("pilot", [False, True])
@pytest.mark.parametrize("centre", [-0.5, 0.5])
def test_what_is_reported_is_measured_and_not_judged(pilot, centre):
    """Whatever the value, in a pilot or not; NaN stays visible."""
    told = claim(Bound(), no_effect=Bound(), reported="no pilot")
    verdict = judge(told, [values(centre)], decisive=True, pilot=pilot, available=1000)
    assert (verdict.verdict, verdict.bound) == ("reported", "none")
    assert verdict.estimate == pytest.approx(centre)
    assert verdict.low < centre < verdict.high
    assert math.isnan(verdict.power)
    assert numbers(verdict) in verdict.message
    nothing = judge(told, [mean([[float("nan")]])], decisive=True, pilot=pilot, available=1000)
    assert nothing.verdict == "reported"
    assert "no interval" in nothing.message
