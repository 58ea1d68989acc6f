"""Reference models for colour: a convolutional VAE and a residual classifier, with their settings."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vaecore._check import check_integer, check_number
from vaecore.models._density import discretised_logistic
from vaecore.models._networks import Augmentation, ImageShape, Reference, settle, settle_training

SIDES = 8  # the sides of images are multiples of it, as they are halved three times

_FIRST_SCALE = 0.05  # of the decoder's logistic distribution, before training

_FIRST_LOG_VARIANCE = -3.0  # of the posterior, before training


@dataclass(frozen=True)
class ConvVAEConfig:
    """Settings of the convolutional VAE and of its training."""

    latent_channels: int = 32  # latents of each 8x8 pixels: of a 32x32 image 512; with 256 the ELBO is lower
    channels: tuple[int, int, int] = (16, 32, 64)  # at a half, a quarter and an eighth of each side
    # Weight of the KL term. At 1, the evidence lower bound, the decoder's learned scale balances both terms, so that
    # neither free bits nor another weight are needed (Rybkin et al. 2021).
    beta: float = 1.0
    epochs: int = 20
    batch_size: int = 50
    learning_rate: float = 4e-3  # peak of a one-cycle schedule
    augmentation: Augmentation = "flip"

    def __post_init__(self) -> None:
        """Check the settings, as those of `VAEConfig`."""
        settle(self, check_integer, "latent_channels", 1)
        _settle_channels(self)
        settle(self, check_number, "beta", lambda value: 0 <= value < math.inf, "0 or more and finite")
        settle_training(self)


@dataclass(frozen=True)
class ResidualConfig:
    """Settings of the residual classifier and of its training.

    It is small, since some attacks compute its gradient a hundred times for each image.
    """

    channels: tuple[int, int, int] = (16, 48, 96)  # at a half, a quarter and an eighth of each side
    label_smoothing: float = 0.1
    epochs: int = 28
    batch_size: int = 100
    learning_rate: float = 5e-3  # peak of a one-cycle schedule
    weight_decay: float = 5e-2
    augmentation: Augmentation = "flip"

    def __post_init__(self) -> None:
        """Check the settings, as those of `VAEConfig`."""
        _settle_channels(self)
        settle(self, check_number, "label_smoothing", lambda value: 0 <= value < 1, "0 or more and below 1")
        settle(self, check_number, "weight_decay", lambda value: 0 <= value < math.inf, "0 or more and finite")
        settle_training(self)


def _settle_channels(config: ConvVAEConfig | ResidualConfig) -> None:
    channels: object = config.channels
    if not isinstance(channels, tuple) or len(channels) != 3:
        raise ValueError(f"channels must be three numbers, one for each halving of the sides; got {channels!r}")
    object.__setattr__(config, "channels", tuple(check_integer("channels", count, 1) for count in channels))


class _Block(nn.Module):
    """Two 3x3 convolutions, whose result is added to what they are given (He et al. 2016, with pre-activation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape."""
        return features + self.second(relu(self.first(relu(features))))  # type: ignore[no-any-return]


def _halvings(image_shape: tuple[int, int, int], channels: tuple[int, int, int]) -> nn.Sequential:
    """Layers that halve the sides three times, with a residual block at each size."""
    colours, *sides = image_shape
    if any(side % SIDES for side in sides):
        raise ValueError(
            f"image_shape must have sides that are multiples of {SIDES}; got {image_shape} (pad or resize the images,"
            " or take the settings VAEConfig and ClassifierConfig, whose models take any sides)"
        )
    first, second, third = channels
    return nn.Sequential(
        *(nn.Conv2d(colours, first, 4, stride=2, padding=1), _Block(first)),
        *(nn.Conv2d(first, second, 2, stride=2), _Block(second)),
        *(nn.Conv2d(second, third, 2, stride=2), _Block(third)),
    )


class ConvVAE(Reference):
    """Convolutional VAE with residual blocks; its pixels have a discretised logistic distribution of learned scale.

    Each 8x8 pixels have latents of their own, whose posterior and reconstruction depend on the pixels around as well.
    image_shape: (channels, height, width), or (height, width) for grey; sides are multiples of 8.
    """

    settings: ClassVar[type] = ConvVAEConfig

    def __init__(self, config: ConvVAEConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        colours, height, width = self.image_shape
        self.grid = height // SIDES, width // SIDES
        first, second, third = config.channels
        self.encoder = _halvings(self.image_shape, config.channels)
        self.posterior = nn.Conv2d(third, 2 * config.latent_channels, 1)
        self.decoder = nn.Sequential(
            *(nn.Conv2d(config.latent_channels, third, 3, padding=1), _Block(third)),
            *(nn.ConvTranspose2d(third, second, 2, stride=2), _Block(second)),
            *(nn.ConvTranspose2d(second, first, 2, stride=2), _Block(first)),
            nn.ConvTranspose2d(first, colours, 4, stride=2, padding=1),
        )
        self.log_scale = nn.Parameter(torch.full((colours, 1, 1), math.log(_FIRST_SCALE)))
        self._begin()
        self.to(memory_format=torch.channels_last)  # several times faster on CPUs

    @torch.no_grad()
    def _begin(self) -> None:
        """Begin as a linear autoencoder that loses little, with a narrow posterior.

        From torch's usual weights most latents collapse to the prior at once, and few come back.
        """
        for layer in (*self.encoder, self.posterior, *self.decoder):
            if isinstance(layer, _Block):  # the identity; so it needs no normalisation
                nn.init.zeros_(layer.second.weight)
            else:
                nn.init.orthogonal_(layer.weight)
        half = len(self.posterior.weight) // 2
        self.posterior.weight[half:] *= 0.1
        nn.init.constant_(self.posterior.bias[half:], _FIRST_LOG_VARIANCE)  # type: ignore[index]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (n, channels, h, w) in [0, 1] to the posterior's mean and log-variance, each (n, latent)."""
        self.check_shape(images)
        features = self.encoder(images.contiguous(memory_format=torch.channels_last))
        mean, log_variance = self.posterior(features).chunk(2, dim=1)
        return mean.flatten(1), log_variance.flatten(1)

    def decode(self, latents: Tensor) -> Tensor:
        """Map (n, latent) to mean images (n, channels, h, w) in [0, 1]."""
        local = latents.view(len(latents), -1, *self.grid).contiguous(memory_format=torch.channels_last)
        return self.decoder(local).float().sigmoid().contiguous()  # type: ignore[no-any-return]

    def log_density(self, images: Tensor, decoded: Tensor) -> Tensor:
        """Log-probability in nats of the 8-bit pixels of images (n, c, h, w), given (n, draws, c, h, w); (n, draws)."""
        return discretised_logistic(images, decoded, self.log_scale.exp())


class ResidualClassifier(Reference):
    """Convolutional classifier with residual blocks.

    It is trained with batch normalisation behind each convolution, which is part of the convolutions afterwards.
    image_shape: (channels, height, width), or (height, width) for grey; sides are multiples of 8.
    """

    settings: ClassVar[type] = ResidualConfig

    def __init__(self, config: ResidualConfig, image_shape: ImageShape, classes: int) -> None:
        super().__init__(config, image_shape)
        self.classes = check_integer("classes", classes, 1)
        self.features = _halvings(self.image_shape, config.channels)
        self.output = nn.Linear(config.channels[-1], classes)
        self.to(memory_format=torch.channels_last)  # several times faster on CPUs

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, channels, h, w) in [0, 1] to logits (n, classes)."""
        self.check_shape(images)
        features = self.features(images.contiguous(memory_format=torch.channels_last))
        return self.output(relu(features).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def normalise(self) -> None:
        """Put a batch normalisation behind each convolution, for training."""
        for module in [*self.modules()]:
            for name, child in [*module.named_children()]:
                if isinstance(child, nn.Conv2d):
                    setattr(module, name, nn.Sequential(child, nn.BatchNorm2d(child.out_channels)))

    def fold(self) -> None:
        """Make what `normalise` put there part of the convolutions, in evaluation mode."""
        for module in [*self.modules()]:
            for name, child in [*module.named_children()]:
                if isinstance(child, nn.Sequential) and isinstance(child[-1], nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(*child))
        self.to(memory_format=torch.channels_last)
