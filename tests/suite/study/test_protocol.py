"""Conditions and protocol: names, sizes, threat models and counts; what follows the budget; plain values alone."""

import subprocess
import sys
from dataclasses import replace

import pytest

from vaecore.suite.budget import MOST, budget_of, text_of, usual_budget
from vaecore.suite.study.cleaning import CLEANED, MAJORITY
from vaecore.suite.study.conditions import (
    CLEAN,
    CONFIDENT,
    EVADE,
    EVADE_KNOWN,
    EVADE_MAGNET,
    FGSM,
    GAUSSIAN,
    GAUSSIAN_CONFIDENT,
    INSIDE,
    JOINT,
    LBFGS,
    MIX,
    NOISY,
    OUTSIDE,
    PGD,
    PURIFIED,
    ROTATED,
    SIGN,
    SMOOTHED,
    UNIFORM,
)
from vaecore.suite.study.decisions import ASKED
from vaecore.suite.study.protocol import (
    PROFILES,
    Profile,
    Protocol,
    draws_of,
    profile_of,
    seed_of,
)
from vaecore.suite.study.trials import sweeps

PROTOCOL = Protocol()
SIZES = {
    0.2: ("0.05", "0.1", "0.15", "0.2", "0.25", "0.3"),
    0.1: ("0.025", "0.05", "0.075", "0.1", "0.125", "0.15"),
    8 / 255: ("2/255", "4/255", "6/255", "8/255", "10/255", "12/255"),
    1 / 255: ("0.25/255", "0.5/255", "0.75/255", "1/255", "1.25/255", "1.5/255"),
}
BOTH = (
    "White box: PGD knows classifier, VAE, number of draws and rule, all but the random numbers of the draws (EOT);"
    " changes each pixel by 0.3 at most, and wants all draws to get its wrong label"
)
NO_ALARM = (
    "it changes each pixel by 0.3 at most, and wants a wrong label that raises no alarm: draws that agree, and an"
    " error, a disagreement and a doubt that are each below what one in ten clean images exceeds"
)
THREATS = {
    CLEAN: "No attacker: test images as they are.",
    FGSM(1): "FGSM, one step along the gradient's sign, knows the classifier and its weights, and nothing of the VAE;"
    " changes each pixel by 0.2 at most.",
    UNIFORM(0.25): "No attacker: uniform noise of 0.05 a pixel at most, which nobody aims.",
    SIGN(0.5): "No attacker: each pixel moved up or down by 0.1 at random, which nobody aims.",
    LBFGS: "L-BFGS knows the classifier and its weights, and nothing of the VAE; seeks the smallest change (L2) that"
    " gives a random wrong label.",
    CONFIDENT: "L-BFGS knows the classifier and its weights, and nothing of the VAE; seeks the smallest change (L2)"
    " that gives a random wrong label with a confidence of 0.98.",
    GAUSSIAN: "No attacker: Gaussian noise as large (L2), image by image, as the change of lbfgs.",
    GAUSSIAN_CONFIDENT: "No attacker: Gaussian noise as large (L2), image by image, as the change of lbfgs-0.98.",
    JOINT(1.5): f"{BOTH}.",
    EVADE(
        1.5
    ): "White box: selective PGD knows classifier, VAE, alarms and their thresholds, all but the random numbers"
    f" of the draws (EOT); {NO_ALARM}.",
    EVADE_KNOWN(1.5): "White box: selective PGD knows classifier, VAE, alarms and their thresholds, and the random"
    f" numbers of the draws; {NO_ALARM}.",
    EVADE_MAGNET(1.5): "White box: selective PGD knows classifier, VAE, alarms and their thresholds, all but the random"
    " numbers of the draws (EOT); it changes each pixel by 0.3 at most, and wants a wrong label that raises no alarm:"
    " draws that agree, and MagNet's error and divergence that are each below what one in ten clean images exceeds.",
    PGD(0.5): "PGD knows the classifier and its weights, and nothing of the VAE or of any purifier; changes each pixel"
    " by 0.1 at most.",
    PURIFIED(0.5, label=MAJORITY): "White box: PGD knows the classifier and the purifier vae-majority with its"
    " parameters, all but the random numbers of its draws (EOT); changes each pixel by 0.1 at most.",
    ROTATED(15): "No attacker: test images turned by 15 degrees.",
    NOISY(1.5): "No attacker: Gaussian noise of standard deviation 0.3 a pixel, which nobody aims.",
    MIX: "No attacker: test images as they are, mixed half and half with images from outside the data set.",
    INSIDE: "No attacker: test images as they are.",
    OUTSIDE(label="kmnist"): "No attacker: images of kmnist, which are not of the data set.",
}
ELSEWHERE = {  # conditions of other families than that of the protocol's own
    "pgd-0.1": PGD(0.5),
    "purified/vae-majority/pgd-0.1": PURIFIED(0.5, label=MAJORITY),
    "decisions/rotated-15": ROTATED(15),
    "decisions/gaussian-0.3": NOISY(1.5),
    "decisions/outside-mix": MIX,
    "outside/inside": INSIDE,
    "outside/kmnist": OUTSIDE(label="kmnist"),
}


@pytest.mark.parametrize("budget", SIZES)
def test_names_and_sentences_follow_the_budget(budget):
    protocol, sizes = replace(PROTOCOL, budget=budget), SIZES[budget]
    names = [protocol.name(condition) for condition in protocol.conditions]
    sized = [f"{kind}-{size}" for kind in ("fgsm", "uniform", "sign") for size in sizes]
    minimal = ["lbfgs", "lbfgs-0.98", "gaussian-lbfgs", "gaussian-lbfgs-0.98"]
    adaptive = [f"joint-{sizes[-1]}", f"evade-{sizes[3]}", f"evade-{sizes[-1]}", f"evade-known-{sizes[-1]}"]
    adaptive.append(f"evade-magnet-{sizes[-1]}")
    assert names == ["clean", *sized, *minimal, *adaptive]
    for condition in (*protocol.conditions, PGD(0.25), PURIFIED(1.25, label="blur")):
        if condition.kind.unit == "budgets":
            size = protocol.shown_size(condition)
            assert size in sizes
            assert protocol.name(condition).endswith(f"-{size}")
            assert f" {size} " in protocol.threat(condition)
            assert size in protocol.title(condition)
    others = [protocol.name(condition) for condition in (ROTATED(15), NOISY(1.5), SMOOTHED(0.25))]
    assert others == ["rotated-15", f"gaussian-{sizes[-1]}", "smoothed-0.25"]


def test_each_condition_has_a_name_and_a_threat_model_of_its_own():
    for condition, sentence in THREATS.items():
        assert PROTOCOL.threat(condition) == sentence
    assert {PROTOCOL.full_name(condition): condition for condition in ELSEWHERE.values()} == ELSEWHERE
    every = {*PROTOCOL.conditions, *CLEANED, *ASKED, *THREATS}
    assert len({PROTOCOL.full_name(condition) for condition in every}) == len(every)
    for condition in every:
        assert "{" not in PROTOCOL.threat(condition) + PROTOCOL.title(condition)
        assert PROTOCOL.threat(condition).startswith("No attacker") != bool(condition.kind.knows)


def test_expensive_attacks_and_what_is_only_shown_take_fewer_images():
    images = {condition: PROTOCOL.images(condition) for condition in (*PROTOCOL.conditions, PGD(1), *ASKED)}
    shown = {condition for condition in images if condition.kind in (UNIFORM, SIGN)}
    shown -= {UNIFORM(0.25), UNIFORM(1), SIGN(0.25), SIGN(0.5), SIGN(1)}  # which claims take
    few = shown | {LBFGS, CONFIDENT, GAUSSIAN, GAUSSIAN_CONFIDENT}
    fewest = {JOINT(1.5), EVADE(1), EVADE(1.5), EVADE_KNOWN(1.5), EVADE_MAGNET(1.5)}
    expected = dict.fromkeys(images, 2000) | dict.fromkeys(few, 500) | dict.fromkeys(fewest, 150) | {CLEAN: 10_000}
    assert images == expected
    assert replace(PROTOCOL, profile=PROFILES["smoke"]).images(CLEAN) == 200
    assert PROTOCOL.trial_images == 75
    assert replace(PROTOCOL, profile=replace(PROTOCOL.profile, adaptive_images=4)).trial_images == 2


def test_attacks_that_may_fail_are_left_out_with_their_twins():
    attacks = {condition: condition.attack for condition in PROTOCOL.conditions if condition.attack}
    assert attacks == {LBFGS: LBFGS, CONFIDENT: CONFIDENT, GAUSSIAN: LBFGS, GAUSSIAN_CONFIDENT: CONFIDENT}


def test_some_conditions_take_a_bound():
    assert PROTOCOL.with_elbo == (CLEAN, UNIFORM(0.25))


def test_a_size_must_be_given_where_the_kind_has_one():
    with pytest.raises(ValueError, match="fgsm must have a size in budgets; got None"):
        FGSM()
    with pytest.raises(ValueError, match=r"lbfgs must have no size; got 0\.2"):
        LBFGS.kind(0.2)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("smoke",), PROFILES["smoke"]),
        (("full", 3), replace(PROFILES["full"], runs=3)),
        (("standard", None, 400), Profile("standard", 5, 400, 100, 30)),  # the shares stay, of clean images too
        (("smoke", None, 2), Profile("smoke", 1, 2, 2, 2)),
    ],
)
def test_a_profile_has_the_numbers_that_are_asked_for(asked, expected):
    assert profile_of(*asked) == expected


@pytest.mark.parametrize(
    ("asked", "available", "expected"),
    [
        ((1, 400, 0.5), 10_000, (400, 200, 60)),
        ((None, None, 0.1), 10_000, (2_000, 200, 60)),
        ((None, None, 0.1), 300, (2_000, 30, 9)),  # not all 300, which are fewer than a tenth of 2,000 and more
        ((None, 10_000, 0.1), 300, (10_000, 30, 9)),
        ((None, 400, None), 30, (400, 100, 30)),  # as registered bounds have it
        ((None, None, 0.01), 20, (2_000, 2, 2)),
    ],
)
def test_the_share_for_expensive_attacks_is_one_of_the_images_that_are_there(asked, available, expected):
    profile = profile_of("standard", *asked).of(available)
    assert (profile.images, profile.lbfgs_images, profile.adaptive_images) == expected


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: profile_of("smoke", 0), "--runs must be 1 or more; got 0"),
        (lambda: profile_of("smoke", None, 1), "--images must be 2 or more; got 1"),
        (lambda: profile_of("smoke", None, None, 1.5), "--attack-share must be above 0 and at most 1; got 1.5"),
        (lambda: draws_of(1), "--draws must be 2 or more; got 1"),
        (lambda: seed_of(-1, pilot=False), "--first-seed must be 0 or more; got -1"),
        (lambda: seed_of(1000, pilot=False), "--first-seed must be below 1000, where .* pilots begin; got 1000"),
        (lambda: seed_of(5, pilot=True), "--first-seed must be left out with --pilot, whose seeds start at 1000"),
        *(
            (
                lambda text=text: budget_of(text),
                f"budget \\(--epsilon\\) must be above 0 and at most 0.4, as attacks .* got '{text}'",
            )
            for text in ("0", "-0.1", "0.41", "8", "255/8", "8/0", "nan", "inf", "8 of 255", "")
        ),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_option_s_name(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_budgets_are_decimals_or_fractions_and_the_usual_ones_follow_the_colour():
    assert [budget_of(text) for text in ("0.1", ".1", "8/255", "0.5/255", "1e-3")] == [
        0.1,
        0.1,
        8 / 255,
        0.5 / 255,
        0.001,
    ]
    assert (usual_budget(1), usual_budget(3)) == (0.2, 8 / 255)
    for budget in (0.2, 8 / 255, 0.5 / 255, 1 / 7, 0.123456789):
        assert budget_of(text_of(budget)) == budget


def test_no_attack_of_the_largest_budget_moves_a_pixel_by_more_than_1():
    protocol = replace(PROTOCOL, budget=MOST)
    sizes = [trial.epsilon for row in sweeps(protocol).values() for trial in row]
    assert max(sizes + [protocol.size(condition) for condition in (*protocol.conditions, *CLEANED)]) == 1.0


def test_seeds_of_claims_and_pilots():
    assert [seed_of(None, pilot=False), seed_of(5, pilot=False), seed_of(None, pilot=True)] == [0, 5, 1000]


def test_many_and_few_draws_follow_the_draws():
    protocols = PROTOCOL, replace(PROTOCOL, draws=6)
    assert [(one.few_draws, one.draws, one.many_draws) for one in protocols] == [(5, 10, 50), (3, 6, 30)]


def test_plain_values_bring_no_torch():
    modules = "vaecore.suite.study.conditions, vaecore.suite.study.protocol, vaecore.suite.facts"
    script = f"import sys, {modules}; sys.exit(str([n for n in ('torch', 'numpy') if n in sys.modules]))"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603
    assert process.stderr.strip() == "[]"
