"""Each score against a plain formula and on an obvious pair; all in one pass; only training images teach."""

import dataclasses
import math
import pickle
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.spatial.distance import mahalanobis
from sklearn.neighbors import KernelDensity
from torch import nn

from vaecore import (
    VAE,
    VAEConfig,
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
from vaecore._noise import seed_for, words
from vaecore.scoring import _features, _scores
from vaecore.scoring import _learned as _fitted

LATENT, SIDES, CLASSES = 3, (5, 4), 4
SEED, FIRST = 11, 5
SETTINGS = {"draws": 4, "importance_draws": 6, "neighbours": 3, "regret_steps": 2, "regret_draws": 4}
NAMES = [
    *("mse", "bce", "relative-mse", "elbo", "log-likelihood", "kl", "latent-norm", "log-variance", "mahalanobis"),
    *("latent-knn", "typicality", "input-complexity", "likelihood-regret", "density-of-states", "distinct-labels"),
    *("disagreement", "mean-pixel", "zeros", "compressed-size", "max-softmax", "energy"),
]
FITTED = ["mahalanobis", "latent-knn", "typicality", "density-of-states"]
WITHOUT_MODELS = ["mean-pixel", "zeros", "compressed-size"]


def tiny_vae(seed=0):
    """A VAE of 5x4 images with weights large enough that draws differ visibly."""
    model = VAE(VAEConfig(latent_size=LATENT, hidden_size=8), SIDES)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.6
    return model.eval()


def tiny_classifier():
    """A classifier that gives all its labels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SIDES), CLASSES))
    model[1].weight.data = torch.randn(model[1].weight.shape, generator=torch.Generator().manual_seed(1)) * 2
    model[1].bias.data = -0.5 * model[1].weight.data.sum(dim=1)
    return model.eval()


def some_images(count, seed=0):
    """Grey images of which some pixels are blank."""
    images = torch.rand(count, 1, *SIDES, generator=torch.Generator().manual_seed(seed))
    return torch.where(images < 0.2, 0.0, images)


def fitted(**told):
    return fit_scores(tiny_vae(), tiny_classifier(), some_images(150, 9), seed=SEED, **SETTINGS | told)


def sampled(count):
    """Indices of the first `count` training images in the order that the seed gives."""
    order = words(seed_for("scores/training-images", SEED), torch.arange(150), draws=1, size=1).flatten().argsort()
    return order[:count]


def states(vae, images, seed, **at):
    """The statistics of density of states by torch's distributions."""
    with torch.no_grad():
        mean, log_variance = vae.encode(images)
    encoded, prior = torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(encoded, prior).sum(dim=1)
    entropy = encoded.entropy().sum(dim=1)
    draws = reconstruct(vae, images, draws=4, seed=seed, **at)
    density = log_bernoulli(images, draws).mean(dim=1)
    weighted = log_likelihood(vae, images, draws=6, seed=seed, **at)
    return torch.stack([divergence, divergence + entropy, entropy, density, weighted], dim=1)


class Plainly:
    """Every score from the public functions and plain formulas."""

    def __init__(self, images, train):
        self.vae, self.classifier, self.images, self.train = tiny_vae(), tiny_classifier(), images, train
        self.at = {"seed": SEED, "first_index": FIRST}
        self.draws = reconstruct(self.vae, images, draws=4, **self.at)
        with torch.no_grad():
            self.encoded, self.learnt = self.vae.encode(images), self.vae.encode(train)
            self.softmax = self.classifier(images).softmax(dim=1)
        self.likelihood = log_likelihood(self.vae, images, draws=6, **self.at)
        pixels = (images.numpy() * 255).round().astype(np.uint8)
        self.bytes = torch.tensor([len(zlib.compress(image.tobytes(), 6)) for image in pixels])

    def mse(self):
        return (self.draws - self.images[:, None]).square().mean(dim=(1, 2, 3, 4))

    def bce(self):
        target = self.images[:, None].expand_as(self.draws)
        return nn.functional.binary_cross_entropy(self.draws, target, reduction="none").mean(dim=(1, 2, 3, 4))

    def relative_mse(self):
        return self.mse() * math.prod(SIDES) / self.images.square().sum(dim=(1, 2, 3))

    def elbo(self):
        return -elbo(self.vae, self.images, draws=4, **self.at)

    def log_likelihood(self):
        return -self.likelihood

    def kl(self):
        return kl(self.vae, self.images)

    def latent_norm(self):
        return latent_mean(self.vae, self.images).square().sum(dim=1).sqrt()

    def log_variance(self):
        return -self.encoded[1].mean(dim=1)

    def mahalanobis(self):
        means, variances = self.learnt[0].double(), self.learnt[1].double().exp()
        covariance = np.cov(means.numpy().T, ddof=0) + np.diag(variances.mean(dim=0).numpy())
        precision = np.linalg.inv(covariance)
        centre = means.mean(dim=0).numpy()
        return torch.tensor([mahalanobis(mean, centre, precision) for mean in self.encoded[0].numpy()])

    def latent_knn(self):
        return torch.cdist(self.encoded[0], self.learnt[0]).sort(dim=1).values[:, 2]

    def typicality(self):
        rows = sampled(120)
        seed = seed_for("scores/training-images", SEED)
        known = log_likelihood(self.vae, self.train[rows], draws=6, seed=seed, indices=rows)
        return (self.likelihood - known.mean()).abs()

    def input_complexity(self):
        return -self.likelihood / math.log(2) - 8 * self.bytes

    def likelihood_regret(self):
        return likelihood_regret(self.vae, self.images, steps=2, draws=4, **self.at)

    def density_of_states(self):
        rows = sampled(120)
        known = states(self.vae, self.train[rows], seed_for("scores/training-images", SEED), indices=rows).double()
        found = states(self.vae, self.images, **self.at).double()
        centre, scale = known.mean(dim=0), known.std(dim=0, correction=0)
        total = 0
        for column in range(5):
            kernels = KernelDensity(bandwidth="scott")
            kernels.fit(((known - centre) / scale)[:, column, None].numpy())
            total = total - kernels.score_samples(((found - centre) / scale)[:, column, None].numpy())
        return torch.tensor(total)

    def distinct_labels(self):
        return distinct_labels(reconstruct_labels(self.vae, self.classifier, self.images, draws=4, **self.at))

    def disagreement(self):
        drawn = self.classifier(self.draws.flatten(0, 1)).softmax(dim=1).view(-1, 4, CLASSES)
        own = self.softmax.argmax(dim=1)
        return 1 - drawn[torch.arange(len(own)), :, own].mean(dim=1)

    def mean_pixel(self):
        return self.images.mean(dim=(1, 2, 3))

    def zeros(self):
        return torch.tensor([-(image == 0).sum() / image.numel() for image in self.images])

    def compressed_size(self):
        return self.bytes

    def max_softmax(self):
        return 1 - self.softmax.max(dim=1).values

    def energy(self):
        return -self.classifier(self.images).exp().sum(dim=1).log()


@pytest.fixture(scope="module")
def both():
    images, train = some_images(60, 3), some_images(150, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_scores, "_CHUNK", {"cpu": 50})
        few = {
            name: dataclasses.replace(score, learn_from=120 if score.learn_from else None)
            for name, score in scores.items()
        }
        patch.setattr(_scores, "scores", few)
        found = fitted()(images, first_index=FIRST)
    return found, Plainly(images, train)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_its_formula(both, name):
    found, plain = both[0][name], getattr(both[1], name.replace("-", "_"))().detach()
    assert found.shape == (60,)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert plain.double().std() > 0
    # Far out, log-densities of narrow kernels multiply the rounding of what they are of.
    rtol = 1e-2 if name == "density-of-states" else 1e-3
    torch.testing.assert_close(found.double(), plain.double(), rtol=rtol, atol=1e-4)


def test_the_registry_names_every_score_and_says_what_it_is():
    assert list(scores) == NAMES
    for name, score in scores.items():
        assert score.name == name
        assert score.description.endswith(".")
        assert score.source
        assert ("training images" in score.needs) == (score.learn is not None) == (name in FITTED)
        assert set(score.needs) <= {"vae", "classifier", "training images"}
    assert [name for name, score in scores.items() if not score.needs] == WITHOUT_MODELS
    with pytest.raises(TypeError):
        scores["mse"] = scores["kl"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores["mse"].name = "kl"


SIDE = 16
HALF = SIDE * SIDE // 2


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
    "mse": (ORDINARY, checkers(0.0, 1.0)),
    "bce": (ORDINARY, checkers(0.0, 1.0)),
    "relative-mse": (checkers(0.0, 1.0), checkers(0.0, 0.4)),  # whose MSE is the lower
    "elbo": (ORDINARY, checkers(0.0, 1.0)),
    "log-likelihood": (ORDINARY, checkers(0.0, 1.0)),
    "kl": (ORDINARY, halves(1.0, 1.0)),
    "latent-norm": (ORDINARY, halves(1.0, 1.0)),
    "log-variance": (ORDINARY, halves(1.0, 1.0)),
    "mahalanobis": (ORDINARY, halves(1.0, 1.0)),
    "latent-knn": (ORDINARY, halves(1.0, 1.0)),
    "input-complexity": (rough(), checkers(0.0, 1.0)),
    "likelihood-regret": (halves(0.9, 0.1), contradicted()),
    "density-of-states": (ORDINARY, halves(1.0, 1.0)),
    "distinct-labels": (halves(0.9, 0.1), halves(0.5, 0.5)),
    "disagreement": (halves(0.9, 0.1), halves(0.5, 0.5)),
    "mean-pixel": (halves(0.0, 0.2), halves(0.9, 0.9)),
    "zeros": (halves(0.0, 0.2), halves(0.9, 0.9)),
    "compressed-size": (ORDINARY, rough()),
    "max-softmax": (halves(0.9, 0.1), halves(0.5, 0.5)),
    "energy": (halves(0.9, 0.1), halves(0.5, 0.5)),
}


def ordinary_images(count, left, right):
    grey = 0.1 * torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([left, right])
    return torch.cat([halves(left, right) for left, right in grey])


def test_higher_is_more_anomalous():
    ready = fit_scores(Halves(), lighter_side, ordinary_images(100, 0.85, 0.05), seed=0)
    assert set(PAIRS) == set(scores) - {"typicality"}
    for name, (ordinary, anomalous) in PAIRS.items():
        low, high = ready(torch.cat([ordinary, anomalous]))[name]
        assert high > low + 1e-3 * low.abs(), name


def test_too_likely_is_as_untypical_as_too_unlikely():
    judge = _fitted.typicality(torch.tensor([-90.0, -100.0, -125.0]))
    assert judge(torch.tensor([-105.0, -65.0, -145.0])).tolist() == [0, 40, 40]

    train, told = ordinary_images(100, 0.8, 0.1), {"importance_draws": 300, "seed": 0}
    likelihood = log_likelihood(Halves(), train, draws=300, seed=0)
    typical = train[(likelihood - likelihood.mean()).abs().argmin()][None]
    three = torch.cat([typical, halves(1.0, 0.0), checkers(0.0, 1.0)])
    likely = log_likelihood(Halves(), three, draws=300, seed=0)
    assert likely[1] > likely[0] > likely[2]
    low, likelier, unlikelier = scores["typicality"](Halves(), three, train=train, **told)
    assert min(likelier, unlikelier) > 3 * low


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_chunks_order_splits_and_company_change_nothing(data):
    count = data.draw(st.integers(1, 6))
    images = some_images(count, 2)
    indices = torch.tensor(data.draw(st.lists(st.integers(0, 2**34), min_size=count, max_size=count)))
    order = torch.tensor(data.draw(st.permutations(range(count))))
    cut = data.draw(st.integers(0, count - 1))
    ready = fitted()
    whole = ready(images, indices=indices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_features, "_DECODED", {"cpu": data.draw(st.integers(1, 12))})
        parts = [
            ready(images[rows], indices=indices[rows], chunk=data.draw(st.integers(1, 6)))
            for rows in (order[:cut], order[cut:])
            if len(rows)
        ]
    for name in NAMES:
        joined = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(joined, whole[name][order], rtol=1e-4, atol=1e-4, msg=name)


def test_first_index_and_seed_choose_the_draws():
    ready, images = fitted(), some_images(5, 2)
    whole = ready(images)
    for name in ("mse", "log-likelihood", "likelihood-regret", "disagreement"):
        torch.testing.assert_close(ready(images[2:], first_index=2)[name], whole[name][2:])
        assert (ready(images, first_index=1)[name] != whole[name]).any()
        assert (dataclasses.replace(ready, seed=12)(images)[name] != whole[name]).any()


def test_nothing_is_learnt_from_the_images_that_are_scored():
    ready, images = fitted(), some_images(8, 2)
    before = ready(images)
    outliers = torch.ones(300, 1, *SIDES)
    company = ready(torch.cat([images, outliers]))
    again = ready(images)
    other = fit_scores(tiny_vae(), tiny_classifier(), torch.ones(150, 1, *SIDES) * 0.9, seed=SEED, **SETTINGS)(images)
    for name in NAMES:
        assert torch.equal(again[name], before[name]), name  # nothing is kept of what was seen
        torch.testing.assert_close(company[name][:8], before[name], rtol=1e-4, atol=1e-4, msg=name)
        assert torch.equal(other[name], before[name]) == (name not in FITTED), name  # training images alone teach


def test_training_images_teach_in_any_order_of_the_scores_asked_for():
    images = some_images(6, 2)
    everything = fitted()(images)
    for name in FITTED:
        alone = fitted(names=[name])(images)
        assert list(alone) == [name]
        torch.testing.assert_close(alone[name], everything[name])


class Counting:
    """A VAE and a classifier that keep count of what they are shown."""

    def __init__(self):
        self.vae, self.net = tiny_vae(), tiny_classifier()
        self.encoded = self.decoded = self.classified = 0

    def encode(self, images):
        self.encoded += len(images)
        return self.vae.encode(images)

    def decode_logits(self, latents):
        self.decoded += len(latents)
        return self.vae.decode_logits(latents)

    def decode(self, latents):
        raise AssertionError

    def classify(self, images):
        self.classified += len(images)
        return self.net(images)


@pytest.mark.parametrize("learn_from", [1, 7, 150])
def test_scores_learn_from_no_more_training_images_than_they_want(monkeypatch, learn_from):
    learnt = {}

    def spy(name, learn):
        def learning(looked, told):
            learnt[name] = len(looked)
            return learn(looked, told)

        return learning

    spied = {
        name: dataclasses.replace(
            score,
            learn=score.learn and spy(name, score.learn),
            learn_from=score.learn_from and learn_from,
        )
        for name, score in scores.items()
    }
    monkeypatch.setattr(_scores, "scores", spied)
    monkeypatch.setattr(_scores, "_CHUNK", {"cpu": 4})
    counting = Counting()
    fit_scores(counting, counting.classify, some_images(150, 9), seed=SEED, **SETTINGS)
    chunks = -(-learn_from // 4)
    assert (counting.encoded, counting.decoded) == (150, 6 * min(4 * chunks, 150))  # nor are more decoded
    wanted = {"mahalanobis": 150, "latent-knn": 150, "typicality": learn_from, "density-of-states": learn_from}
    assert learnt == wanted


@pytest.mark.parametrize(
    ("names", "encoded", "decoded", "classified"),
    [
        (NAMES, 1, 6 + 2 * 2 + 2 * 4, 1 + 4),  # of which the regret's steps in pairs, and its draws before and after
        ([name for name in NAMES if name != "likelihood-regret"], 1, 6, 5),
        (["mse", "bce", "elbo", "max-softmax"], 1, 4, 1),
        (["log-likelihood", "typicality", "density-of-states"], 1, 6, 0),
        (["kl", "mahalanobis", "latent-knn", "log-variance"], 1, 0, 0),
        (["energy", "max-softmax"], 0, 0, 1),
        (["distinct-labels"], 1, 4, 4),
        (WITHOUT_MODELS, 0, 0, 0),
    ],
)
def test_scores_share_their_work(names, encoded, decoded, classified):
    counting = Counting()
    ready = fit_scores(counting, counting.classify, some_images(20, 9), seed=0, names=names, **SETTINGS)
    counting.encoded = counting.decoded = counting.classified = 0
    ready(some_images(7))
    assert (counting.encoded, counting.decoded, counting.classified) == (7 * encoded, 7 * decoded, 7 * classified)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_can_be_called_by_itself(name):
    score, images, train = scores[name], some_images(5), some_images(150, 9)
    given = {
        "vae": tiny_vae() if "vae" in score.needs else None,
        "classifier": tiny_classifier() if "classifier" in score.needs else None,
        "train": train if "training images" in score.needs else None,
    }
    found = score(given.pop("vae"), images, seed=SEED, first_index=2, **given, **SETTINGS)
    torch.testing.assert_close(found, fitted()(images, first_index=2)[name])


def test_more_importance_draws_or_fewer_than_reconstructions():
    images = some_images(6)
    for draws, importance_draws in ((5, 2), (3, 3), (2, 9)):
        told = {"draws": draws, "importance_draws": importance_draws}
        found = scores["log-likelihood"](tiny_vae(), images, seed=1, **told)
        plain = -log_likelihood(tiny_vae(), images, draws=importance_draws, seed=1)
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-4)
        bound = -elbo(tiny_vae(), images, draws=draws, seed=1)
        torch.testing.assert_close(scores["elbo"](tiny_vae(), images, seed=1, **told), bound, rtol=1e-5, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    known=st.integers(1, 200), neighbours=st.integers(1, 200), at_once=st.integers(1, 2000), seed=st.integers(0, 1000)
)
def test_the_kth_nearest_is_found_among_any_number(known, neighbours, at_once, seed):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(known, 2, generator=generator).round(decimals=1)  # so that some are at equal distance
    queries = torch.cat([torch.randn(3, 2, generator=generator), latents[:1]])
    neighbours = min(neighbours, known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fitted, "_DISTANCES_AT_ONCE", {"cpu": at_once})
        found = _fitted.kth_nearest(latents, neighbours)(queries)
    expected = torch.cdist(queries.double(), latents.double()).sort(dim=1).values[:, neighbours - 1]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_an_unused_latent_does_not_outweigh_the_others():
    mean = torch.stack([torch.linspace(-2, 2, 50), 1e-6 * torch.linspace(-1, 1, 50)], dim=1)
    variance = torch.stack([torch.full((50,), 0.1), torch.ones(50)], dim=1)
    distance = _fitted.aggregate_distance(torch.stack([mean, variance], dim=1))
    used, unused = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])
    assert distance(unused[None]).item() == pytest.approx(1.0, abs=1e-4)
    assert distance(used[None]).item() == pytest.approx((51 / 49 * 16 / 12 + 0.1) ** -0.5, abs=1e-4)


def test_far_from_all_training_images_density_of_states_stays_finite():
    known = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    found = _fitted.rarity(known)(torch.tensor([[0.0] * 5, [1e4] * 5, [1e4, 0, 0, 0, 0]]))
    assert torch.isfinite(found).all()
    assert found[1] > found[2] > found[0]


def test_a_blank_image_has_finite_scores():
    found = fitted()(torch.zeros(2, 1, *SIDES))
    assert all(torch.isfinite(column).all() for column in found.values())
    assert found["relative-mse"].min() > 1e6


def test_certainty_is_told_from_near_certainty():
    logits = torch.tensor([[30.0, 0.0], [20.0, 0.0]])
    found = scores["max-softmax"](None, some_images(2), seed=0, classifier=lambda _: logits)
    torch.testing.assert_close(found, torch.tensor([math.exp(-30), math.exp(-20)]), rtol=1e-2, atol=0)


def test_fitted_scores_can_be_sent_to_another_process():
    ready, images = fitted(), some_images(4)
    sent = pickle.loads(pickle.dumps(ready))  # noqa: S301  # our own bytes
    for name, column in ready(images).items():
        assert torch.equal(sent(images)[name], column)


def test_neither_weights_nor_random_state_are_touched():
    vae, classifier, images = tiny_vae(), tiny_classifier(), some_images(3)
    state = torch.get_rng_state()
    ready = fit_scores(vae, classifier, some_images(150, 9), seed=SEED, **SETTINGS)
    kept = [weight.clone() for model in (ready.vae, ready.classifier) for weight in model.parameters()]
    ready(images)
    assert torch.equal(torch.get_rng_state(), state)
    after = [weight for model in (ready.vae, ready.classifier) for weight in model.parameters()]
    assert all(torch.equal(*pair) for pair in zip(kept, after, strict=True))
    assert all(weight.grad is None for weight in after)
    assert torch.equal(images, some_images(3))


def preparing(**told):
    given = {"vae": tiny_vae(), "classifier": tiny_classifier(), "train": some_images(10), "seed": 0} | told
    return fit_scores(given.pop("vae"), given.pop("classifier"), given.pop("train"), **given)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"names": ["mse", "msee"]}, "names must be among mse, bce, .*, energy; got 'msee'"),
        ({"names": "kll"}, "names must be among .*; got 'kll'"),
        ({"names": []}, r"names must name a score or more; got none \(known: mse, "),
        ({"vae": None, "names": ["kl", "zeros"]}, r"kl need vae; got None \(or choose others"),
        ({"classifier": None}, "distinct-labels, disagreement, max-softmax, energy need classifier; got None"),
        ({"train": None}, "mahalanobis, latent-knn, typicality, density-of-states need training images; got None"),
        ({"neighbours": 11}, "neighbours must be at most the number of training images, 10; got 11"),
        ({"neighbours": 0}, "neighbours must be 1 or more; got 0"),
        ({"draws": 0}, "draws must be 1 or more; got 0"),
        ({"importance_draws": -1}, "importance_draws must be 1 or more; got -1"),
        ({"regret_steps": 0}, "regret_steps must be 1 or more; got 0"),
        ({"regret_draws": 0}, "regret_draws must be 1 or more; got 0"),
        ({"train": torch.full((9, 1, *SIDES), 2.0)}, r"training images must lie in \[0, 1\]; got \[2, 2\]"),
        ({"classifier": tiny_classifier().train()}, "the classifier must be in evaluation mode"),
        ({"vae": Halves(), "names": ["kl", "mahalanobis"]}, "shape"),
    ],
)
def test_unfit_preparation(told, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        preparing(**told)


@pytest.mark.parametrize(
    ("images", "told", "message"),
    [
        (torch.zeros(2, 1, 4, 5), {}, r"images must be shaped as the training images, \(1, 5, 4\); got \(1, 4, 5\)"),
        (torch.zeros(2, 5, 4), {}, r"images must have shape \(n, channels, height, width\)"),
        (torch.full((2, 1, *SIDES), torch.nan), {}, "images must be finite"),
        (torch.zeros(2, 1, *SIDES), {"chunk": 0}, "chunk must be 1 or more images; got 0"),
        (torch.zeros(2, 1, *SIDES), {"first_index": -1}, "first_index must be 0 or more; got -1"),
        (torch.zeros(2, 1, *SIDES), {"indices": torch.arange(3)}, r"indices must be int64 of shape \(2,\)"),
    ],
)
def test_unfit_images(images, told, message):
    with pytest.raises(ValueError, match=message):
        preparing()(images, **told)


def test_scores_without_models_ask_for_nothing():
    found = fit_scores(None, None, None, seed=0, names=WITHOUT_MODELS)(some_images(4))
    assert list(found) == WITHOUT_MODELS
    names = fit_scores(None, None, None, seed=0, names=["zeros", "mean-pixel", "zeros"]).names
    assert names == ("zeros", "mean-pixel")
