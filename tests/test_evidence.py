"""Evidence: the same rows in any shards, perturbations of the size they claim, and tables read by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import cross_entropy

from claims.evidence import (
    CONDITIONS,
    DRAWS,
    EPSILONS,
    FEW_IMAGES,
    Shard,
    Table,
    at_distance,
    collect,
    perturb,
    random_targets,
)
from vaecore import VAE, Classifier, ClassifierConfig, VAEConfig, _reconstruct, elbo, kl, load_images, reconstruct
from vaecore._noise import seed_for

COUNT, SEED = 30, 3
COLUMNS = {
    "index": torch.int64,
    "label": torch.int64,
    "success": torch.bool,
    "l2": torch.float32,
    "predicted": torch.int64,
    "confidence": torch.float64,
    "ink": torch.float32,
    "kl": torch.float32,
    "elbo": torch.float32,
    "draw_label": torch.int16,
    "draw_probability": torch.float32,
    "draw_own_probability": torch.float32,
    "draw_mse": torch.float32,
}
KINDS = ("clean", "fgsm-0.1", "uniform-0.2", "sign-0.3", "lbfgs", "gaussian-lbfgs")


class OneByOne:
    """Models asked about each image alone, so that rounding cannot depend on the batch."""

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


@pytest.fixture(scope="module")
def models():
    vae = with_random_weights(VAE(VAEConfig(latent_size=4, hidden_size=16), (28, 28)))
    config = ClassifierConfig(channels=(3, 4), hidden_size=16)
    return OneByOne(vae, with_random_weights(Classifier(config, (28, 28), 10)))


@pytest.fixture(scope="module")
def shard():
    """Thirty digits under scattered indices."""
    digits = load_images("digits", "test").take(slice(COUNT))
    indices = torch.arange(COUNT) * 37 % 101 + 2**33
    return Shard(digits.pixels, digits.labels, indices, SEED)


def part(shard, rows):
    return Shard(shard.pixels[rows], shard.labels[rows], shard.indices[rows], shard.seed)


@pytest.fixture(scope="module")
def whole(models, shard):
    """Evidence on the whole shard under each kind of condition."""
    tables = {}
    for condition in KINDS:
        l2 = tables["lbfgs"]["l2"] if condition == "gaussian-lbfgs" else None
        tables[condition] = collect(models, models, shard, condition, l2)
    return tables


def grey(count, level=0.5):
    return Shard(torch.full((count, 1, 28, 28), level), torch.zeros(count, dtype=torch.int64), torch.arange(count), 0)


def test_the_conditions():
    assert len(CONDITIONS) == len(set(CONDITIONS)) == 3 + 3 * len(EPSILONS)
    assert {*KINDS, "fgsm-0.05", "uniform-0.15", "sign-0.25"} <= set(CONDITIONS)
    assert set(FEW_IMAGES) == {"lbfgs", "gaussian-lbfgs"}


@pytest.mark.parametrize("condition", KINDS)
def test_columns_are_as_documented(whole, shard, condition):
    table = whole[condition]
    assert {name: column.dtype for name, column in table.items()} == COLUMNS
    for name, column in table.items():
        assert column.shape == ((COUNT, DRAWS) if name.startswith("draw_") else (COUNT,)), name
    assert torch.equal(table["index"], shard.indices)
    assert torch.equal(table["label"], shard.labels)


@pytest.mark.parametrize("condition", KINDS)
@pytest.mark.parametrize("split", ["halves", "reversed", "one and the rest"])
def test_shards_join_to_the_whole(models, shard, whole, condition, split):
    order = torch.arange(COUNT - 1, -1, -1) if split == "reversed" else torch.arange(COUNT)
    sizes = {"halves": [15, 15], "reversed": [COUNT], "one and the rest": [1, COUNT - 1]}[split]
    l2 = whole["lbfgs"]["l2"] if condition == "gaussian-lbfgs" else None
    tables = [
        collect(models, models, part(shard, rows), condition, None if l2 is None else l2[rows])
        for rows in torch.split(order, sizes)
    ]
    for name, column in whole[condition].items():
        joined = torch.cat([table[name] for table in tables])
        torch.testing.assert_close(joined, column[order], rtol=1e-5, atol=1e-4 if name == "elbo" else 1e-6)


@pytest.mark.parametrize("condition", KINDS)
def test_the_rows_say_what_the_models_make_of_the_images(models, shard, whole, condition):
    table = whole[condition]
    images = perturb(models, shard, condition, whole["lbfgs"]["l2"]).images
    chances = models(images).double().softmax(dim=1)
    assert torch.equal(table["predicted"], chances.argmax(dim=1))
    torch.testing.assert_close(table["confidence"], chances.amax(dim=1))
    torch.testing.assert_close(table["ink"], images.flatten(1).mean(dim=1))
    torch.testing.assert_close(table["l2"], (images - shard.pixels).flatten(1).norm(dim=1), rtol=1e-4, atol=1e-6)

    seed = seed_for("reconstructions", SEED)
    draws = reconstruct(models, images, draws=DRAWS, seed=seed, indices=shard.indices)
    chances = models(draws.flatten(0, 1)).softmax(dim=1).view(COUNT, DRAWS, 10)
    assert torch.equal(table["draw_label"].long(), chances.argmax(dim=2))
    torch.testing.assert_close(table["draw_probability"], chances.amax(dim=2))
    own = torch.stack([chances[row, :, label] for row, label in enumerate(table["predicted"])])
    torch.testing.assert_close(table["draw_own_probability"], own)
    torch.testing.assert_close(table["draw_mse"], (draws - images[:, None]).square().mean(dim=(2, 3, 4)))
    torch.testing.assert_close(table["kl"], kl(models, images))
    bound = elbo(models, images, draws=DRAWS, seed=seed, indices=shard.indices)
    torch.testing.assert_close(table["elbo"], bound, rtol=1e-5, atol=1e-3)
    assert table["draw_label"].unique().numel() > 1


def test_own_probability_stays_with_its_image_across_chunks(models, shard, whole, monkeypatch):
    monkeypatch.setattr(_reconstruct, "_DECODED_AT_ONCE", {"cpu": 7 * DRAWS})
    table = collect(models, models, shard, "clean")
    for name in ("draw_own_probability", "draw_label", "draw_mse"):
        torch.testing.assert_close(table[name], whole["clean"][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["fgsm", "uniform", "sign"])
@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_perturbations_keep_within_epsilon_and_the_pixels_range(models, shard, kind, epsilon):
    found = perturb(models, shard, f"{kind}-{epsilon}")
    change = (found.images - shard.pixels).flatten(1)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert found.linf.max() <= epsilon + 1e-6
    assert found.linf.min() > 0.8 * epsilon
    torch.testing.assert_close(found.linf, change.abs().amax(dim=1))
    torch.testing.assert_close(found.l2, change.norm(dim=1))


def test_clean_images_are_left_as_they_are(models, shard):
    found = perturb(models, shard, "clean")
    assert torch.equal(found.images, shard.pixels)
    assert found.l2.tolist() == found.linf.tolist() == [0] * COUNT
    assert found.success.all()
    assert found.evaluations.tolist() == [0] * COUNT


def test_noise_on_grey_images_is_of_the_size_it_claims(models):
    shard = grey(40)
    sign = perturb(models, shard, "sign-0.2").images - 0.5
    torch.testing.assert_close(sign.abs(), torch.full_like(sign, 0.2))
    assert abs(float((sign > 0).float().mean()) - 0.5) < 5 * 0.5 / sign.numel() ** 0.5
    uniform = perturb(models, shard, "uniform-0.2").images - 0.5
    assert abs(float(uniform.mean())) < 5 * 0.2 / 3**0.5 / uniform.numel() ** 0.5
    assert abs(float(uniform.square().mean()) - 0.04 / 3) < 0.04 / 3 * 0.05
    fgsm = perturb(models, shard, "fgsm-0.2").images - 0.5
    assert fgsm.abs().amax(dim=(1, 2, 3)).tolist() == pytest.approx([0.2] * 40, abs=1e-6)


def test_noise_follows_its_kind_seed_and_image_but_not_epsilon(models):
    shard = grey(6)
    small, large = (perturb(models, shard, f"sign-{epsilon}").images - 0.5 for epsilon in (0.1, 0.2))
    torch.testing.assert_close(2 * small, large)  # one pattern, so that sizes are compared on the same draws
    other = perturb(models, Shard(shard.pixels, shard.labels, shard.indices, 1), "sign-0.1").images - 0.5
    uniform = (perturb(models, shard, "uniform-0.1").images - 0.5).sign() * 0.1
    shifted = perturb(models, Shard(shard.pixels, shard.labels, shard.indices + 1, 0), "sign-0.1").images - 0.5
    torch.testing.assert_close(shifted[:-1], small[1:])
    for unlike in (other, uniform, shifted):
        assert float(((unlike > 0) == (small > 0)).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_fgsm_climbs_the_loss_of_the_label(models, shard):
    found = perturb(models, shard, "fgsm-0.05")
    before = cross_entropy(models(shard.pixels), shard.labels, reduction="none")
    after = cross_entropy(models(found.images), shard.labels, reduction="none")
    assert (after > before).float().mean() > 0.9
    assert torch.equal(found.success, models(found.images).argmax(dim=1) != shard.labels)


def test_lbfgs_reaches_a_random_target_and_gaussian_noise_has_its_size(models, shard, whole):
    found = whole["lbfgs"]
    taken = models(shard.pixels).argmax(dim=1)
    targets = random_targets(shard.labels, shard.indices, classes=10, seed=SEED, predicted=taken)
    assert found["success"].float().mean() > 0.8
    assert torch.equal(found["predicted"][found["success"]], targets[found["success"]])
    reached = found["success"] & (found["l2"] > 0)
    assert reached.float().mean() > 0.7
    torch.testing.assert_close(whole["gaussian-lbfgs"]["l2"][reached], found["l2"][reached], rtol=1e-3, atol=0)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_at_distance(level):
    shard = grey(5, level)
    direction = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    l2 = torch.tensor([0.0, 0.01, 1.0, 7.0, torch.nan])
    moved = at_distance(shard.pixels, direction, l2)
    size = (moved - shard.pixels).flatten(1).norm(dim=1)
    torch.testing.assert_close(size, l2.nan_to_num(0.0), rtol=1e-3, atol=1e-6)
    assert moved.min() >= 0
    assert moved.max() <= 1
    change = moved - shard.pixels
    assert ((change * direction) >= 0).all()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_random_targets_are_uniform_over_the_other_classes(classes):
    count = 20_000
    labels = torch.arange(count) % classes
    targets = random_targets(labels, torch.arange(count), classes=classes, seed=0)
    assert targets.dtype == torch.int64
    offsets = ((targets - labels) % classes).tolist()
    assert int(targets.min()) >= 0
    assert int(targets.max()) < classes
    times = Counter(offsets)
    assert set(times) == set(range(1, classes))
    if classes > 2:
        assert chisquare(list(times.values())).pvalue > 1e-4
        other = random_targets(labels, torch.arange(count), classes=classes, seed=1)
        assert float((other == targets).float().mean()) == pytest.approx(1 / (classes - 1), abs=0.02)
    rows = torch.tensor([7, 3, 19_999])
    assert torch.equal(random_targets(labels[rows], rows, classes=classes, seed=0), targets[rows])


@pytest.mark.parametrize("condition", ["fgsm", "fgsm-0.11", "pgd-0.1", "", "clean-0.1", "CLEAN"])
def test_unknown_conditions(models, shard, condition):
    with pytest.raises(ValueError, match=rf"condition must be one of clean, fgsm-0.05, .*; got '{condition}'"):
        collect(models, models, shard, condition)


@pytest.mark.parametrize("l2", [None, torch.ones(COUNT - 1), torch.ones(COUNT, 1)])
def test_gaussian_noise_needs_its_size(models, shard, l2):
    with pytest.raises(ValueError, match=f"gaussian-lbfgs needs lbfgs_l2, .* each of {COUNT} images"):
        collect(models, models, shard, "gaussian-lbfgs", l2)


def test_a_table_read_by_hand():
    runs = [
        {
            "label": torch.tensor([1, 2, 3]),
            "predicted": torch.tensor([1, 2, 0]),
            "confidence": torch.tensor([0.75, 1.0, 0.5], dtype=torch.float64),
            "draw_label": torch.tensor([[1, 1, 1, 1], [2, 3, 2, 3], [0, 1, 2, 3]]),
            "draw_own_probability": torch.tensor([[1.0, 1.0, 0.5, 0.5], [0.0] * 4, [1.0] * 4]),
            "draw_mse": torch.tensor([[0.25, 0.75, 0.0, 0.0], [1.0] * 4, [0.0] * 4]),
        },
        {
            "label": torch.tensor([1, 2, 3]),
            "predicted": torch.tensor([2, 2, 3]),
            "confidence": torch.tensor([1.0, 0.25, 0.125], dtype=torch.float64),
            "draw_label": torch.tensor([[5, 5, 5, 6], [2, 2, 2, 2], [9, 8, 9, 7]]),
            "draw_own_probability": torch.tensor([[0.25] * 4, [0.0, 0.0, 0.0, 1.0], [0.5] * 4]),
            "draw_mse": torch.tensor([[0.5] * 4, [0.0, 0.0, 0.0, 1.0], [0.125] * 4]),
        },
    ]
    table = Table.of(runs)
    expected = {
        "distinct": [[1, 2, 4], [2, 1, 3]],
        "consistent": [[True, False, False], [False, True, False]],
        "disagreement": [[0.25, 1.0, 0.0], [0.75, 0.75, 0.5]],
        "mse": [[0.25, 1.0, 0.0], [0.5, 0.25, 0.125]],
        "doubt": [[0.25, 0.0, 0.5], [0.0, 0.75, 0.875]],
        "wrong": [[False, False, True], [True, False, False]],
    }
    for rows in (slice(None), slice(2), np.array([2, 0]), np.array([1])):
        taken = table.take(rows)
        for name, values in expected.items():
            found = getattr(taken, name)
            assert found.tolist() == np.array(values)[:, rows].tolist(), name
        assert taken["label"].tolist() == np.array([[1, 2, 3]] * 2)[:, rows].tolist()
    assert table.disagreement.dtype == table.mse.dtype == table.doubt.dtype == np.float64
    with pytest.raises(KeyError):
        table["absent"]


def test_random_targets_avoid_the_class_that_an_image_is_given():
    labels, predicted = torch.arange(20_000) % 10, torch.arange(20_000) // 10 % 10
    targets = random_targets(labels, torch.arange(20_000), classes=10, seed=0, predicted=predicted)
    assert not bool(((targets == labels) | (targets == predicted)).any())
    right = labels == predicted
    assert torch.equal(targets[right], random_targets(labels, torch.arange(20_000), classes=10, seed=0)[right])
    assert chisquare(torch.bincount(targets, minlength=10).tolist()).pvalue > 1e-4


@pytest.mark.parametrize("broken", [float("nan"), -0.5, 1.5])
def test_a_broken_reconstruction_in_any_chunk_is_an_error(models, shard, broken, monkeypatch):
    """NaN has label 0 in every draw, and would pass for consistent."""
    monkeypatch.setattr(_reconstruct, "_DECODED_AT_ONCE", {"cpu": 50})
    decode, calls = models.decode, []

    def late(latents):
        calls.append(len(latents))
        return decode(latents) if len(calls) < 3 else torch.full_like(decode(latents), broken)

    monkeypatch.setattr(models, "decode", late)
    with pytest.raises(ValueError, match="the VAE's reconstructions must"):
        collect(models, models, shard, "clean")


def test_logits_that_are_not_finite_are_an_error(models, shard):
    with pytest.raises(ValueError, match="logits must be finite"):
        collect(models, lambda images: models(images) / 0, shard, "clean")
