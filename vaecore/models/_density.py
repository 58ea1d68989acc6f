"""Distributions of 8-bit pixels given their mean, for decoders."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from vaecore._check import check_draws, check_number

_HALF = 1 / 510  # half the distance of two levels


def discretised_logistic(images: Tensor, means: Tensor, scale: Tensor | float) -> Tensor:
    """Log-probability in nats of 8-bit pixels, summed over them; images (n, c, h, w), means (n, draws, c, h, w).

    A pixel's level has the mass of the logistic distribution within half a level of it; levels 0 and 255 have the tails
    as well, so that the 256 probabilities sum to 1. Between levels, pixels have the mass around them. Returns (n,
    draws); divided by `c * h * w` they are nats per dimension, and by log(2) again bits per dimension. scale: of the
    distribution, above 0, for pixels in [0, 1]: a number, or a tensor that broadcasts to (c, h, w); the standard
    deviation is 1.81 times as large. Raises ValueError for other shapes, and for a number that is no such scale.
    Source: Kingma et al. 2016, section 5.2, as the decoder of a VAE; Salimans et al. 2017, equation 2, for the tails.
    """
    check_draws(images, means)
    if not isinstance(scale, Tensor):
        scale = check_number("scale", scale, lambda value: 0 < value < math.inf, "above 0 and finite")
    pixels, half = images.unsqueeze(1), _HALF / torch.as_tensor(scale, dtype=images.dtype, device=images.device)
    offset = (pixels - means) / scale
    # log(sigmoid(offset + half) - sigmoid(offset - half)), where both may be rounded to 0 or to 1
    below = softplus(-(offset + half)).where(pixels < 1 - _HALF, 0)
    above = softplus(offset - half).where(pixels > _HALF, 0)
    inside = (pixels > _HALF) & (pixels < 1 - _HALF)
    width = (-2 * half).expm1().neg().log().where(inside, 0)
    return (width - below - above).flatten(2).sum(dim=2)
