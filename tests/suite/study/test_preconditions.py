"""Do preconditions see models, attacks and sets of which claims mean nothing?"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from vaecore import Images, fgsm
from vaecore.suite.study.preconditions import (
    LARGEST,
    SMALLEST,
    attacks_among,
    in_bytes,
    look_first,
    of_attacks,
    of_models,
    of_sets,
    sets_among,
    share_of_others,
)
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.suite.study.setup import Dataset, Setup

SIDE, CLASSES = 8, 4


def images(count, seed):
    """A class is a column pair that is bright; one image in twenty has the label of another class."""
    generator = np.random.default_rng(seed)
    shown = np.arange(count) % CLASSES
    pixels = generator.uniform(0, 0.2, (count, 1, SIDE, SIDE)).astype(np.float32)
    for row, place in enumerate(shown):
        pixels[row, :, :, 2 * place : 2 * place + 2] += 0.5
    labels = np.where(np.arange(count) % 20 == 7, (shown + 1) % CLASSES, shown)
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels), "mine.npz", "test")


class Columns(nn.Module):
    """Labels an image by its brightest pair of columns, with logits as steep as is asked for."""

    def __init__(self, steepness=10.0):
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(float(steepness)))

    def forward(self, pixels):
        return self.steepness * pixels.mean(dim=(1, 2)).unflatten(1, (CLASSES, 2)).mean(dim=2)


class Copy(nn.Module):
    """A VAE that gives back the image, or one picture for all."""

    def __init__(self, *, keeps=True):
        super().__init__()
        self.keeps = nn.Parameter(torch.tensor(float(keeps)))

    def encode(self, pixels):
        flat = pixels.flatten(1)
        return flat, torch.full_like(flat, -20.0)

    def decode(self, latents):
        shown = latents.view(-1, 1, SIDE, SIDE)
        return (self.keeps * shown + (1 - self.keeps) * 0.5).clamp(0, 1)


@pytest.fixture
def setup(tmp_path):
    """A study of 100 images of four classes, one in twenty with the wrong label; models are passed by hand."""
    arrays = {}
    for split, seed in (("train", 0), ("test", 1)):
        made = images(100, seed)
        arrays |= {f"{split}_images": made.pixels[:, 0].numpy(), f"{split}_labels": made.labels.numpy()}
    np.savez(tmp_path / "mine.npz", **arrays)
    protocol = Protocol(Profile("standard", 2, 100, 100, 8), budget=0.2)
    return Setup(Dataset(str(tmp_path / "mine.npz"), "as asked"), protocol, device=torch.device("cpu"))


def found(setup, vae, classifier, budget=None):
    """The preconditions of two runs with these models, by name."""
    shard = setup.shard((0, 100)).tensors
    budget = setup.protocol.budget if budget is None else budget
    attacked = [
        {"images": fgsm(classifier, shard["pixels"], shard["labels"], epsilon=min(1.0, size * budget)).images}
        for size in (SMALLEST.size, LARGEST.size)
    ]
    looked = [look_first(seed, "cpu", shard, None, None, vae, classifier) for seed in (0, 1)]
    under = [look_first(seed, "cpu", shard, *attacked, vae, classifier) for seed in (0, 1)]
    right = np.stack([(run["clean"] == run["true"]).numpy() for run in looked])
    every = [*of_models(setup, looked, right), *of_attacks(setup, under, frozenset({"fgsm-0.2"}))]
    return {one.name: one for one in every}


GOOD = Copy().eval(), Columns().eval()


def test_good_models_meet_them_with_these_numbers(setup):
    every = found(setup, *GOOD, budget=0.4)
    assert all(one.met for one in every.values())
    numbers = {name: one.value for name, one in every.items()}
    assert numbers["classifier near chance"] == 0.95
    assert every["classifier near chance"].least == pytest.approx(0.3 + 0.25 * 0.7)  # 30 images have one label
    assert numbers["reconstructions lose the label"] == 1
    assert numbers["few mistakes"] == 10
    assert numbers["attack powerless"] > 0.9


@pytest.mark.parametrize(
    ("name", "models", "budget", "undermines"),
    [
        ("classifier near chance", (GOOD[0], Columns(-10.0).eval()), 0.4, {*"ABDE"}),
        ("reconstructions lose the label", (Copy(keeps=False).eval(), GOOD[1]), 0.4, {*"ADE"}),
        ("attack saturated", GOOD, 4.0, {"fgsm-0.2"}),
        ("attack powerless", GOOD, 0.001, {"fgsm-0.2"}),
    ],
)
def test_what_is_amiss_is_named_with_what_it_undermines(setup, name, models, budget, undermines):
    one = found(setup, *models, budget=budget)[name]
    assert not one.met
    assert one.undermines == undermines
    assert "would be enough" in str(one)


def test_few_mistakes_are_counted_over_all_runs(setup):
    looked = [look_first(0, "cpu", setup.shard((0, 100)).tensors, None, None, *GOOD)]
    for wrong, met in (([5, 5], True), ([5, 4], False)):
        right = np.stack([np.arange(100) >= count for count in wrong])
        (one,) = [one for one in of_models(setup, looked, right) if one.name == "few mistakes"]
        assert (one.met, one.value, one.undermines) == (met, sum(wrong), {*"BE"})


@pytest.mark.parametrize(("shared", "met"), [(0, True), (60, False)])
def test_a_set_outside_that_is_the_test_set_again_undermines_claims_on_it(setup, tmp_path, shared, met):
    pixels = torch.cat([setup.test.pixels[:shared], images(60, 2).pixels])
    np.savez(tmp_path / "again.npz", images=pixels[:, 0].numpy())
    study = replace(setup, ood=(str(tmp_path / "again.npz"),))
    names = {"outside/again.npz", "outside/inside"}

    def found(names):
        shares = {one: share_of_others(study, one, in_bytes(study.test)) for one in sets_among(study, names)}
        return of_sets(study, shares)

    (one,) = found(names)
    assert one.met == met
    assert one.undermines == (
        set()
        if met
        else {
            "outside/again.npz",
            "outside/again.npz/hidden-0.3",
            "trained-on/again.npz/inside",
            "trained-on/again.npz/outside",
        }
    )
    assert found({"clean"}) == []
    assert found(None)[0].met == met  # with all made sets


def test_claims_on_attacks_alone_ask_for_attacks(setup):
    assert attacks_among(setup, {"clean", "uniform-0.2"}) == set()
    assert attacks_among(setup, {"clean", "fgsm-0.2", "lbfgs"}) == {"fgsm-0.2", "lbfgs"}
    assert {"fgsm-0.05", "lbfgs", "joint-0.3"} < attacks_among(setup, None)
