"""Studies: models told apart, images on which an attack failed left out, options that need a whole study."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vaecore import VAE, Store, VAEConfig, load_images
from vaecore.suite.study.draws import CLEAN, CONFIDENT, JOINT, JOINT_MSE, LBFGS, Table
from vaecore.suite.study.study import PROFILES, Dataset, Profile, Study
from vaecore.suite.study.user_models import makes_models, model_digest, user_model

PROBE = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def linear(activation):
    layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), activation, nn.Linear(16, 3))
    for parameter in layers.parameters():
        parameter.data.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    return layers.eval()


class Scaled:
    """No torch module: its scale is no weight."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, images):
        return self.scale * images.flatten(1)[:, :3]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda x: x.flatten(1)[:, :3], lambda x: x.flatten(1)[:, :3] * 0),
        (linear(nn.ReLU()), linear(nn.Tanh())),
        (linear(nn.Dropout(0.1)), linear(nn.Dropout(0.2))),
        (Scaled(1.0), Scaled(2.0)),
    ],
    ids=["closures", "activations", "settings", "attributes"],
)
def test_models_that_differ_have_digests_that_differ(first, second):
    with torch.no_grad():
        assert model_digest(first, "classifier", PROBE) == model_digest(first, "classifier", PROBE)
        assert model_digest(first, "classifier", PROBE) != model_digest(second, "classifier", PROBE)


def test_one_weight_changes_the_digest():
    vae = VAE(VAEConfig(latent_size=2, hidden_size=4), (28, 28)).requires_grad_(requires_grad=False)
    before = model_digest(vae, "vae", PROBE)
    vae.decoder.bias[0] += 1e-3
    assert model_digest(vae, "vae", PROBE) != before


def no_images():
    raise ValueError("there are no training images")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("torch.nn:functional", "classifier", "must be a module or a maker"),
        ("torch.nn:Linear", "classifier", "there are no training images"),
        ("torch.nn:Dropout2d", "vae", "calling it with 7 raised ValueError: dropout probability"),
        ("builtins:float", "vae", "lacks encode, decode"),
        ("no.such:thing", "vae", "can't be imported"),
        ("absent.safetensors", "vae", "a file that exists"),
    ],
)
def test_unusable_models_are_refused(text, kind, message):
    with pytest.raises(ValueError, match=message):
        _ = makes_models(text, kind), user_model(text, kind, 7, torch.device("cpu"), no_images)


class Coder:
    """A finished VAE that is no torch module."""

    def encode(self, images):
        return images.flatten(1)[:, :2], images.flatten(1)[:, 2:4]

    def decode(self, latents):
        return latents.sigmoid()[:, :1, None, None].expand(-1, 1, 28, 28)


def test_a_finished_vae_needs_no_torch(monkeypatch):
    module = ModuleType("a_users_module")
    module.coder = Coder()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert not makes_models("a_users_module:coder", "vae")
    assert user_model("a_users_module:coder", "vae", 0, torch.device("cpu"), no_images) is module.coder
    assert len(model_digest(module.coder, "vae", PROBE)) == 32


def columns(success, l2):
    success, l2 = np.array(success), np.array(l2, dtype=np.float32)
    index = np.tile(np.arange(success.shape[1]), (len(success), 1))
    draws = np.zeros((*success.shape, 10), dtype=np.int16)
    return Table({"success": success, "l2": l2, "index": index, "draw_label": draws})


@pytest.fixture
def attacked(tmp_path):
    profile = Profile("test", 2, 6, 4, 3)
    made = Study(Dataset("digits", "for tests"), profile, Store(tmp_path), device=torch.device("cpu"))
    made._tables[CLEAN] = columns(np.ones((2, 6), dtype=bool), np.zeros((2, 6)))
    success = np.array([[1, 1, 0, 1], [1, 1, 1, 1]], dtype=bool)
    made._tables[LBFGS] = columns(success, [[1, 2, np.nan, 0], [1, 2, 3, 4]])
    return made


def test_failures_of_lbfgs_are_left_out_and_counted(attacked):
    clean, found = attacked.paired(CLEAN, LBFGS)
    assert clean["index"].tolist() == found["index"].tolist() == [[0, 1], [0, 1]]
    assert attacked.kept == 0.5
    assert attacked.paired(CLEAN)[0]["index"].shape == (2, 6)


def test_failures_of_another_attack_are_left_out_with_its_twin(attacked):
    success = np.array([[1, 1, 1, 1], [1, 1, 0, 1]], dtype=bool)
    attacked._tables[CONFIDENT] = columns(success, np.ones((2, 4)))
    attacked._tables[f"gaussian-{CONFIDENT}"] = columns(np.ones((2, 4), dtype=bool), np.ones((2, 4)))
    assert attacked.paired(f"gaussian-{CONFIDENT}")[0]["index"][0].tolist() == [0, 1, 3]
    assert attacked.paired(LBFGS, CONFIDENT)[0]["index"][0].tolist() == [0, 1]


def test_dear_attacks_get_fewer_images(attacked):
    counts = {name: attacked.count(name) for name in (CLEAN, "fgsm-0.1", LBFGS, CONFIDENT, JOINT, JOINT_MSE)}
    assert list(counts.values()) == [6, 6, 4, 4, 3, 3]
    assert attacked.count(f"gaussian-{LBFGS}") == 4
    assert attacked.trial_images == 2


def test_an_attack_that_never_succeeds_is_an_error_that_says_so(attacked):
    attacked._tables[LBFGS] = columns(np.zeros((2, 4), dtype=bool), np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match="L-BFGS must succeed on some image in all runs; it did on 0 of 4"):
        attacked.paired(CLEAN, LBFGS)


def test_test_images_are_nested_and_the_same_for_all_studies(attacked):
    small, large = (replace(attacked, profile=PROFILES[name]) for name in ("smoke", "standard"))
    assert torch.equal(small.indices, large.indices[:200])
    assert sorted(large.indices.tolist()) == list(range(797))


@pytest.mark.parametrize(
    ("broken", "kind", "message"),
    [
        (lambda images: torch.full((len(images), 4), 0.25), "classifier", "must return logits; got probabilities"),
        (lambda images: torch.full((len(images), 4), torch.nan), "classifier", "logits must be finite"),
        (lambda images: images, "classifier", r"must map 8 images to logits \(8, classes\)"),
    ],
)
def test_a_classifier_that_gives_no_logits_is_refused(broken, kind, message):
    with pytest.raises(ValueError, match=message):
        model_digest(broken, kind, PROBE)


@pytest.mark.parametrize(
    ("encoded", "decoded", "message"),
    [
        (torch.zeros(8, 2), 0.5, "must encode to a pair, mean and log-variance; got Tensor"),
        (
            (torch.zeros(8, 2), torch.zeros(8, 2)),
            -3.0,
            r"reconstructions must lie in \[0, 1\].*end `decode` with a sigmoid",
        ),
    ],
)
def test_a_vae_that_gives_no_images_is_refused(encoded, decoded, message):
    vae = SimpleNamespace(encode=lambda _: encoded, decode=lambda _: torch.full((8, 1, 28, 28), decoded))
    with pytest.raises(ValueError, match=message):
        model_digest(vae, "vae", PROBE)


def test_a_classifier_of_other_classes_is_refused(attacked):
    few = nn.Sequential(nn.Flatten(), nn.Linear(784, 5)).eval().requires_grad_(requires_grad=False)
    vae = VAE(VAEConfig(latent_size=2, hidden_size=4), (28, 28)).eval().requires_grad_(requires_grad=False)
    attacked.model = lambda kind, _seed, _title: vae if kind == "vae" else few
    with pytest.raises(ValueError, match="must know all 10 classes of digits; it gives 5 logits"):
        attacked.run(0)


def test_some_training_images_are_held_out_from_every_model(tmp_path, monkeypatch):
    seen = []

    def fit(train, *_, **__):
        seen.append(train)
        raise RuntimeError("seen")

    monkeypatch.setattr("claims.study.fit_vae", fit)
    monkeypatch.setattr("claims.study.fit_classifier", fit)
    monkeypatch.setattr("claims.cleaning.fit_autoencoder", fit)
    study = Study(Dataset("digits", "for tests"), PROFILES["smoke"], Store(tmp_path))
    for kind in ("vae", "classifier"):
        with pytest.raises(RuntimeError, match="seen"):
            study.model(kind, 0, "")
    with pytest.raises(RuntimeError, match="seen"):
        study.cleaning.autoencoder(0)
    whole, (held, places) = load_images("digits", "train"), study.held_out
    assert len(held) == len(places) == int(0.1 * len(whole))
    assert torch.equal(held.pixels, whole.pixels[places])
    kept = sorted(set(range(len(whole))) - set(places.tolist()))
    for train in (*seen, study.outside.train):
        assert torch.equal(train.pixels, whole.pixels[kept])
    assert len(seen) == 3


def test_a_stage_that_is_timed_within_itself_counts_once(tmp_path, monkeypatch):
    clock = iter(range(99))
    monkeypatch.setattr("claims.study.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    study = Study(Dataset("digits", "for tests"), PROFILES["smoke"], Store(tmp_path))
    with study.timed("training"), study.timed("training"), study.timed("other"):
        pass
    assert study.wall_seconds == {"training": 3, "other": 1}
    with pytest.raises(KeyError), study.timed("training"):
        raise KeyError
    with study.timed("training"):
        pass
    assert study.wall_seconds["training"] == 5
