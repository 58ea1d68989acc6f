"""The plain autoencoder that a VAE is compared with: its network, without noise and without a prior."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vaecore.data._images import Images
from vaecore.models._networks import VAE, VAEConfig
from vaecore.models._training import Progress, _fit, seeded, reference_configs

# Of the posterior that a plain autoencoder is given, so that its draws are its code.
_NO_SPREAD = -60.0


def fit_autoencoder(
    train: Images,
    config: VAEConfig | None = None,
    *,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> VAE:
    """Train the reference VAE's network as a plain autoencoder; returned on `device` (the GPU if any) in eval mode.

    Its code is the posterior's mean; the log-variance is constant, and so low that every draw is the mean. Loss: the
    cross-entropy of the pixels, summed over them, in nats: the VAE's without KL term and noise (`config.beta` counts
    for nothing). Raises ValueError where the loss is no longer finite.
    """
    config = config or reference_configs(train)[0]
    unlabelled = torch.zeros(len(train), dtype=torch.int64)

    def loss(model: VAE, pixels: Tensor, _: Tensor) -> Tensor:
        odds = model.decode_logits(model.encode(pixels)[0])
        return binary_cross_entropy_with_logits(odds, pixels.flatten(1), reduction="sum") / len(pixels)

    with seeded(seed, device) as place:
        model = VAE(config, train.shape).to(place)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
        found = _fit(model, loss, optimizer, config, train.pixels, unlabelled, device=place, progress=progress)
    with torch.no_grad():
        found.posterior.weight[config.latent_size :] = 0
        found.posterior.bias[config.latent_size :] = _NO_SPREAD
    return found
