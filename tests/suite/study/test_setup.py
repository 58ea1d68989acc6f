"""What a study looks at: test images nested in one order, training images held out from a run's models, pilots' own."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from vaecore import load_images
from vaecore.suite.study.conditions import CLEAN, FGSM, GAUSSIAN, JOINT, LBFGS
from vaecore.suite.study.models import seen
from vaecore.suite.study.protocol import PROFILES, Profile, Protocol
from vaecore.suite.study.setup import Dataset, Setup, choose_dataset
from vaecore.suite.study.study import Study


@pytest.fixture
def setup():
    protocol = Protocol(Profile("test", 2, 6, 4, 3))
    return Setup(Dataset("digits", "for tests"), protocol, device=torch.device("cpu"))


def test_the_file_that_stands_for_a_named_set_is_told(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    parts = {
        f"{split}_{kind}": array
        for split in ("train", "test")
        for kind, array in zip(("images", "labels"), (pixels, [0, 1, 2]), strict=True)
    }
    np.savez(tmp_path / "cifar-10-subset.npz", **parts)
    dataset = choose_dataset("cifar-10", str(tmp_path))
    assert dataset == Dataset("cifar-10", "as asked, from cifar-10-subset.npz", str(tmp_path))
    assert Setup(dataset).test.name == "cifar-10"
    assert choose_dataset("cifar-100", str(tmp_path)).why == choose_dataset("digits", None).why == "as asked"


def test_test_images_are_nested_and_the_same_for_all_studies(setup):
    small, large = (replace(setup, protocol=Protocol(PROFILES[name])) for name in ("smoke", "standard"))
    assert torch.equal(small.indices, large.indices[:200])
    assert sorted(large.indices.tolist()) == list(range(797))
    given = small.shard((3, 7)).tensors
    assert torch.equal(given["indices"], large.indices[3:7])
    assert torch.equal(given["pixels"], small.test.pixels[large.indices[3:7]])
    assert torch.equal(given["labels"], small.test.labels[large.indices[3:7]])


def test_no_more_images_are_looked_at_than_there_are(setup):
    assert [setup.count(condition) for condition in (CLEAN, LBFGS, GAUSSIAN, JOINT(1.5))] == [6, 4, 4, 3]
    assert replace(setup, protocol=Protocol(PROFILES["standard"])).count(CLEAN) == 797


def test_shards_follow_one_another(setup):
    assert setup.shards(7, 3) == [(0, 3), (3, 6), (6, 7)]
    assert setup.shards(1000) == [(0, 500), (500, 1000)]


def test_each_run_holds_out_other_training_images_from_its_models(setup):
    whole = load_images("digits", "train")
    places = {seed: setup.held_places(seed).tensors["places"] for seed in setup.seeds}
    assert {len(held) for held in places.values()} == {int(0.1 * len(whole))}
    assert len({*places[0].tolist()} & {*places[1].tolist()}) < 0.3 * len(places[0])
    for number, seed in enumerate(setup.seeds):
        held, kept = places[seed], sorted({*range(len(whole))} - {*places[seed].tolist()})
        assert torch.equal(setup.held_out(seed).pixels, whole.pixels[held])
        assert torch.equal(setup.held(seed).tensors["indices"], held)
        for kind in ("vae", "classifier", "autoencoder"):
            inputs = setup.weights(kind, number).inputs
            learned = seen(inputs["train"].tensors, inputs["held_out"].tensors)
            assert torch.equal(learned.pixels, whole.pixels[kept])
            assert torch.equal(learned.labels, whole.labels[kept])
        assert torch.equal(setup.seen(seed).pixels, whole.pixels[kept])


def test_a_pilot_looks_at_training_images_that_no_model_of_it_sees(setup):
    whole, pilot = load_images("digits", "train"), replace(setup, first_seed=1000)
    looked_at = pilot.test
    assert len(looked_at) == int(len(whole) / 3)
    assert len(looked_at) + len(pilot.train) == len(whole)
    joined = torch.cat([looked_at.pixels, pilot.train.pixels]).flatten(1)
    assert sorted(map(bytes, joined.numpy())) == sorted(map(bytes, whole.pixels.flatten(1).numpy()))
    for seed in pilot.seeds:
        held, learned = pilot.held_out(seed), pilot.seen(seed)
        assert len(held) + len(learned) == len(pilot.train)
    assert pilot.test_images == setup.test == load_images("digits", "test")
    assert pilot.training.key != setup.training.key


def test_what_training_images_are_for_is_said_and_why_there_are_none(setup, tiny, untrained):
    names = tiny.setup.vae.partition(":")[0]
    module, came = sys.modules[names], "came trained, on images that are not known here"
    module.make_vae = lambda seed, images: module.vae(seed)
    module.finished = module.classifier(0).eval()
    fitted = "fit scores and alarms"
    for given, use in (
        (setup, f"train the VAE and the classifier, {fitted}"),
        (tiny.setup, f"{fitted}; the VAE and the classifier {came}"),
        (replace(tiny.setup, vae=f"{names}:make_vae"), f"train the VAE, {fitted}; the classifier {came}"),
        (replace(setup, classifier=f"{names}:finished"), f"train the VAE, {fitted}; the classifier {came}"),
        (untrained, "none at hand, as both models came finished"),
    ):
        facts = Study.of(given, tiny.plan.store).facts
        assert facts.train_use == use
        whole = None if given is untrained else given.dataset.training
        assert facts.train_digest == (None if whole is None else whole.digest)
        assert facts.train_images == (None if whole is None else len(whole))


def test_each_run_has_models_and_attacks_of_its_own(setup):
    for kind in ("vae", "classifier", "autoencoder"):
        assert [setup.weights(kind, number).arguments["seed"] for number in range(2)] == [0, 1]
        assert setup.model(kind, 0).key != setup.model(kind, 1).key
        assert setup.model(kind, 0) is setup.model(kind, 0)  # so that its key is computed once
    assert setup.attack(LBFGS, 0, (0, 4)).key != setup.attack(LBFGS, 1, (0, 4)).key
    pilot = replace(setup, first_seed=1000)
    assert pilot.seeds == [1000, 1001]
    assert pilot.pilot
    assert not setup.pilot


def test_attacks_depend_on_the_models_that_their_attacker_knows_and_on_no_other(setup):
    def inputs(condition):
        return {*setup.attack(condition, 0, (0, 3)).inputs}

    assert inputs(CLEAN) == {"shard"}
    assert inputs(FGSM(1)) == inputs(LBFGS) == {"shard", "classifier"}
    assert inputs(JOINT(1.5)) == {"shard", "classifier", "vae"}
    for number in range(2):
        of_run = setup.attack(JOINT(1.5), number, (0, 3)).inputs
        assert all(of_run[kind] is setup.model(kind, number) for kind in ("vae", "classifier"))
    assert inputs(GAUSSIAN) == {"shard", "twin"}
    assert setup.attack(GAUSSIAN, 1, (0, 3)).inputs["twin"].key == setup.attack(LBFGS, 1, (0, 3)).key
