"""An `AutoencoderKL` of diffusers, untrained as it comes without a download, wrapped and trained briefly.

In a clone's root, after `python -m pip install -e ".[peers]"`, which brings diffusers along:

    pytest claims --dataset examples.make_data:colour_digits --profile smoke --vae examples.diffusers_model:make_vae

Its latents are a small image, and its pixels lie in [-1, 1]; the claims ask for a row of latents, and for [0, 1].
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from examples.training import minimise
from vaecore import Images

WIDTHS = (16, 32, 32)  # the image is halved between two of them
LATENT_CHANNELS = 2


class KLAutoencoder(nn.Module):
    """A small AutoencoderKL for images of these channels, and of sides that are a multiple of 4."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        halved = 2 ** (len(WIDTHS) - 1)
        self.latent_shape = (LATENT_CHANNELS, height // halved, width // halved)
        self.model = AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),
            up_block_types=("UpDecoderBlock2D",) * len(WIDTHS),
            block_out_channels=WIDTHS,
            layers_per_block=1,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=8,
            mid_block_add_attention=False,
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, c, h, w) in [0, 1] to mean and log-variance, (n, latent) each."""
        posterior = self.model.encode(2 * images - 1).latent_dist
        return posterior.mean.flatten(1), posterior.logvar.flatten(1)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, latent) to images (n, c, h, w) in [0, 1]."""
        images: Tensor = self.model.decode(latents.view(-1, *self.latent_shape)).sample
        return images.sigmoid()

    def fit(self, images: Images) -> None:
        """Train on the evidence lower bound."""

        def loss(pixels: Tensor, _: Tensor) -> Tensor:
            mean, log_variance = self.encode(pixels)
            drawn = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            error = binary_cross_entropy(self.decode(drawn), pixels, reduction="sum")
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
            return (error + kl) / len(pixels)

        minimise(self, loss, images, steps=300, learning_rate=2e-3)


def make_vae(seed: int, images: Images) -> KLAutoencoder:
    """Make a VAE for such images; torch's random numbers follow from the seed already."""
    del seed
    return KLAutoencoder(images.shape)
