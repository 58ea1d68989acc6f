"""Public functions called at random: right results for fit arguments, an error of our own for unfit ones.

Results are compared with loops over plain numbers, closed forms in float64 and scipy, none of which the package calls
for them. An unfit argument must give a ValueError or TypeError that a module of the package raises, in words.
"""

import math
import traceback
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from scipy import ndimage, special, stats
from torch import nn

import vaecore as vc

PACKAGE = Path(vc.__file__).parent


@dataclass(frozen=True)
class Unfit:
    """An argument that must be refused."""

    value: object


def fit_or(strategy, *unfit):
    """A fit argument, or, one time in eight, one of these."""
    return st.integers(0, 7).flatmap(lambda k: st.sampled_from(unfit).map(Unfit) if k == 0 else strategy)


def plain(value):
    return value.value if isinstance(value, Unfit) else value


class Linear(nn.Module):
    """A classifier whose gradient is known: logits are a product."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight))
        self.eval()

    def forward(self, images):
        return images.flatten(1) @ self.weight


class LinearVAE(nn.Module):
    """A VAE whose posterior and reconstructions are known: two products, and one log-variance."""

    def __init__(self, encoder, decoder, log_variance):
        super().__init__()
        self.encoder, self.decoder = (nn.Parameter(torch.from_numpy(weight)) for weight in (encoder, decoder))
        self.log_variance = log_variance
        self.eval()

    def encode(self, images):
        mean = images.flatten(1) @ self.encoder
        return mean, torch.full_like(mean, self.log_variance)

    def decode(self, latents):
        return (latents @ self.decoder).sigmoid().view(len(latents), *self.shape)


# Arguments.

COUNTS = (0, -1, 2.5, "3", math.nan)
SEEDS = (-1, 2**64, 0.5, "1", None, math.nan)
SHARES = (-0.1, 1.5, math.nan, "0.1")


def pixels_of(draw, shape):
    """Images with many pixels at the ends of the range and in steps of 1/8, where ties and clipping are."""
    levels = draw(st.binary(min_size=math.prod(shape), max_size=math.prod(shape)))
    return (torch.tensor(list(levels)).float().remainder(9) / 8).view(shape)


@st.composite
def some_images(draw, *, channels=(1, 3), least=4):
    shape = draw(st.tuples(st.integers(1, 4), st.sampled_from(channels), st.integers(least, 6), st.integers(least, 6)))
    return pixels_of(draw, shape)


@st.composite
def unfit_images(draw):
    images = pixels_of(draw, (2, 1, 4, 5))
    changes = (
        images.double,
        (images * 255).byte,
        lambda: images.squeeze(1),
        lambda: images.expand(-1, 2, -1, -1),
        lambda: images[:0],
        lambda: images + 1.01,
        lambda: images - 1.01,
        lambda: images.where(images > 2, torch.nan),
        images.tolist,
        lambda: None,
    )
    return Unfit(draw(st.sampled_from(changes))())


def images_or_unfit(**settings):
    return st.integers(0, 7).flatmap(lambda k: unfit_images() if k == 0 else some_images(**settings))


def labels_or_unfit(count, classes):
    right = st.lists(st.integers(0, classes - 1), min_size=count, max_size=count).map(torch.tensor)
    unfit = (
        torch.zeros(count),
        torch.zeros(count + 1, dtype=torch.int64),
        torch.full((count,), -1),
        torch.full((count,), classes),
        torch.zeros(count, 1, dtype=torch.int64),
        [0] * count,
        None,
    )
    return fit_or(right, *unfit)


def weights(draw, *shape):
    seed = draw(st.integers(0, 2**16))
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def vae_for(draw, images):
    """A VAE for these images, or for others where they are unfit."""
    shape = tuple(images.shape[1:]) if isinstance(images, torch.Tensor) else (1, 4, 5)
    # Small weights, so that most log-odds can be told from the pixels.
    encoder, decoder = 0.2 * weights(draw, math.prod(shape), 2), 0.5 * weights(draw, 2, math.prod(shape))
    vae = LinearVAE(encoder, decoder, draw(st.floats(-3, 1)))
    vae.shape = shape
    return vae


def classified(draw):
    """Images, the weights of a classifier that takes them, and labels of three classes; some are unfit."""
    images = draw(images_or_unfit())
    count, *shape = images.shape if isinstance(images, torch.Tensor) else (2, 1, 4, 5)
    return images, weights(draw, math.prod(shape), 3), draw(labels_or_unfit(count, 3))


numbers = st.integers(-8, 8).map(lambda k: k / 8)
vectors = st.lists(numbers, min_size=1, max_size=12)
UNFIT_VECTORS = ([], [math.nan], [[0.5]], "x", None)


# A call: a function of hypothesis's draw, which gives the function, its arguments, and a check of a result.


def near(got, expected, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(got, dtype=np.float64), expected, rtol=tolerance, atol=tolerance)


def call_distinct_labels(draw):
    table = st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5).map(torch.tensor)
    labels = draw(fit_or(table, torch.zeros(3, dtype=torch.int64), torch.zeros(2, 3), [[1, 2]], None))
    return vc.distinct_labels, (labels,), {}, lambda got: near(got, [len({*row}) for row in labels.tolist()])


def call_auroc(draw):
    inside, outside = (draw(fit_or(vectors, *UNFIT_VECTORS)) for _ in range(2))

    def check(got):
        wins = [(o > i) + (o == i) / 2 for i, o in product(inside, outside)]
        near(got, sum(wins) / len(wins))

    return vc.auroc, (inside, outside), {}, check


def call_aupr(draw):
    inside, outside = (draw(fit_or(vectors, *UNFIT_VECTORS)) for _ in range(2))

    def check(got):
        area, before = Fraction(0), 0
        for level in sorted({*inside, *outside}, reverse=True):
            hits, alarms = sum(o >= level for o in outside), sum(s >= level for s in [*inside, *outside])
            area += Fraction(hits - before, len(outside)) * Fraction(hits, alarms)
            before = hits
        near(got, float(area))

    return vc.aupr, (inside, outside), {}, check


def call_fpr95(draw):
    inside, outside = (draw(fit_or(vectors, *UNFIT_VECTORS)) for _ in range(2))

    def check(got):
        enough = [level for level in inside if 20 * sum(i <= level for i in inside) >= 19 * len(inside)]
        near(got, sum(o <= min(enough) for o in outside) / len(outside))

    return vc.fpr95, (inside, outside), {}, check


def call_conformal_p_values(draw):
    calibration, new = (draw(fit_or(vectors, *UNFIT_VECTORS)) for _ in range(2))

    def check(got):
        near(got, [(1 + sum(known >= score for known in calibration)) / (1 + len(calibration)) for score in new])

    return vc.conformal_p_values, (calibration, new), {}, check


@st.composite
def predictions(draw):
    """Probabilities in eighths, and labels."""
    rows = draw(st.lists(st.lists(st.integers(0, 8), min_size=3, max_size=3).filter(any), min_size=1, max_size=6))
    labels = draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    return [[part / sum(row) for part in row] for row in rows], labels


UNFIT_PREDICTIONS = (
    ([[0.5, 0.6]], [0]),
    ([[1.5, -0.5]], [0]),
    ([[0.5, 0.5]], [2]),
    ([[0.5, 0.5]], [-1]),
    ([[0.5, 0.5]], [0.5]),
    ([[0.5, 0.5]], [0, 1]),
    ([], []),
    ([0.5, 0.5], [0]),
    ([[math.nan, 1.0]], [0]),
)


def call_brier(draw):
    pair = draw(fit_or(predictions(), *UNFIT_PREDICTIONS))

    def check(got):
        table, labels = pair
        squares = [(p - (k == y)) ** 2 for row, y in zip(table, labels, strict=True) for k, p in enumerate(row)]
        near(got, sum(squares) / len(labels))

    return vc.brier, plain(pair), {"unfit": pair}, check


def call_nll(draw):
    pair = draw(fit_or(predictions(), *UNFIT_PREDICTIONS))

    def check(got):
        chosen = [row[y] for row, y in zip(*pair, strict=True)]
        near(got, math.inf if 0 in chosen else -sum(map(math.log, chosen)) / len(chosen))

    return vc.nll, plain(pair), {"unfit": pair}, check


@st.composite
def answered(draw):
    """Confidences in sixteenths, and whether each answer is right."""
    rows = draw(st.lists(st.tuples(st.integers(0, 16), st.booleans()), min_size=1, max_size=20))
    return [level / 16 for level, _ in rows], [right for _, right in rows]


UNFIT_ANSWERS = (([0.5], [2]), ([0.5], [0.5]), ([0.5], [True, False]), ([], []), ([math.nan], [True]))


def call_ece(draw):
    pair = draw(fit_or(answered(), *UNFIT_ANSWERS, ([1.5], [True]), ([-0.5], [True])))
    bins = draw(fit_or(st.integers(1, 20), *COUNTS))

    def check(got):
        score, right = pair
        cuts = [(k / bins, (k + 1) / bins) for k in range(bins)]
        total = 0.0
        for low, high in cuts:
            inside = [i for i, s in enumerate(score) if low < s <= high or (s == 0 and low == 0)]
            total += abs(sum(right[i] - score[i] for i in inside))
        near(got, total / len(score))

    return vc.ece, plain(pair), {"bins": bins, "unfit": pair}, check


def call_reliability(draw):
    pair = draw(fit_or(answered(), *UNFIT_ANSWERS))
    settings = {
        "bins": draw(fit_or(st.integers(1, 20), *COUNTS)),
        "equal": draw(fit_or(st.sampled_from(["width", "mass"]), "mas", None)),
    }

    def check(got):
        score, right = pair
        assert sum(part.count for part in got) == len(score)
        near(sum(part.count * part.confidence for part in got), sum(score))
        near(sum(part.count * part.accuracy for part in got), sum(right))
        assert all(part.low <= part.confidence <= part.high for part in got)
        if settings["equal"] == "mass" and len({*score}) == len(score):
            assert max(part.count for part in got) <= math.ceil(len(score) / settings["bins"])

    return vc.reliability, plain(pair), {**settings, "unfit": pair}, check


def call_brier_parts(draw):
    pair = draw(fit_or(answered(), *UNFIT_ANSWERS))

    def check(got):
        score, right = pair
        whole = sum((s - r) ** 2 for s, r in zip(score, right, strict=True)) / len(score)
        near(got.reliability - got.resolution + got.uncertainty + got.within, whole)
        rate = sum(right) / len(right)
        near(got.uncertainty, rate * (1 - rate))

    return vc.brier_parts, plain(pair), {"unfit": pair}, check


def call_aurc(draw):
    pair = draw(fit_or(answered(), *UNFIT_ANSWERS))

    def check(got):
        doubt, wrong = pair
        risks = []
        for k in range(1, len(doubt) + 1):  # the mean over all orders of equal doubts
            edge = sorted(doubt)[k - 1]
            below = [w for d, w in zip(doubt, wrong, strict=True) if d < edge]
            ties = [w for d, w in zip(doubt, wrong, strict=True) if d == edge]
            risks.append((sum(below) + (k - len(below)) * sum(ties) / len(ties)) / k)
        near(got, sum(risks) / len(risks))

    return vc.aurc, plain(pair), {"unfit": pair}, check


def call_fit_temperature(draw):
    rows = draw(st.integers(1, 12))
    logits = weights(draw, rows, 3)
    unfit = ([-1] * rows, [0.5] * rows, [3] * rows, [0] * (rows + 1), None, ["a"] * rows)
    labels = draw(fit_or(st.lists(st.integers(0, 2), min_size=rows, max_size=rows), *unfit))

    def check(got):
        def nll(temperature):
            return -special.log_softmax(logits.astype(np.float64) / temperature, axis=1)[range(rows), labels].mean()

        if (logits.argmax(axis=1) == labels).all():
            assert got == 1
        else:
            assert nll(got) <= min(nll(t) for t in np.geomspace(0.01, 100, 400)) + 1e-6

    return vc.fit_temperature, (logits, labels), {}, check


def call_kl(draw):
    images = draw(images_or_unfit())
    vae = vae_for(draw, images)

    def check(got):
        mean = images.flatten(1).double().numpy() @ vae.encoder.detach().double().numpy()
        terms = mean**2 + math.exp(vae.log_variance) - 1 - vae.log_variance
        near(got, terms.sum(axis=1) / 2, 1e-4)

    return vc.kl, (vae, images), {}, check


def call_latent_mean(draw):
    images = draw(images_or_unfit())
    vae = vae_for(draw, images)
    return (
        *(vc.latent_mean, (vae, images), {}),
        lambda got: near(got, images.flatten(1).double().numpy() @ vae.encoder.detach().double().numpy(), 1e-4),
    )


def call_squared_error(draw):
    images = draw(some_images())
    drawn = pixels_of(draw, (len(images), 2, *images.shape[1:]))
    squares = ((drawn - images[:, None]).double() ** 2).flatten(2).mean(dim=2)
    return vc.squared_error, (images, drawn), {}, lambda got: near(got, squares)


def noise_settings(draw, images):
    count = len(images) if isinstance(images, torch.Tensor) else 2
    unfit = (torch.zeros(count), torch.arange(count + 1), torch.full((count,), -1), "x")
    given = st.lists(st.integers(0, 2**40), min_size=count, max_size=count).map(torch.tensor)
    return {"seed": draw(fit_or(st.integers(0, 2**64 - 1), *SEEDS)), "indices": draw(fit_or(given, *unfit))}


def call_reconstruct(draw):
    images = draw(images_or_unfit())
    vae, settings = vae_for(draw, images), noise_settings(draw, images)
    settings |= {"draws": draw(fit_or(st.integers(1, 4), *COUNTS)), "chunk": draw(fit_or(st.integers(1, 5), *COUNTS))}

    def check(got):
        assert got.shape == (len(images), settings["draws"], *images.shape[1:])
        odds = special.logit(got.double().clamp(1e-6, 1 - 1e-6).flatten(2).numpy())
        # Log-odds less those at the mean are products of two normal numbers and the decoder: of rank two.
        mean = images.flatten(1).double().numpy() @ vae.encoder.detach().double().numpy()
        decoder = vae.decoder.detach().double().numpy()
        latents = odds @ np.linalg.pinv(decoder)
        if np.abs(odds).max() < 6:
            near(latents @ decoder, odds, 2e-3)
            shift = (latents - mean[:, None]) / math.exp(vae.log_variance / 2)
            assert np.abs(shift).max() < 7
        alone = {**settings, "indices": settings["indices"][-1:]}
        near(vc.reconstruct(vae, images[-1:], **alone), got[-1:], 1e-5)

    return vc.reconstruct, (vae, images), settings, check


def call_likelihood(draw):
    images = draw(images_or_unfit(channels=(1,)))
    vae, settings = vae_for(draw, images), noise_settings(draw, images)
    settings |= {"draws": draw(fit_or(st.integers(1, 6), *COUNTS))}

    def check(got):
        """By the weights of the draws, whose latents follow from the reconstructions."""
        drawn = vc.reconstruct(vae, images, **settings).flatten(2).double().numpy()
        decoder = vae.decoder.detach().double().numpy()
        if not 1e-3 < drawn.min() <= drawn.max() < 1 - 1e-3:
            return
        pixels = images.flatten(1).double().numpy()[:, None]
        density = (pixels * np.log(drawn) + (1 - pixels) * np.log1p(-drawn)).sum(axis=2)
        latents = special.logit(drawn) @ np.linalg.pinv(decoder)
        mean, deviation = pixels @ vae.encoder.detach().double().numpy(), math.exp(vae.log_variance / 2)
        prior, posterior = stats.norm.logpdf(latents), stats.norm.logpdf(latents, mean, deviation)
        near(got, special.logsumexp(density + (prior - posterior).sum(axis=2), axis=1, b=1 / settings["draws"]), 5e-3)
        near(vc.elbo(vae, images, **settings), density.mean(axis=1) - vc.kl(vae, images).double().numpy(), 1e-3)

    return vc.log_likelihood, (vae, images), settings, check


def call_fgsm(draw):
    images, weight, labels = classified(draw)
    epsilon = draw(fit_or(st.floats(0, 1), *SHARES))

    def check(got):
        clean, matrix = images.flatten(1).double().numpy(), weight.astype(np.float64)
        chance = special.softmax(clean @ matrix, axis=1) - np.eye(3)[labels.numpy()]
        gradient = chance @ matrix.T
        expected = np.clip(clean + epsilon * np.sign(gradient), 0, 1)
        sure = np.abs(gradient) > 1e-5
        near(got.images.flatten(1).numpy()[sure], expected[sure], 1e-6)
        holds(got, images, labels, weight, epsilon)

    settings = {"epsilon": epsilon, "keep_failed": True}
    return vc.fgsm, (Linear(weight), images, labels), settings, check


def holds(attack, images, labels, weight, epsilon):
    """What every attack promises, recomputed in float64."""
    change = (attack.images - images).flatten(1)
    assert (attack.images >= 0).all()
    assert (attack.images <= 1).all()
    assert float(change.abs().max()) <= np.float32(epsilon)
    near(attack.l2, change.double().norm(dim=1), 1e-4)
    near(attack.linf, change.abs().amax(dim=1), 1e-6)
    logits = attack.images.flatten(1).double().numpy() @ weight.astype(np.float64)
    own = logits[range(len(labels)), labels.numpy()]
    lead = np.where(np.eye(3)[labels.numpy()] > 0, -np.inf, logits).max(axis=1) - own
    sure = np.abs(lead) > 1e-5
    assert (attack.success.numpy()[sure] == (lead > 0)[sure]).all()


def call_bounded(draw):
    """PGD and Square, in any chunks."""
    images, weight, labels = classified(draw)
    epsilon = draw(fit_or(st.floats(0, 1), *SHARES))
    attack, effort = draw(st.sampled_from([(vc.pgd, "steps"), (vc.square, "queries")]))
    settings = {"epsilon": epsilon, effort: draw(fit_or(st.integers(1, 5), *COUNTS))}
    settings |= {"seed": draw(fit_or(st.integers(0, 2**64 - 1), *SEEDS))}
    settings |= {"chunk": draw(fit_or(st.integers(1, 5), *COUNTS)), "loss": draw(fit_or(st.just("margin"), "hinge"))}
    settings |= {"keep_failed": True}
    arguments = Linear(weight), images, labels
    return attack, arguments, settings, lambda got: holds(got, images, labels, weight, epsilon)


def call_lbfgs(draw):
    images, weight, targets = classified(draw)

    def check(got):
        logits = got.images.flatten(1).double().numpy() @ weight.astype(np.float64)
        taken = logits.argmax(axis=1) == targets.numpy()
        margin = np.sort(logits, axis=1)
        sure = margin[:, -1] - margin[:, -2] > 1e-5
        assert taken[got.success.numpy() & sure].all()
        change = (got.images - images).flatten(1).double().norm(dim=1)
        near(got.l2[got.success], change[got.success], 1e-4)
        assert (change[~got.success] == 0).all()
        # No target is nearer than the boundary to the label that leads, whatever the box.
        clean = images.flatten(1).double().numpy() @ weight.astype(np.float64)
        for k in got.success.nonzero().flatten().tolist():
            ahead = weight.astype(np.float64) - weight[:, [targets[k]]].astype(np.float64)
            size = np.maximum(np.linalg.norm(ahead, axis=0), 1e-12)
            assert change[k] >= ((clean[k] - clean[k][targets[k]]) / size).max() - 1e-4

    return vc.lbfgs, (Linear(weight), images, targets), {"evaluations": draw(fit_or(st.integers(1, 9), *COUNTS))}, check


def call_bit_depth(draw):
    images, bits = draw(images_or_unfit()), draw(fit_or(st.integers(1, 8), 0, 9, 1.5, "1", math.nan))

    def check(got):
        steps = 2**bits - 1
        away = np.abs(got.double().numpy() - images.double().numpy()) * steps
        assert away.max() <= 0.5 + 1e-5
        near(got.double().numpy() * steps, np.round(got.double().numpy() * steps), 1e-4)

    return (lambda images, bits: vc.BitDepth(bits)(images)), (images, bits), {}, check


def call_median(draw):
    images, size = draw(images_or_unfit()), draw(fit_or(st.sampled_from([1, 3, 5, 7]), 0, 2, -1, 3.5, "3", 99))
    return (
        *((lambda images, size: vc.MedianFilter(size)(images)), (images, size), {}),
        lambda got: near(got, ndimage.median_filter(images.numpy(), size=(1, 1, size, size), mode="mirror")),
    )


def call_blur(draw):
    sigmas = st.sampled_from([0.3, 0.5, 0.8, 1.0])
    images, sigma = draw(images_or_unfit()), draw(fit_or(sigmas, 0, -1, math.inf, math.nan, "1", 40.0))

    def check(got):
        radius = round(3 * sigma)
        both = {"sigma": sigma, "radius": radius, "mode": "mirror"}
        near(got, ndimage.gaussian_filter(images.double().numpy(), axes=(2, 3), **both), 1e-5)

    return (lambda images, sigma: vc.GaussianBlur(sigma)(images)), (images, sigma), {}, check


def call_threshold(draw):
    images, level = draw(images_or_unfit()), draw(fit_or(st.sampled_from([0.125, 0.5, 1.0]), 0, 1.5, math.nan, "x"))
    return (
        *((lambda images, level: vc.Threshold(level)(images)), (images, level), {}),
        lambda got: near(got, images.numpy() >= level),
    )


def call_letters(draw):
    count, first = draw(fit_or(st.integers(1, 60), *COUNTS)), draw(fit_or(st.integers(0, 99), -1, 0.5, "0"))

    def check(got):
        assert got.pixels.shape == (count, 1, 28, 28)
        assert got.labels.tolist() == [(first + k) % 26 for k in range(count)]
        again = vc.letters(1, seed=0, first_index=first + count - 1)
        assert torch.equal(again.pixels[0], got.pixels[-1])

    return vc.letters, (count,), {"seed": 0, "first_index": first}, check


CALLS = {name.removeprefix("call_"): value for name, value in sorted(globals().items()) if name.startswith("call_")}


def outcome(function, arguments, settings, check):
    """What became of a call: "right", "refused", or how it broke the promise."""
    unfit = [value.value for value in [*arguments, *settings.values()] if isinstance(value, Unfit)]
    arguments = [plain(value) for value in arguments]
    settings = {name: plain(value) for name, value in settings.items() if name != "unfit"}
    try:
        result = function(*arguments, **settings)
    except (ValueError, TypeError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = Path(frames[-1].filename).is_relative_to(PACKAGE) and "raise" in (frames[-1].line or "")
        if not unfit:
            return f"fit arguments were refused: {error}"
        return "refused" if ours else f"{unfit} ended in {type(error).__name__}: {error}"
    if unfit:
        return f"{unfit} was accepted"
    check(result)
    return "right"


def test_public_functions_called_at_random(request, large, count):
    """Fit arguments give what a plain computation gives, and unfit ones an error that the package raises in words."""
    outcomes, broken = Counter(), []

    @hypothesis.settings(hypothesis.settings.get_profile("campaign" if large else "ci"))
    @hypothesis.seed(request.config.option.campaign_seed)
    @hypothesis.given(st.data())
    def call(data):
        name = data.draw(st.sampled_from(sorted(CALLS)), label="function")
        made = CALLS[name](data.draw)
        became = outcome(*made)
        outcomes[name, became if became in ("right", "refused") else "broken"] += 1
        assert became in ("right", "refused"), f"{name}: {became}"

    try:
        call()
    except Exception as error:  # noqa: BLE001  # hypothesis gives the smallest call that breaks a promise
        broken.append(f"{type(error).__name__}: {error}")
    remarks = [f"{name}: {outcomes[name, 'right']:,} right, {outcomes[name, 'refused']:,} refused" for name in CALLS]
    count("public functions called at random", sum(outcomes.values()), broken, remarks)
    if large:
        assert all(outcomes[name, kind] for name in CALLS for kind in ("right", "refused") if name != "squared_error")


@pytest.mark.parametrize("name", CALLS)
def test_each_check_notices_a_wrong_result(name):
    """Each oracle refuses what is a little off, so that none passes whatever comes."""
    seen = []

    @hypothesis.settings(hypothesis.settings.get_profile("ci"), max_examples=30)
    @hypothesis.given(st.data())
    def call(data):
        function, arguments, settings, check = CALLS[name](data.draw)
        if any(isinstance(value, Unfit) for value in [*arguments, *settings.values()]):
            return
        result = function(*arguments, **{key: value for key, value in settings.items() if key != "unfit"})
        try:
            check(_off(result))
        except AssertionError:
            seen.append(name)

    call()
    assert seen


def _off(result):
    """A result that is a little wrong."""
    if isinstance(result, vc.Attack):
        return vc.Attack(result.images, ~result.success, result.l2 + 0.1, result.linf, result.evaluations, result.flags)
    if isinstance(result, vc.Images):
        return vc.Images(result.pixels, result.labels.flip(0) + 1, result.name, result.split)
    if isinstance(result, list):
        return result[:-1]
    if isinstance(result, vc.BrierParts):
        return vc.BrierParts(result.reliability + 0.1, result.resolution, result.uncertainty, result.within)
    if isinstance(result, torch.Tensor) and result.is_floating_point() and result.ndim == 5:
        return result.flip(2) * 0.9
    return result * 1.01 + 0.01 if not isinstance(result, torch.Tensor) or result.ndim != 4 else result * 0.9 + 0.03
