"""Scores that are fitted on training images; each function returns the fitted score as a function of features."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Judge = Callable[[Tensor], Tensor]
"""A fitted score: maps a feature of images, (n, ...), to scores (n,)."""

_DISTANCES_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 28}  # on a CPU they fit the cache
_GROUP = 64  # latents in a group, of which at first only the nearest counts


def aggregate_distance(moments: Tensor) -> Judge:
    """Mahalanobis distance of posterior means to the aggregate posterior, by the mean and covariance of that mixture.

    moments: mean and variance of each training image's posterior, (m, 2, latent).
    """
    mean, variance = moments.double().unbind(dim=1)
    # The covariance includes the posteriors' variances. Without them an unused latent, whose means hardly vary, would
    # dominate the distance.
    covariance = torch.cov(mean.T, correction=0).reshape(mean.shape[1], -1) + variance.mean(dim=0).diag()
    return partial(_mahalanobis, mean.mean(dim=0), torch.linalg.inv(covariance))


def _mahalanobis(centre: Tensor, precision: Tensor, moments: Tensor) -> Tensor:
    offset = moments[:, 0].double() - centre
    return ((offset @ precision) * offset).sum(dim=1).sqrt()


def kth_nearest(latents: Tensor, neighbours: int) -> Judge:
    """Euclidean distance to the k-th nearest of the training latents (m, latent)."""
    if neighbours > len(latents):
        raise ValueError(f"neighbours must be at most the number of training images, {len(latents)}; got {neighbours}")
    padding = -len(latents) % _GROUP
    squares = torch.nn.functional.pad(latents.square().sum(dim=1), (0, padding), value=math.inf)
    return partial(_kth_distance, torch.nn.functional.pad(latents, (0, 0, 0, padding)), squares, neighbours)


def _kth_distance(latents: Tensor, squares: Tensor, neighbours: int, queries: Tensor) -> Tensor:
    distances = []
    at_once = max(1, _DISTANCES_AT_ONCE.get(queries.device.type, 1 << 24) // len(latents))
    for part in torch.split(queries, at_once):
        order = torch.addmm(squares, part, latents.T, alpha=-2)  # squared distances up to a constant for each query
        # The k nearest lie in the k groups with the nearest minima, so only these are sorted.
        columns = len(latents) // _GROUP
        minima = order.view(len(part), _GROUP, columns).amin(dim=1)
        groups = minima.topk(min(neighbours, columns), largest=False, sorted=False).indices
        members = (groups.unsqueeze(1) + columns * torch.arange(_GROUP, device=groups.device).view(1, -1, 1)).flatten(1)
        nearest = order.gather(1, members).topk(neighbours, largest=False, sorted=False).indices
        # Computed again from differences, as the expanded squares above lose the digits of small distances.
        offsets = latents[members.gather(1, nearest)] - part.unsqueeze(1)
        distances.append(torch.linalg.vector_norm(offsets, dim=2).amax(dim=1))
    return torch.cat(distances)


def typicality(log_likelihood: Tensor) -> Judge:
    """Distance of log-likelihoods from their mean over training images (m,), in nats."""
    return partial(_from_mean, log_likelihood.double().mean())


def _from_mean(mean: Tensor, log_likelihood: Tensor) -> Tensor:
    return (log_likelihood.double() - mean).abs()


def rarity(states: Tensor) -> Judge:
    """Minus the sum of the log-densities of statistics, each by a kernel density estimate on training images.

    states: (m, statistics). Gaussian kernels, each statistic standardised, bandwidth m ** -0.2 (Scott 1992).
    """
    states = states.double()
    centre, scale = states.mean(dim=0), states.std(dim=0, correction=0).clamp(min=1e-12)
    return partial(_rarity, centre, scale, ((states - centre) / scale).T.contiguous())


def _rarity(centre: Tensor, scale: Tensor, train: Tensor, states: Tensor) -> Tensor:
    width = train.shape[1] ** -0.2
    standard = (states.double() - centre) / scale
    total = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    for values, train_values in zip(standard.T, train, strict=True):
        kernels = -0.5 * ((values.unsqueeze(1) - train_values) / width).square()
        total -= torch.logsumexp(kernels, dim=1) - math.log(len(train_values) * width * math.sqrt(2 * math.pi))
    return total
