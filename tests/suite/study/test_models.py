"""Models told apart by their digests, and models that no study can use."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from vaecore import VAE, ClassifierConfig, ConvVAEConfig, ResidualConfig, VAEConfig, load_images
from vaecore.suite.study.model_checks import check_classes
from vaecore.suite.study.models import (
    made,
    makes_models,
    model_digest,
    reference,
    train_reference,
    user_model,
)

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
    vae = VAE(VAEConfig(latent_size=2, hidden_size=4), (28, 28)).requires_grad_(requires_grad=False).eval()
    before = model_digest(vae, "vae", PROBE)
    vae.decoder.bias[0] += 1e-3
    assert model_digest(vae, "vae", PROBE) != before


def no_images():
    raise ValueError("there are no training images")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("torch.nn:functional", "classifier", "must be a module or a maker"),
        (
            "vaecore.models._colour:ConvVAE",
            "vae",
            r"no `seed` \(write a maker: def make\(seed\): return ConvVAE\(...\)\)",
        ),
        (
            "torch.nn:Dropout2d",
            "vae",
            "got a class whose first argument is no `seed`",
        ),  # 7, or with a seed of 0 silence
        ("fnmatch:fnmatch", "classifier", "there are no training images"),
        ("textwrap:dedent", "vae", "calling it with 7 raised TypeError: expected string"),
        ("builtins:abs", "vae", "lacks encode, decode"),
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


class Odd:
    """A VAE whose log-odds are not those of its images, but for a factor of 1."""

    def __init__(self, factor):
        self.factor = factor

    def encode(self, images):
        return images.flatten(1)[:, :2], images.flatten(1)[:, 2:4]

    def decode_logits(self, latents):
        return self.factor * latents[:, :1].expand(-1, 784)

    def decode(self, latents):
        return latents[:, :1].sigmoid().expand(-1, 784).reshape(-1, 1, 28, 28)


def test_log_odds_that_are_not_those_of_the_images_are_refused():
    model_digest(Odd(1.0), "vae", PROBE)
    with pytest.raises(ValueError, match="decode_logits must be the log-odds"):
        model_digest(Odd(2.0), "vae", PROBE)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("vae", VAEConfig(2, 4, epochs=1)),
        ("autoencoder", VAEConfig(2, 4, epochs=1)),
        ("classifier", ClassifierConfig((2, 2), 4, epochs=1)),
        ("vae", ConvVAEConfig(1, (2, 2, 2), epochs=1)),
        ("autoencoder", ConvVAEConfig(1, (2, 2, 2), epochs=1)),
        ("classifier", ResidualConfig((2, 2, 2), epochs=1)),
    ],
)
def test_a_reference_model_has_the_weights_of_its_training(kind, config):
    train = load_images("digits", "train").take(slice(20))
    tensors = {"pixels": train.pixels[..., 2:26, 2:26], "labels": train.labels}
    weights = train_reference(kind, config, 0, "cpu", tensors, {"places": torch.arange(4)})
    model = reference(kind, config, (1, 24, 24), 10, "cpu", weights)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_a_maker_s_model_has_the_weights_of_its_training(monkeypatch):
    module = ModuleType("a_users_module")
    module.maker = lambda _: linear(nn.ReLU())
    monkeypatch.setitem(sys.modules, module.__name__, module)
    weights = {name: value + 1 for name, value in linear(nn.ReLU()).state_dict().items()}
    model = made("a_users_module:maker", "classifier", 0, "cpu", "", None, None, {"pixels": PROBE}, weights)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_a_classifier_of_other_classes_is_refused():
    few = nn.Sequential(nn.Flatten(), nn.Linear(784, 5)).eval().requires_grad_(requires_grad=False)
    digits = load_images("digits", "test")
    with pytest.raises(ValueError, match=r"must know all 10 classes of digits; it gives 5 logits$"):
        check_classes(few, digits, torch.device("cpu"))
    from_one = replace(digits, labels=1 + digits.labels % 5)
    with pytest.raises(ValueError, match=r"all 6 classes .* 5 logits \(labels are counted from 0: labels - 1\)$"):
        check_classes(few, from_one, torch.device("cpu"))
