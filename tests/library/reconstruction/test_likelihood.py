"""ELBO, importance-weighted bound and likelihood regret against closed forms and torch's distributions."""

import copy
import math
from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy, logsigmoid
from torch.testing import assert_close

from vaecore import (
    VAE,
    VAEConfig,
    _batch_sizes,
    discretised_logistic,
    elbo,
    likelihood_regret,
    log_likelihood,
    reconstruct,
    scores,
)
from vaecore.toolkit import fit_at_once, kl_of_posterior, normal, seed_for

LATENT, SIDES = 3, (5, 4)
PIXELS = SIDES[0] * SIDES[1]


class Plain:
    """A user's own VAE, which has no `decode_logits` and keeps count of what it decodes."""

    def __init__(self, vae):
        self.vae, self.decoded = vae, []

    def encode(self, images):
        return self.vae.encode(images)

    def decode(self, latents):
        self.decoded.append(len(latents))
        return self.vae.decode(latents)


class Half(Plain):
    """Decodes in half precision."""

    def decode_logits(self, latents):
        return self.vae.decode_logits(latents).bfloat16()


class LinearGaussian:
    """x = W z + noise, of which log p(x) and the true posterior are known.

    The columns of W are orthogonal, so that a posterior with a diagonal covariance can be the true one. wrong: the
    encoder's standard deviations are this many times the true ones, and its means as much of them off.
    """

    def __init__(self, *, deviation=0.3, wrong=1.0):
        basis = torch.linalg.qr(torch.randn(PIXELS, LATENT, generator=torch.Generator().manual_seed(3)))[0]
        self.weight, self.deviation, self.wrong = basis * torch.tensor([0.2, 0.5, 1.0]), deviation, wrong
        self.precision = 1 + self.weight.square().sum(dim=0) / deviation**2

    def encode(self, images):
        mean = images.flatten(1) @ self.weight / self.deviation**2 / self.precision
        variance = self.wrong**2 / self.precision.expand_as(mean)
        return mean + (self.wrong - 1) / self.precision.sqrt(), variance.log()

    def decode(self, latents):
        return (latents @ self.weight.T).view(-1, 1, *SIDES)

    def log_density(self, images, decoded):
        return Normal(decoded.flatten(2), self.deviation).log_prob(images.flatten(1).unsqueeze(1)).sum(dim=2)

    def exact(self, images):
        """log p(x), in closed form."""
        weight = self.weight.double()
        covariance = weight @ weight.T + self.deviation**2 * torch.eye(PIXELS, dtype=torch.float64)
        marginal = MultivariateNormal(torch.zeros(PIXELS, dtype=torch.float64), covariance)
        return marginal.log_prob(images.flatten(1).double())


@pytest.mark.parametrize("draws", [1, 7])
def test_with_the_true_posterior_every_draw_gives_the_exact_likelihood(some_images, draws):
    vae, images = LinearGaussian(), some_images(12)
    exact = vae.exact(images)
    assert exact.std() > 1
    bound = log_likelihood(vae, images, draws=draws, seed=0, log_density=vae.log_density)
    assert bound.shape == (12,)
    assert bound.dtype == torch.float32
    assert_close(bound.double(), exact, rtol=1e-5, atol=1e-4)


def test_with_a_wrong_posterior_draws_close_the_gap_to_the_exact_likelihood_from_below(some_images):
    vae, images = LinearGaussian(wrong=1.4), some_images(40)
    exact = vae.exact(images)
    gaps = {}
    for draws in (1, 10, 4000):
        bound = log_likelihood(vae, images, draws=draws, seed=1, log_density=vae.log_density)
        gaps[draws] = (exact - bound).mean().item()
    mean, log_variance = vae.encode(images)
    true_mean = mean - 0.4 / vae.precision.sqrt()
    # log p(x) is above the ELBO by the divergence from the encoder's posterior to the true one.
    encoded, true = Normal(mean, (log_variance / 2).exp()), Normal(true_mean, vae.precision.rsqrt().expand_as(mean))
    divergence = kl_divergence(encoded, true).sum(dim=1).mean().item()
    assert gaps[1] == pytest.approx(divergence, abs=0.4)
    assert gaps[1] > gaps[10] + 0.1
    assert gaps[10] > gaps[4000]
    assert abs(gaps[4000]) < 0.01
    single = elbo(vae, images, draws=4000, seed=1, log_density=vae.log_density)
    assert (exact - single).mean().item() == pytest.approx(divergence, abs=0.05)


def weights(vae, image, noise):
    """log p(x, z) - log q(z | x) of an image's draws by torch's distributions, (draws,), in float64 or as the VAE."""
    mean, log_variance = vae.encode(image)
    encoded, prior = Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)
    latent = encoded.loc + encoded.scale * noise
    pixels = Bernoulli(logits=vae.decode_logits(latent), validate_args=False)
    density = pixels.log_prob(image.flatten(1)).sum(dim=1)
    return density + (prior.log_prob(latent) - encoded.log_prob(latent)).sum(dim=1)


def test_it_is_the_logarithm_of_the_mean_importance_weight(tiny_vae, some_images):
    vae, images, indices = tiny_vae(), some_images(9), torch.arange(2, 11)
    exact = copy.deepcopy(vae).double()
    noise = normal(4, indices, draws=6, size=LATENT).double()
    with torch.no_grad():
        each = [weights(exact, *pair) for pair in zip(images.double().split(1), noise, strict=True)]
    expected = torch.stack([logarithms.exp().mean().log() for logarithms in each])
    bound = log_likelihood(vae, images, draws=6, seed=4, first_index=2)
    assert_close(bound.double(), expected, rtol=1e-5, atol=1e-4)


# The ELBO


@pytest.mark.parametrize("wrapper", [lambda vae: vae, Plain])
def test_elbo_is_its_definition(tiny_vae, some_images, wrapper):
    """By torch's distributions and cross-entropy, of the reconstructions; also of a VAE without log-odds."""
    vae, images, draws = tiny_vae(), some_images(8), 5
    with torch.no_grad():
        mean, log_variance = vae.encode(images)
    posterior = Normal(mean, (log_variance / 2).exp())
    decoded = reconstruct(vae, images, draws=draws, seed=3, first_index=4)
    target = images[:, None].expand_as(decoded)
    likelihood = -binary_cross_entropy(decoded, target, reduction="none").sum(dim=(2, 3, 4))
    expected = likelihood.mean(dim=1) - kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    bound = elbo(wrapper(vae), images, draws=draws, seed=3, first_index=4)
    assert_close(bound, expected, rtol=1e-5, atol=1e-4)


class Fixed:
    """A VAE that decodes to set log-odds, whatever it is shown; its posterior is the prior."""

    def __init__(self, odds):
        self.odds = odds

    def encode(self, images):
        zeros = torch.zeros(len(images), LATENT)
        return zeros, zeros

    def decode_logits(self, latents):
        return self.odds + 0 * latents[:, :1].to(self.odds.dtype)  # something to differentiate

    def decode(self, latents):
        return self.decode_logits(latents).sigmoid().view(-1, 1, *SIDES)


SATURATED = torch.tensor([-40.0, 40.0, -40.0, 40.0, 0.0]).repeat(4)
INK = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]).repeat(4).view(1, 1, *SIDES)


@pytest.mark.parametrize("steepness", [1, 20, 1000])
@pytest.mark.parametrize("wrapper", [lambda vae: vae, Plain, Half])
def test_elbo_is_the_score_of_that_name_with_its_sign(tiny_vae, some_images, steepness, wrapper):
    """Bit for bit, also where nearly all probabilities are 0 or 1 to float32: one function gives both."""
    vae, images = tiny_vae(), some_images(300).round()
    vae.pixels.weight.data *= steepness
    decoded = reconstruct(vae, images, draws=4, seed=3)
    saturated = ((decoded == 0) | (decoded == 1)).float().mean()
    assert saturated == 0 if steepness == 1 else saturated > {20: 0.1, 1000: 0.9}[steepness]
    bound = elbo(wrapper(vae), images, draws=4, seed=3, first_index=2)
    settings = {"seed": 3, "first_index": 2, "draws": 4, "importance_draws": 1}
    assert torch.equal(bound, -scores["elbo"](wrapper(vae), images, **settings))


@pytest.mark.parametrize("function", [log_likelihood, elbo])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saturated_pixels_keep_their_log_odds(function, dtype):
    bound = function(Fixed(SATURATED.to(dtype)), INK, draws=3, seed=0)
    assert bound.dtype == torch.float32
    assert bound.item() == pytest.approx(4 * (-40 - 40 - math.log(2)), rel=1e-6)


def test_saturated_pixels_without_log_odds_are_a_float32_step_from_0_and_1():
    """Two pixels of five are right, two wrong, one undecided."""
    eps = torch.finfo(torch.float32).eps
    expected = 4 * (2 * math.log1p(-eps) + 2 * math.log(eps) - math.log(2))
    assert elbo(Plain(Fixed(SATURATED)), INK, draws=3, seed=0).item() == pytest.approx(expected, rel=1e-5)


@settings(deadline=None)
@given(
    pixels=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=PIXELS, max_size=PIXELS),
    chances=st.lists(st.floats(2**-10, 1 - 2**-10, width=32), min_size=PIXELS, max_size=PIXELS),
)
def test_densities_are_bernoulli_s(pixels, chances):
    """Where the posterior is the prior, and so the ELBO the log-density; by torch's cross-entropy and Bernoulli."""
    images, probability = torch.tensor(pixels).view(1, 1, *SIDES), torch.tensor(chances)
    expected = -binary_cross_entropy(probability, images.flatten(), reduction="sum")
    for vae in (Fixed(probability.logit()), Plain(Fixed(probability.logit()))):
        assert_close(elbo(vae, images, draws=2, seed=0)[0], expected, rtol=1e-5, atol=1e-5)
    binary = (images > 0.5).float()
    direct = Bernoulli(probs=probability).log_prob(binary.flatten()).sum()
    assert_close(elbo(Fixed(probability.logit()), binary, draws=2, seed=0)[0], direct, rtol=1e-5, atol=1e-5)


def test_draws_of_the_likelihood_are_those_of_the_elbo(tiny_vae, some_images):
    vae, images = tiny_vae(), some_images(400)
    many = log_likelihood(vae, images, draws=200, seed=0)
    single = torch.stack([log_likelihood(vae, images, draws=1, seed=seed) for seed in range(40)]).mean(dim=0)
    expected = torch.stack([elbo(vae, images, draws=1, seed=seed) for seed in range(40)]).mean(dim=0)
    assert (single - expected).mean().abs() < 0.15  # one draw gives the ELBO, but with a KL that is drawn as well
    assert (many - expected).mean() > 0.6


# Colour


class Coloured(nn.Module):
    """A user's own VAE of colour, which says nothing of its density."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def encode(self, images):
        return self.vae.encode(images)

    def decode(self, latents):
        return self.vae.decode(latents)


class OfGaussians(Coloured):
    """One that does."""

    def log_density(self, images, decoded):
        return Normal(decoded, 0.2).log_prob(images.unsqueeze(1)).sum(dim=(2, 3, 4))


@pytest.mark.parametrize(
    ("wrapper", "density_of"),
    [
        (lambda vae: vae, lambda vae: vae.log_density),
        (OfGaussians, lambda vae: vae.log_density),
        (Coloured, lambda _: partial(discretised_logistic, scale=0.05)),
    ],
    ids=["reference", "own", "default"],
)
def test_colour_has_the_density_of_its_decoder_or_a_logistic_one(tiny_colour_vae, some_colours, wrapper, density_of):
    vae, images, draws = wrapper(tiny_colour_vae()).eval(), some_colours(9), {"draws": 4, "seed": 3}
    density = density_of(vae)
    decoded = reconstruct(vae, images, **draws)
    with torch.no_grad():
        expected = density(images, decoded).mean(dim=1) - kl_of_posterior(*vae.encode(images))
    bound = elbo(vae, images, **draws)
    assert_close(bound, expected)
    for function in (elbo, log_likelihood):
        assert torch.equal(function(vae, images, **draws), function(vae, images, log_density=density, **draws))
    assert torch.equal(bound, -scores["elbo"](vae, images, importance_draws=1, **draws))
    for how in ("posterior", "encoder"):
        assert likelihood_regret(vae, images, seed=0, steps=20, how=how).median() > 0.1


def test_convolutional_encoders_are_optimised_at_once_as_they_would_be_in_turn(tiny_colour_vae, some_colours):
    class OneByOne(Coloured):
        def log_density(self, images, decoded):
            return self.vae.log_density(images, decoded)

    vae, setting = tiny_colour_vae(), {"how": "encoder", "seed": 1, "steps": 10}
    together, in_turn = (likelihood_regret(each, some_colours(3), **setting) for each in (vae, OneByOne(vae).eval()))
    assert in_turn.abs().min() > 1e-2
    assert_close(together, in_turn, rtol=1e-2, atol=1e-3)


def test_a_density_or_a_reconstruction_of_colour_that_is_unfit_is_refused(tiny_colour_vae, some_colours):
    vae, images = OfGaussians(tiny_colour_vae()).eval(), some_colours(3)
    vae.log_density = lambda images, _: images.sum(dim=(1, 2, 3))
    for function in (elbo, likelihood_regret, scores["elbo"]):
        with pytest.raises(ValueError, match=r"log_density must give \((\d), \d\), \(images, draws\); got \(\1,\)"):
            function(vae, images, **({} if function is likelihood_regret else {"draws": 2}), seed=0)
    spoilt = tiny_colour_vae()
    spoilt.decoder[0].bias.data.fill_(math.nan)
    for function in (elbo, likelihood_regret, scores["elbo"]):
        with pytest.raises(ValueError, match="reconstructions must be finite; got NaN"):
            function(spoilt, images, draws=2, seed=0)


# However it is computed


@pytest.mark.parametrize("function", [log_likelihood, elbo])
@pytest.mark.parametrize(
    ("share", "decoded"), [(0.5, [1, 1, 0.5]), (1.25, [1, 0.25] * 5), (1, [1] * 5), (0.125, [5 / 8])]
)
def test_no_more_is_decoded_at_once_than_fits(tiny_vae, some_images, monkeypatch, function, share, decoded):
    """Shares of the 800 latents that fit, in draws of an image and in calls."""
    vae = Plain(tiny_vae())
    monkeypatch.setattr(_batch_sizes, "fit_at_once", lambda *_: 800)
    function(vae, some_images(5), draws=round(800 * share), seed=0)
    assert vae.decoded == [round(800 * one) for one in decoded]


class Deep(VAE):
    """One whose widest layer has many numbers."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.wide = torch.nn.Linear(config.latent_size, 40_000)
        self.decoded = []

    def decode_logits(self, latents):
        self.decoded.append(len(latents))
        return super().decode_logits(latents) + 0 * self.wide(latents).relu().sum(dim=1, keepdim=True)


@pytest.mark.parametrize("function", [log_likelihood, elbo, likelihood_regret, scores["mse"]])
def test_what_is_decoded_at_once_follows_the_width_of_the_model(some_images, one_thread, function):
    vae = Deep(VAEConfig(latent_size=LATENT, hidden_size=8), SIDES).eval().requires_grad_(requires_grad=False)
    function(vae, some_images(120), draws=2, seed=0)
    most = {likelihood_regret: _batch_sizes._KEPT["cpu"] // (4 * 40_000)}
    assert max(vae.decoded) <= most.get(function, fit_at_once(4 * 40_000, torch.device("cpu")))


def test_a_vae_without_log_odds_gives_the_same(tiny_vae, some_images):
    vae, images = tiny_vae(), some_images(10)
    for function in (log_likelihood, elbo, likelihood_regret):
        plain = function(Plain(vae), images, draws=5, seed=2)
        assert_close(plain, function(vae, images, draws=5, seed=2), rtol=1e-4, atol=1e-3)


def squared(images, decoded):
    return -10 * (decoded - images.unsqueeze(1)).square().sum((2, 3, 4))


@pytest.mark.parametrize("density", [None, squared])
def test_half_precision_is_used_only_where_it_is_asked_for_and_is_near(tiny_vae, some_images, density):
    seen = []

    class Watched(VAE):
        def decode_logits(self, latents):
            odds = super().decode_logits(latents)
            seen.append(odds.dtype)
            return odds

    vae, images, setting = tiny_vae(kind=Watched), some_images(40), {"draws": 20, "log_density": density}
    exact = log_likelihood(vae, images, seed=2, **setting)
    assert set(seen) == {torch.float32}
    rough = log_likelihood(vae, images, seed=2, precision="bfloat16", **setting)
    assert seen[-1] == torch.bfloat16
    another = log_likelihood(vae, images, seed=3, **setting)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).std() < 0.2 * (another - exact).std()


# Likelihood regret


class Astray(nn.Module):
    """A VAE of one latent that decodes to the image it stands for, and whose encoder is some way off."""

    def __init__(self, astray):
        super().__init__()
        self.astray = nn.Parameter(torch.tensor(float(astray)))
        self.slope = nn.Parameter(torch.tensor(1.5))

    def encode(self, images):
        pixel = images.flatten(1).mean(dim=1, keepdim=True).clamp(1e-3, 1 - 1e-3)
        return pixel.logit() / self.slope.detach() + self.astray, torch.full_like(pixel, -3.0)

    def decode_logits(self, latents):
        return (self.slope * latents).expand(-1, PIXELS)

    def decode(self, latents):
        return self.decode_logits(latents).sigmoid().view(-1, 1, *SIDES)


def best_elbo(vae, images):
    """The ELBO of the encoder, and the largest of any mean and variance, by quadrature and L-BFGS in float64."""
    vae = copy.deepcopy(vae).double()
    images = images.double()
    nodes = torch.linspace(-6, 6, 601, dtype=torch.float64)
    mass = torch.softmax(-nodes.square() / 2, dim=0)
    parameters = torch.stack([part.double().detach() for part in vae.encode(images)]).requires_grad_()

    def bound():
        mean, log_variance = parameters
        odds = vae.slope * (mean + (log_variance / 2).exp() * nodes)
        pixels = images.flatten(1).sum(dim=1, keepdim=True)
        density = pixels * logsigmoid(odds) + (PIXELS - pixels) * logsigmoid(-odds)
        return (density * mass).sum(dim=1) - kl_of_posterior(mean, log_variance)

    start = bound().detach()
    optimizer = torch.optim.LBFGS([parameters], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        loss = -bound().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return start, bound().detach()


@pytest.mark.parametrize("astray", [0.0, 0.5, -1.5])
def test_regret_is_what_the_best_posterior_gains(some_images, astray):
    vae, images = Astray(astray).eval(), some_images(30) ** torch.linspace(0.3, 3, 30).view(-1, 1, 1, 1)
    start, best = best_elbo(vae, images)
    regret = likelihood_regret(vae, images, seed=0, steps=100, draws=400)
    assert_close(regret.double(), best - start, atol=0.1, rtol=0.02)


def test_an_encoder_further_astray_is_regretted_more_by_every_image(some_images):
    images = some_images(20)
    regrets = [likelihood_regret(Astray(astray).eval(), images, seed=0, draws=8) for astray in (0.3, 0.8, 1.6)]
    assert (regrets[0] < regrets[1]).all()
    assert (regrets[1] < regrets[2]).all()


class OfItsOwn(VAE):
    """Another class, whose encoder may be any."""

    def encode(self, images):
        mean, log_variance = super().encode(images)
        return mean, log_variance


@pytest.mark.parametrize(("bound", "kind"), [("elbo", VAE), ("importance", VAE), ("elbo", OfItsOwn)])
def test_the_published_variant_optimises_an_encoder_for_each_image(tiny_vae, some_images, bound, kind):
    """Also where some pixels are blank, which teach a first layer nothing, and where an image is."""
    vae, images, steps, draws, seed = tiny_vae(kind=kind), some_images(3), 15, 9, 7
    images = torch.where(images < 0.3, 0.0, images)
    images[2] = 0
    noise = normal(seed_for("likelihood-regret/steps", seed), torch.arange(4, 7), draws=steps, size=LATENT)
    half = normal(seed_for("likelihood-regret/draws", seed), torch.arange(4, 7), draws=5, size=LATENT)
    fresh = torch.cat([half, -half], dim=1)[:, :draws]

    def value(model, image, noise):
        logarithms = weights(model, image, noise)
        return logarithms.mean() if bound == "elbo" else logarithms.logsumexp(0) - math.log(draws)

    expected = []
    for number, image in enumerate(images.split(1)):
        own = copy.deepcopy(vae)
        encoder = [*own.encoder.parameters(), *own.posterior.parameters()]
        optimizer = torch.optim.Adam(encoder, lr=2e-4)
        for draw in noise[number]:
            mean, log_variance = own.encode(image)
            pixels = Bernoulli(logits=own.decode_logits(mean + (log_variance / 2).exp() * draw), validate_args=False)
            loss = kl_of_posterior(mean, log_variance).sum() - pixels.log_prob(image.flatten(1)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            expected.append(value(own, image, fresh[number]) - value(vae, image, fresh[number]))
    setting = {"how": "encoder", "steps": steps, "draws": draws, "bound": bound, "seed": seed, "first_index": 4}
    regret = likelihood_regret(vae, images, **setting)
    assert torch.stack(expected).abs().min() > 1e-3
    assert_close(regret, torch.stack(expected), rtol=1e-3, atol=1e-4)


class FarOff(Plain):
    """Gives some images a posterior without end."""

    def encode(self, images):
        mean, log_variance = self.vae.encode(images)
        far = images[:, 0, 0, 0] > 0.5
        return mean, torch.where(far.unsqueeze(1), log_variance + 89, log_variance)


def test_a_posterior_without_end_is_regretted_and_spoils_no_other_image(tiny_vae, some_images):
    images, vae = some_images(10), tiny_vae()
    far = images[:, 0, 0, 0] > 0.5
    assert 0 < far.sum() < 10
    regret = likelihood_regret(FarOff(vae), images, seed=0)
    assert not regret.isnan().any()
    assert_close(regret[~far], likelihood_regret(Plain(vae), images, seed=0)[~far])
    assert regret[far].min() > regret[~far].max()


# What callers pass in


def test_reconstructions_of_a_density_of_ones_own_need_not_be_images(some_images):
    vae, images = LinearGaussian(), some_images(3)
    assert vae.decode(vae.encode(images)[0]).min() < 0
    log_likelihood(vae, images, draws=2, seed=0, log_density=vae.log_density)
    with pytest.raises(ValueError, match=r"the VAE's reconstructions must lie in \[0, 1\]"):
        log_likelihood(vae, images, draws=2, seed=0)


@pytest.mark.parametrize("function", [log_likelihood, elbo, likelihood_regret])
@pytest.mark.parametrize(
    ("odds", "message"),
    [
        (torch.full((PIXELS,), torch.nan), "decoder must give finite log-odds; got NaN"),
        (torch.zeros(PIXELS - 1), r"decode_logits must give .* \(\d+, 20\), .* got \(\d+, 19\)"),
    ],
)
def test_unfit_models(some_images, function, odds, message):
    with pytest.raises(ValueError, match=message):
        function(Fixed(odds), some_images(2), draws=2, seed=0)


@pytest.mark.parametrize(
    ("function", "wrapper", "setting", "message"),
    [
        (likelihood_regret, None, {"steps": 0}, "steps must be 1 or more; got 0"),
        (likelihood_regret, None, {"how": "x"}, "how must be 'posterior' or 'encoder'; got 'x'"),
        (likelihood_regret, None, {"bound": "x"}, "bound must be 'elbo' or 'importance'; got 'x'"),
        (likelihood_regret, Plain, {"how": "encoder"}, r"torch.nn.Module; got Plain \(how='posterior' needs no"),
        (log_likelihood, None, {"precision": "x"}, "precision must be 'float32', 'tf32' or 'bfloat16'; got 'x'"),
        *(
            (each, None, {"log_density": lambda images, _: images.sum(dim=(1, 2, 3))}, r"\(images, draws\); got \(2,\)")
            for each in (log_likelihood, elbo)
        ),
    ],
)
def test_unfit_ways(tiny_vae, some_images, function, wrapper, setting, message):
    vae = tiny_vae() if wrapper is None else wrapper(tiny_vae())
    with pytest.raises(ValueError, match=message):
        function(vae, some_images(2), seed=0, draws=3, **setting)
