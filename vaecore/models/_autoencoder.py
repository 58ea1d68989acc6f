"""A plain autoencoder with the network of the reference VAE, for comparison."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vaecore._modes import in_any_mode
from vaecore.data._images import Images
from vaecore.models._networks import VAE, VAEConfig
from vaecore.models._training import Progress, fit, seeded, settings

_NO_SPREAD = -60.0  # log-variance of the posterior, so that every draw is its mean


@in_any_mode
def fit_autoencoder(
    train: Images,
    config: VAEConfig | None = None,
    *,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> VAE:
    """Train the reference VAE's network as a plain autoencoder; returned on `device` (default: GPU if any), eval mode.

    The posterior's mean is the code; its log-variance is a constant so low that every draw is the mean. Loss: the
    cross-entropy summed over pixels, in nats, which is the VAE's without noise and KL term (`config.beta` is not used).
    Raises as `fit_vae` does.
    """
    config = settings(train, config, VAEConfig)
    unlabelled = torch.zeros(len(train), dtype=torch.int64)

    def loss(model: VAE, pixels: Tensor, _: Tensor) -> Tensor:
        odds = model.decode_logits(model.encode(pixels)[0])
        return binary_cross_entropy_with_logits(odds, pixels.flatten(1), reduction="sum") / len(pixels)

    with seeded(seed, device) as place:
        model = VAE(config, train.shape).to(place)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
        fitted = fit(model, loss, optimizer, config, train.pixels, unlabelled, device=place, progress=progress)
    with torch.no_grad():
        fitted.posterior.weight[config.latent_size :] = 0
        fitted.posterior.bias[config.latent_size :] = _NO_SPREAD
    return fitted
