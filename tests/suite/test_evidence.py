"""Evidence: the same rows in any shards, perturbations of the size they claim, and tables read by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import cross_entropy

from vaecore import VAE, Classifier, ClassifierConfig, VAEConfig, elbo, kl, latent_mean, load_images, reconstruct
from vaecore._noise import seed_for
from vaecore.reconstruction import _reconstruct
from vaecore.suite.study import draws as evidence
from vaecore.suite.study.draws import (
    ADAPTIVE,
    CONDITIONS,
    DRAWS,
    EPSILONS,
    MANY,
    MANY_DRAWS,
    MINIMAL,
    TWINS,
    Shard,
    Table,
    at_distance,
    collect,
    perturb,
    random_targets,
)

COUNT, SEED = 20, 3
COLUMNS = {
    "index": torch.int64,
    "label": torch.int64,
    "success": torch.bool,
    "l2": torch.float32,
    "evaluations": torch.int64,
    "flags": torch.int64,
    "predicted": torch.int64,
    "confidence": torch.float64,
    "ink": torch.float32,
    "kl": torch.float32,
    "latent_shift": torch.float32,
    "elbo": torch.float32,
    "draw_label": torch.int16,
    "draw_probability": torch.float32,
    "draw_own_probability": torch.float32,
    "draw_mse": torch.float32,
}
KINDS = (
    *("clean", "fgsm-0.1", "uniform-0.2", "sign-0.3"),
    *("lbfgs", "gaussian-lbfgs", "lbfgs-0.98", "gaussian-lbfgs-0.98", "joint-0.3", "joint-mse-0.3"),
)


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


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """Two steps of the adaptive attack do here: it asks about each image alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "STEPS", dict.fromkeys(ADAPTIVE, 2))
        yield


def draws_of(condition):
    return MANY_DRAWS if condition in MANY else DRAWS


def twin_of(tables, condition):
    return tables[TWINS[condition]]["l2"] if condition in TWINS else None


def part(shard, rows):
    return Shard(shard.pixels[rows], shard.labels[rows], shard.indices[rows], shard.seed)


@pytest.fixture(scope="module")
def whole(models, shard):
    """Evidence on the whole shard under each kind of condition."""
    tables = {}
    for condition in KINDS:
        tables[condition] = collect(models, models, shard, condition, twin_of(tables, condition))
    return tables


def grey(count, level=0.5):
    return Shard(torch.full((count, 1, 28, 28), level), torch.zeros(count, dtype=torch.int64), torch.arange(count), 0)


def test_the_conditions():
    assert len(CONDITIONS) == len(set(CONDITIONS)) == 7 + 3 * len(EPSILONS)
    assert {*KINDS, "fgsm-0.05", "uniform-0.15", "sign-0.25"} <= set(CONDITIONS)
    assert set(MINIMAL) == {"lbfgs", "gaussian-lbfgs", "lbfgs-0.98", "gaussian-lbfgs-0.98"}
    assert all(TWINS.get(name, name) == attack for name, attack in MINIMAL.items())
    assert set(ADAPTIVE) == {"joint-0.3", "joint-mse-0.3"}
    assert set(MANY) < set(CONDITIONS)


@pytest.mark.parametrize("condition", KINDS)
def test_columns_are_as_documented(whole, shard, condition):
    table = whole[condition]
    assert {name: column.dtype for name, column in table.items()} == COLUMNS
    for name, column in table.items():
        assert column.shape == ((COUNT, draws_of(condition)) if name.startswith("draw_") else (COUNT,)), name
    assert torch.equal(table["index"], shard.indices)
    assert torch.equal(table["label"], shard.labels)


def test_an_attack_that_is_there_is_not_run_again(models, shard, whole, monkeypatch):
    attack = perturb(models, models, shard, "lbfgs")
    monkeypatch.setattr(evidence, "perturb", None)
    table = collect(models, models, shard, "lbfgs", attack=attack)
    assert table.keys() == whole["lbfgs"].keys()
    for name, column in whole["lbfgs"].items():
        assert torch.equal(table[name], column), name


@pytest.mark.parametrize("condition", KINDS)
@pytest.mark.parametrize("split", ["halves", "reversed", "one and the rest"])
def test_shards_join_to_the_whole(models, shard, whole, condition, split):
    order = torch.arange(COUNT - 1, -1, -1) if split == "reversed" else torch.arange(COUNT)
    sizes = {"halves": [10, 10], "reversed": [COUNT], "one and the rest": [1, COUNT - 1]}[split]
    l2 = twin_of(whole, condition)
    tables = [
        collect(models, models, part(shard, rows), condition, None if l2 is None else l2[rows])
        for rows in torch.split(order, sizes)
    ]
    for name, column in whole[condition].items():
        joined = torch.cat([table[name] for table in tables])
        # A step of L-BFGS enlarges what rounding leaves, and that depends on where in memory an image lies.
        wide = 100 if condition in MINIMAL else 1
        tolerance = {"rtol": 1e-5 * wide, "atol": 1e-4 if name == "elbo" else 1e-6 * wide}
        torch.testing.assert_close(joined, column[order], equal_nan=name == "l2", **tolerance)


@pytest.mark.parametrize("condition", KINDS)
def test_the_rows_say_what_the_models_make_of_the_images(models, shard, whole, condition):
    table = whole[condition]
    images = perturb(models, models, shard, condition, twin_of(whole, condition)).images
    chances = models(images).double().softmax(dim=1)
    assert torch.equal(table["predicted"], chances.argmax(dim=1))
    torch.testing.assert_close(table["confidence"], chances.amax(dim=1))
    torch.testing.assert_close(table["ink"], images.flatten(1).mean(dim=1))
    size = (images - shard.pixels).flatten(1).norm(dim=1)
    failed = ~table["success"] if condition in MINIMAL else torch.zeros(COUNT, dtype=torch.bool)
    torch.testing.assert_close(table["l2"][~failed], size[~failed], rtol=1e-4, atol=1e-6)
    assert table["l2"][failed].isnan().all()

    seed = seed_for("reconstructions", SEED)
    draws = reconstruct(models, images, draws=draws_of(condition), seed=seed, indices=shard.indices)
    chances = models(draws.flatten(0, 1)).softmax(dim=1).view(COUNT, draws_of(condition), 10)
    assert torch.equal(table["draw_label"].long(), chances.argmax(dim=2))
    torch.testing.assert_close(table["draw_probability"], chances.amax(dim=2))
    own = torch.stack([chances[row, :, label] for row, label in enumerate(table["predicted"])])
    torch.testing.assert_close(table["draw_own_probability"], own)
    torch.testing.assert_close(table["draw_mse"], (draws - images[:, None]).square().mean(dim=(2, 3, 4)))
    torch.testing.assert_close(table["kl"], kl(models, images))
    moved = (latent_mean(models, images) - latent_mean(models, shard.pixels)).norm(dim=1)
    torch.testing.assert_close(table["latent_shift"], moved, rtol=1e-4, atol=1e-6)
    assert bool((moved == 0).all()) == (condition == "clean")
    bound = elbo(models, images, draws=DRAWS, seed=seed, indices=shard.indices)
    torch.testing.assert_close(table["elbo"], bound, rtol=1e-5, atol=1e-3)
    assert table["draw_label"].unique().numel() > 1


def test_own_probability_stays_with_its_image_across_chunks(models, shard, whole, monkeypatch):
    monkeypatch.setattr(_reconstruct, "fit_at_once", lambda *_: 7 * MANY_DRAWS)
    table = collect(models, models, shard, "clean")
    for name in ("draw_own_probability", "draw_label", "draw_mse"):
        torch.testing.assert_close(table[name], whole["clean"][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["fgsm", "uniform", "sign"])
@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_perturbations_keep_within_epsilon_and_the_pixels_range(models, shard, kind, epsilon):
    found = perturb(models, models, shard, f"{kind}-{epsilon}")
    change = (found.images - shard.pixels).flatten(1)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert found.linf.max() <= epsilon + 1e-6
    assert found.linf.min() > 0.8 * epsilon
    torch.testing.assert_close(found.linf, change.abs().amax(dim=1))
    torch.testing.assert_close(found.l2, change.norm(dim=1))


def test_clean_images_are_left_as_they_are(models, shard):
    found = perturb(models, models, shard, "clean")
    assert torch.equal(found.images, shard.pixels)
    assert found.l2.tolist() == found.linf.tolist() == [0] * COUNT
    assert found.success.all()
    assert found.evaluations.tolist() == [0] * COUNT


def test_noise_on_grey_images_is_of_the_size_it_claims(models):
    shard = grey(40)
    sign = perturb(models, models, shard, "sign-0.2").images - 0.5
    torch.testing.assert_close(sign.abs(), torch.full_like(sign, 0.2))
    assert abs(float((sign > 0).float().mean()) - 0.5) < 5 * 0.5 / sign.numel() ** 0.5
    uniform = perturb(models, models, shard, "uniform-0.2").images - 0.5
    assert abs(float(uniform.mean())) < 5 * 0.2 / 3**0.5 / uniform.numel() ** 0.5
    assert abs(float(uniform.square().mean()) - 0.04 / 3) < 0.04 / 3 * 0.05
    fgsm = perturb(models, models, shard, "fgsm-0.2").images - 0.5
    assert fgsm.abs().amax(dim=(1, 2, 3)).tolist() == pytest.approx([0.2] * 40, abs=1e-6)


def test_noise_follows_its_kind_seed_and_image_but_not_epsilon(models):
    shard = grey(6)
    small, large = (perturb(models, models, shard, f"sign-{epsilon}").images - 0.5 for epsilon in (0.1, 0.2))
    torch.testing.assert_close(2 * small, large)  # one pattern, so that sizes are compared on the same draws
    other = perturb(models, models, Shard(shard.pixels, shard.labels, shard.indices, 1), "sign-0.1").images - 0.5
    uniform = (perturb(models, models, shard, "uniform-0.1").images - 0.5).sign() * 0.1
    shifted = perturb(models, models, Shard(shard.pixels, shard.labels, shard.indices + 1, 0), "sign-0.1").images - 0.5
    torch.testing.assert_close(shifted[:-1], small[1:])
    for unlike in (other, uniform, shifted):
        assert float(((unlike > 0) == (small > 0)).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_fgsm_climbs_the_loss_of_the_label(models, shard):
    found = perturb(models, models, shard, "fgsm-0.05")
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


@pytest.mark.parametrize("condition", ["fgsm", "fgsm-0.11", "pgd-0.1", "joint-0.2", "lbfgs-0.9", "", "clean-0.1"])
def test_unknown_conditions(models, shard, condition):
    with pytest.raises(ValueError, match=rf"condition must be one of clean, fgsm-0.05, .*; got '{condition}'"):
        collect(models, models, shard, condition)


@pytest.mark.parametrize("l2", [None, torch.ones(COUNT - 1), torch.ones(COUNT, 1)])
def test_gaussian_noise_needs_its_size(models, shard, l2):
    with pytest.raises(ValueError, match=f"gaussian-lbfgs needs twin_l2, .* each of {COUNT} images"):
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


def test_the_first_draws_of_a_table():
    labels = torch.tensor([[[1, 1, 2], [3, 3, 3]]])
    table = Table.of([{"label": torch.tensor([1, 3]), "draw_label": labels[0], "draw_mse": labels[0].double()}])
    assert table.distinct.tolist() == [[2, 1]]
    short = table.first_draws(2)
    assert short.distinct.tolist() == [[1, 1]]
    assert short.mse.tolist() == [[1.0, 3.0]]
    assert short["label"].tolist() == [[1, 3]]
    for draws in (0, 4):
        with pytest.raises(ValueError, match=f"draws must be from 1 to 3, those that were collected; got {draws}"):
            table.first_draws(draws)


def test_ten_draws_are_the_first_of_fifty(models, shard, whole, monkeypatch):
    monkeypatch.setattr(evidence, "MANY", ())
    few = collect(models, models, shard, "clean")
    assert few["draw_label"].shape == (COUNT, DRAWS)
    for name, column in few.items():
        many = whole["clean"][name]
        torch.testing.assert_close(many[:, :DRAWS] if name.startswith("draw_") else many, column, rtol=1e-5, atol=1e-6)


def test_the_adaptive_attack_stays_in_its_budget_and_minds_the_error(models, shard, whole, monkeypatch):
    monkeypatch.setattr(evidence, "STEPS", dict.fromkeys(ADAPTIVE, 5))
    monkeypatch.setattr(evidence, "ERROR_WEIGHT", {"joint-0.3": 0.0, "joint-mse-0.3": 1.0})
    joint, minding = (perturb(models, models, shard, name) for name in ("joint-0.3", "joint-mse-0.3"))
    for found in (joint, minding):
        assert found.linf.max() <= 0.3 + 1e-6
        assert found.linf.min() > 0.05
    errors = []
    for found in (joint, minding):
        draws = reconstruct(models, found.images, draws=DRAWS, seed=1)
        errors.append((draws - found.images[:, None]).square().mean(dim=(1, 2, 3, 4)))
    assert (errors[1] < errors[0]).float().mean() > 0.8


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
    monkeypatch.setattr(_reconstruct, "fit_at_once", lambda *_: 50)
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
