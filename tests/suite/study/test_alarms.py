"""Alarms keep their rates on images held out and are raised where plain code says; rivals are those of plain code."""

import numpy as np
import pytest
import torch

from vaecore import JPEG, BitDepth, GaussianBlur, MedianFilter
from vaecore.suite.study.alarms import RAISED
from vaecore.suite.study.conditions import CLEAN, EVADE, EVADE_MAGNET, FGSM, LBFGS
from vaecore.suite.study.draws import DRAWS, MANY_DRAWS
from vaecore.suite.study.kinds import FALSE_ALARMS, MAGNET
from vaecore.suite.study.signals import thresholds
from vaecore.suite.study.squeezing import SQUEEZING
from vaecore.suite.study.study import Study


def test_thresholds_are_the_least_that_a_share_of_images_held_out_exceeds():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1000, 10, generator=generator)
    held = {
        "logits": logits,
        **{name: torch.rand(1000, generator=generator) for name in ("mse", "disagreement", *MAGNET)},
    }
    levels = thresholds(held)
    doubt = 1 - logits.double().softmax(dim=1).amax(dim=1)
    for name, values in {**held, "max-softmax": doubt}.items():
        if name != "logits":
            for rate, level in zip(FALSE_ALARMS, levels[name], strict=True):
                assert (values.double() > level).sum() == round(1000 * rate)
                assert (values.double() >= level).sum() == round(1000 * rate) + 1


@pytest.mark.parametrize("condition", [CLEAN, EVADE(1), EVADE_MAGNET(1.5)], ids=["clean", "evade", "evade-magnet"])
def test_an_alarm_is_raised_above_its_threshold(tiny, condition):
    drawn, raised = (tiny.table(condition, of=kind) for kind in (DRAWS, RAISED))
    values = {"mse": drawn.mse, "disagreement": drawn.disagreement, "max-softmax": drawn.doubt}
    values |= {name: drawn[name] for name in MAGNET}
    for number in range(2):
        levels = tiny.plan.make(tiny.setup.thresholds(number))
        held = tiny.plan.results([tiny.setup.look_at_held_out(number)])[0]
        assert float(levels["mse"][-1]) in held["mse"].double().tolist()
        for name, value in values.items():
            for rate, level in zip(FALSE_ALARMS, levels[name].numpy(), strict=True):
                np.testing.assert_array_equal(raised[f"{name}-{rate:g}"][number], value[number] > level)
    for most in (1, 2):
        np.testing.assert_array_equal(raised[f"labels-{most}"], drawn.distinct > most)
    np.testing.assert_array_equal(raised["wrong"], drawn.wrong)
    assert raised["wrong"].origin.conditions == {tiny.setup.protocol.full_name(condition)}


def test_many_draws_begin_with_the_few(tiny):
    few, many = (tiny.table(CLEAN, of=kind) for kind in (DRAWS, MANY_DRAWS))
    assert many["draw_mse"].shape == (2, 12, 50)
    np.testing.assert_array_equal(many.first_draws(10)["draw_label"], few["draw_label"])
    np.testing.assert_allclose(many.first_draws(10)["draw_mse"], few["draw_mse"], rtol=1e-5)


@pytest.mark.parametrize("condition", [CLEAN, FGSM(1), LBFGS], ids=["clean", "fgsm", "lbfgs"])
def test_rivals_are_those_of_plain_code(tiny, condition):
    table, count = tiny.table(condition, of=SQUEEZING), SQUEEZING.count(tiny.setup, condition)
    run, attack = tiny.runs[1], tiny.setup.attack(condition, 1, (0, count))
    images = (tiny.plan.results([attack])[0] if attack.stage else tiny.plan.make(attack))["images"]
    own = run.classifier(images).double().softmax(dim=1)
    behind = {
        "bit-depth": BitDepth(5)(images),
        "median": MedianFilter()(images),
        "blur": GaussianBlur()(images),
        "jpeg": JPEG()(images),
        "vae-mean": run.vae.decode(run.vae.encode(images)[0]),
    }
    softmax = {name: run.classifier(cleaned).double().softmax(dim=1) for name, cleaned in behind.items()}
    for name, probability in softmax.items():
        expected = 1 - probability[torch.arange(count), own.argmax(dim=1)]
        np.testing.assert_allclose(table[f"disagreement/{name}"][1], expected, atol=1e-6)
    distance = [(softmax[name] - own).abs().sum(dim=1) for name in ("bit-depth", "median")]  # without a background
    np.testing.assert_allclose(table["squeezing"][1], torch.maximum(*distance), atol=1e-6)


def test_without_images_held_out_no_attacker_avoids_alarms(untrained):
    names = {condition.kind.name for condition in untrained.conditions}
    assert not names & {"evade", "evade-known", "evade-magnet"}
    assert {"joint", "fgsm"} <= names
    study = Study.of(untrained, None)
    with pytest.raises(ValueError, match="condition must be one of"):
        study.table("evade-0.3")
