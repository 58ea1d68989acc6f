"""The reference models: an MLP variational autoencoder and a small convolutional classifier, with their settings."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad, pixel_unshuffle, relu

from vaecore._store import read_tensors, write_tensors

Augmentation = Literal["none", "shift", "distort"]


@dataclass(frozen=True)
class VAEConfig:
    """Settings of the reference VAE and of its training.

    The network is 784-400-20 on MNIST, with a Bernoulli decoder, the most common one in studies of it.
    """

    latent_size: int = 20
    hidden_size: int = 400
    beta: float = 1.0  # weight of the KL term (Higgins et al. 2017); 1 is the evidence lower bound
    epochs: int = 10
    batch_size: int = 250
    learning_rate: float = 4e-3  # peak of a one-cycle schedule
    augmentation: Augmentation = "none"


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of the reference classifier and of its training.

    Two strided convolutions keep the gradient cheap: every attack pays for it, some a hundred times an image.
    """

    channels: tuple[int, int] = (16, 32)
    hidden_size: int = 128
    dropout: float = 0.3
    epochs: int = 8
    batch_size: int = 250
    learning_rate: float = 6e-3  # peak of a one-cycle schedule
    weight_decay: float = 1e-2
    augmentation: Augmentation = "shift"


@runtime_checkable
class Autoencoder(Protocol):
    """What this package asks of a VAE: a user's own needs these two methods and nothing else.

    An image's results may depend on no other image of the batch, and `encode` on nothing random. Attacks that know the
    VAE differentiate through both. A third method is used where there is one: `decode_logits`, (n, latent) to the
    log-odds of what `decode` gives, (n, pixels), which spares likelihoods the rounding of a sigmoid near 0 and 1.
    """

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (n, channels, h, w) in [0, 1] to the posterior's mean and log-variance, each (n, latent)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Map (n, latent) to mean images (n, channels, h, w) in [0, 1]."""
        ...


Classify = Callable[[Tensor], Tensor]
"""Maps images (n, channels, h, w) in [0, 1] to logits (n, classes); any torch module that does so will serve."""

ImageShape = tuple[int, int] | tuple[int, int, int]
"""(height, width) of grey images, or (channels, height, width)."""


class VAE(nn.Module):
    """Variational autoencoder with one hidden layer a side and a Bernoulli decoder (Kingma and Welling 2014).

    image_shape: (channels, height, width), or (height, width) for grey. Each channel of a pixel counts as a pixel.
    """

    def __init__(self, config: VAEConfig, image_shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.image_shape = _with_channels(image_shape)
        pixels = math.prod(self.image_shape)
        self.encoder = nn.Linear(pixels, config.hidden_size)
        self.posterior = nn.Linear(config.hidden_size, 2 * config.latent_size)
        self.decoder = nn.Linear(config.latent_size, config.hidden_size)
        self.pixels = nn.Linear(config.hidden_size, pixels)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (n, channels, h, w) in [0, 1] to the posterior's mean and log-variance, each (n, latent)."""
        mean, log_variance = self.posterior(relu(self.encoder(images.flatten(1)))).chunk(2, dim=1)
        return mean, log_variance

    def decode_hidden(self, latents: Tensor) -> Tensor:
        """Map (n, latent) to what the decoder's last layer takes, (n, hidden)."""
        return linear(latents, self.decoder.weight, self.decoder.bias).relu_()

    def decode_logits(self, latents: Tensor) -> Tensor:
        """Map (n, latent) to the log-odds of each pixel, (n, pixels)."""
        return linear(self.decode_hidden(latents), self.pixels.weight, self.pixels.bias)

    def decode(self, latents: Tensor) -> Tensor:
        """Map (n, latent) to mean images (n, channels, h, w) in [0, 1]."""
        odds = self.decode_logits(latents)
        if odds.dtype is torch.bfloat16:  # under autocast; a sigmoid in it would be both slower and coarser
            odds = odds.float()
        return odds.sigmoid_().view(-1, *self.image_shape)

    def save(self, path: str | Path) -> None:
        """Write settings and weights to one safetensors file, atomically."""
        _save(self, path)


class Classifier(nn.Module):
    """Convolutional classifier: two strided 5x5 convolutions, one hidden layer; images (n, channels, h, w) to logits.

    image_shape: (channels, height, width), or (height, width) for grey.
    """

    def __init__(self, config: ClassifierConfig, image_shape: ImageShape, classes: int) -> None:
        super().__init__()
        self.config = config
        self.image_shape = _with_channels(image_shape)
        self.classes = classes
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
        features = relu(self.conv2(relu(_strided(images, self.conv1))))
        return self.output(self.dropout(relu(self.hidden(features.flatten(1)))))  # type: ignore[no-any-return]

    def save(self, path: str | Path) -> None:
        """Write settings and weights to one safetensors file, atomically."""
        _save(self, path)


def _strided(images: Tensor, convolution: nn.Conv2d) -> Tensor:
    """What a 5x5 convolution of stride 2 and padding 2 makes of images, (n, channels, h / 2, w / 2).

    As one of 3x3 and stride 1 over the four pixels of each 2x2 block, whose gradient is several times cheaper on CPUs.
    """
    height, width = images.shape[-2:]
    blocks = pixel_unshuffle(pad(images, (0, width % 2, 0, height % 2)), 2)
    kernel = pixel_unshuffle(pad(convolution.weight, (0, 1, 0, 1)), 2)
    last = torch.channels_last
    return conv2d(
        blocks.contiguous(memory_format=last), kernel.contiguous(memory_format=last), convolution.bias, padding=1
    )


def _save(model: VAE | Classifier, path: str | Path) -> None:
    header = {
        "model": type(model).__name__,
        "config": json.dumps(asdict(model.config)),
        "image_shape": json.dumps(model.image_shape),
    }
    if isinstance(model, Classifier):
        header["classes"] = json.dumps(model.classes)
    write_tensors(Path(path), {name: value.cpu() for name, value in model.state_dict().items()}, header)


def load_vae(path: str | Path) -> VAE:
    """Read a VAE that `VAE.save` wrote; raises ValueError where the file is damaged or holds something else."""
    header, weights = _read(path, "VAE")
    model = VAE(_config(VAEConfig, header["config"]), _shape(header["image_shape"]))
    model.load_state_dict(weights)
    return model.eval()


def load_classifier(path: str | Path) -> Classifier:
    """Read a classifier that `Classifier.save` wrote; raises ValueError where the file is damaged or another's."""
    header, weights = _read(path, "Classifier")
    classes = json.loads(header["classes"])
    model = Classifier(_config(ClassifierConfig, header["config"]), _shape(header["image_shape"]), classes)
    model.load_state_dict(weights)
    return model.eval()


def _read(path: str | Path, kind: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    header, weights = read_tensors(Path(path))
    if header.get("model") != kind:
        raise ValueError(f"{path} must hold a {kind} of vaecore; it says {header.get('model', 'nothing')}")
    return header, weights


_Config = TypeVar("_Config", VAEConfig, ClassifierConfig)


def _config(kind: type[_Config], text: str) -> _Config:
    values = json.loads(text)
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"the file's settings must be those of {kind.__name__}; got {', '.join(unknown)} as well")
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return kind(**settings)


def _shape(text: str) -> tuple[int, int, int]:
    return _with_channels(tuple(json.loads(text)))


def _with_channels(shape: ImageShape) -> tuple[int, int, int]:
    return shape if len(shape) == 3 else (1, *shape)
