"""Reconstruction against one forward pass per draw, under any chunking, and the bound's terms against torch's own."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy

from vaecore import VAE, VAEConfig, distinct_labels, elbo, kl, latent_mean, reconstruct, reconstruct_labels
from vaecore._noise import normal
from vaecore.reconstruction import _reconstruct
from vaecore.reconstruction._decode import kl_of_posterior

LATENT, SIDES = 3, (5, 4)


def tiny_vae(seed=0):
    """A VAE of 5x4 images with weights large enough that draws differ visibly."""
    model = VAE(VAEConfig(latent_size=LATENT, hidden_size=8), SIDES)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.6
    return model.eval()


def some_images(count, seed=0):
    return torch.rand(count, 1, *SIDES, generator=torch.Generator().manual_seed(seed))


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


class Plain:
    """A user's own VAE, no torch module, which keeps count of what it is asked."""

    def __init__(self, vae):
        self.vae, self.encoded, self.decoded = vae, [], []

    def encode(self, images):
        self.encoded.append(images)
        return self.vae.encode(images)

    def decode(self, latents):
        self.decoded.append(len(latents))
        return self.vae.decode(latents)


class Answering:
    """A VAE that answers what it is told to, to be found out."""

    def __init__(self, posterior=None, decoded=None):
        self.posterior, self.decoded = posterior, decoded

    def encode(self, images):
        zeros = torch.zeros(len(images), LATENT)
        return (zeros, zeros) if self.posterior is None else self.posterior(zeros)

    def decode(self, latents):
        return torch.zeros(len(latents), 1, *SIDES) if self.decoded is None else self.decoded(latents)


def test_reconstructions_are_those_of_one_forward_pass_per_draw():
    vae, images = tiny_vae(), some_images(6)
    found = reconstruct(vae, images, draws=4, seed=9, first_index=3)
    expected = naive(vae, images, 4, 9, torch.arange(3, 9))
    assert found.shape == (6, 4, 1, *SIDES)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    spread = (found[:, 1:] - found[:, :1]).abs().amax(dim=(1, 2, 3, 4))
    assert spread.min() > 0.01  # the draws differ, far beyond the tolerance


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**64 - 1))
def test_chunks_order_splits_and_draws_change_nothing(data, seed):
    count, draws = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    vae, images = tiny_vae(), some_images(count)
    indices = torch.tensor(data.draw(st.lists(st.integers(0, 2**34), min_size=count, max_size=count)))
    whole = reconstruct(vae, images, draws=draws, seed=seed, indices=indices)

    order = torch.tensor(data.draw(st.permutations(range(count))))
    cut = data.draw(st.integers(0, count - 1))
    parts = [
        reconstruct(
            vae, images[rows], draws=draws, seed=seed, indices=indices[rows], chunk=data.draw(st.integers(1, 9))
        )
        for rows in (order[:cut], order[cut:])
        if len(rows)
    ]
    torch.testing.assert_close(torch.cat(parts), whole[order], atol=1e-6, rtol=0)

    fewer = data.draw(st.integers(1, draws))
    prefix = reconstruct(vae, images, draws=fewer, seed=seed, indices=indices)
    torch.testing.assert_close(prefix, whole[:, :fewer], atol=1e-6, rtol=0)


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
    found = reconstruct(vae, images, draws=20, seed=4, precision=precision)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < error
    label = (expected.flatten(2) @ weight.double()).argmax(dim=2)
    assert label.unique().numel() > 3
    assert ((found.flatten(2) @ weight).argmax(dim=2) != label).double().mean() <= turned
    if precision == "bfloat16":
        assert (found - expected).abs().max() > 1e-4  # half precision was taken


def test_first_index_counts_up():
    vae, images = tiny_vae(), some_images(5)
    whole = reconstruct(vae, images, draws=2, seed=1)
    torch.testing.assert_close(reconstruct(vae, images[2:], draws=2, seed=1, first_index=2), whole[2:])
    shifted = reconstruct(vae, images, draws=2, seed=1, first_index=1)
    assert (shifted - whole).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3
    assert (reconstruct(vae, images, draws=2, seed=2) - whole).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3


@pytest.mark.parametrize(
    ("count", "draws", "chunk", "rows"),
    [(7, 3, 3, [3, 3, 1]), (4, 2, 10, [4]), (3, 2, 1, [1, 1, 1]), (5, 250, None, [2, 2, 1]), (2, 900, None, [1, 1])],
)
def test_each_image_is_encoded_once_and_no_more_than_a_chunk_is_held(monkeypatch, count, draws, chunk, rows):
    monkeypatch.setattr(_reconstruct, "fit_at_once", lambda *_: 500)
    vae, images, seen = Plain(tiny_vae()), some_images(count), []

    def reduce(some, reconstructions):
        seen.append(some)
        assert reconstructions.shape == (len(some), draws, 1, *SIDES)
        return reconstructions.amax(dim=(1, 2, 3, 4))

    found = reconstruct(vae, images, draws=draws, seed=0, reduce=reduce, chunk=chunk)
    assert torch.equal(torch.cat(vae.encoded), images)  # each once, whatever the chunk
    assert vae.decoded == [number * draws for number in rows]
    assert [len(some) for some in seen] == rows
    assert torch.equal(torch.cat(seen), images)
    whole = reconstruct(vae, images, draws=draws, seed=0)
    torch.testing.assert_close(found, whole.amax(dim=(1, 2, 3, 4)), atol=1e-6, rtol=0)


def test_a_reduction_may_give_a_dict_of_tensors():
    vae, images = tiny_vae(), some_images(5)

    def reduce(rows, reconstructions):
        return {"mean": reconstructions.mean(dim=1), "error": (reconstructions - rows[:, None]).square()}

    found = reconstruct(vae, images, draws=3, seed=0, reduce=reduce, chunk=2)
    whole = reconstruct(vae, images, draws=3, seed=0)
    assert list(found) == ["mean", "error"]
    torch.testing.assert_close(found["mean"], whole.mean(dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(found["error"], (whole - images[:, None]).square(), atol=1e-6, rtol=0)


def test_labels_are_the_classifiers_of_each_reconstruction():
    vae, images = tiny_vae(), some_images(30)
    weight = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    found = reconstruct_labels(vae, lambda x: x.flatten(1) @ weight, images, draws=6, seed=5, first_index=2)
    expected = (naive(vae, images, 6, 5, torch.arange(2, 32)).flatten(2) @ weight).argmax(dim=2)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)
    assert found.unique().numel() > 1
    assert distinct_labels(found).max() > 1
    with pytest.raises(ValueError, match=r"the classifier must map 60 images to logits \(60, classes\); got \(60,\)"):
        reconstruct_labels(vae, lambda x: x.flatten(1).sum(dim=1), images[:10], draws=6, seed=5)
    with pytest.raises(ValueError, match="logits must be finite; got NaN"):
        reconstruct_labels(vae, lambda x: x.flatten(1).log() * torch.nan, images, draws=6, seed=5)


@pytest.mark.parametrize(
    ("labels", "count"),
    [([3, 3, 3], 1), ([0, 1, 0], 2), ([5, 4, 3], 3), ([9], 1), ([-1, 7, -1, 7], 2), ([0, 2, 1, 2, 0, 1], 3)],
)
def test_distinct_labels(labels, count):
    found = distinct_labels(torch.tensor([labels, labels[::-1]]))
    assert found.tolist() == [count, count]
    assert found.dtype == torch.int64


@given(rows=st.lists(st.lists(st.integers(0, 9), min_size=10, max_size=10), min_size=1, max_size=5))
def test_distinct_labels_are_the_sizes_of_sets(rows):
    assert distinct_labels(torch.tensor(rows)).tolist() == [len(set(row)) for row in rows]


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(3, 2), torch.zeros(3, 0, dtype=torch.int64)])
def test_distinct_labels_refuses_what_is_no_table_of_labels(labels):
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(n, draws\); got torch"):
        distinct_labels(labels)


def test_kl_is_the_divergence_of_torch():
    vae, images = tiny_vae(), some_images(20)
    with torch.no_grad():
        mean, log_variance = vae.encode(images)
    assert torch.equal(latent_mean(vae, images), mean)
    posterior = Normal(mean.double(), (log_variance.double() / 2).exp())
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    assert expected.std() > 0.1
    torch.testing.assert_close(kl(vae, images).double(), expected, rtol=1e-5, atol=1e-5)
    assert kl_of_posterior(torch.zeros(2, 4), torch.zeros(2, 4)).tolist() == [0, 0]


def test_elbo_is_its_definition():
    vae, images, draws = tiny_vae(), some_images(8), 5
    latents = normal(3, torch.arange(4, 12), draws=draws, size=LATENT)
    with torch.no_grad():
        mean, log_variance = vae.encode(images)
        posterior = Normal(mean[:, None], (log_variance[:, None] / 2).exp())
        sample = posterior.loc + posterior.scale * latents
        probability = vae.decode(sample.flatten(0, 1)).view(8, draws, -1)
    likelihood = (images.flatten(1)[:, None] * probability.logit() + (1 - probability).log()).sum(dim=2)
    expected = likelihood.mean(dim=1) - kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=(1, 2))
    found = elbo(vae, images, draws=draws, seed=3, first_index=4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(elbo(vae, images, draws=draws, seed=3, indices=torch.arange(4, 12)), found)
    assert (elbo(vae, images, draws=draws, seed=4, first_index=4) != found).all()


@settings(deadline=None)
@given(
    pixels=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=6, max_size=6),
    chances=st.lists(st.floats(2**-10, 1 - 2**-10, width=32), min_size=12, max_size=12),
)
def test_log_bernoulli_is_the_cross_entropy_of_torch(pixels, chances):
    images, reconstructions = torch.tensor(pixels).view(1, 1, 2, 3), torch.tensor(chances).view(1, 2, 1, 2, 3)
    target = images[:, None].expand_as(reconstructions)
    expected = -binary_cross_entropy(reconstructions, target, reduction="none").sum(dim=(2, 3, 4))
    torch.testing.assert_close(log_bernoulli(images, reconstructions), expected, rtol=1e-5, atol=1e-5)
    binary = (images > 0.5).float()
    direct = Bernoulli(probs=reconstructions).log_prob(binary[:, None].expand_as(reconstructions)).sum(dim=(2, 3, 4))
    torch.testing.assert_close(log_bernoulli(binary, reconstructions), direct, rtol=1e-5, atol=1e-5)


def test_log_bernoulli_stays_finite_where_the_decoder_saturates():
    eps = torch.finfo(torch.float32).eps
    pixel = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(4, 1, 1, 1)
    decoded = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(4, 1, 1, 1, 1)
    floor = torch.tensor(eps).log().item()
    found = log_bernoulli(pixel, decoded).flatten()
    torch.testing.assert_close(found, torch.tensor([-eps, -eps, floor, floor]), rtol=1e-5, atol=2e-6)
    assert found[:2].abs().max() < 1e-6


def posterior_of(mean, log_variance):
    return Answering(posterior=lambda _: (mean, log_variance))


@pytest.mark.parametrize("call", [lambda *a: reconstruct(*a, draws=2, seed=0), kl, latent_mean])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((2, 1, 5, 4), 1.01), r"images must lie in \[0, 1\]; got \[1.01, 1.01\] \(undo"),
        (torch.full((2, 1, 5, 4), -0.42), r"images must lie in \[0, 1\]; got \[-0.42, -0.42\]"),
        (torch.full((2, 1, 5, 4), torch.nan), "images must be finite; got NaN"),
        (torch.zeros(2, 1, 5, 4, dtype=torch.uint8), r"images must be float32; got torch.uint8 \(bytes"),
        (torch.zeros(2, 1, 5, 4, dtype=torch.float64), "images must be float32; got torch.float64"),
        (torch.zeros(2, 5, 4), r"shape \(n, channels, height, width\), 1 channel or 3; got \(2, 5, 4\) .*unsqueeze"),
        (
            torch.zeros(2, 5, 4, 3),
            r"images must have shape .*; got \(2, 5, 4, 3\) \(where the channels come last.*permute",
        ),
        (torch.zeros(0, 1, 5, 4), r"images is empty; got shape \(0, 1, 5, 4\)"),
    ],
)
def test_unfit_images(call, images, message):
    with pytest.raises(ValueError, match=message):
        call(tiny_vae(), images)


@pytest.mark.parametrize(
    ("vae", "settings", "message"),
    [
        (Answering(), {"draws": 0}, "draws must be 1 or more; got 0"),
        (Answering(), {"precision": "half"}, "precision must be 'float32', 'tf32' or 'bfloat16'; got 'half'"),
        (Answering(), {"chunk": 0}, "chunk must be 1 or more images; got 0"),
        (Answering(), {"first_index": -3}, "first_index must be 0 or more; got -3"),
        (Answering(), {"seed": -1}, "seed must be from 0"),
        (Answering(), {"indices": torch.arange(3)}, r"indices must be int64 of shape \(2,\).*got torch.int64 \(3,\)"),
        (Answering(), {"indices": torch.zeros(2)}, r"indices must be int64 .* got torch.float32 \(2,\)"),
        (Answering(), {"indices": torch.tensor([0, -1])}, "0 and up"),
        (
            Answering(decoded=lambda z: torch.zeros(len(z), 20)),
            {},
            r"decode to images shaped as its input, \(4, 1, 5, 4\); got \(4, 20\)",
        ),
        (Answering(decoded=lambda z: torch.zeros(len(z) // 2, 1, 5, 4)), {}, r"got \(2, 1, 5, 4\)"),
        (
            posterior_of(torch.zeros(2, 3), torch.zeros(2, 4)),
            {},
            r"encode 2 images to a mean and a log-variance \(2, latent\) each; got \(2, 3\) and \(2, 4\)",
        ),
        (posterior_of(torch.zeros(1, 3), torch.zeros(1, 3)), {}, r"got \(1, 3\) and \(1, 3\)"),
        (posterior_of(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1)), {}, r"got \(2, 3, 1\) and"),
        (posterior_of(torch.full((2, 3), torch.nan), torch.zeros(2, 3)), {}, "posterior must be finite; got NaN"),
        (posterior_of(torch.zeros(2, 3), torch.full((2, 3), torch.inf)), {}, "did its training diverge"),
    ],
)
def test_unfit_settings_and_models(vae, settings, message):
    with pytest.raises(ValueError, match=message):
        reconstruct(vae, some_images(2), **{"draws": 2, "seed": 0} | settings)


@pytest.mark.parametrize(
    ("images", "got"),
    [
        ([[0.0]], "a batch of type list .*DataLoader"),
        ([(torch.zeros(2, 1, 5, 4), torch.zeros(2))], "a batch of type tuple .*DataLoader that gives labels too"),
        (3, "int"),
        ("images", "a batch of type str"),
    ],
)
def test_what_is_no_batch_of_images(images, got):
    with pytest.raises(TypeError, match=f"images must be a torch.Tensor, a numpy array or batches of these; got {got}"):
        reconstruct(tiny_vae(), images, draws=1, seed=0)


def test_neither_the_weights_nor_the_random_state_are_touched():
    vae, images = tiny_vae(), some_images(3)
    weights = nn.utils.parameters_to_vector(vae.parameters()).clone()
    kept, state = images.clone(), torch.get_rng_state()
    reconstruct(vae, images, draws=2, seed=0)
    elbo(vae, images, draws=2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(nn.utils.parameters_to_vector(vae.parameters()), weights)
    assert torch.equal(images, kept)
