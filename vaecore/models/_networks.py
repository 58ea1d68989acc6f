"""The reference models, a fully connected VAE and a small convolutional classifier, with their settings and files."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad, pixel_unshuffle, relu

from vaecore._check import check_choice, check_integer, check_number, check_type
from vaecore._store import write_tensors

Augmentation = Literal["none", "shift", "distort", "flip"]


@dataclass(frozen=True)
class VAEConfig:
    """Settings of the reference VAE and of its training.

    On MNIST the network is 784-400-20, the most common in the literature.
    """

    latent_size: int = 20
    hidden_size: int = 400
    beta: float = 1.0  # weight of the KL term (Higgins et al. 2017); 1 is the evidence lower bound
    epochs: int = 10
    batch_size: int = 250
    learning_rate: float = 4e-3  # peak of a one-cycle schedule
    augmentation: Augmentation = "none"

    def __post_init__(self) -> None:
        """Check the settings; raises ValueError for bad values and TypeError for other types."""
        settle(self, check_integer, "latent_size", 1)
        settle(self, check_integer, "hidden_size", 1)
        settle(self, check_number, "beta", lambda value: 0 <= value < math.inf, "0 or more and finite")
        settle_training(self)


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of the reference classifier and of its training.

    Two strided convolutions keep its gradient cheap, which some attacks compute a hundred times for each image.
    """

    channels: tuple[int, int] = (16, 32)
    hidden_size: int = 128
    dropout: float = 0.3
    epochs: int = 8
    batch_size: int = 250
    learning_rate: float = 6e-3  # peak of a one-cycle schedule
    weight_decay: float = 1e-2
    augmentation: Augmentation = "shift"

    def __post_init__(self) -> None:
        """Check the settings, as those of `VAEConfig`."""
        channels: object = self.channels
        if not isinstance(channels, tuple) or len(channels) != 2:
            raise ValueError(f"channels must be a pair, one number for each convolution; got {channels!r}")
        object.__setattr__(self, "channels", tuple(check_integer("channels", count, 1) for count in channels))
        settle(self, check_integer, "hidden_size", 1)
        settle(self, check_number, "dropout", lambda value: 0 <= value < 1, "0 or more and below 1")
        settle(self, check_number, "weight_decay", lambda value: 0 <= value < math.inf, "0 or more and finite")
        settle_training(self)


class TrainingConfig(Protocol):
    """The settings of a training that all models have."""

    @property
    def epochs(self) -> int:
        """Passes through the training images."""
        ...

    @property
    def batch_size(self) -> int:
        """Images of a step."""
        ...

    @property
    def learning_rate(self) -> float:
        """Peak of a one-cycle schedule."""
        ...

    @property
    def augmentation(self) -> Augmentation:
        """Random changes of the images."""
        ...


def settle_training(config: TrainingConfig) -> None:
    """Check the settings that all models have."""
    for name in ("epochs", "batch_size"):
        settle(config, check_integer, name, 1)
    settle(config, check_number, "learning_rate", lambda value: 0 < value < math.inf, "above 0 and finite")
    check_choice("augmentation", config.augmentation, get_args(Augmentation))


def settle(config: object, check: Callable[..., float], name: str, *range_: Any) -> None:
    """Check a number and keep it as Python's own, as files and digests do not take numpy's."""
    object.__setattr__(config, name, check(name, getattr(config, name), *range_))


class Autoencoder(Protocol):
    """The interface of a VAE; a user's own needs only these two methods.

    Results for an image must not depend on the rest of the batch, and `encode` must not be random. Attacks that know
    the VAE differentiate through both methods. Optional: `log_density`, (n, c, h, w) and (n, draws, c, h, w) to (n,
    draws), the log-probability in nats of the 8-bit pixels of images given decoded latents, for likelihoods (see
    `discretised_logistic`). `decode_logits`, (n, latent) to the log-odds of the result of `decode`, (n, pixels), says
    that pixels have a Bernoulli distribution, and avoids rounding near 0 and 1. Without either, grey pixels have the
    Bernoulli distribution, and those of colour images a discretised logistic one of scale 0.05.
    """

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (n, channels, h, w) in [0, 1] to the posterior's mean and log-variance, each (n, latent)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Map (n, latent) to mean images (n, channels, h, w) in [0, 1]."""
        ...


Classify = Callable[[Tensor], Tensor]
"""A classifier: maps images (n, channels, h, w) in [0, 1] to logits (n, classes), for instance a torch module."""

ImageShape = tuple[int, int] | tuple[int, int, int]
"""(height, width) of grey images, or (channels, height, width)."""


class Reference(nn.Module):
    """A model that files keep: its settings, the shape of its images, its weights."""

    settings: ClassVar[type]
    config: Any
    image_shape: tuple[int, int, int]

    def __init__(self, config: object, image_shape: ImageShape) -> None:
        super().__init__()
        check_type("config", config, self.settings)
        self.config = config
        self.image_shape = with_channels(image_shape)

    def check_shape(self, images: Tensor) -> None:
        """Raise ValueError for images of another shape: layers would take some that have as many pixels."""
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"this {type(self).__name__} takes images (n, {', '.join(map(str, self.image_shape))});"
                f" got {tuple(images.shape)} (resize or pad them first)"
            )

    def save(self, path: str | Path) -> None:
        """Write settings and weights to a safetensors file, atomically."""
        header = {
            "model": type(self).__name__,
            "config": json.dumps(asdict(self.config)),
            "image_shape": json.dumps(self.image_shape),
        }
        if (classes := getattr(self, "classes", None)) is not None:
            header["classes"] = json.dumps(classes)
        weights = self.state_dict()
        check_weights(weights, f"a {header['model']} that is saved")
        write_tensors(Path(path), weights, header)


class VAE(Reference):
    """Variational autoencoder with one hidden layer on each side and a Bernoulli decoder (Kingma and Welling 2014).

    image_shape: (channels, height, width), or (height, width) for grey. "Pixels" below counts each channel.
    """

    settings: ClassVar[type] = VAEConfig

    def __init__(self, config: VAEConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        pixels = math.prod(self.image_shape)
        self.encoder = nn.Linear(pixels, config.hidden_size)
        self.posterior = nn.Linear(config.hidden_size, 2 * config.latent_size)
        self.decoder = nn.Linear(config.latent_size, config.hidden_size)
        self.pixels = nn.Linear(config.hidden_size, pixels)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (n, channels, h, w) in [0, 1] to the posterior's mean and log-variance, each (n, latent)."""
        self.check_shape(images)
        mean, log_variance = self.posterior(relu(self.encoder(images.flatten(1)))).chunk(2, dim=1)
        return mean, log_variance

    def decode_hidden(self, latents: Tensor) -> Tensor:
        """Map (n, latent) to the input of the decoder's last layer, (n, hidden)."""
        return linear(latents, self.decoder.weight, self.decoder.bias).relu_()

    def decode_logits(self, latents: Tensor) -> Tensor:
        """Map (n, latent) to the log-odds of each pixel, (n, pixels)."""
        return linear(self.decode_hidden(latents), self.pixels.weight, self.pixels.bias)

    def decode(self, latents: Tensor) -> Tensor:
        """Map (n, latent) to mean images (n, channels, h, w) in [0, 1]."""
        odds = self.decode_logits(latents)
        if odds.dtype is torch.bfloat16:  # under autocast, where a sigmoid would be slower and less precise
            odds = odds.float()
        return odds.sigmoid_().view(-1, *self.image_shape)


class Classifier(Reference):
    """Convolutional classifier with two strided 5x5 convolutions and one hidden layer.

    image_shape: (channels, height, width), or (height, width) for grey.
    """

    settings: ClassVar[type] = ClassifierConfig

    def __init__(self, config: ClassifierConfig, image_shape: ImageShape, classes: int) -> None:
        super().__init__(config, image_shape)
        self.classes = check_integer("classes", classes, 1)
        first, second = config.channels
        channels, *sides = self.image_shape
        height, width = ((side + 3) // 4 for side in sides)  # halved twice, rounding up
        self.conv1 = nn.Conv2d(channels, first, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(first, second, 5, stride=2, padding=2)
        self.hidden = nn.Linear(second * height * width, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden_size, classes)
        self.to(memory_format=torch.channels_last)  # several times faster on CPUs

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, channels, h, w) in [0, 1] to logits (n, classes)."""
        self.check_shape(images)
        features = relu(self.conv2(relu(_strided(images, self.conv1))))
        return self.output(self.dropout(relu(self.hidden(features.flatten(1)))))  # type: ignore[no-any-return]


def _strided(images: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Apply a 5x5 convolution of stride 2 and padding 2; returns (n, channels, h / 2, w / 2).

    It is computed as a 3x3 convolution over 2x2 blocks of pixels, whose gradient is several times cheaper on CPUs.
    """
    height, width = images.shape[-2:]
    blocks = pixel_unshuffle(pad(images, (0, width % 2, 0, height % 2)), 2)
    kernel = pixel_unshuffle(pad(convolution.weight, (0, 1, 0, 1)), 2)
    last = torch.channels_last
    return conv2d(
        blocks.contiguous(memory_format=last), kernel.contiguous(memory_format=last), convolution.bias, padding=1
    )


def check_weights(weights: Mapping[str, Tensor], what: str) -> None:
    for name, value in weights.items():
        if value.dtype is not torch.float32:
            raise ValueError(f"{what} must hold float32 weights; {name} is {str(value.dtype).removeprefix('torch.')}")
        if not value.isfinite().all():
            raise ValueError(f"{what} must hold finite weights; {name} holds NaN or infinity")


def with_channels(shape: object) -> tuple[int, int, int]:
    """(channels, height, width) of a shape that may lack the channels; raises ValueError for others."""
    if not isinstance(shape, tuple | list) or len(shape) not in (2, 3):
        raise ValueError(f"image_shape must be (height, width) or (channels, height, width); got {shape!r}")
    channels, height, width = (check_integer("image_shape", side, 1) for side in (1, *shape)[-3:])
    return channels, height, width
