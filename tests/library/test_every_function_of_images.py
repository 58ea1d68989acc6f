"""What holds for every function of a VAE and images: independence of the batch, no side effects, models, bad input."""

import copy
from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.testing import assert_close

from vaecore import (
    LatentSearch,
    Purified,
    ResidualClassifier,
    ResidualConfig,
    VAEPurifier,
    elbo,
    fit_scores,
    kl,
    latent_mean,
    likelihood_ratio,
    likelihood_regret,
    log_likelihood,
    partial_elbo,
    reconstruct,
    reconstruct_labels,
)
from vaecore.toolkit import to_evaluation

NAMES = ["reconstruct", "log_likelihood", "elbo", "likelihood_regret", "likelihood_regret-encoder", "scores"]
EVERY = [*NAMES, "kl", "latent_mean", "reconstruct_labels", "purified"]
LEVELS = ["partial_elbo", "likelihood_ratio"]  # of the hierarchical VAE alone
EACH = pytest.mark.parametrize("name", [*NAMES, *LEVELS])
MODES = pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])


@pytest.fixture(scope="session")
def vae(tiny_vae):
    return tiny_vae()


@pytest.fixture(scope="session")
def functions_of(some_images):
    """Give a function that gives functions of images by name, of a VAE and a classifier.

    They take `draws`, `seed` and the settings that all share, and give (n, ...).
    """

    def make(vae, classifier, images_of=some_images):
        fitted = {}

        def every_score(images, *, draws, seed, names=None, **at):
            key = draws, seed, names
            if key not in fitted:
                few = {"importance_draws": 6, "neighbours": 1, "draws": draws}
                few |= {"regret_steps": 2, "posterior_steps": 2, "regret_draws": 4}
                fitted[key] = fit_scores(vae, classifier, images_of(60, 9), seed=seed, names=names, **few)
            return torch.stack(list(fitted[key](images, **at).values()), dim=1)

        def purified(images, *, draws, seed):
            return Purified(VAEPurifier(vae, draws=draws), classifier, decide="mean-softmax", seed=seed)(images)

        return {
            "reconstruct": partial(reconstruct, vae),
            "log_likelihood": partial(log_likelihood, vae),
            "elbo": partial(elbo, vae),
            "likelihood_regret": partial(likelihood_regret, vae, steps=3),
            "likelihood_regret-encoder": partial(likelihood_regret, vae, how="encoder", steps=3),
            "scores": every_score,
            "kl": lambda images, **_: kl(vae, images),
            "latent_mean": lambda images, **_: latent_mean(vae, images),
            "reconstruct_labels": partial(reconstruct_labels, vae, classifier),
            "purified": purified,
        }

    return make


@pytest.fixture(scope="session")
def hierarchy(tiny_hierarchical_vae):
    return tiny_hierarchical_vae()


@pytest.fixture(scope="session")
def functions(functions_of, vae, hierarchy, tiny_classifier):
    """Those of the tiny models."""
    levels = {function.__name__: partial(function, hierarchy, above=1) for function in (partial_elbo, likelihood_ratio)}
    return functions_of(vae, tiny_classifier()) | levels


@pytest.mark.parametrize("name", [name for name in [*NAMES, *LEVELS] if "encoder" not in name])  # slow
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
    by_draws = ("mse", "log-likelihood", "posterior-regret", "disagreement")
    images, more = some_images(5), {"names": by_draws} if name == "scores" else {}

    def result(rows=slice(None), *, seed=1, **at):
        return functions[name](images[rows], draws=2, seed=seed, **more, **at)

    whole = result()
    assert_close(result(slice(2, 5), first_index=2), whole[2:])
    assert torch.equal(result(indices=torch.arange(5)), whole)
    for other in (result(first_index=1), result(seed=2)):
        assert bool((other != whole).any(dim=0).all())


@EACH
def test_neither_weights_nor_gradients_nor_random_state_are_touched(functions, vae, hierarchy, some_images, name):
    function, images, vae = functions[name], some_images(3), hierarchy if name in LEVELS else vae
    weights, state = nn.utils.parameters_to_vector(vae.parameters()).clone(), torch.get_rng_state()
    result = function(images, draws=2, seed=0)
    assert not result.requires_grad
    assert torch.equal(function(images, draws=2, seed=0), result)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(nn.utils.parameters_to_vector(vae.parameters()), weights)
    assert all(weight.grad is None and weight.requires_grad for weight in vae.parameters())
    assert torch.equal(images, some_images(3))


class Wrapped(nn.Module):
    """A VAE each of whose methods is wrapped."""

    def __init__(self, vae, wrap):
        super().__init__()
        self.vae, self.wrap = vae, wrap

    def encode(self, images):
        return self.wrap(self.vae.encode)(images)

    def decode(self, latents):
        return self.wrap(self.vae.decode)(latents)

    def decode_logits(self, latents):
        return self.wrap(self.vae.decode_logits)(latents)


@pytest.mark.parametrize("name", EVERY)
def test_what_models_write_into_and_their_dtype_change_nothing(
    functions_of, vae, tiny_classifier, some_images, habit, name
):
    images, setting = some_images(5), {"draws": 2, "seed": 0}
    result, expected = (
        functions_of(Wrapped(vae, wrap).eval(), wrap(tiny_classifier()))[name](images, **setting) for wrap in habit
    )
    assert torch.equal(images, some_images(5))
    assert torch.equal(result, expected)


@pytest.fixture(params=["hierarchical", "colour"])
def other_kind(request, hierarchy, tiny_classifier, some_images, tiny_colour_vae, some_colours):
    """Another VAE than the tiny one, with a classifier and a function that makes images for both."""
    if request.param == "hierarchical":
        return hierarchy, tiny_classifier(), some_images
    with torch.random.fork_rng():
        torch.manual_seed(2)
        classifier = ResidualClassifier(ResidualConfig((4, 4, 6)), (3, 8, 16), 4).eval()
    return tiny_colour_vae(), classifier, some_colours


@pytest.mark.parametrize("name", EVERY)
def test_any_reference_vae_is_a_vae_to_every_function(functions_of, other_kind, name):
    function, images = functions_of(*other_kind)[name], other_kind[2](5)
    at = {} if name in ("kl", "latent_mean", "purified") else {"indices": torch.tensor([4, 3])}
    whole = function(images, draws=3, seed=0)
    assert bool(torch.isfinite(whole.double()).all())
    if at:
        assert_close(function(images[[4, 3]], draws=3, seed=0, **at), whole[[4, 3]], rtol=1e-4, atol=2e-4)


class Plain(nn.Module):
    """A VAE that torch can script and export."""

    def __init__(self, vae):
        super().__init__()
        self.encoder, self.posterior = vae.encoder, vae.posterior
        self.decoder, self.pixels = vae.decoder, vae.pixels

    @torch.jit.export
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        halves = self.posterior(self.encoder(images.flatten(1)).relu())
        return halves[:, :3], halves[:, 3:]

    @torch.jit.export
    def decode(self, latents: Tensor) -> Tensor:
        return self.pixels(self.decoder(latents).relu()).sigmoid().view(-1, 1, 5, 4)


class Exported(nn.Module):
    """A VAE of two exported halves."""

    def __init__(self, vae, images):
        super().__init__()

        class Method(nn.Module):
            def __init__(self, method):
                super().__init__()
                self.inner, self.method = vae, method

            def forward(self, given):
                return getattr(self.inner, self.method)(given)

        shapes = ({0: torch.export.Dim("rows")},)
        self.halves = nn.ModuleDict(
            {
                method: torch.export.export(Method(method).eval(), (given,), dynamic_shapes=shapes).module()
                for method, given in (("encode", images), ("decode", torch.zeros(4, 3)))
            }
        )
        to_evaluation(self)

    def encode(self, images):
        return self.halves["encode"](images)

    def decode(self, latents):
        return self.halves["decode"](latents)


@pytest.fixture(scope="module", params=["scripted", "frozen", "exported"])
def closed(request, vae, tiny_classifier, some_images):
    """A VAE and a classifier that can't be looked into."""
    coder, classifier, images = Plain(vae).eval(), tiny_classifier(), some_images(4)
    if request.param == "exported":
        shapes = ({0: torch.export.Dim("rows")},)
        return Exported(coder, images), torch.export.export(classifier, (images,), dynamic_shapes=shapes).module()
    scripts = torch.jit.script(coder), torch.jit.script(classifier)
    if request.param == "frozen":
        return torch.jit.freeze(scripts[0], preserved_attrs=["encode", "decode"]), torch.jit.freeze(scripts[1])
    return scripts


@pytest.mark.parametrize("name", [name for name in EVERY if "encoder" not in name])  # which optimises the weights
def test_models_that_cannot_be_looked_into_are_called_all_the_same(
    functions_of, vae, tiny_classifier, some_images, closed, name
):
    images, setting = some_images(60), {"draws": 3, "seed": 0}
    result, expected = (
        functions_of(*models)[name](images, **setting) for models in (closed, (Plain(vae).eval(), tiny_classifier()))
    )
    assert_close(result, expected, rtol=1e-4, atol=1e-4)


def random(function):
    return lambda given: tuple(part + torch.rand(part.shape) for part in function(given))


def mixed(function):
    """The function, from whose answers their mean over the batch is subtracted."""
    return lambda given: tuple(part - part.mean(dim=0) for part in function(given))


class Spoilt(Wrapped):
    """A VAE whose encoder alone is wrapped."""

    def decode(self, latents):
        return self.vae.decode(latents)

    def decode_logits(self, latents):
        return self.vae.decode_logits(latents)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (mixed, "the VAE's encode must answer for each image as if it were alone; .* on the rest of the batch"),
        (random, "the VAE's encode must give the same answer each time; .* is dropout left on"),
    ],
)
def test_a_vae_whose_answers_depend_on_more_than_the_image_is_refused(
    functions_of, vae, tiny_classifier, some_images, name, spoil, message
):
    function = functions_of(Spoilt(vae, spoil).eval(), tiny_classifier())[name]
    with pytest.raises(ValueError, match=message):
        function(some_images(5), draws=2, seed=0)


def test_an_image_that_is_alone_tells_nothing_of_the_batch(vae, some_images):
    spoilt = Spoilt(vae, mixed).eval()
    reconstruct(spoilt, some_images(1), draws=2, seed=0)
    with pytest.raises(ValueError, match="as if it were alone"):
        reconstruct(spoilt, some_images(2), draws=2, seed=0)


@pytest.mark.parametrize("name", ["reconstruct", "scores", "purified", "log_likelihood"])
def test_a_decoder_whose_answers_depend_on_the_batch_is_refused(functions_of, vae, tiny_classifier, some_images, name):
    class Mixing(Spoilt):
        def decode(self, latents):
            return self.vae.decode(latents - latents.mean(dim=0))

        def decode_logits(self, latents):
            return self.vae.decode_logits(latents - latents.mean(dim=0))

    function = functions_of(Mixing(vae, lambda method: method).eval(), tiny_classifier())[name]
    with pytest.raises(ValueError, match=r"the VAE's decode(_logits)? must answer for each image as if it were alone"):
        function(some_images(5), draws=2, seed=0)


@pytest.mark.parametrize("name", ["scores", "reconstruct_labels", "purified"])
def test_a_classifier_whose_answers_depend_on_the_batch_is_refused(
    functions_of, vae, tiny_classifier, some_images, name
):
    classifier = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), *tiny_classifier()).eval()
    with pytest.raises(ValueError, match="the classifier must answer for each image as if it were alone"):
        functions_of(vae, classifier)[name](some_images(5), draws=2, seed=0)


@EACH
def test_one_image_at_a_time_gives_the_same(functions, some_images, name):
    images, setting = some_images(6), {"draws": 3, "seed": 0}
    assert_close(functions[name](images, chunk=1, **setting), functions[name](images, **setting), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", [*EVERY, *LEVELS])
def test_rounding_beyond_the_ends_is_clipped_from_a_copy(functions, some_images, name):
    """By undoing a normalisation, say."""
    images, setting = some_images(3), {"draws": 2, "seed": 0}
    images[:, :, 0] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    rounded = images.clone()
    rounded[:, :, 0] = torch.tensor([-9e-9, 1.0000001, -2e-7, 1.0000004])
    kept = rounded.clone()
    assert torch.equal(functions[name](rounded, **setting), functions[name](images, **setting))
    assert torch.equal(rounded, kept)


# Modes of torch


@pytest.mark.parametrize("name", [*NAMES, *LEVELS, "kl", "latent_mean"])
@MODES
@pytest.mark.parametrize("when", ["within", "before"])
def test_modes_change_nothing(functions, some_images, name, mode, when):
    """Whether the function is called within or its images were made there."""
    function = functions[name]
    expected = function(some_images(3), draws=2, seed=0)
    with mode():
        images, indices = some_images(3).clone(), torch.arange(3)
        result = function(images, draws=2, seed=0, indices=indices)
    if when == "before":
        result = function(images, draws=2, seed=0, indices=indices)
    assert torch.equal(result, expected)


@MODES
def test_scores_are_fitted_in_any_mode(vae, tiny_classifier, some_images, mode):
    def fit():
        return fit_scores(vae, tiny_classifier(), some_images(60, 9).clone(), seed=0, importance_draws=6)

    expected = fit()(some_images(3))
    with mode():
        fitted = fit()
    scores = fitted(some_images(3))
    assert all(torch.equal(scores[name], expected[name]) for name in expected)


def test_weights_made_in_inference_mode_are_named_where_they_are_differentiated(tiny_vae, some_images):
    images = some_images(2)
    with torch.inference_mode():
        made = tiny_vae()
    remedy = r"made outside torch.inference_mode .* \(a copy made outside will do: copy.deepcopy\(model\)\)"
    for fail in (
        lambda: likelihood_regret(made, images, seed=0),
        lambda: fit_scores(made, None, None, seed=0, names="posterior-regret")(images),
        lambda: LatentSearch(made, steps=2)(images),
    ):
        with pytest.raises(ValueError, match=remedy):
            fail()
    expected = likelihood_regret(tiny_vae(), images, seed=0)
    assert torch.equal(likelihood_regret(copy.deepcopy(made), images, seed=0), expected)
    assert torch.equal(kl(made, images), kl(tiny_vae(), images))  # without a gradient


@EACH
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"draws": 0}, "draws must be 1 or more; got 0"),
        ({"chunk": 0}, "chunk must be 1 or more; got 0"),
        ({"first_index": -3}, "first_index must be 0 or more.*; got -3"),
        ({"indices": torch.arange(3)}, r"indices must be int64 of shape \(2,\).*got torch.int64 \(3,\)"),
        ({"indices": torch.zeros(2)}, r"indices must be int64 .* got torch.float32 \(2,\)"),
        ({"indices": torch.tensor([0, -1])}, "indices must be 0 or more; got -1"),
    ],
)
def test_unfit_settings(functions, some_images, name, setting, message):
    with pytest.raises(ValueError, match=message):
        functions[name](some_images(2), **{"draws": 2, "seed": 0} | setting)


@pytest.mark.parametrize("name", [*EVERY, *LEVELS])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((2, 1, 5, 4), 1.01), r"images must lie in \[0, 1\]; got \[1.01, 1.01\] \(undo"),
        (torch.full((2, 1, 5, 4), -0.42), r"images must lie in \[0, 1\]; got \[-0.42, -0.42\]"),
        (torch.full((2, 1, 5, 4), 1.000002), r"images must lie in \[0, 1\]; got \[1.000002, 1.000002\]"),
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("name", EVERY)
def test_a_gpu_gives_what_a_cpu_gives(functions_of, vae, tiny_classifier, some_images, name):
    images, setting, models = some_images(60), {"draws": 3, "seed": 0}, (vae, tiny_classifier())
    expected = functions_of(*models)[name](images, **setting)
    there = functions_of(*(copy.deepcopy(model).cuda() for model in models), lambda *some: some_images(*some).cuda())
    found = there[name](images.cuda(), **setting)
    assert found.is_cuda
    assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
