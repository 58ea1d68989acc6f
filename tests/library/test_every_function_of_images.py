"""What holds for every function of a VAE and images: independence of the batch, no side effects, bad input."""

from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.testing import assert_close

from vaecore import elbo, fit_scores, kl, latent_mean, likelihood_regret, log_likelihood, reconstruct

NAMES = ["reconstruct", "log_likelihood", "elbo", "likelihood_regret", "likelihood_regret-encoder", "scores"]
EACH = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="session")
def vae(tiny_vae):
    return tiny_vae()


@pytest.fixture(scope="session")
def functions(vae, tiny_classifier, some_images):
    """Functions of images by name, which take `draws`, `seed` and the settings that all share, and give (n, ...)."""
    classifier, fitted = tiny_classifier(), {}

    def every_score(images, *, draws, seed, names=None, **at):
        if (draws, seed, names) not in fitted:
            few = {"importance_draws": 6, "neighbours": 1, "regret_steps": 2, "regret_draws": 4, "draws": draws}
            fitted[draws, seed, names] = fit_scores(vae, classifier, some_images(60, 9), seed=seed, names=names, **few)
        return torch.stack(list(fitted[draws, seed, names](images, **at).values()), dim=1)

    return {
        "reconstruct": partial(reconstruct, vae),
        "log_likelihood": partial(log_likelihood, vae),
        "elbo": partial(elbo, vae),
        "likelihood_regret": partial(likelihood_regret, vae, steps=3),
        "likelihood_regret-encoder": partial(likelihood_regret, vae, how="encoder", steps=3),
        "scores": every_score,
        "kl": lambda images, **_: kl(vae, images),
        "latent_mean": lambda images, **_: latent_mean(vae, images),
    }


@pytest.mark.parametrize("name", [name for name in NAMES if "encoder" not in name])  # which is slow
@settings(max_examples=15, deadline=None)
@given(data=st.data(), seed=st.sampled_from([0, 2**64 - 1]))
def test_chunks_portions_order_and_splits_change_nothing(functions, some_images, name, data, seed):
    """500 latents are decoded at once."""
    function = functions[name]
    count, draws = data.draw(st.integers(1, 7)), data.draw(st.sampled_from([1, 9, 200, 1100]))
    images = some_images(count)
    indices = torch.tensor(data.draw(st.lists(st.integers(0, 2**34), min_size=count, max_size=count)))
    order, cut = torch.tensor(data.draw(st.permutations(range(count)))), data.draw(st.integers(0, count - 1))

    def joined(splits, **more):
        same = {"draws": draws, "seed": seed, **more}
        return torch.cat([function(images[rows], indices=indices[rows], **same) for rows in splits if len(rows)])

    one_by_one = joined(torch.arange(count).split(1))
    in_parts = joined((order[:cut], order[cut:]), chunk=data.draw(st.integers(1, 7)))
    rtol, atol = (0, 1e-6) if name == "reconstruct" else (1e-4, 2e-4)
    assert_close(in_parts, one_by_one[order], rtol=rtol, atol=atol)


@EACH
def test_seed_and_index_choose_the_draws(functions, some_images, name):
    by_draws = ("mse", "log-likelihood", "likelihood-regret", "disagreement")
    images, more = some_images(5), {"names": by_draws} if name == "scores" else {}

    def result(rows=slice(None), *, seed=1, **at):
        return functions[name](images[rows], draws=2, seed=seed, **more, **at)

    whole = result()
    assert_close(result(slice(2, 5), first_index=2), whole[2:])
    assert torch.equal(result(indices=torch.arange(5)), whole)
    for other in (result(first_index=1), result(seed=2)):
        assert bool((other != whole).any(dim=0).all())


@EACH
def test_neither_weights_nor_gradients_nor_random_state_are_touched(functions, vae, some_images, name):
    function, images = functions[name], some_images(3)
    weights, state = nn.utils.parameters_to_vector(vae.parameters()).clone(), torch.get_rng_state()
    result = function(images, draws=2, seed=0)
    assert not result.requires_grad
    assert torch.equal(function(images, draws=2, seed=0), result)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(nn.utils.parameters_to_vector(vae.parameters()), weights)
    assert all(weight.grad is None and weight.requires_grad for weight in vae.parameters())
    assert torch.equal(images, some_images(3))


@EACH
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"draws": 0}, "draws must be 1 or more; got 0"),
        ({"chunk": 0}, "chunk must be 1 or more; got 0"),
        ({"first_index": -3}, "first_index must be 0 or more; got -3"),
        ({"indices": torch.arange(3)}, r"indices must be int64 of shape \(2,\).*got torch.int64 \(3,\)"),
        ({"indices": torch.zeros(2)}, r"indices must be int64 .* got torch.float32 \(2,\)"),
        ({"indices": torch.tensor([0, -1])}, "0 and up"),
    ],
)
def test_unfit_settings(functions, some_images, name, setting, message):
    with pytest.raises(ValueError, match=message):
        functions[name](some_images(2), **{"draws": 2, "seed": 0} | setting)


@pytest.mark.parametrize("name", [*NAMES, "kl", "latent_mean"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((2, 1, 5, 4), 1.01), r"images must lie in \[0, 1\]; got \[1.01, 1.01\] \(undo"),
        (torch.full((2, 1, 5, 4), -0.42), r"images must lie in \[0, 1\]; got \[-0.42, -0.42\]"),
        (torch.full((2, 1, 5, 4), torch.nan), "images must be finite; got NaN"),
        (torch.zeros(2, 1, 5, 4, dtype=torch.uint8), r"images must be float32; got torch.uint8 \(bytes"),
        (torch.zeros(2, 1, 5, 4, dtype=torch.float64), "images must be float32; got torch.float64"),
        (torch.zeros(2, 5, 4), r"shape \(n, channels, height, width\), 1 channel or 3; got \(2, 5, 4\) .*unsqueeze"),
        (torch.zeros(2, 5, 4, 3), r"must have shape .*; got \(2, 5, 4, 3\) \(where the channels come last.*permute"),
        (torch.zeros(0, 1, 5, 4), r"images is empty; got shape \(0, 1, 5, 4\)"),
    ],
)
def test_unfit_images(functions, name, images, message):
    with pytest.raises(ValueError, match=message):
        functions[name](images, draws=2, seed=0)
