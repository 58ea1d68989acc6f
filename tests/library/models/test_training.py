"""Training on a few digits: the same weights for the same seed, nothing global touched, and models that learn."""

import math

import pytest
import torch
from torch.nn.functional import pad

from vaecore import (
    Classifier,
    ClassifierConfig,
    VAEConfig,
    elbo,
    fit_classifier,
    fit_vae,
    load_classifier,
    load_images,
    load_vae,
    reference_configs,
)
from vaecore._store import write_tensors
from vaecore.data._images import Images, is_available
from vaecore.models._training import augment

SMALL_VAE = VAEConfig(latent_size=4, hidden_size=32, epochs=2, batch_size=64)
SMALL_CLASSIFIER = ClassifierConfig(channels=(4, 8), hidden_size=16, epochs=2, batch_size=64)
KINDS = {
    "vae": (fit_vae, SMALL_VAE, load_vae),
    "classifier": (fit_classifier, SMALL_CLASSIFIER, load_classifier),
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def train():
    return load_images("digits", "train")


@pytest.fixture(scope="module")
def some(train):
    return train.take(slice(200))


@pytest.fixture(scope="module")
def models(some):
    """One small model of each kind, of seed 0."""
    return {kind: fit(some, config, seed=0, device=CPU) for kind, (fit, config, _) in KINDS.items()}


def equal(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_weights_bit_by_bit_and_leaves_the_global_state_alone(kind, some, models):
    fit, config, _ = KINDS[kind]
    torch.rand(7)  # whatever was drawn before must not matter
    state = torch.get_rng_state()
    again = fit(some, config, seed=0, device=CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(again, models[kind])
    other = fit(some, config, seed=1, device=CPU)
    assert not any(torch.equal(value, other.state_dict()[name]) for name, value in models[kind].state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_model_is_finished(kind, models):
    model = models[kind]
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_shapes(some, models):
    side = some.pixels.shape[-2:]
    mean, log_variance = models["vae"].encode(some.pixels[:5])
    assert mean.shape == log_variance.shape == (5, 4)
    decoded = models["vae"].decode(mean)
    assert decoded.shape == (5, 1, *side)
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    torch.testing.assert_close(models["vae"].decode_logits(mean).sigmoid(), decoded.flatten(1))
    assert models["classifier"](some.pixels[:5]).shape == (5, 10)
    assert torch.equal(models["classifier"](some.pixels[:5]), models["classifier"](some.pixels[:5]))  # no dropout


@pytest.mark.parametrize("shape", [(8, 8), (9, 13), (28, 28)])
def test_images_of_other_shapes_are_taken(shape):
    generator = torch.Generator().manual_seed(0)
    images = Images(torch.rand(6, 1, *shape, generator=generator), torch.arange(6) % 3, "mine", "train")
    vae = fit_vae(images, VAEConfig(latent_size=2, hidden_size=4, epochs=1), seed=0, device=CPU)
    assert vae.decode(vae.encode(images.pixels)[0]).shape == images.pixels.shape
    classifier = fit_classifier(images, ClassifierConfig(epochs=1), seed=0, device=CPU)
    assert classifier(images.pixels).shape == (6, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_back_from_its_file(kind, models, some, tmp_path):
    model, load = models[kind], KINDS[kind][2]
    model.save(tmp_path / "model")
    again = load(str(tmp_path / "model"))
    assert again.config == model.config
    assert again.image_shape == model.image_shape
    assert not again.training
    assert equal(again, model)
    ask = (lambda one: one.encode(some.pixels)[0]) if kind == "vae" else (lambda one: one(some.pixels))
    torch.testing.assert_close(ask(again), ask(model))


def test_damaged_and_foreign_files_are_refused(models, tmp_path):
    path = tmp_path / "model"
    models["classifier"].save(path)
    with pytest.raises(ValueError, match=r"model must hold a VAE of vaecore; it says Classifier"):
        load_vae(path)
    models["vae"].save(path)
    with pytest.raises(ValueError, match=r"model must hold a Classifier of vaecore; it says VAE"):
        load_classifier(path)
    whole = bytearray(path.read_bytes())
    whole[-5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="must match its own checksum"):
        load_vae(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        load_vae(path)
    write_tensors(path, {"x": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="it says nothing"):
        load_vae(path)
    header = {"model": "VAE", "config": '{"latent_size": 2, "depth": 3, "attention": 1}', "image_shape": "[8, 8]"}
    write_tensors(path, {"x": torch.zeros(1)}, header)
    with pytest.raises(ValueError, match="settings must be those of VAEConfig; got attention, depth as well"):
        load_vae(path)
    with pytest.raises(FileNotFoundError):
        load_vae(tmp_path / "absent")


def test_one_pixel_shifts_are_exact_and_all_nine_occur():
    pixels = torch.rand(600, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    padded = pad(pixels, (1, 1, 1, 1))
    shifts = torch.stack([padded[..., down : down + 5, right : right + 7] for down in range(3) for right in range(3)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = augment(pixels, "shift")
    assert found.shape == pixels.shape
    match = (shifts == found).flatten(2).all(dim=2)  # (9, images)
    assert match.sum(dim=0).tolist() == [1] * 600
    times = match.sum(dim=1)
    assert times.min() > 35  # 67 expected, standard deviation 7.7
    assert times.max() < 105


def test_augmentation_by_name():
    pixels = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert augment(pixels, "none") is pixels
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = augment(pixels, "distort"), augment(pixels, "distort")
        torch.manual_seed(3)
        assert torch.equal(augment(pixels, "distort"), first)
    assert not torch.equal(first, second)
    assert not torch.equal(first, pixels)
    assert first.shape == pixels.shape


@pytest.mark.parametrize("augmentation", ["none", "shift", "distort"])
def test_augmentation_changes_what_is_learnt_but_not_the_training_set(augmentation, some, models):
    kept = some.pixels.clone()
    config = ClassifierConfig(channels=(4, 8), hidden_size=16, epochs=2, batch_size=64, augmentation=augmentation)
    model = fit_classifier(some, config, seed=0, device=CPU)
    assert torch.equal(some.pixels, kept)
    assert equal(model, models["classifier"]) == (augmentation == SMALL_CLASSIFIER.augmentation)


@pytest.mark.parametrize(
    ("fit", "config", "rate"),
    [
        (fit_vae, VAEConfig(latent_size=4, hidden_size=32, epochs=3, batch_size=20, learning_rate=1e4), "10000.0"),
        (fit_classifier, ClassifierConfig(epochs=3, batch_size=20, learning_rate=1e30), "1e+30"),
    ],
)
def test_a_diverging_loss_is_an_error(fit, config, rate, some):
    with pytest.raises(ValueError, match=r"finite loss; it diverged \(is learning_rate=") as raised:
        fit(some, config, seed=0, device=CPU)
    assert f"learning_rate={rate} too high" in str(raised.value)


def test_a_classifier_needs_labels_and_a_vae_does_not(some, models):
    unlabelled = Images(some.pixels, None, "mine", "train")
    with pytest.raises(ValueError, match="a classifier needs labels; the training images of mine have none"):
        fit_classifier(unlabelled, SMALL_CLASSIFIER, seed=0, device=CPU)
    assert equal(fit_vae(unlabelled, SMALL_VAE, seed=0, device=CPU), models["vae"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("images", "batch_size", "steps"), [(30, 10, 6), (35, 10, 6), (7, 10, 2), (10, 10, 2), (3, 1, 6)]
)
def test_progress_counts_every_step_up_to_the_last(kind, images, batch_size, steps, some):
    fit, config, _ = KINDS[kind]
    config = type(config)(hidden_size=4, epochs=2, batch_size=batch_size)
    seen = []
    fit(some.take(slice(images)), config, seed=0, device=CPU, progress=lambda *step: seen.append(step))
    assert seen == [(step, steps) for step in range(1, steps + 1)]


def test_small_training_sets_get_more_epochs_and_distortion(train):
    plain = torch.zeros(10_000, 1, 8, 8)
    large = Images(plain, None, "large", "train")
    assert reference_configs(large) == (VAEConfig(), ClassifierConfig())
    small = reference_configs(large.take(slice(9_999)))
    assert small[0].epochs == 100_000 // 9_999
    assert small[1].epochs == 30_000 // 9_999
    for config in (*small, *reference_configs(train)):
        assert config.augmentation == "distort"
    vae, classifier = reference_configs(train)
    assert (vae.epochs, classifier.epochs) == (100_000 // len(train), 30_000 // len(train))
    assert vae.latent_size == VAEConfig().latent_size
    assert classifier.channels == ClassifierConfig().channels


def test_the_reference_settings_are_the_default(monkeypatch, some, models):
    monkeypatch.setattr("vaecore._training.reference_configs", lambda _: (SMALL_VAE, SMALL_CLASSIFIER))
    assert equal(fit_vae(some, seed=0, device=CPU), models["vae"])
    assert equal(fit_classifier(some, seed=0, device=CPU), models["classifier"])


def test_models_learn(train):
    test = load_images("digits", "test")
    classifier = fit_classifier(
        train,
        ClassifierConfig(channels=(8, 16), hidden_size=32, epochs=6, batch_size=50, augmentation="none"),
        seed=0,
        device=CPU,
    )
    accuracy = (classifier(test.pixels).argmax(dim=1) == test.labels).float().mean()
    assert accuracy > 0.85

    vae = fit_vae(train, VAEConfig(latent_size=8, hidden_size=64, epochs=20, batch_size=50), seed=0, device=CPU)
    bound = float(elbo(vae, test.pixels, draws=5, seed=0).mean())
    # A model without latents: each pixel at its mean over the training set, or all at one grey.
    mean_image = train.pixels.mean(dim=0, keepdim=True).clamp(1e-4, 1 - 1e-4)
    baseline = test.pixels * mean_image.log() + (1 - test.pixels) * torch.log1p(-mean_image)
    baseline = float(baseline.sum(dim=(1, 2, 3)).mean())
    grey = float(train.pixels.mean())
    constant = -(grey * -math.log(grey) + (1 - grey) * -math.log(1 - grey)) * train.pixels[0].numel()
    assert constant < baseline
    assert bound > baseline + 20


def test_beta_weighs_the_divergence(some):
    sizes = {}
    for beta in (0.1, 10.0):
        config = VAEConfig(latent_size=4, hidden_size=32, epochs=15, batch_size=50, beta=beta)
        vae = fit_vae(some, config, seed=0, device=CPU)
        sizes[beta] = float(vae.encode(some.pixels)[0].square().mean())
    assert sizes[0.1] > 2 * sizes[10.0]


@pytest.mark.skipif(not is_available("mnist"), reason="MNIST is not on disk (see VAECORE_DATA)")
def test_reference_classifier_reaches_99_percent_on_mnist():
    classifier = fit_classifier(load_images("mnist", "train"), seed=2000, device=CPU)
    test = load_images("mnist", "test")
    right = [classifier(rows).argmax(dim=1) for rows in test.pixels.split(500)]
    assert (torch.cat(right) == test.labels).double().mean() >= 0.99


@pytest.mark.parametrize(("height", "width"), [(28, 28), (7, 9), (8, 5), (1, 1)])
def test_the_classifier_s_first_layer_is_its_strided_convolution(height, width):
    model = Classifier(ClassifierConfig(), (height, width), 3).double().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 1, height, width, dtype=torch.float64, generator=generator, requires_grad=True)
    features = model.conv2(model.conv1(images).relu()).relu().flatten(1)
    expected = model.output(model.hidden(features).relu())
    torch.testing.assert_close(model(images), expected)
    weights = (images, model.conv1.weight, model.conv1.bias)
    found, wanted = (torch.autograd.grad(one[:, 0].sum(), weights) for one in (model(images), expected))
    torch.testing.assert_close(found, wanted)
