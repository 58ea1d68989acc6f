"""A plain autoencoder with the network of the reference VAE, for comparison."""

import torch
from torch import Tensor

from vaecore._modes import in_any_mode
from vaecore.data._images import Images
from vaecore.models._kinds import AnyVAE, AnyVAEConfig, vae_of
from vaecore.models._training import Progress, fit, reconstruction_error, seeded, vae_settings

_NO_SPREAD = -60.0  # log-variance of the posterior, so that every draw is its mean


@in_any_mode
def fit_autoencoder(
    train: Images,
    config: AnyVAEConfig | None = None,
    *,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> AnyVAE:
    """Train a reference VAE's network as a plain autoencoder; returned on `device` (default: GPU if any), eval mode.

    The posterior's mean is the code; its log-variance is a constant so low that every draw is the mean. Loss:
    -log p(x | z) summed over pixels, in nats, which is the VAE's without noise and KL term (`config.beta` is not used).
    Raises as `fit_vae` does.
    """
    config = vae_settings(train, config)
    unlabelled = torch.zeros(len(train), dtype=torch.int64)

    def loss(model: AnyVAE, pixels: Tensor, _: Tensor) -> Tensor:
        return reconstruction_error(model, pixels, model.encode(pixels)[0]) / len(pixels)

    with seeded(seed, device) as place:
        model = vae_of(config, train.shape).to(place)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
        fitted = fit(model, loss, optimizer, config, train.pixels, unlabelled, device=place, progress=progress)
    with torch.no_grad():
        half = len(fitted.posterior.weight) // 2
        fitted.posterior.weight[half:] = 0
        fitted.posterior.bias[half:] = _NO_SPREAD  # type: ignore[index]
    return fitted
