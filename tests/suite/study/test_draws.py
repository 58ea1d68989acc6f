"""What `look` says of images: each column against plain code, the same rows in any shards, and broken models."""

from types import SimpleNamespace

import pytest
import torch

from vaecore import elbo, kl, latent_mean, reconstruct, scores
from vaecore.suite.study.conditions import CLEAN, FGSM, LBFGS, UNIFORM
from vaecore.suite.study.draws import look
from vaecore.suite.study.kinds import MAGNET
from vaecore.suite.study.tasks import one_thread
from vaecore.toolkit import seed_for

SEED = 3
COLUMNS = {
    **dict.fromkeys(("index", "label", "evaluations", "flags", "predicted"), torch.int64),
    **dict.fromkeys(("l2", "ink", "zeros", "kl", "latent_shift", "elbo"), torch.float32),
    "success": torch.bool,
    "confidence": torch.float64,
    "draw_label": torch.int16,
    **dict.fromkeys(("draw_probability", "draw_own_probability", "draw_mse", *MAGNET), torch.float32),
}
KINDS = {"clean": CLEAN, "fgsm": FGSM(0.5), "uniform": UNIFORM(1), "lbfgs": LBFGS}


def columns(models, shard, attack, *, draws=10, bound_draws=10):
    return look(draws, bound_draws, "float32", "cpu", SEED, shard, attack, models, models)


def some(values, rows):
    return {name: column[rows] for name, column in values.items()}


@pytest.fixture(scope="module")
def whole(models, perturbed, shard):
    """For each kind: the attack and what is said of all images."""
    attacks = {name: perturbed(condition, shard) for name, condition in KINDS.items()}
    return {name: (attack, columns(models, shard, attack)) for name, attack in attacks.items()}


@pytest.mark.parametrize("name", KINDS)
def test_the_rows_say_what_the_models_make_of_the_images(models, shard, whole, name):
    attack, table = whole[name]
    assert {name: column.dtype for name, column in table.items()} == COLUMNS
    for column, values in table.items():
        assert values.shape == ((20, 10) if column.startswith("draw_") else (20,)), column
    assert torch.equal(table["index"], shard["indices"])
    assert torch.equal(table["label"], shard["labels"])
    for column in ("success", "l2", "evaluations", "flags"):
        torch.testing.assert_close(table[column], attack[column], rtol=0, atol=0, equal_nan=True)

    images, indices = attack["images"], shard["indices"]
    softmax = models(images).double().softmax(dim=1)
    assert torch.equal(table["predicted"], softmax.argmax(dim=1))
    torch.testing.assert_close(table["confidence"], softmax.amax(dim=1))
    torch.testing.assert_close(table["ink"], images.flatten(1).mean(dim=1))
    torch.testing.assert_close(table["zeros"], (images == 0).float().flatten(1).mean(dim=1))
    torch.testing.assert_close(table["kl"], kl(models, images))
    decoded = models.decode(latent_mean(models, images))
    torch.testing.assert_close(table["magnet-error"], (images - decoded).abs().mean(dim=(1, 2, 3)))
    answers = [(models(each).double() / 10).softmax(dim=1) for each in (images, decoded)]
    middle = (answers[0] + answers[1]) / 2
    divergence = sum((answer * (answer / middle).log()).sum(dim=1) for answer in answers) / 2
    torch.testing.assert_close(table["magnet-divergence"], divergence.float(), rtol=1e-4, atol=1e-7)
    moved = (latent_mean(models, images) - latent_mean(models, shard["pixels"])).norm(dim=1)
    torch.testing.assert_close(table["latent_shift"], moved, rtol=1e-4, atol=1e-6)
    assert bool((moved == 0).all()) == (name == "clean")

    seed = seed_for("reconstructions", SEED)
    draws = reconstruct(models, images, draws=10, seed=seed, indices=indices)
    softmax = models(draws.flatten(0, 1)).softmax(dim=1).view(20, 10, 10)
    assert torch.equal(table["draw_label"].long(), softmax.argmax(dim=2))
    assert table["draw_label"].unique().numel() > 1
    torch.testing.assert_close(table["draw_probability"], softmax.amax(dim=2))
    own = torch.stack([softmax[row, :, label] for row, label in enumerate(table["predicted"])])
    torch.testing.assert_close(table["draw_own_probability"], own)
    torch.testing.assert_close(table["draw_mse"], (draws - images[:, None]).square().mean(dim=(2, 3, 4)))


def test_the_column_elbo_is_the_score_and_the_function_of_that_name(models, shard, whole):
    """Saturated probabilities too, whose logarithm one of them would cut."""
    sharp = SimpleNamespace(encode=models.encode, decode=lambda latents: models.decode(latents).round())
    attack, _ = whole["uniform"]
    at = {"seed": seed_for("reconstructions", SEED), "indices": shard["indices"]}
    for vae in (models, sharp):
        column = look(10, 10, "float32", "cpu", SEED, shard, attack, vae, models)["elbo"]
        bound = elbo(vae, attack["images"], draws=10, **at)
        assert torch.equal(column, bound)
        assert torch.equal(column, -scores["elbo"](vae, attack["images"], draws=10, **at))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("split", ["halves", "reversed", "one and the rest"])
def test_shards_join_to_the_whole(models, shard, whole, name, split):
    order = torch.arange(19, -1, -1) if split == "reversed" else torch.arange(20)
    sizes = {"halves": [10, 10], "reversed": [20], "one and the rest": [1, 19]}[split]
    attack, table = whole[name]
    parts = [columns(models, some(shard, rows), some(attack, rows)) for rows in torch.split(order, sizes)]
    for column, values in table.items():
        joined = torch.cat([part[column] for part in parts])
        tolerance = {"rtol": 1e-5, "atol": 1e-4 if column == "elbo" else 1e-6}
        torch.testing.assert_close(joined, values[order], equal_nan=True, **tolerance)


def test_few_draws_are_the_first_of_many_and_the_bound_is_left_out_where_it_takes_none(models, shard, whole):
    attack, few = whole["clean"]
    many = columns(models, shard, attack, draws=50, bound_draws=0)
    assert set(few) - set(many) == {"elbo"}
    for name, column in many.items():
        first = column[:, :10] if name.startswith("draw_") else column
        torch.testing.assert_close(first, few[name], rtol=1e-5, atol=1e-6)


MANY = 1000  # draws, of which so few fit the cache at once that images come in chunks


def test_what_is_said_stays_with_its_image_across_chunks(models, shard, whole):
    attack, _ = whole["fgsm"]
    chunks = []

    def decode(latents):
        chunks.append(len(latents))
        return models.vae.decode(latents)

    vae, classifier = SimpleNamespace(encode=models.vae.encode, decode=decode), models.classifier
    with one_thread():
        table = look(MANY, 0, "float32", "cpu", SEED, shard, attack, vae, classifier)
    assert len(chunks) > 2
    at = {"seed": seed_for("reconstructions", SEED), "indices": shard["indices"]}
    for row, image in enumerate(attack["images"].split(1)):
        at["indices"] = shard["indices"][row : row + 1]
        draws = reconstruct(models.vae, image, draws=MANY, **at)[0]
        softmax = classifier(draws).softmax(dim=1)
        own = softmax[:, table["predicted"][row]]
        torch.testing.assert_close(table["draw_own_probability"][row], own, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(table["draw_probability"][row], softmax.amax(dim=1), rtol=1e-4, atol=1e-6)
        error = (draws - image).square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(table["draw_mse"][row], error, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("broken", [torch.nan, -0.5, 1.5])
def test_a_broken_reconstruction_in_any_chunk_is_an_error(models, shard, whole, broken):
    """NaN has label 0 in every draw, and would pass for consistent."""
    chunks = []

    def decode(latents):
        chunks.append(len(latents))
        decoded = models.vae.decode(latents)
        return decoded if len(chunks) < 3 else torch.full_like(decoded, broken)

    vae = SimpleNamespace(encode=models.vae.encode, decode=decode)
    with one_thread(), pytest.raises(ValueError, match="the VAE's reconstructions must"):
        look(MANY, 0, "float32", "cpu", SEED, shard, whole["clean"][0], vae, models.classifier)


def test_logits_that_are_not_finite_are_an_error(models, shard, whole):
    with pytest.raises(ValueError, match="logits must be finite"):
        look(10, 0, "float32", "cpu", SEED, shard, whole["clean"][0], models, lambda images: models(images) / 0)
