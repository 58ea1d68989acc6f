"""A convolutional VAE and classifier of one's own, for images of any size, grey or in colour.

In a clone's root, on colour images that need no download, a minute:

    pytest claims --dataset examples.make_data:colour_digits --profile smoke --report-dir reports \
        --vae examples.convolutional:make_vae --classifier examples.convolutional:make_classifier

`make_vae` and `make_classifier` are called once a training run. They get the run's seed and, as they have a second
parameter, the study's training images: these tell them shape and number of classes. What they give has a method `fit`,
so the study trains it, on its training images and on nothing else, and keeps the weights in its cache.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy

from examples.training import minimise
from vaecore import Images

LATENTS = 16


def halved(side: int) -> int:
    """What a convolution of stride 2 leaves of a side."""
    return (side + 1) // 2


class ConvolutionalVAE(nn.Module):
    """Two strided convolutions a side; a Bernoulli decoder."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)
        small = (32, halved(halved(height)), halved(halved(width)))
        features = small[0] * small[1] * small[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(features, 2 * LATENTS),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENTS, features),
            nn.ReLU(),
            nn.Unflatten(1, small),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, channels, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, c, h, w) in [0, 1] to mean and log-variance, (n, latent) each."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, latent) to images (n, c, h, w) in [0, 1]."""
        height, width = self.size
        images: Tensor = self.decoder(latents)[:, :, :height, :width]  # sides that 4 does not divide come out longer
        return images

    def fit(self, images: Images) -> None:
        """Train on minus the ELBO."""

        def loss(pixels: Tensor, _: Tensor) -> Tensor:
            mean, log_variance = self.encode(pixels)
            decoded = self.decode(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
            error = binary_cross_entropy(decoded, pixels, reduction="sum")
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
            return (error + kl) / len(pixels)

        minimise(self, loss, images)


class ConvolutionalClassifier(nn.Sequential):
    """Two strided convolutions and a hidden layer; images (n, c, h, w) to logits (n, classes)."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * halved(halved(height)) * halved(halved(width)), 64),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(64, classes),
        )

    def fit(self, images: Images) -> None:
        """Train on cross-entropy."""
        minimise(self, lambda pixels, labels: cross_entropy(self(pixels), labels), images)


def make_vae(seed: int, images: Images) -> ConvolutionalVAE:
    """Make a VAE for such images; torch's random numbers follow from the seed already."""
    del seed
    return ConvolutionalVAE(*images.shape)


def make_classifier(seed: int, images: Images) -> ConvolutionalClassifier:
    """Make a classifier for such images and their classes."""
    del seed
    return ConvolutionalClassifier(*images.shape, images.classes or 0)
