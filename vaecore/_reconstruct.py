"""What a VAE makes of an image: many reconstructions from one encoding, their labels, and the terms of the bound."""

from collections.abc import Callable
from typing import TypeVar, overload

import torch
from torch import Tensor

from vaecore._attacks import check_classifier
from vaecore._check import check_images, check_logits
from vaecore._models import Autoencoder, Classify
from vaecore._noise import image_indices, normal

Reduced = TypeVar("Reduced", Tensor, dict[str, Tensor])

# Reconstructions decoded at once: fewer cost more calls, more fall out of a CPU's cache; a GPU wants enough rows to
# fill it. An image's draws are never split, so that a reduction sees them all.
_DECODED_AT_ONCE = {"cpu": 2_000, "cuda": 65_536}
_ENCODED_AT_ONCE = 2_000


@overload
def reconstruct(
    vae: Autoencoder,
    images: Tensor,
    *,
    draws: int,
    seed: int,
    first_index: int = ...,
    indices: Tensor | None = ...,
    reduce: None = ...,
    chunk: int | None = ...,
) -> Tensor: ...


@overload
def reconstruct(
    vae: Autoencoder,
    images: Tensor,
    *,
    draws: int,
    seed: int,
    first_index: int = ...,
    indices: Tensor | None = ...,
    reduce: Callable[[Tensor, Tensor], Reduced],
    chunk: int | None = ...,
) -> Reduced: ...


def reconstruct(
    vae: Autoencoder,
    images: Tensor,
    *,
    draws: int,
    seed: int,
    first_index: int = 0,
    indices: Tensor | None = None,
    reduce: Callable[[Tensor, Tensor], Tensor | dict[str, Tensor]] | None = None,
    chunk: int | None = None,
) -> Tensor | dict[str, Tensor]:
    """Reconstruct each image from `draws` samples of its posterior: encode once, decode many.

    images: (n, 1, h, w) in [0, 1]. Returns (n, draws, 1, h, w) in [0, 1]. With `reduce`, a function of a chunk of
    images (m, 1, h, w) and their reconstructions (m, draws, 1, h, w) that gives a tensor (m, ...) or a dict of such,
    returns these joined over all images, and never holds more than a chunk of reconstructions.

    The noise of an image follows from `seed`, its index and the draw alone: image i of the batch has index
    `first_index` + i, or `indices[i]`, (n,) int64. So chunks, order and splits change nothing beyond rounding.
    chunk: images worked on at once; chosen for the device where None.
    """
    check_images(images)
    if draws < 1:
        raise ValueError(f"draws must be 1 or more; got {draws}")
    if chunk is None:
        chunk = max(1, _DECODED_AT_ONCE.get(images.device.type, 4096) // draws)
    elif chunk < 1:
        raise ValueError(f"chunk must be 1 or more images; got {chunk}")
    index = image_indices(len(images), first_index, indices).to(images.device)

    # Without a reduction each chunk is copied to its place while it is in the cache, and memory is touched once.
    whole = images.new_empty(len(images), draws, *images.shape[1:]) if reduce is None else None
    parts = []
    with torch.no_grad():
        encoded = [posterior(vae, rows) for rows in torch.split(images, _ENCODED_AT_ONCE)]
        mean = torch.cat([mean for mean, _ in encoded])
        deviation = torch.cat([(0.5 * log_variance).exp() for _, log_variance in encoded])
        for start in range(0, len(images), chunk):
            here = slice(start, start + chunk)
            rows = images[here]
            noise = normal(seed, index[here], draws=draws, size=mean.shape[1])
            latents = torch.addcmul(mean[here].unsqueeze(1), deviation[here].unsqueeze(1), noise)
            reconstructions = decode_draws(vae, latents, rows.shape)
            check_reconstructions(reconstructions.flatten(0, 1))
            if whole is not None:
                whole[here] = reconstructions
            elif reduce is not None:
                parts.append(reduce(rows, reconstructions))
    return _join(parts) if whole is None else whole


def reconstruct_labels(
    vae: Autoencoder,
    classifier: Classify,
    images: Tensor,
    *,
    draws: int,
    seed: int,
    first_index: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """The classifier's label of each reconstruction; images (n, 1, h, w) in [0, 1] to (n, draws) int64.

    Raises ValueError for a classifier in training mode, whose labels would be random.
    """
    check_classifier(classifier)

    def label(_: Tensor, reconstructions: Tensor) -> Tensor:
        logits = classifier(reconstructions.flatten(0, 1))
        check_logits(logits, reconstructions.shape[0] * draws)
        return logits.argmax(dim=1).view(-1, draws)

    return reconstruct(vae, images, draws=draws, seed=seed, first_index=first_index, indices=indices, reduce=label)


def distinct_labels(labels: Tensor) -> Tensor:
    """Number of different labels among the draws; (n, draws) integers to (n,) int64; higher is more anomalous."""
    if labels.ndim != 2 or labels.shape[1] == 0 or labels.is_floating_point():
        raise ValueError(f"labels must be integers of shape (n, draws); got {labels.dtype} {tuple(labels.shape)}")
    ordered = labels.sort(dim=1).values
    return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)


def posterior(vae: Autoencoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z | x), each (n, latent); raises ValueError where the VAE gives something else."""
    encoded: object = vae.encode(images)
    if not isinstance(encoded, tuple | list) or len(encoded) != 2:
        raise ValueError(f"the VAE must encode to a pair, mean and log-variance; got {type(encoded).__name__}")
    mean, log_variance = encoded
    if mean.ndim != 2 or mean.shape[0] != len(images) or log_variance.shape != mean.shape:
        raise ValueError(
            f"the VAE must encode {len(images)} images to a mean and a log-variance ({len(images)}, latent) each;"
            f" got {tuple(mean.shape)} and {tuple(log_variance.shape)}"
        )
    if not bool(torch.isfinite(mean).all() & torch.isfinite(log_variance).all()):
        raise ValueError("the VAE's posterior must be finite; got NaN or infinity (did its training diverge?)")
    return mean, log_variance


def decode_draws(vae: Autoencoder, latents: Tensor, shape: torch.Size) -> Tensor:
    """Images of latents (n, draws, latent): (n, draws, 1, h, w); raises ValueError unless as large as `shape`'s."""
    wanted = (len(latents) * latents.shape[1], *shape[1:])
    decoded = vae.decode(latents.flatten(0, 1))
    if decoded.shape != wanted:
        raise ValueError(f"the VAE must decode to images shaped as its input, {wanted}; got {tuple(decoded.shape)}")
    return decoded.view(len(latents), -1, *shape[1:])


def check_reconstructions(images: Tensor) -> None:
    """Raise ValueError unless what a VAE decoded are images: (n, 1, h, w) float32 in [0, 1], and no NaN."""
    check_images(images, "the VAE's reconstructions", out_of_range="logits? end `decode` with a sigmoid")


def kl(vae: Autoencoder, images: Tensor) -> Tensor:
    """KL divergence from q(z | x) to the standard normal prior; (n, 1, h, w) to (n,) in nats; higher is more anomalous.

    Kingma and Welling 2014, appendix B.
    """
    check_images(images)
    with torch.no_grad():
        return kl_of_posterior(*posterior(vae, images))


def kl_of_posterior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence from N(mean, exp(log_variance)) to N(0, 1) in nats, summed over latents; (n, latent) to (n,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def latent_mean(vae: Autoencoder, images: Tensor) -> Tensor:
    """Mean of q(z | x); (n, 1, h, w) in [0, 1] to (n, latent)."""
    check_images(images)
    with torch.no_grad():
        return posterior(vae, images)[0]


def elbo(
    vae: Autoencoder,
    images: Tensor,
    *,
    draws: int,
    seed: int,
    first_index: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """Evidence lower bound in nats, mean over draws; (n, 1, h, w) in [0, 1] to (n,); higher is *less* anomalous.

    Bernoulli likelihood of grey pixels, as the reference VAE is trained (Kingma and Welling 2014, equation 3).
    """

    def likelihood(rows: Tensor, reconstructions: Tensor) -> Tensor:
        return log_bernoulli(rows, reconstructions).mean(dim=1)

    expected = reconstruct(
        vae, images, draws=draws, seed=seed, first_index=first_index, indices=indices, reduce=likelihood
    )
    return expected - kl(vae, images)


def log_bernoulli(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Bernoulli log-likelihood in nats; images (n, 1, h, w), reconstructions (n, draws, 1, h, w) to (n, draws).

    Probabilities are kept one float32 step away from 0 and 1, where a decoder's sigmoid saturates.
    """
    edge = torch.finfo(torch.float32).eps
    probability = reconstructions.flatten(2).clamp(edge, 1 - edge)
    pixels = images.flatten(1).unsqueeze(2)
    log_odds = torch.logit(probability)
    return (log_odds @ pixels).squeeze(2) + torch.log1p(-probability).sum(dim=2)


def _join(parts: list[Tensor | dict[str, Tensor]]) -> Tensor | dict[str, Tensor]:
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if tensors:
        return torch.cat(tensors)
    tables = [part for part in parts if isinstance(part, dict)]
    return {name: torch.cat([table[name] for table in tables]) for name in tables[0]}
