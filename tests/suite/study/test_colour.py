"""Colour and odd sizes in a study: squared errors, images for figures, and all its evidence."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import vaecore as vc
from vaecore.suite.packing import pack, unpack
from vaecore.suite.study import cleaning
from vaecore.suite.study.draws import CLEAN, DRAWS, Shard, collect
from vaecore.suite.study.study import Dataset, Profile, Study
from vaecore.toolkit import seed_for

IMAGES = torch.rand(6, 3, 17, 23, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 4


def models(shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = vc.VAE(vc.VAEConfig(latent_size=4, hidden_size=8), shape)
        classifier = vc.Classifier(vc.ClassifierConfig(channels=(3, 4), hidden_size=8), shape, 4)
    return vae.eval().requires_grad_(requires_grad=False), classifier.eval().requires_grad_(requires_grad=False)


VAE, CLASSIFIER = models((3, 17, 23))


def test_the_squared_error_of_a_draw_is_the_mean_over_channels():
    table = collect(VAE, CLASSIFIER, Shard(IMAGES, LABELS, torch.arange(6), 0), CLEAN)
    from_table = table["draw_mse"][:, :DRAWS].double()
    seed = seed_for("reconstructions", 0)
    again = vc.reconstruct(VAE, IMAGES, draws=DRAWS, seed=seed).double()
    assert_close(
        from_table, (again - IMAGES.double().unsqueeze(1)).square().flatten(2).mean(dim=2), atol=1e-6, rtol=1e-4
    )


def test_images_are_packed_as_figures_take_them():
    rounded = (IMAGES * 255).round() / 255
    assert np.array_equal(unpack(pack(rounded)), (rounded * 255).round().byte().permute(0, 2, 3, 1).numpy())


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of colour images of 6x9 with the models of `models`, untrained."""
    made = ModuleType("a_users_colours")
    pixels = np.random.default_rng(0).random((60, 3, 6, 9), dtype=np.float32)
    made.data = (pixels, np.arange(60) % 4)
    made.vae, made.classifier = models((3, 6, 9))
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return Study(
        Dataset("a_users_colours:data", "as asked"),
        Profile("standard", 1, 8, 3, 3),
        vc.Store(tmp_path / "cache"),
        root=str(tmp_path),  # no data folder, whatever the environment says
        device=torch.device("cpu"),
        vae="a_users_colours:vae",
        classifier="a_users_colours:classifier",
    )


def test_a_study_of_small_colour_images_has_all_its_evidence(study):
    study.check()
    assert study.outside.left_out == {
        "letters": "28x28 in grey, where a_users_colours.data is 6x9 in colour",
        "shuffled-patches": "4 does not divide 6x9",
    }
    assert study.outside.lacks("kmnist").startswith("takes images of kmnist, which are not at hand as 6x9 in colour (")
    assert study.table("lbfgs")["l2"].shape == (1, 3)
    assert study.table("joint-mse-0.3")["l2"].shape == (1, 3)
    scores = study.outside.scores("rotated-90")
    assert set(scores.columns) == set(vc.scores)
    assert all(np.isfinite(column).all() for column in scores.columns.values())
    cleaned = study.cleaning.table("clean")
    assert cleaned["blur"].shape == cleaned["vae-majority"].shape == (1, 8)
    strip = cleaning._strip(study)  # of three images, which cannot have all four classes
    assert strip["labels"] == sorted(set(strip["labels"]))
    assert unpack(strip["rows"][0]["pixels"]).shape == (len(strip["labels"]), 6, 9, 3)
