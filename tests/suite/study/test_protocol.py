"""Conditions and protocol: names, sizes, threat models and counts; what follows the budget; plain values alone."""

import subprocess
import sys
from dataclasses import replace

import pytest

from vaecore.suite.study.cleaning import CLEANED, MAJORITY
from vaecore.suite.study.conditions import (
    CLEAN,
    CONFIDENT,
    EVADE,
    EVADE_KNOWN,
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
    UNIFORM,
)
from vaecore.suite.study.decisions import ASKED
from vaecore.suite.study.protocol import PROFILES, Protocol, profile_of

PROTOCOL = Protocol()
SIZES = {
    0.2: ("0.05", "0.1", "0.15", "0.2", "0.25", "0.3"),
    0.1: ("0.025", "0.05", "0.075", "0.1", "0.125", "0.15"),
    8 / 255: ("0.00784314", "0.0156863", "0.0235294", "0.0313725", "0.0392157", "0.0470588"),
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
    PGD(0.5): "PGD knows the classifier and its weights, and nothing of the VAE or of any purifier; changes each pixel"
    " by 0.1 at most.",
    PURIFIED(0.5, label=MAJORITY): "White box: PGD knows the classifier and the purifier vae-majority with its"
    " parameters, all but the random numbers of its draws (EOT); changes each pixel by 0.1 at most.",
    ROTATED(15): "No attacker: test images turned by 15 degrees.",
    NOISY(0.3): "No attacker: Gaussian noise of standard deviation 0.3 a pixel, which nobody aims.",
    MIX: "No attacker: test images as they are, mixed half and half with images from outside the data set.",
    INSIDE: "No attacker: test images as they are.",
    OUTSIDE(label="kmnist"): "No attacker: images of kmnist, which are not of the data set.",
}
ELSEWHERE = {  # conditions of other families than that of the protocol's own
    "pgd-0.1": PGD(0.5),
    "purified/vae-majority/pgd-0.1": PURIFIED(0.5, label=MAJORITY),
    "decisions/rotated-15": ROTATED(15),
    "decisions/gaussian-0.3": NOISY(0.3),
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
    assert names == ["clean", *sized, *minimal, *adaptive]
    for condition in (*protocol.conditions, PGD(0.25), PURIFIED(1.25, label="blur")):
        if condition.kind.unit == "budgets":
            size = f"{protocol.size(condition):g}"
            assert size in sizes
            assert protocol.name(condition).endswith(f"-{size}")
            assert f" {size} " in protocol.threat(condition)
            assert size in protocol.title(condition)
    assert [protocol.name(condition) for condition in (ROTATED(15), NOISY(0.3))] == ["rotated-15", "gaussian-0.3"]


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
    fewest = {JOINT(1.5), EVADE(1), EVADE(1.5), EVADE_KNOWN(1.5)}
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


def test_profiles_by_name_and_number_of_runs():
    assert profile_of("smoke", None) is PROFILES["smoke"]
    assert profile_of("full", 3) == replace(PROFILES["full"], runs=3)
    with pytest.raises(ValueError, match="--runs must be 1 or more; got 0"):
        profile_of("smoke", 0)


def test_plain_values_bring_no_torch():
    modules = "vaecore.suite.study.conditions, vaecore.suite.study.protocol, vaecore.suite.facts"
    script = f"import sys, {modules}; sys.exit(str([n for n in ('torch', 'numpy') if n in sys.modules]))"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603
    assert process.stderr.strip() == "[]"
