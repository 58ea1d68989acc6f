"""A hierarchical VAE: a level of local latents below levels of dense ones, with top-down inference."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad, pixel_shuffle, pixel_unshuffle, relu

from vaecore._check import check_integer, check_number, check_type
from vaecore._modes import in_any_mode
from vaecore.data._images import Images, check_is_images
from vaecore.models._kinds import load
from vaecore.models._networks import Augmentation, ImageShape, Reference, settle, settle_training
from vaecore.models._training import Progress, fit, seeded

Descent = tuple[Tensor, Tensor, Tensor]
"""Log-odds of each pixel (n, pixels), and the posterior's mean and log-variance (n, latent each)."""


@dataclass(frozen=True)
class HierarchicalVAEConfig:
    """Settings of the hierarchical VAE and of its training; tuples go from the level at the pixels to the top.

    Three levels, local, dense and dense, as in the models of Havtorn et al. 2021 for 28x28 images.
    """

    latent_sizes: tuple[int, ...] = (2, 24, 8)  # of each patch, then of the image
    hidden_sizes: tuple[int, ...] = (32, 256, 64)  # features of each patch, then of the image
    patch: int = 4  # pixels along a side
    # KL divergence in nats below which a level costs nothing (Kingma et al. 2016, appendix C.8). Without them the upper
    # levels stay empty, and then what is left without the lowest level is no image of the kind.
    free_nats: tuple[float, ...] = (5.0, 15.0, 5.0)
    epochs: int = 3
    batch_size: int = 250
    learning_rate: float = 8e-3  # peak of a one-cycle schedule; 4e-3 is too slow for so few epochs
    augmentation: Augmentation = "none"

    def __post_init__(self) -> None:
        """Check the settings, as those of `VAEConfig`."""
        levels = None
        for name in ("latent_sizes", "hidden_sizes", "free_nats"):
            values: object = getattr(self, name)
            if not isinstance(values, tuple) or len(values) < 2 or len(values) != (levels or len(values)):
                raise ValueError(f"{name} must be a tuple, one number for each level, two or more; got {values!r}")
            levels = len(values)
            if name == "free_nats":
                checked = tuple(check_number(name, value, lambda v: 0 <= v < math.inf, "0 or more") for value in values)
            else:
                checked = tuple(check_integer(name, value, 1) for value in values)
            object.__setattr__(self, name, checked)
        settle(self, check_integer, "patch", 1)
        settle_training(self)


def hierarchical_config(train: Images) -> HierarchicalVAEConfig:
    """Settings of the hierarchical VAE for a training set: 3 epochs, or more for fewer than 34,000 images.

    Raises TypeError unless `train` is Images.
    """
    check_is_images("train", train)
    return HierarchicalVAEConfig(epochs=max(3, 100_000 // len(train)))


class HierarchicalVAE(Reference):
    """Hierarchical variational autoencoder with a Bernoulli decoder and top-down inference (Sonderby et al. 2016).

    Level 1 has latents for each patch of pixels, which see of the image the patch's neighbourhood alone and are decoded
    by themselves, so that they can describe the strokes of any image; the levels above are dense. Each posterior is
    given relative to the conditional prior of its level, as in NVAE (Vahdat and Kautz 2020): z = prior mean + prior
    deviation * e, where the prior of e is the standard normal. So the model is an `Autoencoder` of the latents e of all
    levels, level 1 first: `kl`, `elbo`, scores, purifiers and attacks take it. These draw all levels at once, from
    posteriors given the *means* of the levels above, which is a looser bound than the model's own, `partial_elbo`.

    image_shape: (channels, height, width), or (height, width) for grey.
    """

    settings: ClassVar[type] = HierarchicalVAEConfig

    def __init__(self, config: HierarchicalVAEConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        channels, height, width = self.image_shape
        self.grid = -(-height // config.patch), -(-width // config.patch)
        pixels, cells = channels * config.patch**2, math.prod(self.grid)
        (local, *dense), (features, *hidden) = config.latent_sizes, config.hidden_sizes
        self.levels = (local * cells, *dense)  # latents of each level
        self.patches_up = nn.Conv2d(pixels, features, 3, padding=1)
        self.up = nn.ModuleList(nn.Linear(below, size) for below, size in pairwise((features * cells, *hidden)))
        above = [*hidden[1:], 0]  # the top has nothing above it
        self.dense_posteriors = nn.ModuleList(
            nn.Linear(size + higher, 2 * latents) for size, higher, latents in zip(hidden, above, dense, strict=True)
        )
        self.dense_priors = nn.ModuleList(
            nn.Linear(higher, 2 * latents) for higher, latents in zip(hidden[1:], dense[:-1], strict=True)
        )
        self.down = nn.ModuleList(nn.Linear(latents, size) for latents, size in zip(dense, hidden, strict=True))
        self.widened = nn.Linear(hidden[0], features * cells)
        self.posterior, self.prior = nn.Conv2d(2 * features, 2 * local, 1), nn.Conv2d(features, 2 * local, 1)
        self.patches_down = nn.Conv2d(local, features, 3, padding=1)
        self.pixels = nn.Conv2d(features, pixels, 1)
        self.to(memory_format=torch.channels_last)  # several times faster on CPUs

    def climb(self, images: Tensor) -> list[Tensor]:
        """Features of each level from below: (n, features, rows, columns), then (n, hidden) each."""
        self.check_shape(images)
        patch, (rows, columns) = self.config.patch, self.grid
        padded = pad(images, (0, columns * patch - images.shape[3], 0, rows * patch - images.shape[2]))
        blocks = pixel_unshuffle(padded, patch).contiguous(memory_format=torch.channels_last)
        features = [relu(self.patches_up(blocks))]
        for layer in self.up:
            features.append(relu(layer(features[-1].flatten(1))))
        return features

    def descend(self, features: list[Tensor] | None, noise: Tensor, *, above: int = 0) -> Descent:
        """Draw the levels from the top, those above level `above` from their posterior, the others from their prior.

        features: what `climb` gives; None if no posterior is asked for. noise: (n, latent), standard normal. The
        latents drawn are mean + exp(log-variance / 2) * noise. Where the prior was drawn, mean and log-variance are 0.
        """
        noises = torch.split(noise, [*self.levels], dim=1)
        means, log_variances, higher = [], [], None
        priors, posteriors = [self.prior, *self.dense_priors, None], [self.posterior, *self.dense_posteriors]
        for level in reversed(range(len(self.levels))):
            deviate = noises[level]
            mean, log_variance = torch.zeros_like(deviate), torch.zeros_like(deviate)
            if level >= above:
                assert features is not None
                seen = features[level] if higher is None else torch.cat([features[level], higher], dim=1)
                mean, log_variance = (part.flatten(1) for part in posteriors[level](seen).chunk(2, dim=1))
            latent = mean + (0.5 * log_variance).exp() * deviate
            means.append(mean)
            log_variances.append(log_variance)
            if (prior := priors[level]) is not None:
                centre, spread = (part.flatten(1) for part in prior(higher).chunk(2, dim=1))
                latent = centre + (0.5 * spread).exp() * latent
            if level > 0:
                higher = relu(self.down[level - 1](latent))
            if level == 1:
                higher = relu(self.widened(higher)).view(len(noise), -1, *self.grid)
        local = latent.view(len(noise), -1, *self.grid)
        odds = pixel_shuffle(self.pixels(relu(self.patches_down(local))), self.config.patch)
        _, height, width = self.image_shape
        return odds[..., :height, :width].flatten(1), torch.cat(means[::-1], 1), torch.cat(log_variances[::-1], 1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (n, channels, h, w) in [0, 1] to mean and log-variance of the relative latents, each (n, latent).

        Those of a level are given the means of the levels above.
        """
        _, mean, log_variance = self.descend(self.climb(images), images.new_zeros(len(images), sum(self.levels)))
        return mean, log_variance

    def decode_logits(self, latents: Tensor) -> Tensor:
        """Map relative latents of all levels (n, latent) to the log-odds of each pixel, (n, pixels)."""
        return self.descend(None, latents, above=len(self.levels))[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Map relative latents of all levels (n, latent) to mean images (n, channels, h, w) in [0, 1]."""
        return self.decode_logits(latents).float().sigmoid().view(-1, *self.image_shape)


@in_any_mode
def load_hierarchical_vae(path: str | Path) -> HierarchicalVAE:
    """Read a VAE that `HierarchicalVAE.save` wrote, in eval mode; raises ValueError as `load_vae` does."""
    return load(path, HierarchicalVAE)


@in_any_mode
def fit_hierarchical_vae(
    train: Images,
    config: HierarchicalVAEConfig | None = None,
    *,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> HierarchicalVAE:
    """Train a hierarchical VAE on the evidence lower bound; returned on `device` (default: GPU if any), eval mode.

    Loss: -log p(x | z) plus each level's KL divergence, at least its free nats, in nats and averaged over images, with
    one draw. config: None for that of `hierarchical_config`. Raises as `fit_vae` does.
    """
    defaults = hierarchical_config(train)
    config = defaults if config is None else config
    check_type("config", config, HierarchicalVAEConfig)
    unlabelled = torch.zeros(len(train), dtype=torch.int64)

    def loss(model: HierarchicalVAE, pixels: Tensor, _: Tensor) -> Tensor:
        noise = torch.randn(len(pixels), sum(model.levels), device=pixels.device)
        odds, mean, log_variance = model.descend(model.climb(pixels), noise)
        error = binary_cross_entropy_with_logits(odds, pixels.flatten(1), reduction="sum") / len(pixels)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        for part, free in zip(torch.split(kl, [*model.levels], dim=1), config.free_nats, strict=True):
            error = error + (part.sum() / len(pixels)).clamp(min=free)
        return error

    with seeded(seed, device) as place:
        model = HierarchicalVAE(config, train.shape).to(place)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
        return fit(model, loss, optimizer, config, train.pixels, unlabelled, device=place, progress=progress)
