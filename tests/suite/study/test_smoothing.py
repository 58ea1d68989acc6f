"""Certificates and the yardstick of family D: what is asked of the library, of which runs and images."""

import pytest
import torch

from vaecore import Classifier, Purified, Store, VAEPurifier, certify, reference_configs, worst_case
from vaecore.suite.study.conditions import SMOOTHED, WORST_CASE
from vaecore.suite.study.smoothing import CERTIFICATES, CLEANED, DRAWS, NONE
from vaecore.suite.study.study import Study
from vaecore.suite.study.yardstick import YARDSTICK
from vaecore.toolkit import seed_for


@pytest.fixture(scope="module")
def study(tiny, tmp_path_factory):
    return Study.of(tiny.setup, Store(tmp_path_factory.mktemp("smoothing")))


def test_certificates_are_the_library_s_with_and_without_the_vae(study):
    table = study.table(SMOOTHED(0.25), of=CERTIFICATES)
    assert table[NONE].shape == table[CLEANED].shape == (2, study.setup.protocol.trial_images)
    shard = study.setup.shard((0, table[NONE].shape[1])).tensors
    for number, run in enumerate(study.runs):
        for name, model in ((NONE, run.classifier), (CLEANED, Purified(VAEPurifier(run.vae), run.classifier))):
            setting = {"sigma": 0.25, "draws": DRAWS, "indices": shard["indices"]}
            found = certify(model, shard["pixels"], seed=seed_for("certify", run.seed), **setting)
            right = found.label == shard["labels"]
            assert table[name][number].tolist() == found.radius.where(right, -1).tolist()


def test_the_yardstick_is_of_the_first_run_and_attacked_by_the_ensemble(study):
    (task,) = YARDSTICK.tasks(study.setup, WORST_CASE(1.5))
    right = study.table(WORST_CASE(1.5), of=YARDSTICK)["right"]
    assert right.shape == (1, study.setup.protocol.profile.adaptive_images)
    weights = task.inputs["weights"]
    assert weights.arguments["epsilon"] == pytest.approx(1.5 * study.setup.protocol.budget)
    assert weights.arguments["seed"] == study.setup.seeds[0]
    train = study.setup.train
    model = Classifier(reference_configs(train)[1], train.shape, train.classes)
    model.load_state_dict(study.plan.results([weights])[0])
    shard = study.setup.shard((0, right.shape[1])).tensors
    attack = worst_case(
        model.eval(), shard["pixels"], shard["labels"], epsilon=0.3, seed=seed_for("attack/robust", 0), steps=50,
        queries=500, indices=shard["indices"],
    )  # fmt: skip
    assert torch.equal(torch.from_numpy(right[0].copy()), ~attack.success)
