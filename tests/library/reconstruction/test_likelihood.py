"""The importance-weighted bound against closed forms and a plain formula; likelihood regret against its definition."""

import copy
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal
from torch.nn.functional import logsigmoid

from vaecore import VAE, VAEConfig, elbo, likelihood_regret, log_likelihood
from vaecore._noise import normal, seed_for
from vaecore.models import _networks as _models
from vaecore.reconstruction import _likelihood
from vaecore.reconstruction._decode import kl_of_posterior

LATENT, SIDES = 3, (5, 4)
PIXELS = SIDES[0] * SIDES[1]


def tiny_vae(seed=0):
    """A VAE of 5x4 images with weights large enough that draws differ visibly."""
    model = VAE(VAEConfig(latent_size=LATENT, hidden_size=8), SIDES)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.6
    return model.eval()


def some_images(count, seed=0):
    return torch.rand(count, 1, *SIDES, generator=torch.Generator().manual_seed(seed))


class Plain:
    """A user's own VAE, which has no `decode_logits` and keeps count of what it decodes."""

    def __init__(self, vae):
        self.vae, self.decoded = vae, []

    def encode(self, images):
        return self.vae.encode(images)

    def decode(self, latents):
        self.decoded.append(len(latents))
        return self.vae.decode(latents)


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
        known = MultivariateNormal(torch.zeros(PIXELS, dtype=torch.float64), covariance)
        return known.log_prob(images.flatten(1).double())


@pytest.mark.parametrize("draws", [1, 7])
def test_with_the_true_posterior_every_draw_gives_the_exact_likelihood(draws):
    vae, images = LinearGaussian(), some_images(12)
    exact = vae.exact(images)
    assert exact.std() > 1
    found = log_likelihood(vae, images, draws=draws, seed=0, log_density=vae.log_density)
    assert found.shape == (12,)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)


def test_with_a_wrong_posterior_draws_close_the_gap_to_the_exact_likelihood_from_below():
    vae, images = LinearGaussian(wrong=1.4), some_images(40)
    exact = vae.exact(images)
    gaps = {}
    for draws in (1, 10, 4000):
        found = log_likelihood(vae, images, draws=draws, seed=1, log_density=vae.log_density)
        gaps[draws] = (exact - found).mean().item()
    mean, log_variance = vae.encode(images)
    true_mean = mean - 0.4 / vae.precision.sqrt()
    # log p(x) is above the ELBO by the divergence from the encoder's posterior to the true one.
    divergence = torch.distributions.kl_divergence(
        Normal(mean, (log_variance / 2).exp()), Normal(true_mean, vae.precision.rsqrt().expand_as(mean))
    ).sum(dim=1)
    assert gaps[1] == pytest.approx(divergence.mean().item(), abs=0.4)
    assert gaps[1] > gaps[10] + 0.1
    assert gaps[10] > gaps[4000]
    assert abs(gaps[4000]) < 0.01


def plainly(vae, images, draws, seed, indices):
    """Importance-weighted bound by torch's own distributions, in float64, an image and a draw at a time."""
    found = []
    with torch.no_grad():
        for image, index in zip(images.split(1), indices.split(1), strict=True):
            mean, log_variance = vae.encode(image)
            encoded = Normal(mean.double(), (log_variance.double() / 2).exp())
            weights = []
            for noise in normal(seed, index, draws=draws, size=LATENT)[0]:
                latent = encoded.loc + encoded.scale * noise
                pixels = Bernoulli(logits=vae.decode_logits(latent.float()).double(), validate_args=False)
                weights.append(
                    pixels.log_prob(image.flatten(1).double()).sum()
                    + Normal(0.0, 1.0).log_prob(latent).sum()
                    - encoded.log_prob(latent).sum()
                )
            found.append(torch.stack(weights).exp().mean().log())
    return torch.stack(found)


def test_it_is_the_logarithm_of_the_mean_importance_weight():
    vae, images = tiny_vae(), some_images(9)
    found = log_likelihood(vae, images, draws=6, seed=4, first_index=2)
    torch.testing.assert_close(found.double(), plainly(vae, images, 6, 4, torch.arange(2, 11)), rtol=1e-5, atol=1e-4)
    assert not found.requires_grad
    assert torch.equal(log_likelihood(vae, images, draws=6, seed=4, indices=torch.arange(2, 11)), found)
    assert (log_likelihood(vae, images, draws=6, seed=5, first_index=2) - found).abs().min() > 1e-4


def test_its_draws_are_those_of_the_elbo():
    vae, images = tiny_vae(), some_images(400)
    many = log_likelihood(vae, images, draws=200, seed=0)
    single = torch.stack([log_likelihood(vae, images, draws=1, seed=seed) for seed in range(40)]).mean(dim=0)
    expected = torch.stack([elbo(vae, images, draws=1, seed=seed) for seed in range(40)]).mean(dim=0)
    assert (single - expected).mean().abs() < 0.15  # one draw gives the ELBO, but with a KL that is drawn as well
    assert (many - expected).mean() > 0.6


@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**64 - 1))
def test_chunks_portions_order_and_splits_change_nothing(data, seed):
    count, draws = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 9))
    vae, images = tiny_vae(), some_images(count)
    indices = torch.tensor(data.draw(st.lists(st.integers(0, 2**34), min_size=count, max_size=count)))
    order = torch.tensor(data.draw(st.permutations(range(count))))
    cut = data.draw(st.integers(0, count - 1))
    for function, told in ((log_likelihood, {}), (likelihood_regret, {"steps": 3})):
        whole = function(vae, images, draws=draws, seed=seed, indices=indices, **told)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_likelihood, "_PORTION", {"cpu": data.draw(st.integers(1, 12))})
            parts = [
                function(
                    vae,
                    images[rows],
                    draws=draws,
                    seed=seed,
                    indices=indices[rows],
                    chunk=data.draw(st.integers(1, 7)),
                    **told,
                )
                for rows in (order[:cut], order[cut:])
                if len(rows)
            ]
        torch.testing.assert_close(torch.cat(parts), whole[order], atol=2e-4, rtol=1e-5)


def test_no_more_than_a_portion_is_decoded_at_once(monkeypatch):
    monkeypatch.setattr(_likelihood, "_PORTION", {"cpu": 6})
    for draws, wanted in ((3, [6, 6, 3]), (8, [6, 2] * 5), (6, [6] * 5)):
        vae = Plain(tiny_vae())
        log_likelihood(vae, some_images(5), draws=draws, seed=0)
        assert vae.decoded == wanted


def test_a_vae_without_log_odds_gives_the_same():
    vae, images = tiny_vae(), some_images(10)
    for function in (log_likelihood, likelihood_regret):
        found = function(Plain(vae), images, draws=5, seed=2)
        torch.testing.assert_close(found, function(vae, images, draws=5, seed=2), rtol=1e-4, atol=1e-3)


def squared(images, decoded):
    return -10 * (decoded - images.unsqueeze(1)).square().sum((2, 3, 4))


@pytest.mark.parametrize("density", [None, squared])
def test_half_precision_is_used_only_where_it_is_asked_for_and_is_near(density, monkeypatch):
    vae, images, seen = tiny_vae(), some_images(40), []

    def linear(*given):
        found = torch.nn.functional.linear(*given)
        seen.append(found.dtype)
        return found

    monkeypatch.setattr(_models, "linear", linear)
    told = {"draws": 20, "log_density": density}
    exact = log_likelihood(vae, images, seed=2, **told)
    assert set(seen) == {torch.float32}
    rough = log_likelihood(vae, images, seed=2, precision="bfloat16", **told)
    assert seen[-1] == torch.bfloat16
    another = log_likelihood(vae, images, seed=3, **told)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).std() < 0.2 * (another - exact).std()


class Fixed:
    """A VAE that decodes to set log-odds, whatever it is shown; its posterior is the prior."""

    def __init__(self, odds):
        self.odds = odds

    def encode(self, images):
        zeros = torch.zeros(len(images), LATENT)
        return zeros, zeros

    def decode_logits(self, latents):
        return self.odds.expand(len(latents), -1)

    def decode(self, latents):
        return self.decode_logits(latents).sigmoid().view(-1, 1, *SIDES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saturated_pixels_keep_their_log_odds(dtype):
    odds = torch.tensor([-40.0, 40.0, -40.0, 40.0, 0.0]).repeat(4)
    ink = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]).repeat(4).view(1, 1, *SIDES)
    found = log_likelihood(Fixed(odds.to(dtype)), ink, draws=3, seed=0)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(4 * (-40 - 40 - math.log(2)), rel=1e-6)


def test_reconstructions_of_a_density_of_ones_own_need_not_be_images():
    vae, images = LinearGaussian(), some_images(3)
    assert vae.decode(vae.encode(images)[0]).min() < 0
    log_likelihood(vae, images, draws=2, seed=0, log_density=vae.log_density)
    with pytest.raises(ValueError, match=r"the VAE's reconstructions must lie in \[0, 1\]"):
        log_likelihood(vae, images, draws=2, seed=0)


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
    """The largest ELBO of any mean and variance, by quadrature and L-BFGS in float64."""
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
def test_regret_is_what_the_best_posterior_gains(astray):
    vae, images = Astray(astray), some_images(30) ** torch.linspace(0.3, 3, 30).view(-1, 1, 1, 1)
    start, best = best_elbo(vae, images)
    found = likelihood_regret(vae, images, seed=0, steps=100, draws=400)
    torch.testing.assert_close(found.double(), best - start, atol=0.1, rtol=0.02)


def test_an_encoder_further_astray_is_regretted_more_by_every_image():
    images = some_images(20)
    regrets = [likelihood_regret(Astray(astray), images, seed=0, draws=8) for astray in (0.3, 0.8, 1.6)]
    assert (regrets[0] < regrets[1]).all()
    assert (regrets[1] < regrets[2]).all()


@pytest.mark.parametrize("bound", ["elbo", "importance"])
def test_the_published_variant_optimises_a_copy_of_the_encoder_for_each_image(bound):
    vae, images, steps, draws, seed = tiny_vae(), some_images(3), 15, 9, 7
    noise = normal(seed_for("likelihood-regret/steps", seed), torch.arange(4, 7), draws=steps, size=LATENT)
    half = normal(seed_for("likelihood-regret/draws", seed), torch.arange(4, 7), draws=5, size=LATENT)
    fresh = torch.cat([half, -half], dim=1)[:, :draws]

    def weights(model, image, noise):
        mean, log_variance = model.encode(image)
        latent = mean + (log_variance / 2).exp() * noise
        pixels = Bernoulli(logits=model.decode_logits(latent), validate_args=False)
        prior, encoded = Normal(0.0, 1.0), Normal(mean, (log_variance / 2).exp())
        return pixels.log_prob(image.flatten(1)).sum(1) + (prior.log_prob(latent) - encoded.log_prob(latent)).sum(1)

    def value(model, image, noise):
        found = weights(model, image, noise)
        return found.mean() if bound == "elbo" else found.logsumexp(0) - math.log(draws)

    expected = []
    for number, image in enumerate(images.split(1)):
        own = copy.deepcopy(vae)
        optimizer = torch.optim.Adam(
            [*own.encoder.parameters(), *own.posterior.parameters()], lr=2e-4, weight_decay=5e-5
        )
        for draw in noise[number]:
            mean, log_variance = own.encode(image)
            pixels = Bernoulli(logits=own.decode_logits(mean + (log_variance / 2).exp() * draw), validate_args=False)
            loss = kl_of_posterior(mean, log_variance).sum() - pixels.log_prob(image.flatten(1)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            expected.append(value(own, image, fresh[number]) - value(vae, image, fresh[number]))
    told = {"how": "encoder", "steps": steps, "draws": draws, "bound": bound, "seed": seed, "first_index": 4}
    found = likelihood_regret(vae, images, **told)
    assert torch.stack(expected).abs().min() > 1e-3
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-3, atol=1e-4)


def test_neither_weights_nor_gradients_nor_random_state_are_touched():
    vae, images = tiny_vae(), some_images(3)
    weights = nn.utils.parameters_to_vector(vae.parameters()).clone()
    kept, state = images.clone(), torch.get_rng_state()
    log_likelihood(vae, images, draws=2, seed=0)
    for how in ("posterior", "encoder"):
        found = likelihood_regret(vae, images, seed=0, how=how, steps=2)
        assert not found.requires_grad
        assert likelihood_regret(vae, images, seed=0, how=how, steps=2).equal(found)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(nn.utils.parameters_to_vector(vae.parameters()), weights)
    assert all(weight.grad is None and weight.requires_grad for weight in vae.parameters())
    assert torch.equal(images, kept)


@pytest.mark.parametrize("function", [log_likelihood, likelihood_regret])
@pytest.mark.parametrize(
    ("vae", "told", "message"),
    [
        (tiny_vae(), {"draws": 0}, "draws must be 1 or more; got 0"),
        (tiny_vae(), {"chunk": 0}, "chunk must be 1 or more images; got 0"),
        (tiny_vae(), {"first_index": -1}, "first_index must be 0 or more; got -1"),
        (tiny_vae(), {"indices": torch.arange(3)}, r"indices must be int64 of shape \(2,\)"),
        (Fixed(torch.full((PIXELS,), torch.nan)), {}, "decoder must give finite log-odds; got NaN"),
        (Fixed(torch.zeros(PIXELS - 1)), {}, r"decode_logits must give log-odds \(\d+, 20\), .* got \(\d+, 19\)"),
    ],
)
def test_unfit_settings_and_models(function, vae, told, message):
    told = {"draws": 2, "seed": 0} | told
    if function is likelihood_regret and isinstance(vae, Fixed):
        vae.decode_logits = lambda latents, odds=vae.odds: odds + 0 * latents[:, :1]  # something to differentiate
    with pytest.raises(ValueError, match=message):
        function(vae, some_images(2), **told)


@pytest.mark.parametrize(
    ("vae", "told", "message"),
    [
        (tiny_vae(), {"steps": 0}, "steps must be 1 or more; got 0"),
        (tiny_vae(), {"how": "decoder"}, "how must be 'posterior' or 'encoder' .*; got 'decoder' and 'elbo'"),
        (tiny_vae(), {"bound": "iwae"}, "bound 'elbo' or 'importance'; got 'posterior' and 'iwae'"),
        (Plain(tiny_vae()), {"how": "encoder"}, r"must be a torch.nn.Module; got Plain \(how='posterior' needs no"),
    ],
)
def test_unfit_ways_to_regret(vae, told, message):
    with pytest.raises(ValueError, match=message):
        likelihood_regret(vae, some_images(2), seed=0, **told)


class FarOff(Plain):
    """Gives some images a posterior without end."""

    def encode(self, images):
        mean, log_variance = self.vae.encode(images)
        far = images[:, 0, 0, 0] > 0.5
        return mean, torch.where(far.unsqueeze(1), log_variance + 89, log_variance)


def test_a_posterior_without_end_is_regretted_and_spoils_no_other_image():
    images, vae = some_images(10), tiny_vae()
    far = images[:, 0, 0, 0] > 0.5
    assert 0 < far.sum() < 10
    found = likelihood_regret(FarOff(vae), images, seed=0)
    assert not found.isnan().any()
    torch.testing.assert_close(found[~far], likelihood_regret(Plain(vae), images, seed=0)[~far])
    assert found[far].min() > found[~far].max()


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be 'float32', 'tf32' or 'bfloat16'; got 'float16'"):
        log_likelihood(tiny_vae(), some_images(2), seed=0, precision="float16")


def test_a_density_must_be_of_each_draw():
    with pytest.raises(ValueError, match=r"log_density must give \(2, 3\), \(images, draws\); got \(2,\)"):
        log_likelihood(
            tiny_vae(), some_images(2), draws=3, seed=0, log_density=lambda images, _: images.sum(dim=(1, 2, 3))
        )


def test_unfit_images():
    for function in (log_likelihood, likelihood_regret):
        with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]; got \[255, 255\]"):
            function(tiny_vae(), torch.full((2, 1, *SIDES), 255.0), seed=0)
