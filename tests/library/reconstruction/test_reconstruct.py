"""Reconstruction against one forward pass per draw, under any chunking; labels; and the KL divergence of torch."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from vaecore import (
    VAE,
    VAEConfig,
    distinct_labels,
    kl,
    latent_mean,
    log_likelihood,
    reconstruct,
    reconstruct_labels,
    squared_error,
)
from vaecore.toolkit import fit_at_once, normal

LATENT, SIDES = 3, (5, 4)


def naive(vae, images, draws, seed, indices):
    """One full forward pass per image and draw: no batching, no reuse of the encoding."""
    passes = []
    with torch.no_grad():
        for image, index in zip(images.split(1), indices.split(1), strict=True):
            for draw in range(draws):
                mean, log_variance = vae.encode(image)
                noise = normal(seed, index, draws=draws, size=LATENT)[:, draw]
                passes.append(vae.decode(mean + torch.exp(log_variance / 2) * noise))
    return torch.cat(passes).view(len(images), draws, 1, *SIDES)


class Answering:
    """A VAE, no torch module, that gives fixed answers, and keeps what it is asked."""

    def __init__(self, posterior=None, decode=None, sides=SIDES):
        self.posterior, self.answer, self.sides = posterior, decode, sides
        self.encoded, self.decoded = [], []

    def encode(self, images):
        self.encoded.append(images)
        zeros = torch.zeros(len(images), LATENT)
        return (zeros, zeros) if self.posterior is None else self.posterior

    def decode(self, latents):
        self.decoded.append(len(latents))
        if self.answer is not None:
            return self.answer(latents)
        return latents[:, 0].sigmoid().view(-1, 1, 1, 1).expand(-1, 1, *self.sides)


def test_reconstructions_are_those_of_one_forward_pass_per_draw(tiny_vae, some_images):
    vae, images = tiny_vae(), some_images(6)
    draws = reconstruct(vae, images, draws=4, seed=9, first_index=3)
    assert draws.shape == (6, 4, 1, *SIDES)
    assert draws.dtype == torch.float32
    assert not draws.requires_grad
    assert_close(draws, naive(vae, images, 4, 9, torch.arange(3, 9)), atol=1e-6, rtol=0)
    spread = (draws[:, 1:] - draws[:, :1]).abs().amax(dim=(1, 2, 3, 4))
    assert spread.min() > 0.01  # the draws differ, far beyond the tolerance
    fewer = reconstruct(vae, images, draws=3, seed=9, first_index=3)
    assert_close(fewer, draws[:, :3], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("precision", "error", "turned"), [("float32", 2e-6, 0.001), ("bfloat16", 2**-6, 0.01)])
def test_results_are_those_of_double_precision(precision, error, turned):
    """Of a VAE and a classifier of the reference sizes, as wide as trained ones; labels turn where two are alike."""
    generator = torch.Generator().manual_seed(0)
    vae = VAE(VAEConfig(), (28, 28)).eval()
    for parameter in vae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (1.5 / parameter.shape[-1] ** 0.5)
    weight = torch.randn(784, 10, generator=generator) / 28
    images = torch.rand(100, 1, 28, 28, generator=generator)
    exact = copy.deepcopy(vae).double()
    noise = normal(4, torch.arange(100), draws=20, size=20).double()
    with torch.no_grad():
        mean, log_variance = exact.encode(images.double())
        latents = mean[:, None] + (log_variance / 2).exp()[:, None] * noise
        expected = exact.decode(latents.flatten(0, 1)).view(100, 20, 1, 28, 28)
    draws = reconstruct(vae, images, draws=20, seed=4, precision=precision)
    assert draws.dtype == torch.float32
    assert (draws - expected).abs().max() < error
    label = (expected.flatten(2) @ weight.double()).argmax(dim=2)
    assert label.unique().numel() > 3
    assert ((draws.flatten(2) @ weight).argmax(dim=2) != label).double().mean() <= turned
    if precision == "bfloat16":
        assert (draws - expected).abs().max() > 1e-4  # half precision was taken


FIT = "as many as fit"  # in the cache


@pytest.mark.parametrize(
    ("count", "draws", "chunk", "rows"),
    [(7, 3, 3, [3, 3, 1]), (4, 2, 10, [4]), (3, 2, 1, [1, 1, 1]), (5, 0.5, FIT, [2, 2, 1]), (2, 1.8, FIT, [1, 1])],
)
@pytest.mark.usefixtures("one_thread")
def test_each_image_is_encoded_once_and_no_more_than_a_chunk_is_held(count, draws, chunk, rows):
    """Draws of a chunk that fits are given as a share of what fits."""
    sides = (100, 100)  # so that little fits
    if chunk == FIT:
        draws, chunk = round(draws * fit_at_once(4 * 10_000, torch.device("cpu"))), None
    images = torch.rand(count, 1, *sides, generator=torch.Generator().manual_seed(0))
    vae, seen = Answering(sides=sides), []

    def reduce(some, reconstructions):
        seen.append(some)
        assert reconstructions.shape == (len(some), draws, 1, *sides)
        return reconstructions.amax(dim=(1, 2, 3, 4))

    largest = reconstruct(vae, images, draws=draws, seed=0, reduce=reduce, chunk=chunk)
    assert torch.equal(torch.cat(vae.encoded), images)  # each once, whatever the chunk
    assert vae.decoded == [number * draws for number in rows]
    assert [len(some) for some in seen] == rows
    assert torch.equal(torch.cat(seen), images)
    whole = reconstruct(vae, images, draws=draws, seed=0)
    assert_close(largest, whole.amax(dim=(1, 2, 3, 4)), atol=1e-6, rtol=0)


def test_a_reduction_may_give_a_dict_of_tensors(tiny_vae, some_images):
    vae, images = tiny_vae(), some_images(5)

    def reduce(rows, reconstructions):
        return {"mean": reconstructions.mean(dim=1), "error": (reconstructions - rows[:, None]).square()}

    reduced = reconstruct(vae, images, draws=3, seed=0, reduce=reduce, chunk=2)
    expected = reduce(images, reconstruct(vae, images, draws=3, seed=0))
    assert list(reduced) == ["mean", "error"]
    for name, part in expected.items():
        assert_close(reduced[name], part, atol=1e-6, rtol=0)


# Labels


def test_labels_are_the_classifiers_of_each_reconstruction(tiny_vae, some_images):
    vae, images = tiny_vae(), some_images(30)
    weight = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    labels = reconstruct_labels(vae, lambda x: x.flatten(1) @ weight, images, draws=6, seed=5, first_index=2)
    expected = (naive(vae, images, 6, 5, torch.arange(2, 32)).flatten(2) @ weight).argmax(dim=2)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, expected)
    assert labels.unique().numel() > 1
    assert distinct_labels(labels).max() > 1
    with pytest.raises(ValueError, match=r"the classifier must map 60 images to logits \(60, classes\); got \(60,\)"):
        reconstruct_labels(vae, lambda x: x.flatten(1).sum(dim=1), images[:10], draws=6, seed=5)
    with pytest.raises(ValueError, match="logits must be finite; got NaN"):
        reconstruct_labels(vae, lambda x: x.flatten(1).log() * torch.nan, images, draws=6, seed=5)


@given(
    rows=st.integers(1, 10).flatmap(
        lambda draws: st.lists(st.lists(st.integers(-1, 9), min_size=draws, max_size=draws), min_size=1, max_size=5)
    )
)
def test_distinct_labels_are_the_sizes_of_sets(rows):
    counts = distinct_labels(torch.tensor(rows))
    assert counts.tolist() == [len(set(row)) for row in rows]
    assert counts.dtype == torch.int64


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(3, 2), torch.zeros(3, 0, dtype=torch.int64)])
def test_distinct_labels_refuses_what_is_no_table_of_labels(labels):
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(n, draws\); got torch"):
        distinct_labels(labels)


def test_kl_is_the_divergence_of_torch(tiny_vae, some_images):
    vae, images = tiny_vae(), some_images(20)
    with torch.no_grad():
        mean, log_variance = vae.encode(images)
    assert torch.equal(latent_mean(vae, images), mean)
    posterior = Normal(mean.double(), (log_variance.double() / 2).exp())
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    assert expected.std() > 0.1
    assert_close(kl(vae, images).double(), expected, rtol=1e-5, atol=1e-5)
    assert kl(Answering(), images).tolist() == [0] * 20  # of the prior


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (1, 1, 5, 4), (2, 5, 4)])
def test_errors_of_reconstructions_of_other_images_are_refused(some_images, shape):
    with pytest.raises(ValueError, match=r"got \(2, 1, 5, 4\) and \(.*\)"):
        squared_error(some_images(2), torch.zeros(shape[0], 3, *shape[1:]))


def test_rounding_beyond_the_ends_of_what_a_decoder_gives_is_clipped(some_images):
    decoded = torch.tensor([-9e-9, 1.0000001, 0.0, 1.0] * 5).view(1, 1, 5, 4)
    vae = Answering(decode=lambda latents: decoded.repeat(len(latents), 1, 1, 1))
    drawn = reconstruct(vae, some_images(2), draws=3, seed=0)
    assert torch.equal(drawn, decoded.clamp(0, 1).expand_as(drawn))
    assert log_likelihood(vae, some_images(2), draws=3, seed=0).isfinite().all()


# What callers pass in


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"precision": "half"}, "precision must be 'float32', 'tf32' or 'bfloat16'; got 'half'"),
        ({"seed": -1}, "seed must be from 0"),
        ({"reduce": lambda images, _: 0.5}, "with a row for each of 2 images; got float"),
        ({"reduce": lambda images, _: {"sum": images.sum()}}, r"with a row for each of 2 images; got \(\)"),
        ({"reduce": lambda images, _: images[:1]}, r"with a row for each of 2 images; got \(1, 1, 5, 4\)"),
    ],
)
def test_unfit_settings(some_images, setting, message):
    with pytest.raises(ValueError, match=message):
        reconstruct(Answering(), some_images(2), **{"draws": 2, "seed": 0} | setting)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"decode": lambda z: torch.zeros(len(z), 20)}, r"images shaped as its input, \(4, 1, 5, 4\); got \(4, 20\)"),
        ({"decode": lambda z: torch.zeros(len(z) // 2, 1, 5, 4)}, r"got \(2, 1, 5, 4\)"),
        (
            {"posterior": (torch.zeros(2, 3), torch.zeros(2, 4))},
            r"encode 2 images to a mean and a log-variance \(2, latent\) each; got \(2, 3\) and \(2, 4\)",
        ),
        ({"posterior": (torch.zeros(1, 3), torch.zeros(1, 3))}, r"got \(1, 3\) and \(1, 3\)"),
        ({"posterior": (torch.zeros(2, 3, 1), torch.zeros(2, 3, 1))}, r"got \(2, 3, 1\) and"),
        ({"posterior": (torch.full((2, 3), torch.nan), torch.zeros(2, 3))}, "posterior must be finite; got NaN"),
        ({"posterior": (torch.zeros(2, 3), torch.full((2, 3), torch.inf))}, "did its training diverge"),
    ],
)
def test_unfit_models(some_images, answers, message):
    with pytest.raises(ValueError, match=message):
        reconstruct(Answering(**answers), some_images(2), draws=2, seed=0)
