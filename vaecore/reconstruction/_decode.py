"""Encoding, sampling, decoding, KL divergence and squared error, with checks of what the VAE returns."""

from functools import partial

import torch
from torch import Tensor

from vaecore._batch_sizes import answer_in_batches
from vaecore._calls import adapter, ask, check_module, encode_adapter
from vaecore._check import check_draws, check_images, check_vae
from vaecore.models._networks import Autoencoder

Posterior = tuple[Tensor, Tensor]  # mean and log-variance, (n, latent) each


def posterior(vae: Autoencoder, images: Tensor) -> Posterior:
    """Mean and log-variance of q(z | x), each (n, latent).

    Raises ValueError for other shapes, values that are not finite, and a VAE in training mode.
    """
    mean, log_variance = encode(vae, images)
    check_finite(torch.isfinite(mean).all() & torch.isfinite(log_variance).all())
    return mean, log_variance


def encode(vae: Autoencoder, images: Tensor) -> Posterior:
    """As `posterior`, without checking the values."""
    check_vae(vae)

    def joined(some: Tensor) -> Tensor:
        return torch.cat(_encode(vae, some), dim=1)

    mean, log_variance = answer_in_batches(vae, "encode", joined, images, images[0].numel()).chunk(2, dim=1)
    check_module(vae, "the VAE's encode", joined, images)
    return mean, log_variance


def _encode(vae: Autoencoder, images: Tensor) -> Posterior:
    encoded: object = ask(vae.encode, images)
    if not isinstance(encoded, tuple | list) or len(encoded) != 2:
        raise ValueError(
            f"the VAE must encode to a pair, mean and log-variance; got {type(encoded).__name__}"
            f"{encode_adapter(encoded)}"
        )
    mean, log_variance = encoded
    if not isinstance(mean, Tensor) or not isinstance(log_variance, Tensor):
        raise ValueError(
            "the VAE must encode to a pair of tensors, mean and log-variance; got"
            f" {type(mean).__name__} and {type(log_variance).__name__}"
        )
    if mean.ndim != 2 or mean.shape[0] != len(images) or log_variance.shape != mean.shape:
        raise ValueError(
            f"the VAE must encode {len(images)} images to a mean and a log-variance ({len(images)}, latent) each;"
            f" got {tuple(mean.shape)} and {tuple(log_variance.shape)}"
        )
    return mean, log_variance


def check_finite(finite: Tensor) -> None:
    """Raise ValueError unless a posterior is finite."""
    if not bool(finite):
        raise ValueError("the VAE's posterior must be finite; got NaN or infinity (did its training diverge?)")


def latents_of(encoded: Posterior, noise: Tensor) -> Tensor:
    """Latents (n, draws, latent) of a posterior for standard normal noise of the same shape."""
    mean, log_variance = encoded
    return torch.addcmul(mean.unsqueeze(1), (0.5 * log_variance).exp().unsqueeze(1), noise)


def decode_draws(vae: Autoencoder, latents: Tensor, shape: torch.Size) -> Tensor:
    """Decode latents (n, draws, latent) to (n, draws, c, h, w), where `shape` is (any, c, h, w); else ValueError."""

    def decode(some: Tensor) -> Tensor:
        expected = (len(some), *shape[1:])
        decoded = ask(vae.decode, some)
        if not isinstance(decoded, Tensor):
            raise ValueError(
                f"the VAE must decode to images, a tensor; got {type(decoded).__name__}"
                f"{adapter(decoded, 'model.decode(latents)')}"
            )
        if decoded.shape != expected:
            raise ValueError(
                f"the VAE must decode to images shaped as its input, {expected}; got {tuple(decoded.shape)}"
            )
        return decoded

    decoded = answer_in_batches(vae, "decode", decode, latents.flatten(0, 1), shape[1:].numel())
    if not torch.compiler.is_compiling():
        check_module(vae, "the VAE's decode", partial(ask, vae.decode), latents[:, 0])
    return decoded.view(len(latents), -1, *shape[1:])


def check_reconstructions(images: Tensor) -> Tensor:
    """As `check_images`, for decoded images."""
    return check_images(images, "the VAE's reconstructions", out_of_range="logits? end `decode` with a sigmoid")


def kl(vae: Autoencoder, images: Tensor) -> Tensor:
    """KL divergence from q(z | x) to the standard normal prior; (n, c, h, w) to (n,) nats; higher is more anomalous.

    Kingma and Welling 2014, appendix B.
    """
    images = check_images(images)
    with torch.no_grad():
        return kl_of_posterior(*posterior(vae, images))


def kl_of_posterior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence from N(mean, exp(log_variance)) to N(0, 1) in nats, summed over latents; (n, latent) to (n,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def latent_mean(vae: Autoencoder, images: Tensor) -> Tensor:
    """Mean of q(z | x); (n, c, h, w) in [0, 1] to (n, latent)."""
    images = check_images(images)
    with torch.no_grad():
        return posterior(vae, images)[0]


def squared_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Squared error of each reconstruction, mean over pixels; for the argument `reduce` of `reconstruct`.

    images (n, c, h, w), reconstructions (n, draws, c, h, w) to (n, draws); higher is more anomalous. Raises ValueError
    for other shapes.
    """
    check_draws(images, reconstructions)
    norm: Tensor = torch.linalg.vector_norm((reconstructions - images.unsqueeze(1)).flatten(2), dim=2)
    return norm.square() / images[0].numel()
