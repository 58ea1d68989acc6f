"""Scores that training images teach: each function learns from what it sees in them, and gives a judge of others."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Judge = Callable[[Tensor], Tensor]
"""Maps what a score looks at in images, (n, ...), to their scores (n,)."""

_DISTANCES_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 28}  # on a CPU, what its cache holds
_GROUP = 64  # latents of which only the nearest is looked at first


def aggregate_distance(moments: Tensor) -> Judge:
    """Mahalanobis distance of means to the aggregate posterior, a mixture, by its mean and covariance.

    moments: mean and variance of each training image's posterior, (m, 2, latent).
    """
    mean, variance = moments.double().unbind(dim=1)
    # The posteriors' own variance is part of the mixture's; without it a latent that the VAE does not use, whose means
    # hardly vary, would outweigh all others.
    covariance = torch.cov(mean.T, correction=0).reshape(mean.shape[1], -1) + variance.mean(dim=0).diag()
    return partial(_mahalanobis, mean.mean(dim=0), torch.linalg.inv(covariance))


def _mahalanobis(centre: Tensor, precision: Tensor, moments: Tensor) -> Tensor:
    away = moments[:, 0].double() - centre
    return ((away @ precision) * away).sum(dim=1).sqrt()


def kth_nearest(latents: Tensor, neighbours: int) -> Judge:
    """Euclidean distance to the k-th nearest of the training latents (m, latent)."""
    if neighbours > len(latents):
        raise ValueError(f"neighbours must be at most the number of training images, {len(latents)}; got {neighbours}")
    padding = -len(latents) % _GROUP
    squares = torch.nn.functional.pad(latents.square().sum(dim=1), (0, padding), value=math.inf)
    return partial(_kth_distance, torch.nn.functional.pad(latents, (0, 0, 0, padding)), squares, neighbours)


def _kth_distance(latents: Tensor, squares: Tensor, neighbours: int, queries: Tensor) -> Tensor:
    found = []
    at_once = max(1, _DISTANCES_AT_ONCE.get(queries.device.type, 1 << 24) // len(latents))
    for some in torch.split(queries, at_once):
        order = torch.addmm(squares, some, latents.T, alpha=-2)  # squared distances, but for what is one query's own
        # The k nearest lie in the k groups whose nearest are nearest: so nearly all of the sorting falls away.
        columns = len(latents) // _GROUP
        groups = order.view(len(some), _GROUP, columns).amin(dim=1)
        kept = groups.topk(min(neighbours, columns), largest=False, sorted=False).indices
        members = (kept.unsqueeze(1) + columns * torch.arange(_GROUP, device=kept.device).view(1, -1, 1)).flatten(1)
        nearest = order.gather(1, members).topk(neighbours, largest=False, sorted=False).indices
        # Distances anew, as the difference of squares above loses the digits of small ones.
        away = latents[members.gather(1, nearest)] - some.unsqueeze(1)
        found.append(torch.linalg.vector_norm(away, dim=2).amax(dim=1))
    return torch.cat(found)


def typicality(log_likelihood: Tensor) -> Judge:
    """Distance of log-likelihoods from their mean over training images (m,), in nats."""
    return partial(_from_mean, log_likelihood.double().mean())


def _from_mean(mean: Tensor, log_likelihood: Tensor) -> Tensor:
    return (log_likelihood.double() - mean).abs()


def rarity(states: Tensor) -> Judge:
    """Minus the sum of the log-densities of statistics, each estimated by kernels over training images (m, count).

    Gaussian kernels, each statistic standardised, bandwidth m ** -0.2 (Scott 1992).
    """
    states = states.double()
    centre, scale = states.mean(dim=0), states.std(dim=0, correction=0).clamp(min=1e-12)
    return partial(_rarity, centre, scale, ((states - centre) / scale).T.contiguous())


def _rarity(centre: Tensor, scale: Tensor, known: Tensor, states: Tensor) -> Tensor:
    width = known.shape[1] ** -0.2
    standard = (states.double() - centre) / scale
    found = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    for column, others in zip(standard.T, known, strict=True):
        kernels = -0.5 * ((column.unsqueeze(1) - others) / width).square()
        found -= torch.logsumexp(kernels, dim=1) - math.log(len(others) * width * math.sqrt(2 * math.pi))
    return found
