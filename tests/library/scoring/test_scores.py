"""Each score against a plain formula and on an obvious pair; all in one pass; only training images teach."""

import dataclasses
import lzma
import math
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.spatial.distance import jensenshannon, mahalanobis
from sklearn.neighbors import KernelDensity
from torch import nn
from torch.distributions import ContinuousBernoulli, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy
from torch.testing import assert_close

from vaecore import (
    distinct_labels,
    elbo,
    fit_scores,
    kl,
    latent_mean,
    likelihood_regret,
    log_likelihood,
    reconstruct,
    reconstruct_labels,
    scores,
)
from vaecore.scoring import _learned, _scores  # for sizes of portions that only a GPU or a million images would meet
from vaecore.toolkit import normal, seed_for, words

SIDES, CLASSES = (5, 4), 4
SEED, FIRST = 11, 5
SETTINGS = {"draws": 4, "importance_draws": 6, "neighbours": 3}
SETTINGS |= {"regret_steps": 2, "posterior_steps": 3, "regret_draws": 4}
FITTED = ["mahalanobis", "latent-knn", "typicality", "density-of-states"]
EXPENSIVE = ["likelihood-regret", "posterior-regret"]
WITHOUT_MODELS = ["mean-pixel", "zeros", "compressed-size"]


@pytest.fixture(scope="session")
def blotted(some_images):
    """Give a function that makes grey images of which some pixels are blank."""

    def make(count, seed=0):
        images = some_images(count, seed)
        return torch.where(images < 0.2, 0.0, images)

    return make


@pytest.fixture(scope="session")
def fitted(tiny_vae, tiny_classifier, blotted):
    """Give a function that fits scores to 150 training images."""

    def fit(train=None, **setting):
        train = blotted(150, 9) if train is None else train
        return fit_scores(tiny_vae(), tiny_classifier(), train, seed=SEED, **{"names": NAMES} | SETTINGS | setting)

    return fit


# What each is


class Plain:
    """What the formulas below are of; 2,000 training images teach the expensive scores."""

    def __init__(self, vae, classifier, images, train):
        self.vae, self.classifier, self.images, self.at = vae, classifier, images, {"seed": SEED, "first_index": FIRST}
        self.draws = reconstruct(vae, images, draws=4, **self.at)
        self.target = images[:, None].expand_as(self.draws)
        self.likelihood = log_likelihood(vae, images, draws=6, **self.at)
        with torch.no_grad():
            self.encoded, self.taught = vae.encode(images), vae.encode(train)
            self.logits = classifier(images)
            self.drawn = classifier(self.draws.flatten(0, 1)).softmax(dim=1).view(-1, 4, CLASSES)
        pixels = (images.numpy() * 255).round().astype(np.uint8)
        best = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]
        self.bytes = torch.tensor(
            [len(lzma.compress(image.tobytes(), lzma.FORMAT_RAW, -1, None, best)) for image in pixels]
        )
        self.mean_image = vae.decode(self.encoded[0])
        seed = seed_for("scores/training-images", SEED)
        rows = words(seed, torch.arange(len(train)), draws=1, size=1).flatten().argsort()[:2000]
        self.some = train[rows], {"seed": seed, "indices": rows}

    def states(self, images, at):
        """The statistics of density of states by torch's distributions."""
        with torch.no_grad():
            mean, log_variance = self.vae.encode(images)
        encoded = Normal(mean, (log_variance / 2).exp())
        divergence, entropy = kl_divergence(encoded, Normal(0.0, 1.0)).sum(dim=1), encoded.entropy().sum(dim=1)
        draws = reconstruct(self.vae, images, draws=4, **at)
        density = -binary_cross_entropy(draws, images[:, None].expand_as(draws), reduction="none").sum(dim=(2, 3, 4))
        weighted = log_likelihood(self.vae, images, draws=6, **at)
        return torch.stack([divergence, divergence + entropy, entropy, density.mean(dim=1), weighted], dim=1).double()


def by_scipy(plain):
    means, variances = plain.taught[0].double(), plain.taught[1].double().exp()
    covariance = np.cov(means.numpy().T, ddof=0) + np.diag(variances.mean(dim=0).numpy())
    precision, centre = np.linalg.inv(covariance), means.mean(dim=0).numpy()
    return torch.tensor([mahalanobis(mean, centre, precision) for mean in plain.encoded[0].numpy()])


def by_sklearn(plain):
    taught, own = plain.states(*plain.some), plain.states(plain.images, plain.at)
    centre, scale = taught.mean(dim=0), taught.std(dim=0, correction=0)
    columns = zip(((taught - centre) / scale).T.numpy(), ((own - centre) / scale).T.numpy(), strict=True)
    each = [
        KernelDensity(bandwidth="scott").fit(left[:, None]).score_samples(right[:, None]) for left, right in columns
    ]
    return -torch.tensor(np.array(each)).sum(dim=0)


def code_length(plain):
    """Bits by torch's continuous Bernoulli: of each draw's density, and 8 for the width of each grey level."""
    by_draw = ContinuousBernoulli(plain.draws.double()).log_prob(plain.target.double()).sum(dim=(2, 3, 4))
    mean, log_variance = (part.double()[:, None] for part in plain.encoded)
    encoder = Normal(mean, (log_variance / 2).exp())
    noise = normal(SEED, torch.arange(FIRST, FIRST + len(mean)), draws=4, size=mean.shape[2]).double()
    latents = mean + encoder.scale * noise
    by_draw += (Normal(0.0, 1.0).log_prob(latents) - encoder.log_prob(latents)).sum(dim=2)
    return 8 * plain.images[0].numel() - (by_draw.logsumexp(dim=1) - math.log(4)) / math.log(2)


def divergence(plain):
    with torch.no_grad():
        answers = [(logits / 10).softmax(dim=1) for logits in (plain.logits, plain.classifier(plain.mean_image))]
    return torch.from_numpy(jensenshannon(*(answer.double().numpy() for answer in answers), axis=1) ** 2)


FORMULAS = {
    "mse": lambda plain: (plain.draws - plain.target).square().mean(dim=(1, 2, 3, 4)),
    "bce": lambda plain: binary_cross_entropy(plain.draws, plain.target, reduction="none").mean(dim=(1, 2, 3, 4)),
    "relative-mse": lambda plain: FORMULAS["mse"](plain) * 20 / plain.images.square().sum(dim=(1, 2, 3)),
    "elbo": lambda plain: -elbo(plain.vae, plain.images, draws=4, **plain.at),
    "log-likelihood": lambda plain: -plain.likelihood,
    "kl": lambda plain: kl(plain.vae, plain.images),
    "latent-norm": lambda plain: latent_mean(plain.vae, plain.images).square().sum(dim=1).sqrt(),
    "log-variance": lambda plain: -plain.encoded[1].mean(dim=1),
    "mahalanobis": by_scipy,
    "latent-knn": lambda plain: torch.cdist(plain.encoded[0], plain.taught[0]).sort(dim=1).values[:, 2],
    "typicality": lambda plain: (
        plain.likelihood - log_likelihood(plain.vae, plain.some[0], draws=6, **plain.some[1]).mean()
    ).abs(),
    "input-complexity": lambda plain: code_length(plain) - 8 * plain.bytes,
    "likelihood-regret": lambda plain: likelihood_regret(
        plain.vae, plain.images, how="encoder", steps=2, draws=4, **plain.at
    ),
    "posterior-regret": lambda plain: likelihood_regret(plain.vae, plain.images, steps=3, draws=4, **plain.at),
    "density-of-states": by_sklearn,
    "distinct-labels": lambda plain: distinct_labels(
        reconstruct_labels(plain.vae, plain.classifier, plain.images, draws=4, **plain.at)
    ),
    "disagreement": lambda plain: 1 - plain.drawn[torch.arange(60), :, plain.logits.argmax(dim=1)].mean(dim=1),
    "magnet-error": lambda plain: (plain.images - plain.mean_image).abs().mean(dim=(1, 2, 3)),
    "magnet-divergence": divergence,
    "mean-pixel": lambda plain: plain.images.mean(dim=(1, 2, 3)),
    "zeros": lambda plain: torch.tensor([-(image == 0).sum() / image.numel() for image in plain.images]),
    "compressed-size": lambda plain: plain.bytes,
    "max-softmax": lambda plain: 1 - plain.logits.softmax(dim=1).max(dim=1).values,
    "energy": lambda plain: -plain.logits.exp().sum(dim=1).log(),
}
NAMES = list(FORMULAS)


@pytest.fixture(scope="module")
def both(fitted, tiny_vae, tiny_classifier, blotted):
    """Scores of 60 images, and the same plainly; training images come in chunks that 2,000 is no multiple of."""
    images, train = blotted(60, 3), blotted(2200, 9)
    images[:20, :, 1:] = 0  # which can be compressed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_scores, "_CHUNK", {"cpu": 300})
        ours = fitted(train)(images, first_index=FIRST, chunk=25)
    return ours, Plain(tiny_vae(), tiny_classifier(), images, train)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_its_formula(both, name):
    score, expected = both[0][name], FORMULAS[name](both[1])
    assert score.shape == (60,)
    assert score.dtype == torch.float32
    assert not score.requires_grad
    assert expected.double().std() > 0
    # Far out, log-densities of narrow kernels multiply the rounding of what they are of.
    rtol = 1e-2 if name == "density-of-states" else 1e-3
    assert_close(score.double(), expected.double(), rtol=rtol, atol=1e-4)


def test_the_registry_names_every_score_and_says_what_it_is():
    assert list(scores) == NAMES
    for name, score in scores.items():
        assert score.name == name
        assert score.description.endswith(".")
        assert score.source
        assert ("training images" in score.needs) == (score.learn is not None) == (name in FITTED)
        assert set(score.needs) <= {"vae", "classifier", "training images", "a VAE with weights, a torch.nn.Module"}
    assert [name for name, score in scores.items() if not score.needs] == WITHOUT_MODELS
    assert [name for name, score in scores.items() if score.expensive] == EXPENSIVE
    with pytest.raises(TypeError):
        scores["mse"] = scores["kl"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores["mse"].name = "kl"


def test_more_importance_draws_or_fewer_than_reconstructions(tiny_vae, blotted):
    images = blotted(6)
    for draws, importance_draws in ((5, 2), (3, 3), (2, 9)):
        for name, expected in (
            ("log-likelihood", log_likelihood(tiny_vae(), images, draws=importance_draws, seed=1)),
            ("elbo", elbo(tiny_vae(), images, draws=draws, seed=1)),
        ):
            score = scores[name](tiny_vae(), images, seed=1, draws=draws, importance_draws=importance_draws)
            assert_close(score, -expected, rtol=1e-5, atol=1e-4)


def test_the_code_of_colour_takes_as_many_bits_as_the_decoder_s_probabilities_say(tiny_colour_vae, some_colours):
    vae, images = tiny_colour_vae(), some_colours(6)
    at = {"seed": SEED, "draws": 3, "importance_draws": 3}
    expected = -log_likelihood(vae, images, draws=3, seed=SEED) / math.log(2)
    complexity, size = (scores[name](vae, images, **at) for name in ("input-complexity", "compressed-size"))
    assert_close(complexity + 8 * size, expected)
    assert_close(
        scores["bce"](vae, images, **at) * images[0].numel(), -elbo(vae, images, draws=3, seed=SEED) - kl(vae, images)
    )


# Higher is more anomalous


SIDE = 16


class Halves:
    """A VAE of images that are one grey on the left and another on the right, which looks at the top row alone.

    The further from grey, the surer it is.
    """

    def encode(self, images):
        grey = images[:, 0, 0].view(-1, 2, SIDE // 2).mean(dim=2)
        mean = 6 * grey - 3
        return mean, -1 - mean.abs()

    def decode(self, latents):
        halves = (2 * latents).sigmoid().view(-1, 1, 1, 2, 1)
        return halves.expand(-1, 1, SIDE, 2, SIDE // 2).reshape(-1, 1, SIDE, SIDE)


def lighter_side(images):
    """A classifier of which side is lighter."""
    left, right = images[..., : SIDE // 2].mean(dim=(1, 2, 3)), images[..., SIDE // 2 :].mean(dim=(1, 2, 3))
    return 10 * torch.stack([left - right, right - left], dim=1)


def halves(left, right):
    """An image that the VAE can make."""
    sides = torch.tensor([left, right]).view(1, 1, 1, 2, 1)
    return sides.expand(1, 1, SIDE, 2, SIDE // 2).reshape(1, 1, SIDE, SIDE)


def checkers(low, high):
    even = (torch.arange(SIDE).view(-1, 1) + torch.arange(SIDE)) % 2 == 0
    return torch.where(even, low, high).view(1, 1, SIDE, SIDE)


def rough():
    """An image of the same likelihood as checkers, and no pattern: each half of its top row is half black."""
    order = torch.rand(SIDE, 2, SIDE // 2, generator=torch.Generator().manual_seed(0)).argsort(dim=2)
    return (order < SIDE // 4).float().view(1, 1, SIDE, SIDE)


def contradicted():
    """An image whose top row says the opposite of all others."""
    image = halves(0.9, 0.1)
    image[..., 0, :] = 1 - image[..., 0, :]
    return image


ORDINARY = halves(0.9, 0.1)
PAIRS = {  # of ordinary and anomalous images
    **dict.fromkeys(("mse", "bce", "elbo", "log-likelihood"), (ORDINARY, checkers(0.0, 1.0))),
    "relative-mse": (checkers(0.0, 1.0), checkers(0.0, 0.4)),  # whose MSE is the lower
    **dict.fromkeys(("kl", "latent-norm", "log-variance", "mahalanobis", "latent-knn"), (ORDINARY, halves(1.0, 1.0))),
    "input-complexity": (rough(), checkers(0.0, 1.0)),
    "posterior-regret": (ORDINARY, contradicted()),
    "density-of-states": (ORDINARY, halves(1.0, 1.0)),
    **dict.fromkeys(("distinct-labels", "disagreement", "max-softmax", "energy"), (ORDINARY, halves(0.5, 0.5))),
    "magnet-error": (ORDINARY, checkers(0.0, 1.0)),
    "magnet-divergence": (ORDINARY, contradicted()),
    **dict.fromkeys(("mean-pixel", "zeros"), (halves(0.0, 0.2), halves(0.9, 0.9))),
    "compressed-size": (ORDINARY, rough()),
}


def ordinary_images(count, left, right):
    grey = 0.1 * torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([left, right])
    return torch.cat([halves(left, right) for left, right in grey])


def test_higher_is_more_anomalous():
    ready = fit_scores(Halves(), lighter_side, ordinary_images(100, 0.85, 0.05), seed=0, names=PAIRS)
    assert set(PAIRS) == set(scores) - {"typicality", "likelihood-regret"}  # for which `Halves` has no weights
    for name, (ordinary, anomalous) in PAIRS.items():
        low, high = ready(torch.cat([ordinary, anomalous]))[name]
        assert high > low + 1e-3 * low.abs(), name


def test_too_likely_is_as_untypical_as_too_unlikely():
    train, setting = ordinary_images(100, 0.8, 0.1), {"importance_draws": 300, "seed": 0}
    likelihood = log_likelihood(Halves(), train, draws=300, seed=0)
    typical = train[(likelihood - likelihood.mean()).abs().argmin()][None]
    three = torch.cat([typical, halves(1.0, 0.0), checkers(0.0, 1.0)])
    likely = log_likelihood(Halves(), three, draws=300, seed=0)
    assert likely[1] > likely[0] > likely[2]
    low, likelier, unlikelier = scores["typicality"](Halves(), three, train=train, **setting)
    assert min(likelier, unlikelier) > 3 * low


# Scores that are fitted on training images


class Direct:
    """A VAE whose images are posteriors: two pixels for means from -4 to 4, two for variances; it decodes to grey."""

    def encode(self, images):
        mean, variance = images.flatten(1).chunk(2, dim=1)
        return 8 * mean - 4, variance.log()

    def decode(self, latents):
        return torch.full((len(latents), 1, 2, 2), 0.5)


def direct(mean, variance=1.0):
    """Images of means, (n, 2), and variances."""
    mean = torch.as_tensor(mean)
    return torch.cat([(mean + 4) / 8, torch.as_tensor(variance).expand_as(mean)], dim=1).view(-1, 1, 2, 2)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 200), neighbours=st.integers(1, 200), at_once=st.integers(1, 2000), seed=st.integers(0, 1000)
)
def test_the_kth_nearest_is_that_of_sorting_whatever_the_numbers(count, neighbours, at_once, seed):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, 2, generator=generator).clamp(-4, 4).round(decimals=1)  # some at equal distance
    queries = torch.cat([torch.randn(3, 2, generator=generator).clamp(-4, 4), latents[:1]])
    neighbours = min(neighbours, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_learned, "_DISTANCES_AT_ONCE", {"cpu": at_once})
        distance = scores["latent-knn"](Direct(), direct(queries), train=direct(latents), neighbours=neighbours, seed=0)
    expected = torch.cdist(queries.double(), latents.double()).sort(dim=1).values[:, neighbours - 1]
    assert_close(distance.double(), expected, rtol=1e-5, atol=2e-6)


def test_an_unused_latent_does_not_outweigh_the_others():
    mean = torch.stack([torch.linspace(-2, 2, 50), 1e-3 * torch.linspace(-1, 1, 50)], dim=1)
    train = direct(mean, torch.tensor([0.1, 1.0]))
    used, unused = scores["mahalanobis"](Direct(), direct([[1.0, 0.0], [0.0, 1.0]]), train=train, seed=0)
    assert unused.item() == pytest.approx(1.0, abs=1e-4)
    assert used.item() == pytest.approx((51 / 49 * 16 / 12 + 0.1) ** -0.5, abs=1e-4)


def test_far_from_all_training_images_density_of_states_stays_finite():
    train = direct(torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) / 10)
    rarity = scores["density-of-states"](Direct(), direct([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]]), train=train, seed=0)
    assert torch.isfinite(rarity).all()
    assert rarity[2] > rarity[1] > rarity[0]


def test_nothing_is_learnt_from_the_images_that_are_scored(fitted, blotted):
    ready, images = fitted(), blotted(8, 2)
    before = ready(images)
    company = ready(torch.cat([images, torch.ones(300, 1, *SIDES)]))
    again = ready(images)
    other = fitted(torch.ones(150, 1, *SIDES) * 0.9)(images)
    for name in NAMES:
        assert torch.equal(again[name], before[name]), name  # nothing is kept of what was seen
        assert_close(company[name][:8], before[name], rtol=1e-4, atol=1e-4, msg=name)
        assert torch.equal(other[name], before[name]) == (name not in FITTED), name  # training images alone teach


def test_training_images_teach_in_any_order_of_the_scores_asked_for(fitted, blotted):
    images = blotted(6, 2)
    every = fitted()(images)
    for name in FITTED:
        alone = fitted(names=[name])(images)
        assert list(alone) == [name]
        assert_close(alone[name], every[name])


# In one pass


class Counting:
    """A VAE and a classifier that keep count of what they are shown."""

    def __init__(self, vae, classifier):
        self.vae, self.classifier = vae, classifier
        self.counts = [0, 0, 0]  # encoded, decoded, classified

    def encode(self, images):
        self.counts[0] += len(images)
        return self.vae.encode(images)

    def decode_logits(self, latents):
        self.counts[1] += len(latents)
        return self.vae.decode_logits(latents)

    def decode(self, latents):
        raise AssertionError

    def classify(self, images):
        self.counts[2] += len(images)
        return self.classifier(images)


@pytest.fixture
def counting(tiny_vae, tiny_classifier):
    return Counting(tiny_vae(), tiny_classifier())


@pytest.mark.parametrize(("count", "decoded"), [(1, 1), (250, 250), (2100, 2000)])
def test_no_more_training_images_are_decoded_than_the_scores_want(counting, blotted, count, decoded):
    every = {**SETTINGS, "neighbours": 1, "names": [name for name in NAMES if name != "likelihood-regret"]}
    fit_scores(counting, counting.classify, blotted(count, 9), seed=SEED, **every)
    assert counting.counts == [count, 6 * decoded, 0]


@pytest.mark.parametrize(
    ("names", "encoded", "decoded", "classified"),
    [
        # Of all, the regret's steps in pairs, and its draws before and after; and a pair, to see how wide the VAE is.
        ([name for name in NAMES if name != "likelihood-regret"], 1, 6 + 1 + 2 * 3 + 2 * 4 + 2 / 7, 1 + 4 + 1),
        (None, 1, 6 + 1, 1 + 4 + 1),
        (["input-complexity", "mse"], 1, 4, 0),
        (["magnet-error", "magnet-divergence"], 1, 1, 2),
        (["mse", "bce", "elbo", "max-softmax"], 1, 4, 1),
        (["log-likelihood", "typicality", "density-of-states"], 1, 6, 0),
        (["kl", "mahalanobis", "latent-knn", "log-variance"], 1, 0, 0),
        (["energy", "max-softmax"], 0, 0, 1),
        (["distinct-labels"], 1, 4, 4),
        (WITHOUT_MODELS, 0, 0, 0),
    ],
)
def test_scores_share_their_work(counting, blotted, names, encoded, decoded, classified):
    ready = fit_scores(counting, counting.classify, blotted(20, 9), seed=0, names=names, **SETTINGS)
    counting.counts = [0, 0, 0]
    ready(blotted(7))
    assert counting.counts == [7 * encoded, round(7 * decoded), 7 * classified]


@pytest.mark.parametrize("name", NAMES)
def test_a_score_can_be_called_by_itself(fitted, tiny_vae, tiny_classifier, blotted, name):
    score, images = scores[name], blotted(5)
    vae = tiny_vae() if "vae" in score.needs else None
    given = {
        "classifier": tiny_classifier() if "classifier" in score.needs else None,
        "train": blotted(150, 9) if "training images" in score.needs else None,
    }
    alone = score(vae, images, seed=SEED, first_index=2, **given, **SETTINGS)
    assert_close(alone, fitted()(images, first_index=2)[name])


def test_a_blank_image_has_finite_scores(fitted):
    blank = fitted()(torch.zeros(2, 1, *SIDES))
    assert all(torch.isfinite(column).all() for column in blank.values())
    assert blank["relative-mse"].min() > 1e6


def test_certainty_is_told_from_near_certainty(blotted):
    logits = torch.tensor([[30.0, 0.0], [20.0, 0.0]])
    doubt = scores["max-softmax"](None, blotted(2), seed=0, classifier=lambda _: logits)
    assert_close(doubt, torch.tensor([math.exp(-30), math.exp(-20)]), rtol=1e-2, atol=0)


def test_fitted_scores_can_be_sent_to_another_process(fitted, blotted):
    ready, images = fitted(), blotted(4)
    sent = pickle.loads(pickle.dumps(ready))(images)  # noqa: S301  # our own bytes
    for name, column in ready(images).items():
        assert torch.equal(sent[name], column)


# What callers pass in


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["mse", "msee"]}, "names must be among mse, bce, .*, energy; got 'msee'"),
        ({"names": "kll"}, "names must be among .*; got 'kll'"),
        ({"names": []}, r"names must name a score or more; got none \(known: mse, "),
        ({"vae": None, "names": ["kl", "zeros"]}, r"kl need vae; got none \(or choose others"),
        (
            {"classifier": None},
            "distinct-labels, disagreement, magnet-divergence, max-softmax, energy need classifier; got none",
        ),
        ({"train": None}, "mahalanobis, latent-knn, typicality, density-of-states need training images; got none"),
        (
            {"vae": Halves(), "names": ["mse", "likelihood-regret"]},
            r"likelihood-regret need a VAE with weights, a torch\.nn\.Module",
        ),
        ({"neighbours": 11}, "neighbours must be at most the number of training images, 10; got 11"),
        ({"neighbours": 0}, "neighbours must be 1 or more; got 0"),
        ({"draws": 0}, "draws must be 1 or more; got 0"),
        ({"importance_draws": -1}, "importance_draws must be 1 or more; got -1"),
        ({"posterior_steps": 0}, "posterior_steps must be 1 or more; got 0"),
        ({"regret_steps": 0}, "regret_steps must be 1 or more; got 0"),
        ({"regret_draws": 0}, "regret_draws must be 1 or more; got 0"),
        ({"train": torch.full((9, 1, *SIDES), 2.0)}, r"training images must lie in \[0, 1\]; got \[2, 2\]"),
        ({"classifier": nn.Linear(1, 1).train()}, "the classifier must be in evaluation mode"),
        ({"vae": Halves(), "names": ["kl", "mahalanobis"]}, "shape"),
    ],
)
def test_unfit_preparation(tiny_vae, tiny_classifier, blotted, change, message):
    given = {"vae": tiny_vae(), "classifier": tiny_classifier(), "train": blotted(10)} | change
    with pytest.raises((ValueError, RuntimeError), match=message):
        fit_scores(given.pop("vae"), given.pop("classifier"), given.pop("train"), seed=0, **given)


def test_images_of_another_shape_than_the_training_images(fitted):
    with pytest.raises(ValueError, match=r"must be shaped as the training images, \(1, 5, 4\); got \(1, 4, 5\)"):
        fitted()(torch.zeros(2, 1, 4, 5))


def test_scores_without_models_ask_for_nothing(blotted):
    columns = fit_scores(None, None, None, seed=0, names=WITHOUT_MODELS)(blotted(4))
    assert list(columns) == WITHOUT_MODELS
    names = fit_scores(None, None, None, seed=0, names=["zeros", "mean-pixel", "zeros"]).names
    assert names == ("zeros", "mean-pixel")
