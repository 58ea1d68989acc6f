"""Bounds and likelihood ratio of a hierarchical VAE against its definition, drawn level by level by torch's own."""

import copy
import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle
from torch.testing import assert_close

from vaecore import elbo, kl, latent_mean, likelihood_ratio, log_likelihood, partial_elbo
from vaecore.toolkit import normal

WAYS = [(above, lower) for above in range(3) for lower in ("mean", "draws")]


def halves(layer, *given):
    """A normal distribution from a layer's mean and log-variance; (1, latent), whether it is dense or local."""
    mean, log_variance = layer(torch.cat(given, dim=1)).chunk(2, dim=1)
    return Normal(mean.flatten(1), (log_variance / 2).exp().flatten(1))


def drawn(vae, image, noise, above, lower):
    """Log-weight of a draw of an image (1, c, h, w): log p(x, z>k) - log q(z>k | x), with absolute latents.

    The lower levels are at the mean of their prior, or drawn from it. Written for three levels and patches of 2x2.
    """
    _, _, height, width = image.shape
    rows, columns = vae.grid
    e1, e2, e3 = noise.view(1, -1).split(vae.levels, dim=1)
    blocks = pixel_unshuffle(pad(image, (0, 2 * columns - width, 0, 2 * rows - height)), 2)
    near = vae.patches_up(blocks).relu()
    whole = vae.up[0](near.flatten(1)).relu()
    top = vae.up[1](whole).relu()
    weight = torch.zeros(1, dtype=image.dtype)

    def level(number, prior, layer, features, higher, deviate):
        nonlocal weight
        if number <= above:
            return prior.loc + prior.scale * (deviate if lower == "draws" else 0)
        relative = halves(layer, features, *higher)
        posterior = Normal(prior.loc + prior.scale * relative.loc, prior.scale * relative.scale)
        latent = posterior.loc + posterior.scale * deviate
        weight = weight + (prior.log_prob(latent) - posterior.log_prob(latent)).sum(dim=1)
        return latent

    standard = Normal(torch.zeros_like(e3), torch.ones_like(e3))
    z3 = level(3, standard, vae.dense_posteriors[1], top, (), e3)
    t3 = vae.down[1](z3).relu()
    z2 = level(2, halves(vae.dense_priors[0], t3), vae.dense_posteriors[0], whole, (t3,), e2)
    t2 = vae.widened(vae.down[0](z2).relu()).relu().view_as(near)
    z1 = level(1, halves(vae.prior, t2), vae.posterior, near, (t2,), e1)
    odds = pixel_shuffle(vae.pixels(vae.patches_down(z1.view(1, -1, rows, columns)).relu()), 2)[..., :height, :width]
    return weight + Bernoulli(logits=odds, validate_args=False).log_prob(image).sum(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def vae(tiny_hierarchical_vae):
    return tiny_hierarchical_vae()


@pytest.mark.parametrize(("above", "lower"), WAYS)
def test_bounds_and_ratio_are_their_definition(vae, some_images, above, lower):
    images, draws = some_images(4), 6
    noise = normal(3, torch.arange(2, 6), draws=draws, size=sum(vae.levels)).double()
    exact, setting = copy.deepcopy(vae).double(), {"draws": draws, "seed": 3, "first_index": 2}
    with torch.no_grad():
        whole, partial = (
            torch.stack([torch.cat([drawn(exact, image, draw, *way) for draw in draws]) for image, draws in pairs])
            for way in ((0, "draws"), (above, lower))
            for pairs in [[*zip(images.double().split(1), noise, strict=True)]]
        )
    bound = partial_elbo(vae, images, above=above, lower=lower, **setting)
    assert_close(bound.double(), partial.mean(dim=1), rtol=1e-5, atol=1e-4)
    ratio = likelihood_ratio(vae, images, above=above, lower=lower, **setting)
    expected = whole.exp().mean(dim=1).log() - partial.mean(dim=1)
    assert_close(ratio.double(), expected, rtol=1e-5, atol=1e-4)


def test_without_a_level_left_out_the_bound_is_the_elbo_and_the_ratio_nothing(vae, some_images):
    images, setting = some_images(5), {"draws": 1, "seed": 0}
    assert torch.equal(partial_elbo(vae, images, lower="mean", **setting), partial_elbo(vae, images, **setting))
    assert torch.equal(likelihood_ratio(vae, images, above=0, **setting), torch.zeros(5))
    assert bool((likelihood_ratio(vae, images, above=1, **setting) != 0).all())


def test_bounds_lie_below_the_evidence_and_the_weighted_one_comes_near(vae, some_images):
    """The evidence, log p(x), is had from draws of the prior alone; the posteriors are near enough to the prior."""
    images, vae = some_images(12), copy.deepcopy(vae)
    for layer in (vae.posterior, *vae.dense_posteriors):
        for parameter in layer.parameters():
            parameter.data *= 0.3
    latents = torch.randn(200_000, sum(vae.levels), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        odds = vae.decode_logits(latents)
        densities = images.flatten(1) @ odds.T - torch.nn.functional.softplus(odds).sum(dim=1)
    evidence = densities.logsumexp(dim=1) - math.log(len(latents))
    bounds = [partial_elbo(vae, images, above=above, draws=1000, seed=1) for above in range(3)]
    for bound in (*bounds, elbo(vae, images, draws=1000, seed=1)):
        assert bool((bound < evidence - 0.2).all())
    ratio = likelihood_ratio(vae, images, above=1, lower="draws", draws=4000, seed=1)
    weighted = ratio + partial_elbo(vae, images, above=1, draws=4000, seed=1)
    for bound in (weighted, log_likelihood(vae, images, draws=4000, seed=1)):
        assert_close(bound, evidence, atol=0.2, rtol=0)


def test_the_relative_latents_make_it_a_vae_with_a_standard_normal_prior(vae, some_images):
    images = some_images(6)
    encoded = vae.encode(images)
    assert [part.shape for part in encoded] == [(6, sum(vae.levels))] * 2
    odds, mean, log_variance = vae.descend(vae.climb(images), torch.zeros_like(encoded[0]))
    for part, expected in zip(encoded, (mean, log_variance), strict=True):
        assert torch.equal(part, expected)
    # Drawn at the posterior's means, so what the means decode to.
    assert_close(vae.decode_logits(encoded[0]), odds)
    assert_close(vae.decode(encoded[0]), odds.sigmoid().view_as(images))
    assert_close(latent_mean(vae, images), encoded[0])
    expected = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
    assert_close(kl(vae, images), expected)


def test_the_lowest_level_sees_its_neighbourhood_alone(vae, some_images):
    images = some_images(1)
    changed = images.clone()
    changed[..., 4, 3] = 1 - changed[..., 4, 3]
    near, other = (vae.climb(each)[0] for each in (images, changed))
    differs = (near != other).any(dim=1)[0]
    assert differs.tolist() == [[False, False], [True, True], [True, True]]


@pytest.mark.parametrize("function", [partial_elbo, likelihood_ratio])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"above": 3}, "above must be from 0 to 2; got 3"),
        ({"above": -1}, "above must be from 0 to 2; got -1"),
        ({"lower": "mode"}, "lower must be 'mean' or 'draws'; got 'mode'"),
    ],
)
def test_unfit_levels(vae, some_images, function, setting, message):
    with pytest.raises(ValueError, match=message):
        function(vae, some_images(2), **{"draws": 2, "seed": 0} | setting)


@pytest.mark.parametrize("function", [partial_elbo, likelihood_ratio])
def test_a_vae_without_levels_is_refused(tiny_vae, some_images, function):
    with pytest.raises(TypeError, match="vae must be HierarchicalVAE; got VAE"):
        function(tiny_vae(), some_images(2), draws=2, seed=0)
