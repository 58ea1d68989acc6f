"""Colour and odd sizes in a study: squared errors, images for figures, and all its evidence."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import vaecore as vc
from vaecore.suite import CLEAN, CLEANING, DECISIONS, EVADE, LBFGS, SCORES, SQUEEZING, Study
from vaecore.suite.images import pack, unpack
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.study.draws import look
from vaecore.suite.study.perturbations import perturb
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.suite.study.sections import cleaning
from vaecore.suite.study.setup import Dataset, Setup
from vaecore.suite.study.yardstick import attack_robust, train_robust
from vaecore.toolkit import seed_for

NEED_BACKGROUND = {"A20a", "A20b", "A21a", "A21d", "D4", "D11a", "D11b", "D11c", "D12a", "E4", "E8a", "E8b"}
IMAGES = torch.rand(6, 3, 17, 23, generator=torch.Generator().manual_seed(0))
SHARD = {"pixels": IMAGES, "labels": torch.arange(6) % 4, "indices": torch.arange(6)}


def models(shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if shape[1:] == (8, 16):
            vae = vc.ConvVAE(vc.ConvVAEConfig(latent_channels=2, channels=(4, 4, 8)), shape)
            classifier = vc.ResidualClassifier(vc.ResidualConfig(channels=(4, 4, 8)), shape, 4)
        else:
            vae = vc.VAE(vc.VAEConfig(latent_size=4, hidden_size=8), shape)
            classifier = vc.Classifier(vc.ClassifierConfig(channels=(3, 4), hidden_size=8), shape, 4)
    return vae.eval().requires_grad_(requires_grad=False), classifier.eval().requires_grad_(requires_grad=False)


VAE, CLASSIFIER = models((3, 17, 23))


def test_the_squared_error_of_a_draw_is_the_mean_over_channels():
    clean = perturb("clean", 0.0, {}, 0, 5, "cpu", SHARD)
    columns = look(10, 0, "float32", "cpu", 0, SHARD, clean, VAE, CLASSIFIER)
    again = vc.reconstruct(VAE, IMAGES, draws=10, seed=seed_for("reconstructions", 0)).double()
    squares = (again - IMAGES.double().unsqueeze(1)).square().flatten(2).mean(dim=2)
    assert_close(columns["draw_mse"].double(), squares, atol=1e-6, rtol=1e-4)


def test_images_are_packed_as_figures_take_them():
    rounded = (IMAGES * 255).round() / 255
    assert np.array_equal(unpack(pack(rounded.numpy())), (rounded * 255).round().byte().permute(0, 2, 3, 1).numpy())


@pytest.fixture(params=[(3, 6, 9), (3, 8, 16)], ids=["6x9", "8x16"])
def study(request, tmp_path, monkeypatch):
    """A study of colour images with the models of `models`, untrained."""
    shape = request.param
    made = ModuleType("a_users_colours")
    pixels = np.random.default_rng(0).random((60, *shape), dtype=np.float32)
    made.data = (pixels, np.arange(60) % 4)
    made.vae, made.classifier = models(shape)
    monkeypatch.setitem(sys.modules, made.__name__, made)
    setup = Setup(
        Dataset("a_users_colours:data", "as asked", str(tmp_path)),  # no data folder, whatever the environment says
        Protocol(Profile("standard", 1, 8, 3, 3)),
        device=torch.device("cpu"),
        vae="a_users_colours:vae",
        classifier="a_users_colours:classifier",
    )
    return Study.of(setup, vc.Store(tmp_path / "cache"))


def test_the_yardstick_is_the_reference_classifier_of_colour():
    pixels = torch.rand(40, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    train = {"pixels": pixels, "labels": torch.arange(40) % 4}
    config = vc.reference_configs(vc.Images(pixels, train["labels"], "some", "train"))[1]
    weights = train_robust(8 / 255, 0, "cpu", train)
    shard = {name: part[:6] for name, part in (train | {"indices": torch.arange(40)}).items()}
    effort = {"steps": 2, "queries": 4}
    right = attack_robust(8 / 255, 0, "cpu", config, (3, 8, 16), 4, effort, shard, weights)["right"]
    assert right.shape == (6,)
    assert right.dtype == torch.bool


@pytest.mark.slow
def test_a_study_of_small_colour_images_has_all_its_evidence(study):
    study.setup.check()
    _, height, width = study.setup.test.shape
    size = f"{height}x{width}"
    left_out = {"letters": f"28x28 in grey, where a_users_colours.data is {size} in colour"}
    if height % 4:
        left_out["shuffled-patches"] = f"4 does not divide {size}"
    assert study.facts.left_out == left_out
    assert study.outside.lacks("kmnist").startswith(
        f"takes images of kmnist, which are not at hand as {size} in colour ("
    )
    assert study.table(LBFGS)["l2"].shape == (1, 3)
    assert study.table(EVADE(1.5))["l2"].shape == (1, 3)
    scores = study.table(study.outside.condition("rotated-90"), of=SCORES).columns
    assert set(scores) == set(vc.scores)
    assert all(np.isfinite(column).all() for column in scores.values())
    cleaned = study.table(CLEAN, of=CLEANING).columns
    assert {"bit-depth", "jpeg"} < set(cleaned)
    assert "threshold" not in cleaned
    judges = study.table(CLEAN, of=DECISIONS).columns
    assert "bit-depth-temperature/nll" in judges
    assert "threshold-temperature/nll" not in judges
    assert "disagreement/threshold" not in study.table(CLEAN, of=SQUEEZING).columns
    why = "needs images with a background, black in a tenth of all pixels or more; a_users_colours.data has none"
    for name, claim in load_registry("mine.npz").claims.items():
        assert (study.lacks(claim) == why) == (name in NEED_BACKGROUND)
    assert cleaned["blur"].shape == cleaned["vae-majority"].shape == (1, 8)
    strips = study.plan.results([task for task in cleaning.tasks(study) if task.title == "strip of cleaned images"])
    assert len(strips) == 4
    labels = study.setup.test.labels[study.setup.indices[:3]].unique()  # which can't have all four classes
    for strip in strips:
        assert strip["none/images"].shape == strip["bit-depth/images"].shape == (len(labels), 3, height, width)
