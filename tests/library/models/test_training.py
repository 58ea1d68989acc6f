"""The reference models and their training: the same weights for the same seed, files, and models that learn."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import vaecore as vc
from vaecore.toolkit import is_available, read_tensors, write_tensors

SMALL_VAE = vc.VAEConfig(latent_size=4, hidden_size=32, epochs=2, batch_size=64)
SMALL_CLASSIFIER = vc.ClassifierConfig(channels=(4, 8), hidden_size=16, epochs=2, batch_size=64)
SMALL_CONV = vc.ConvVAEConfig(2, (4, 4, 8), epochs=2, batch_size=64)
SMALL_RESIDUAL = vc.ResidualConfig((4, 4, 8), epochs=2, batch_size=64)
SMALL_HIERARCHY = vc.HierarchicalVAEConfig((1, 3, 2), (4, 16, 8), epochs=2, batch_size=64, learning_rate=4e-3)
KINDS = {
    "vae": (vc.fit_vae, SMALL_VAE, vc.load_vae),
    "classifier": (vc.fit_classifier, SMALL_CLASSIFIER, vc.load_classifier),
    "hierarchical vae": (vc.fit_hierarchical_vae, SMALL_HIERARCHY, vc.load_hierarchical_vae),
    "colour vae": (vc.fit_vae, SMALL_CONV, vc.load_vae),
    "colour classifier": (vc.fit_classifier, SMALL_RESIDUAL, vc.load_classifier),
}
ONCE = {"seed": 0, "device": torch.device("cpu")}


@pytest.fixture(scope="module")
def train():
    return vc.load_images("digits", "train")


@pytest.fixture(scope="module")
def some(train):
    return train.take(slice(200))


def learnt(kind, some):
    """What a model of a kind learns from: for colour, digits in the middle of 24x24 pixels, each channel another."""
    if "colour" not in kind:
        return some
    ink = some.pixels[..., 2:26, 2:26]
    return vc.Images(torch.cat([ink, 0.3 + 0.5 * ink, 1 - ink], dim=1), some.labels, "colours", "train")


@pytest.fixture(scope="module")
def models(some):
    """One small model of each kind, of seed 0."""
    return {kind: fit(learnt(kind, some), config, **ONCE) for kind, (fit, config, _) in KINDS.items()}


def equal(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_weights_bit_by_bit_and_leaves_the_global_state_alone(kind, some, models):
    (fit, config, _), some = KINDS[kind], learnt(kind, some)
    torch.rand(7)  # whatever was drawn before must not matter
    state = torch.get_rng_state()
    again = fit(some, config, **ONCE)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(again, models[kind])
    other = fit(some, config, **(ONCE | {"seed": 1})).state_dict()
    assert not any(torch.equal(value, other[name]) for name, value in models[kind].state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_model_is_finished(kind, models):
    model = models[kind]
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_shapes_and_ranges(some, models):
    pixels, vae, classifier = some.pixels[:5], models["vae"], models["classifier"]
    mean, log_variance = vae.encode(pixels)
    assert mean.shape == log_variance.shape == (5, 4)
    decoded = vae.decode(mean)
    assert decoded.shape == pixels.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert_close(vae.decode_logits(mean).sigmoid(), decoded.flatten(1))
    assert classifier(pixels).shape == (5, 10)
    assert torch.equal(classifier(pixels), classifier(pixels))  # no dropout


@pytest.mark.parametrize("shape", [(8, 8), (9, 13), (28, 28)])
def test_images_of_other_shapes_are_taken(shape):
    generator = torch.Generator().manual_seed(0)
    images = vc.Images(torch.rand(6, 1, *shape, generator=generator), torch.arange(6) % 3, "mine", "train")
    vae = vc.fit_vae(images, vc.VAEConfig(latent_size=2, hidden_size=4, epochs=1), **ONCE)
    assert vae.decode(vae.encode(images.pixels)[0]).shape == images.pixels.shape
    deep = vc.fit_hierarchical_vae(images, SMALL_HIERARCHY, **ONCE)
    assert deep.decode(deep.encode(images.pixels)[0]).shape == images.pixels.shape
    assert vc.fit_classifier(images, vc.ClassifierConfig(epochs=1), **ONCE)(images.pixels).shape == (6, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 56, 14), (1, 27, 28), (3, 28, 28), (3, 12, 48)])
def test_images_of_another_shape_are_refused_also_if_the_layers_would_take_them(kind, shape, models):
    expected = ", ".join(map(str, models[kind].image_shape))
    model = models[kind] if "classifier" in kind else models[kind].encode
    with pytest.raises(ValueError, match=rf"takes images \(n, {expected}\); got \(2, .*resize or pad"):
        model(torch.zeros(2, *shape))


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 7, 9), (1, 8, 5), (1, 1, 1), (3, 17, 23), (3, 8, 5), (3, 4, 4)])
def test_the_layers_of_the_classifier_are_strided_convolutions(shape):
    model = vc.Classifier(vc.ClassifierConfig(), shape, 3).double().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, *shape, dtype=torch.float64, generator=generator, requires_grad=True)
    features = model.conv2(model.conv1(images).relu()).relu().flatten(1)
    expected = model.output(model.hidden(features).relu())
    assert_close(model(images), expected)
    weights = (images, model.conv1.weight, model.conv1.bias)
    assert_close(*(torch.autograd.grad(logits[:, 0].sum(), weights) for logits in (model(images), expected)))


# Files


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_back_from_its_file(kind, models, some, tmp_path):
    model, load, some = models[kind], KINDS[kind][2], learnt(kind, some)
    model.save(tmp_path / "model")
    again = load(str(tmp_path / "model"))
    assert again.config == model.config
    assert again.image_shape == model.image_shape
    assert not again.training
    assert equal(again, model)
    answer = (lambda each: each(some.pixels)) if "classifier" in kind else (lambda each: each.encode(some.pixels))
    assert_close(answer(again), answer(model))


def test_damaged_and_foreign_files_are_refused(models, tmp_path):
    path = tmp_path / "model"

    def refused(load, message):
        with pytest.raises(ValueError, match=message):
            load(path)

    models["classifier"].save(path)
    refused(vc.load_vae, r"model must hold a VAE or ConvVAE of vaecore; it says Classifier")
    models["vae"].save(path)
    refused(vc.load_classifier, r"model must hold a Classifier or ResidualClassifier of vaecore; it says VAE")
    refused(vc.load_hierarchical_vae, r"model must hold a HierarchicalVAE of vaecore; it says VAE")
    whole = bytearray(path.read_bytes())
    whole[-5] ^= 1
    path.write_bytes(whole)
    refused(vc.load_vae, "must match its own checksum")
    path.write_bytes(whole[: len(whole) // 2])
    refused(vc.load_vae, "must be a whole safetensors file")
    write_tensors(path, {"x": torch.zeros(1)}, {})
    refused(vc.load_vae, "it says nothing")
    with pytest.raises(FileNotFoundError):
        vc.load_vae(tmp_path / "absent")


# Modes of torch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_models_are_trained_and_read_in_any_mode(kind, mode, some, models, tmp_path):
    """Also on images that were made there; the weights are ordinary ones."""
    (fit, config, load), some = KINDS[kind], learnt(kind, some)
    models[kind].save(tmp_path / "model")
    with mode():
        made = vc.Images(some.pixels.clone(), some.labels.clone(), "mine", "train")
        within, read = fit(made, config, **ONCE), load(tmp_path / "model")
    for model in (within, read, fit(made, config, **ONCE)):
        assert equal(model, models[kind])
        assert not any(weight.is_inference() for weight in model.parameters())


UNFIT = {
    "no settings": ({"config": None}, {}, "must describe a VAE in its header; it does not: KeyError: 'config'"),
    "no shape": ({"image_shape": None}, {}, "KeyError: 'image_shape'"),
    "settings that are no JSON": ({"config": "{"}, {}, "JSONDecodeError: "),
    "settings that are a list": ({"config": "[]"}, {}, "it does not: AttributeError: "),
    "settings that are a number": ({"config": "3"}, {}, "it does not: TypeError: "),
    "unknown settings": (
        {"config": '{"depth": 3, "attention": 1}'},
        {},
        "settings must be those of VAEConfig; got attention, depth as well",
    ),
    "a size that is no number": ({"config": '{"hidden_size": "x"}'}, {}, "it does not: TypeError: "),
    "a negative size": ({"config": '{"hidden_size": -1}'}, {}, "it does not: "),
    "a size beyond all memory": ({"config": '{"hidden_size": 10000000000000}'}, {}, "names or shapes are others"),
    "a size beyond all integers": ({"config": f'{{"hidden_size": {2**70}}}'}, {}, "it does not: "),
    "a shape of one side": ({"image_shape": "[8]"}, {}, r"must be \(channels, height, width\); got \(8,\)"),
    "a shape without pixels": ({"image_shape": "[1, 0, 8]"}, {}, r"must be \(channels, .* got \(1, 0, 8\)"),
    "a shape of texts": ({"image_shape": '["a", 8]'}, {}, r"must be \(channels, "),
    "another shape": ({"image_shape": "[3, 8, 8]"}, {}, "names or shapes are others"),
    "other settings": ({"config": '{"latent_size": 7}'}, {}, "names or shapes are others"),
    "weights that lack one": ({}, {"encoder.weight": None}, "names or shapes are others"),
    "weights of another shape": ({}, {"encoder.bias": torch.zeros(7)}, "names or shapes are others"),
    "bfloat16": ({}, {"encoder.bias": torch.zeros(32).bfloat16()}, "float32 weights; encoder.bias is bfloat16"),
    "float64": ({}, {"encoder.bias": torch.zeros(32).double()}, "float32 weights; encoder.bias is float64"),
    "NaN": ({}, {"encoder.bias": torch.full((32,), torch.nan)}, "finite weights; encoder.bias holds NaN or infinity"),
    "infinity": ({}, {"encoder.bias": torch.full((32,), torch.inf)}, "finite weights; encoder.bias holds NaN or inf"),
}


def changed(values, by):
    return {name: value for name, value in {**values, **by}.items() if value is not None}


@pytest.mark.parametrize("case", UNFIT)
def test_a_file_whose_header_and_weights_do_not_fit_is_refused(models, tmp_path, case):
    header, weights, message = UNFIT[case]
    path = tmp_path / "model"
    models["vae"].save(path)
    told, held = read_tensors(path)
    write_tensors(path, changed(held, weights), changed(told, header))
    with pytest.raises(ValueError, match=rf"^{path} .*{message}.*\Z"):  # in one line
        vc.load_vae(path)


@pytest.mark.parametrize(
    "change", [{"classes": None}, {"classes": "0.5"}, {"classes": "9"}, {"config": '{"channels": 3}'}]
)
def test_a_classifier_whose_header_does_not_fit_is_refused(models, tmp_path, change):
    path = tmp_path / "model"
    models["classifier"].save(path)
    header, weights = read_tensors(path)
    write_tensors(path, weights, changed(header, change))
    with pytest.raises(ValueError, match=rf"^{path} must (describe a Classifier in|hold the weights that) its header"):
        vc.load_classifier(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vae: vae.bfloat16(), "float32 weights; encoder.weight is bfloat16"),
        (lambda vae: vae.posterior.bias.data.fill_(torch.nan), "finite weights; posterior.bias holds NaN"),
    ],
)
def test_a_model_that_could_not_be_read_again_is_not_saved(models, tmp_path, change, message):
    vae = copy.deepcopy(models["vae"])
    change(vae)
    with pytest.raises(ValueError, match=f"a VAE that is saved must hold {message}"):
        vae.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


# Settings


@pytest.mark.parametrize("augmentation", ["none", "shift", "distort", "flip"])
def test_augmentation_changes_what_is_learnt_but_not_the_training_set(augmentation, some, models):
    kept = some.pixels.clone()
    config = vc.ClassifierConfig(channels=(4, 8), hidden_size=16, epochs=2, batch_size=64, augmentation=augmentation)
    model = vc.fit_classifier(some, config, **ONCE)
    assert torch.equal(some.pixels, kept)
    assert equal(model, models["classifier"]) == (augmentation == SMALL_CLASSIFIER.augmentation)


def test_beta_weighs_the_divergence(some):
    sizes = {}
    for beta in (0.1, 10.0):
        config = vc.VAEConfig(latent_size=4, hidden_size=32, epochs=15, batch_size=50, beta=beta)
        sizes[beta] = float(vc.fit_vae(some, config, **ONCE).encode(some.pixels)[0].square().mean())
    assert sizes[0.1] > 2 * sizes[10.0]


def test_free_nats_keep_the_upper_levels_in_use(some):
    used = []
    for free in ((0.0, 0.0, 0.0), (0.0, 4.0, 2.0)):
        config = replace(SMALL_HIERARCHY, free_nats=free, epochs=15, batch_size=50, learning_rate=1e-2)
        vae = vc.fit_hierarchical_vae(some, config, **ONCE)
        mean, log_variance = vae.encode(some.pixels)
        nats = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        used.append(float(nats[:, vae.levels[0] :].sum(dim=1).mean()))
    assert used[0] < 2.5
    assert used[1] > 4


def test_small_training_sets_get_more_epochs_and_distortion(train):
    large = vc.Images(torch.zeros(10_000, 1, 8, 8), None, "large", "train")
    assert vc.reference_configs(large) == (vc.VAEConfig(), vc.ClassifierConfig())
    for images in (large.take(slice(9_999)), train):
        vae, classifier = vc.reference_configs(images)
        assert (vae.epochs, classifier.epochs) == (100_000 // len(images), 30_000 // len(images))
        assert vae.augmentation == classifier.augmentation == "distort"
        assert vae.latent_size == vc.VAEConfig().latent_size
        assert classifier.channels == vc.ClassifierConfig().channels


def test_the_hierarchical_vae_takes_more_epochs_on_smaller_sets(train):
    large = vc.Images(torch.zeros(60_000, 1, 2, 2), None, "large", "train")
    assert vc.hierarchical_config(large) == vc.HierarchicalVAEConfig()
    assert vc.hierarchical_config(train) == vc.HierarchicalVAEConfig(epochs=100_000 // len(train))


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((3, 32, 32), True), ((3, 8, 64), True), ((3, 28, 28), False), ((3, 4, 4), False), ((1, 32, 32), False)],
)
def test_colour_with_sides_of_a_multiple_of_8_gets_the_convolutional_pair(shape, fits):
    few = vc.Images(torch.zeros(2, *shape), None, "few", "train")
    kinds = (vc.ConvVAEConfig, vc.ResidualConfig) if fits else (vc.VAEConfig, vc.ClassifierConfig)
    assert tuple(map(type, vc.reference_configs(few))) == kinds


class EnoughError(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_settings_are_the_default(kind, some):
    some = learnt(kind, some)
    vae, classifier = vc.reference_configs(some)
    config = classifier if "classifier" in kind else vc.hierarchical_config(some) if "hier" in kind else vae
    assert type(config) is type(KINDS[kind][1])

    def first(step, steps):
        assert (step, steps) == (1, config.epochs * (len(some) // min(config.batch_size, len(some))))
        raise EnoughError

    with pytest.raises(EnoughError):
        KINDS[kind][0](some, **ONCE, progress=first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("images", "batch_size", "steps"), [(30, 10, 6), (35, 10, 6), (7, 10, 2), (10, 10, 2), (3, 1, 6)]
)
def test_progress_counts_every_step_up_to_the_last(kind, images, batch_size, steps, some):
    (fit, config, _), some = KINDS[kind], learnt(kind, some)
    config = replace(config, epochs=2, batch_size=batch_size)
    seen = []
    fit(some.take(slice(images)), config, **ONCE, progress=lambda *step: seen.append(step))
    assert seen == [(step, steps) for step in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("fit", "config", "rate"),
    [
        (
            vc.fit_vae,
            vc.VAEConfig(latent_size=4, hidden_size=32, epochs=3, batch_size=20, learning_rate=1e4),
            r"10000\.0",
        ),
        (vc.fit_classifier, vc.ClassifierConfig(epochs=3, batch_size=20, learning_rate=1e30), r"1e\+30"),
    ],
)
def test_a_diverging_loss_is_an_error(fit, config, rate, some):
    with pytest.raises(ValueError, match=rf"finite loss; it diverged \(is learning_rate={rate} too high"):
        fit(some, config, **ONCE)


def test_a_classifier_needs_labels_and_a_vae_does_not(some, models):
    unlabelled = vc.Images(some.pixels, None, "mine", "train")
    with pytest.raises(ValueError, match="a classifier needs labels; the training images of mine have none"):
        vc.fit_classifier(unlabelled, SMALL_CLASSIFIER, **ONCE)
    alike = vc.Images(some.pixels, torch.zeros_like(some.labels), "mine", "train")
    with pytest.raises(ValueError, match="needs two classes or more; got the label 0 alone in mine"):
        vc.fit_classifier(alike, SMALL_CLASSIFIER, **ONCE)
    assert equal(vc.fit_vae(unlabelled, SMALL_VAE, **ONCE), models["vae"])


# Learning


def test_models_learn(train):
    test = vc.load_images("digits", "test")
    config = vc.ClassifierConfig(channels=(8, 16), hidden_size=32, epochs=6, batch_size=50, augmentation="none")
    classifier = vc.fit_classifier(train, config, **ONCE)
    assert (classifier(test.pixels).argmax(dim=1) == test.labels).float().mean() > 0.85

    vae = vc.fit_vae(train, vc.VAEConfig(latent_size=8, hidden_size=64, epochs=20, batch_size=50), **ONCE)
    bound = float(vc.elbo(vae, test.pixels, draws=5, seed=0).mean())
    # A model without latents: each pixel at its mean over the training set, or all at one grey.
    mean_image = train.pixels.mean(dim=0, keepdim=True).clamp(1e-4, 1 - 1e-4)
    baseline = test.pixels * mean_image.log() + (1 - test.pixels) * torch.log1p(-mean_image)
    baseline = float(baseline.sum(dim=(1, 2, 3)).mean())
    grey = float(train.pixels.mean())
    constant = -(grey * -math.log(grey) + (1 - grey) * -math.log(1 - grey)) * train.pixels[0].numel()
    assert constant < baseline
    assert bound > baseline + 20
    config = vc.HierarchicalVAEConfig((1, 8, 4), (8, 64, 32), free_nats=(0.0, 4.0, 2.0), epochs=50, batch_size=25)
    config = replace(config, learning_rate=4e-3)
    deep = vc.fit_hierarchical_vae(train, config, **ONCE)
    assert float(vc.partial_elbo(deep, test.pixels, draws=5, seed=0).mean()) > baseline + 10


@pytest.mark.slow
@pytest.mark.skipif(not is_available("mnist"), reason="MNIST is not on disk (see VAECORE_DATA)")
def test_reference_classifier_reaches_99_percent_on_mnist():
    classifier = vc.fit_classifier(vc.load_images("mnist", "train"), **(ONCE | {"seed": 2000}))
    test = vc.load_images("mnist", "test")
    labels = torch.cat([classifier(rows).argmax(dim=1) for rows in test.pixels.split(500)])
    assert (labels == test.labels).double().mean() >= 0.99
