"""Likelihood of images under a VAE: importance-weighted bound, ELBO and likelihood regret."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import relu, softplus

from vaecore._batch_sizes import answer_in_batches, differentiated_at_once, rows_at_once, widths
from vaecore._calls import ask, check_module
from vaecore._check import check_choice, check_images, check_integer
from vaecore._modes import in_any_mode
from vaecore._noise import image_indices, normal, seed_for
from vaecore._precision import Precision, check_precision, computing_in
from vaecore.models._colour import ConvVAE
from vaecore.models._density import discretised_logistic
from vaecore.models._networks import VAE, Autoencoder
from vaecore.reconstruction._decode import (
    Posterior,
    check_reconstructions,
    decode_draws,
    encode,
    kl_of_posterior,
    latents_of,
    posterior,
)

LogDensity = Callable[[Tensor, Tensor], Tensor]
"""Log-density in nats of images (n, c, h, w) given decoded latents (n, draws, c, h, w), as (n, draws)."""

# Of the logistic distribution of a colour VAE that says nothing of its own: a standard deviation of 23 grey levels, as
# the reconstruction errors of VAEs on CIFAR-10 have.
_SCALE = 0.05

_CHUNK = {"cpu": 20_000, "cuda": 2_621_440}  # draws of a chunk of images, as noise is slow to make in small portions

_STEPS = {"posterior": 20, "encoder": 100}
_POSTERIOR_RATE = 0.1  # Adam's learning rate, which falls to 0 along a half cosine
_DECAYS = (0.9, 0.999)  # of Adam's moments
_ENCODER_RATE = 2e-4  # Adam's learning rate in the authors' code
_WEIGHTS = {"cpu": 1 << 19, "cuda": 1 << 25}  # of encoders that are optimised at once: on a CPU they fit the caches


def log_likelihood(
    vae: Autoencoder,
    images: Tensor,
    *,
    draws: int = 100,
    seed: int,
    first_index: int = 0,
    indices: Tensor | None = None,
    log_density: LogDensity | None = None,
    precision: Precision = "float32",
    chunk: int | None = None,
) -> Tensor:
    """Importance-weighted bound on the log-likelihood; (n, c, h, w) in [0, 1] to (n,) nats; higher is *less* anomalous.

    log((1 / draws) sum of p(x, z) / q(z | x)) over draws z of the posterior: Burda et al. 2016, equation 8. Its
    expectation is the ELBO for one draw and approaches log p(x) with more draws.

    log_density: of images given decoded latents; None for that of `decoder_density`, as in training. For grey images
    this is by default a Bernoulli distribution of each pixel, from the decoder's log-odds (see `log_odds`): no density
    of grey pixels, so do not compare its nats with the bits of files; the score input-complexity may be. For colour,
    where the decoder gives no log-odds, they are nats of 8-bit pixels; divided by the pixels of all channels, nats per
    dimension. precision: of decoding. "bfloat16" (torch.autocast) is faster on processors that support it; on MNIST it
    changes an image's bound by 0.02 nats (standard deviation), another seed by 1.4. The noise, `first_index`, `indices`
    and `chunk` are those of `reconstruct`, with the same draws for the same seed. Memory for each draw is that of its
    latents.
    """

    def bound(encoded: Posterior, noise: Tensor, densities: Tensor) -> Tensor:
        return importance_weighted(log_weights(encoded, noise, densities))

    images, index = _check(images, first_index, indices)
    check_precision(precision, images.device)
    return _bounds(bound, vae, images, index, draws, seed, log_density, precision, chunk)


def elbo(
    vae: Autoencoder,
    images: Tensor,
    *,
    draws: int,
    seed: int,
    first_index: int = 0,
    indices: Tensor | None = None,
    log_density: LogDensity | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Evidence lower bound in nats, mean over draws; (n, c, h, w) in [0, 1] to (n,); higher is *less* anomalous.

    Kingma and Welling 2014, equation 3, with the KL term in closed form. `log_density`, noise, `first_index`, `indices`
    and `chunk` as in `log_likelihood`.
    """

    def bound(encoded: Posterior, _: Tensor, densities: Tensor) -> Tensor:
        return elbo_of(encoded, densities)

    images, index = _check(images, first_index, indices)
    return _bounds(bound, vae, images, index, draws, seed, log_density, "float32", chunk)


def _bounds(
    bound: Callable[[Posterior, Tensor, Tensor], Tensor],
    vae: Autoencoder,
    images: Tensor,
    index: Tensor,
    draws: int,
    seed: int,
    log_density: LogDensity | None,
    precision: Precision,
    chunk: int | None,
) -> Tensor:
    """A bound of (posterior, noise, log-densities of its draws), computed chunk by chunk; (n,)."""
    draws = check_integer("draws", draws, 1)
    chunk = _chunk(chunk, max(1, _CHUNK.get(images.device.type, _CHUNK["cpu"]) // draws))
    parts = []
    with torch.no_grad():
        for rows, row_index in zip(torch.split(images, chunk), torch.split(index, chunk), strict=True):
            encoded = posterior(vae, rows)
            noise = normal(seed, row_index, draws=draws, size=encoded[0].shape[1])
            densities = log_densities(vae, rows, latents_of(encoded, noise), log_density, precision)
            parts.append(bound(encoded, noise, densities))
    return torch.cat(parts)


@in_any_mode
def likelihood_regret(
    vae: Autoencoder,
    images: Tensor,
    *,
    seed: int,
    how: Literal["posterior", "encoder"] = "posterior",
    steps: int | None = None,
    draws: int = 32,
    bound: Literal["elbo", "importance"] = "elbo",
    first_index: int = 0,
    indices: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Nats that an image's bound gains by optimising its posterior; (n, c, h, w) to (n,); higher is more anomalous.

    Xiao et al. 2020. how="encoder" is the published variant: it optimises an encoder for each image (100 steps of Adam
    at rate 2e-4, as in the authors' code, without its weight decay of 5e-5, which hardly moves a rank), and needs a VAE
    that is a torch module. Encoders of a `VAE` or `ConvVAE` are optimised several at once, others in turn, which takes
    several times as long. how="posterior" optimises mean and log-variance themselves (20 steps), all images at once,
    and comes nearer to the optimum; it ranks images inside otherwise.

    The bounds before and after use the same `draws` antithetic draws, which differ from the optimiser's. So overfitting
    to the optimiser's noise does not count, and a regret can be negative. bound="elbo" is the paper's definition;
    "importance" is the importance-weighted bound of the authors' code, there with 1,000 draws, which hardly depends on
    the posterior, so that noise dominates within the training distribution. The regret is infinite if the bound is
    minus infinity or exceeds float32.
    Noise, `first_index`, `indices` and `chunk` as in `reconstruct`.
    """
    check_choice("how", how, [*_STEPS])
    check_choice("bound", bound, ("elbo", "importance"))
    steps = check_integer("steps", _STEPS[how] if steps is None else steps, 1)
    draws = check_integer("draws", draws, 1)
    images, index = _check(images, first_index, indices)
    chunk = _chunk(chunk, max(1, _CHUNK.get(images.device.type, _CHUNK["cpu"]) // max(draws, steps)))
    parts = []
    for rows, row_index in zip(torch.split(images, chunk), torch.split(index, chunk), strict=True):
        with torch.no_grad():
            encoded = posterior(vae, rows)
        regret = regret_of(vae, rows, encoded, row_index, seed=seed, how=how, steps=steps, draws=draws, bound=bound)
        parts.append(regret)
    return torch.cat(parts)


def regret_of(
    vae: Autoencoder,
    images: Tensor,
    encoded: Posterior,
    indices: Tensor,
    *,
    seed: int,
    steps: int,
    draws: int,
    how: str = "posterior",
    bound: str = "elbo",
) -> Tensor:
    """As `likelihood_regret`, for one chunk of images with their posteriors; (n,)."""
    size = encoded[0].shape[1]
    step_noise = normal(seed_for("likelihood-regret/steps", seed), indices, draws=steps, size=size)
    if how == "posterior":
        pair = encoded[0][:1].unsqueeze(1).repeat(1, 2, 1)
        with torch.no_grad():
            _, sizes = widths(partial(density_of, vae, images[:1]), pair)
        at_once = differentiated_at_once(sum(sizes), images.device, len(images))
        split = [torch.split(each, at_once) for each in (images, *encoded, step_noise)]
        parts = [
            _optimised_posterior(vae, rows, (mean, log_variance), draws)
            for rows, mean, log_variance, draws in zip(*split, strict=True)
        ]
        optimised = torch.cat([mean for mean, _ in parts]), torch.cat([log_variance for _, log_variance in parts])
    else:
        optimised = _optimised_encoder(vae, images, step_noise)
    half = normal(seed_for("likelihood-regret/draws", seed), indices, draws=-(-draws // 2), size=size)
    noise = torch.cat([half, -half], dim=1)[:, :draws]
    reduce = torch.mean if bound == "elbo" else importance_weighted
    with torch.no_grad():
        after, before = (
            reduce(log_weights(parameters, noise, log_densities(vae, images, latents_of(parameters, noise))), dim=1)
            for parameters in (optimised, encoded)
        )
    # NaN: both bounds are minus infinity, so no posterior explains the image.
    return (after - before).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)


def log_weights(encoded: Posterior, noise: Tensor, densities: Tensor) -> Tensor:
    """log p(x, z) - log q(z | x) in nats, (n, draws), of latents z = `latents_of(encoded, noise)`.

    densities: log p(x | z), (n, draws).
    """
    log_variance = encoded[1]
    squares = noise.square() - latents_of(encoded, noise).square()
    return densities + 0.5 * (squares.sum(dim=2) + log_variance.sum(dim=1, keepdim=True))


def elbo_of(encoded: Posterior, densities: Tensor) -> Tensor:
    """Evidence lower bound in nats, (n,), from log p(x | z) of draws of the posterior, (n, draws)."""
    return densities.mean(dim=1) - kl_of_posterior(*encoded)


def importance_weighted(weights: Tensor, dim: int = 1) -> Tensor:
    """Importance-weighted bound from log-weights (n, draws): the logarithm of their mean exponential."""
    return torch.logsumexp(weights, dim=dim) - math.log(weights.shape[dim])


def decoder_density(vae: Autoencoder, image_shape: Sequence[int]) -> LogDensity | None:
    """The log-density of a VAE's decoder; image_shape: (..., channels, height, width).

    That of the VAE's method `log_density`, if it has one. None stands for a Bernoulli distribution of each pixel, of
    grey images and of a VAE that gives log-odds. Else, in colour, `discretised_logistic` with scale 0.05.
    """
    own: LogDensity | None = getattr(vae, "log_density", None)
    if own is not None or image_shape[-3] == 1 or hasattr(vae, "decode_logits"):
        return own
    return partial(discretised_logistic, scale=_SCALE)


def density_of(
    vae: Autoencoder,
    images: Tensor,
    latents: Tensor,
    log_density: LogDensity | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """Log-density in nats of images given their latents (n, draws, latent), decoded at once; (n, draws)."""
    density = decoder_density(vae, images.shape) if log_density is None else log_density
    decode = log_odds if density is None else decode_draws
    with computing_in(precision, latents.device):
        decoded = decode(vae, latents, images.shape)
    if density is None:
        return log_bernoulli_of_odds(images, decoded)
    if log_density is None:
        check_reconstructions(decoded.flatten(0, 1))
    return checked_density(density, images, decoded)


def checked_density(log_density: LogDensity, images: Tensor, decoded: Tensor) -> Tensor:
    """The log-density of images (n, c, h, w) given decoded latents; raises ValueError unless it is (n, draws)."""
    density = log_density(images, decoded)
    if density.shape != decoded.shape[:2]:
        raise ValueError(
            f"log_density must give {tuple(decoded.shape[:2])}, (images, draws); got {tuple(density.shape)}"
        )
    return density


def log_odds(vae: Autoencoder, latents: Tensor, shape: torch.Size) -> Tensor:
    """Log-odds of each pixel; latents (n, draws, latent) to (n, draws, pixels).

    They come from the VAE's `decode_logits` if it has one (see `Autoencoder`), else from `decode`, with probabilities
    clipped to one float32 epsilon from 0 and 1.
    """
    decode_logits = getattr(vae, "decode_logits", None)
    if decode_logits is None:
        decoded = decode_draws(vae, latents, shape)
        check_reconstructions(decoded.flatten(0, 1))
        edge = torch.finfo(torch.float32).eps
        return torch.logit(decoded.flatten(2).clamp(edge, 1 - edge))

    def odds_of(some: Tensor) -> Tensor:
        odds: Tensor = ask(decode_logits, some).flatten(1)
        if odds.shape != (expected := (len(some), shape[1:].numel())):
            raise ValueError(
                f"the VAE's decode_logits must give log-odds {expected}, one a pixel; got {tuple(odds.shape)}"
            )
        return odds

    odds = answer_in_batches(vae, "decode_logits", odds_of, latents.flatten(0, 1), shape[1:].numel())
    check_module(vae, "the VAE's decode_logits", partial(ask, decode_logits), latents[:, 0])
    return odds.view(*latents.shape[:2], -1)


def log_bernoulli_of_odds(images: Tensor, odds: Tensor) -> Tensor:
    """Bernoulli log-likelihood in nats; images (n, c, h, w), log-odds (n, draws, pixels) to (n, draws)."""
    # On a CPU this product is about 12 times faster than odds @ pixels.
    density = (images.flatten(1).unsqueeze(1) @ odds.transpose(1, 2)).squeeze(1) - softplus(odds).sum(dim=2)
    if not bool(torch.isfinite(density).all()):
        raise ValueError("the VAE's decoder must give finite log-odds; got NaN or infinity (did its training diverge?)")
    return density


def log_normaliser_of_odds(odds: Tensor) -> Tensor:
    """What makes a log-density of a Bernoulli log-likelihood of grey pixels; (n, draws, pixels) to (n, draws) nats.

    That of the continuous Bernoulli distribution (Loaiza-Ganem and Cunningham 2019), from log-odds l:
    log(l / tanh(l / 2)) for each pixel, which is log(2) where l is 0.
    """
    size = odds.abs().clamp(min=torch.finfo(odds.dtype).tiny)
    return (size.neg().exp().log1p() - (size.neg().expm1().neg() / size).log()).sum(dim=2)


def log_densities(
    vae: Autoencoder,
    images: Tensor,
    latents: Tensor,
    log_density: LogDensity | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """Log-density in nats of images given their latents (n, draws, latent), decoded in portions; (n, draws)."""
    densities = latents.new_empty(latents.shape[:2])
    portion = latents_at_once(vae, latents, images.shape)
    step = max(1, portion // latents.shape[1])
    for start in range(0, len(images), step):
        rows = images[start : start + step]
        for first in range(0, latents.shape[1], portion):
            part = latents[start : start + step, first : first + portion]
            density = density_of(vae, rows, part, log_density, precision)
            densities[start : start + step, first : first + portion] = density
    return densities


def latents_at_once(vae: Autoencoder, latents: Tensor, shape: torch.Size) -> int:
    """Latents (n, draws, latent) whose decoded images of `shape`, (any, c, h, w), fit the cache or the GPU."""
    method = "decode_logits" if hasattr(vae, "decode_logits") else "decode"
    return rows_at_once(vae, method, partial(ask, getattr(vae, method)), latents[:1, 0], shape[1:].numel())


def _optimised_posterior(vae: Autoencoder, images: Tensor, encoded: Posterior, noise: Tensor) -> Posterior:
    """Mean and log-variance that maximise each image's ELBO, from `encoded`, by one step for each draw of noise.

    Adam (Kingma and Ba 2015) is written out, as torch.optim imports a compiler and takes seconds.
    """
    parameters, steps = torch.stack(encoded), noise.shape[1]
    first, second = torch.zeros_like(parameters), torch.zeros_like(parameters)
    for step in range(steps):
        pair = torch.stack([noise[:, step], -noise[:, step]], dim=1)
        gradient = _elbo_gradient(vae, images, parameters, pair)
        first = torch.lerp(gradient, first, _DECAYS[0])
        second = torch.lerp(gradient.square(), second, _DECAYS[1])
        unbiased = [moment / (1 - decay ** (step + 1)) for moment, decay in zip((first, second), _DECAYS, strict=True)]
        rate = _POSTERIOR_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        # Parameters whose gradient or its square overflows stay; the regret is then infinite.
        move = rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        parameters = parameters + move.where(move.isfinite(), 0)
    mean, log_variance = parameters
    return mean, log_variance


def _elbo_gradient(vae: Autoencoder, images: Tensor, parameters: Tensor, noise: Tensor) -> Tensor:
    """Gradient of each image's ELBO with respect to mean and log-variance (2, n, latent), estimated from noise."""
    fixed_mean, fixed_log_variance = parameters.unsqueeze(2)
    with torch.enable_grad():
        leaf = parameters.detach().requires_grad_()
        latents = latents_of((leaf[0], leaf[1]), noise)
        # The parameters inside log q are constants, so the gradient's noise vanishes as q nears the true posterior
        # (Roeder et al. 2017, "Sticking the landing"). With few steps and draws this noise would cost most of the gain.
        from_mean = (latents - fixed_mean).square() * (-fixed_log_variance).exp()
        prior_over_posterior = 0.5 * (from_mean - latents.square()).sum(dim=2)
        density = density_of(vae, images, latents)
        (gradient,) = torch.autograd.grad((density + prior_over_posterior).mean(dim=1).sum(), leaf)
    return gradient


def _optimised_encoder(vae: Autoencoder, images: Tensor, noise: Tensor) -> Posterior:
    """Mean and log-variance by an encoder optimised for each image, with one step for each draw of noise."""
    if not isinstance(vae, nn.Module):
        raise ValueError(
            f"how='encoder' optimises a copy of the VAE's weights: it must be a torch.nn.Module; got"
            f" {type(vae).__name__} (how='posterior' needs no weights)"
        )
    fitted: Any = copy.deepcopy(vae)
    for weight in fitted.parameters():  # `Module.requires_grad_`, which a script does not have
        weight.requires_grad_(weight.is_floating_point())
    optimise: Callable[[Tensor, Tensor], Posterior]
    if isinstance(vae, VAE) and type(vae).encode is VAE.encode:
        optimise, at_once = partial(_optimised_layers, fitted), _encoders_at_once(fitted.posterior)
    elif isinstance(vae, ConvVAE) and type(vae).encode is ConvVAE.encode:
        optimise, at_once = partial(_optimised_networks, fitted), _encoders_at_once(fitted.encoder)
    else:
        encoder = _encoder_weights(fitted, images[:1])
        start = [weight.detach().clone() for weight in encoder]
        optimise, at_once = partial(_optimised_copy, fitted, encoder, start), 1
    parts = [
        optimise(rows, draws)
        for rows, draws in zip(torch.split(images, at_once), torch.split(noise, at_once), strict=True)
    ]
    return torch.cat([mean for mean, _ in parts]), torch.cat([log_variance for _, log_variance in parts])


def _encoders_at_once(layers: nn.Module) -> int:
    """Encoders that are optimised at once, each with weights of its own for these layers."""
    weights = [*layers.parameters()]
    most = _WEIGHTS.get(weights[0].device.type, _WEIGHTS["cpu"])
    return max(1, most // sum(weight.numel() for weight in weights))


def _optimised_copy(fitted: Any, encoder: list[Tensor], start: list[Tensor], image: Tensor, noise: Tensor) -> Posterior:
    """The posterior of one image by the encoder's weights, optimised from `start`."""
    with torch.no_grad():
        for weight, value in zip(encoder, start, strict=True):
            weight.copy_(value)
    _climb(fitted, image, noise, partial(encode, fitted, image), encoder)
    return posterior(fitted, image)


def _optimised_layers(vae: VAE, images: Tensor, noise: Tensor) -> Posterior:
    """The posteriors of images, (n, latent) each, by an encoder of two layers that is optimised for each.

    An image's gradient of the first layer's weights is the gradient of a hidden unit times the pixels, none below 0.
    Adam's steps do not change with a gradient's scale. So all weights of a unit from pixels above 0 move by the same
    step, as its bias does, and a unit moves by that step times one plus the sum of the pixels.
    """
    pixels = images.flatten(1)
    with torch.no_grad():
        hidden, scale = vae.encoder(pixels), 1 + pixels.sum(dim=1, keepdim=True)
    steps = torch.zeros_like(hidden)
    weight = vae.posterior.weight.detach().expand(len(images), -1, -1).clone()
    bias = vae.posterior.bias.detach().expand(len(images), -1).clone().unsqueeze(2)

    def encode() -> Posterior:
        units = relu(hidden + scale * steps).unsqueeze(2)
        mean, log_variance = torch.baddbmm(bias, weight, units).squeeze(2).chunk(2, dim=1)
        return mean, log_variance

    _climb(vae, images, noise, encode, [one.requires_grad_() for one in (steps, weight, bias)])
    return encode()


def _optimised_networks(vae: ConvVAE, images: Tensor, noise: Tensor) -> Posterior:
    """The posteriors of images, (n, latent) each, by a convolutional encoder that is optimised for each."""
    network = nn.Sequential(vae.encoder, vae.posterior)
    weights = {
        name: weight.detach().contiguous().expand(len(images), *weight.shape).clone().requires_grad_()
        for name, weight in network.named_parameters()
    }

    def encode_one(own: dict[str, Tensor], image: Tensor) -> Tensor:
        encoded: Tensor = functional_call(network, own, (image.unsqueeze(0),))
        return encoded.flatten()

    def encode() -> Posterior:
        mean, log_variance = vmap(encode_one)(weights, images).chunk(2, dim=1)
        return mean, log_variance

    _climb(vae, images, noise, encode, [*weights.values()])
    return encode()


def _climb(
    vae: Autoencoder, images: Tensor, noise: Tensor, encode: Callable[[], Posterior], weights: list[Tensor]
) -> None:
    """Take a step of Adam on the weights that `encode` depends on for each draw of noise (n, steps, latent)."""
    optimizer = torch.optim.Adam(weights, lr=_ENCODER_RATE, fused=True)
    for draw in noise.unbind(dim=1):
        with torch.enable_grad():
            mean, log_variance = encode()
            latents = latents_of((mean, log_variance), draw.unsqueeze(1))
            density = density_of(vae, images, latents)
            loss = (kl_of_posterior(mean, log_variance) - density.squeeze(1)).sum()
        optimizer.zero_grad()
        # Unlike those of autograd.grad, these gradients lie in memory as the weights do, which fused Adam expects.
        loss.backward(inputs=weights)  # type: ignore[no-untyped-call]
        optimizer.step()


def _encoder_weights(vae: Any, image: Tensor) -> list[Tensor]:
    """The weights that `encode` depends on."""
    weights = [weight for weight in vae.parameters() if weight.is_floating_point()]
    with torch.enable_grad():
        encoded = torch.cat(encode(vae, image)).sum()
    if not (weights and encoded.requires_grad):
        raise ValueError(
            "how='encoder' needs an encoder with weights that can be differentiated; this VAE's has none"
            " (a torch.no_grad or a detach inside? how='posterior' needs no weights)"
        )
    gradients: Sequence[Tensor | None] = torch.autograd.grad(encoded, weights, allow_unused=True)
    return [weight for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None]


def _check(images: Tensor, first_index: int, indices: Tensor | None) -> tuple[Tensor, Tensor]:
    """The images, and the index of each, (n,) on their device; raises ValueError for invalid arguments."""
    images = check_images(images)
    return images, image_indices(len(images), first_index, indices).to(images.device)


def _chunk(chunk: int | None, default: int) -> int:
    return default if chunk is None else check_integer("chunk", chunk, 1)
