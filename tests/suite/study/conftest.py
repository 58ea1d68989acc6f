"""Models that answer image by image, a shard of digits, what `perturb` makes of it, and a setup without training."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from vaecore import VAE, Classifier, ClassifierConfig, Store, VAEConfig, load_images
from vaecore.suite.study.cleaning import ATTACKED, MAJORITY
from vaecore.suite.study.conditions import CLEAN, FGSM, GAUSSIAN, JOINT, PURIFIED
from vaecore.suite.study.draws import DRAWS
from vaecore.suite.study.executors import Here
from vaecore.suite.study.perturbations import perturb
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.suite.study.setup import Dataset, Setup
from vaecore.suite.study.study import Study
from vaecore.toolkit import read_tensors


class OneByOne:
    """Models asked about each image alone, so that rounding can't depend on the batch."""

    def __init__(self, vae, classifier):
        self.vae, self.classifier = vae, classifier

    def encode(self, images):
        mean, log_variance = zip(*(self.vae.encode(image) for image in images.split(1)), strict=True)
        return torch.cat(mean), torch.cat(log_variance)

    def decode(self, latents):
        return torch.cat([self.vae.decode(latent) for latent in latents.split(1)])

    def __call__(self, images):
        return torch.cat([self.classifier(image) for image in images.split(1)])


def with_random_weights(model):
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
        parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5
    return model.requires_grad_(requires_grad=False).eval()


@pytest.fixture(scope="session")
def models():
    """A VAE and a classifier of digits, in one."""
    vae = with_random_weights(VAE(VAEConfig(latent_size=4, hidden_size=16), (28, 28)))
    config = ClassifierConfig(channels=(3, 4), hidden_size=16)
    return OneByOne(vae, with_random_weights(Classifier(config, (28, 28), 10)))


@pytest.fixture(scope="session")
def shard():
    """Twenty digits under scattered indices."""
    digits = load_images("digits", "test").take(slice(20))
    return {"pixels": digits.pixels, "labels": digits.labels, "indices": torch.arange(20) * 37 % 101 + 2**33}


@pytest.fixture(scope="session")
def perturbed(models):
    """Give a function that perturbs images under a condition; adaptive attacks take two steps, or as told."""

    def under(condition, shard, twin=None, *, seed=3, **settings):
        kind = condition.kind
        if "vae" in kind.knows:
            settings = {"steps": 2} | settings
        given = {"vae": models, "classifier": models, "twin": twin}
        if "alarms" in kind.knows:
            limits = {"mse": 0.01, "disagreement": 0.1, "max-softmax": 0.1}
            limits |= {"magnet-error": 0.05, "magnet-divergence": 0.002}
            given |= {
                "draws": 10,
                "thresholds": {name: torch.tensor([3 * limit, limit]) for name, limit in limits.items()},
            }
        size = Protocol().size(condition)
        return perturb(kind.name, size, {**kind.settings, **settings}, seed, 5, "cpu", shard, **given)

    return under


@pytest.fixture
def untrained(tiny, tmp_path, monkeypatch):
    """The setup of a study whose finished models came without training images."""
    images = np.random.default_rng(0).random((30, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "tests.npz", test_images=images, test_labels=np.arange(30) % 3)
    module = sys.modules[tiny.setup.vae.partition(":")[0]]
    monkeypatch.setattr(module, "finished_vae", module.vae(0).eval(), raising=False)
    monkeypatch.setattr(module, "finished_classifier", module.classifier(0).eval(), raising=False)
    return replace(
        tiny.setup,
        dataset=Dataset(str(tmp_path / "tests.npz"), "as asked"),
        vae=tiny.setup.vae.replace(":vae", ":finished_vae"),
        classifier=tiny.setup.classifier.replace(":classifier", ":finished_classifier"),
    )


@pytest.fixture
def check_results_of(tmp_path, monkeypatch):
    """Give a function that compares what an executor computes of a study with what this process does, bit for bit."""
    configs = (
        VAEConfig(latent_size=3, hidden_size=8, epochs=1),
        ClassifierConfig(channels=(3, 4), hidden_size=8, epochs=1),
    )
    monkeypatch.setattr("vaecore.suite.study.setup.reference_configs", lambda _: configs)
    monkeypatch.delenv("VAECORE_DATA", raising=False)
    profile = Profile("test", runs=2, images=24, lbfgs_images=8, adaptive_images=4)
    setup = Setup(Dataset("digits", ""), Protocol(profile, shard=5), device=torch.device("cpu"))
    asked = {DRAWS: (CLEAN, FGSM(1), GAUSSIAN, JOINT(1.5)), ATTACKED: (PURIFIED(0.5, label=MAJORITY),)}

    def computed(name, executor):
        study = Study.of(setup, Store(tmp_path / name), executor)
        study.plan.results([task for of, every in asked.items() for one in every for task in of.tasks(setup, one)])
        return {path.name: read_tensors(path)[1] for path in study.plan.store.folder.glob("*/*.safetensors")}

    def check(executor):
        alone, others = computed("alone", Here()), computed("others", executor)
        assert set(alone) == set(others)
        assert len(alone) > 40
        for key, tensors in alone.items():
            assert set(tensors) == set(others[key])
            for name, tensor in tensors.items():
                assert tensor.numpy().tobytes() == others[key][name].numpy().tobytes(), name

    return check
