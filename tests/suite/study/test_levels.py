"""Levels of a hierarchical VAE as evidence: on what it is trained, and that its columns are the library's functions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vaecore import HierarchicalVAEConfig, Store, fit_hierarchical_vae, likelihood_ratio, partial_elbo
from vaecore.suite.study import levels
from vaecore.suite.study.conditions import AWAY, HOME, INSIDE, OUTSIDE
from vaecore.suite.study.levels import LEVELS
from vaecore.suite.study.study import Study
from vaecore.toolkit import seed_for

MIRRORED = OUTSIDE(label="mirrored")
CONFIG = HierarchicalVAEConfig((1, 3, 2), (4, 8, 4), epochs=2)


@pytest.fixture
def study(tiny, tmp_path, monkeypatch):
    """The tiny study with short trainings, and another set at hand."""
    monkeypatch.setattr(levels, "hierarchical_config", lambda _: CONFIG)
    np.savez(tmp_path / "others.npz", images=np.random.default_rng(1).random((40, 8, 8), dtype=np.float32))
    return Study.of(replace(tiny.setup, ood=(str(tmp_path / "others.npz"),)), Store(tmp_path / "cache"))


def columns_of(train, shown, seed):
    """What the library says of images with their indices, by a model of a seed."""
    vae, (images, indices) = fit_hierarchical_vae(train, CONFIG, seed=seed, device="cpu"), shown
    setting = {"draws": 10, "seed": seed_for("levels", seed), "indices": indices}
    elbo, ratio = (function(vae, images.pixels, **setting) for function in (partial_elbo, likelihood_ratio))
    return {"elbo": -elbo, "likelihood-ratio": ratio}


@pytest.mark.parametrize("condition", [INSIDE, MIRRORED])
def test_columns_are_the_library_s_by_a_model_of_each_run(study, condition):
    table, setup = study.table(condition, of=LEVELS), study.setup
    for number, seed in enumerate(setup.seeds):
        expected = columns_of(setup.seen(seed), setup.sets.images(condition), seed)
        assert table.columns.keys() == expected.keys()
        for name, column in expected.items():
            np.testing.assert_allclose(table[name][number], column, rtol=1e-4, atol=1e-3, err_msg=name)


def test_of_a_set_it_is_trained_on_it_does_not_see_what_it_is_judged_on(study):
    setup = study.setup
    (label,) = (one.label for one in setup.sets.conditions if one.label.startswith("others"))
    whole, held_out, home = setup.sets.parted(HOME(label=label))
    assert {*home.tolist()} <= {*held_out.tolist()}
    places = torch.tensor([place for place in range(len(whole)) if place not in held_out.tolist()])
    shown = {HOME: (whole.take(home), home), AWAY: setup.sets.images(INSIDE)}
    for kind, images in shown.items():
        table = study.table(kind(label=label), of=LEVELS)
        expected = columns_of(whole.take(places), images, setup.seeds[1])
        for name, column in expected.items():
            np.testing.assert_allclose(table[name][1], column, rtol=1e-4, atol=1e-3, err_msg=name)


def test_without_training_images_there_is_none(untrained, tmp_path):
    assert Study.of(untrained, Store(tmp_path)).table(INSIDE, of=LEVELS).columns == {}
