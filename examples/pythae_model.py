"""A VAE of pythae, wrapped in the two methods that the claims ask for.

In a clone's root, after `python -m pip install -e ".[peers]"`, which brings pythae along:

    pytest claims --dataset examples.make_data:colour_digits --profile smoke --vae examples.pythae_model:make_vae

Without `--classifier`, the reference classifier is trained. Other models of pythae with a Gaussian posterior
(`BetaVAE`, `BetaTCVAE`, `DisentangledBetaVAE`, ...) take the place of `VAE` as they are.
"""

from pythae.models import VAE, VAEConfig
from torch import Tensor, nn

from examples.training import minimise
from vaecore import Images


class PythaeVAE(nn.Module):
    """Pythae's VAE with its default networks."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model = VAE(VAEConfig(input_dim=shape, latent_dim=16, reconstruction_loss="bce"))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, c, h, w) in [0, 1] to mean and log-variance, (n, latent) each."""
        posterior = self.model.encoder(images)
        return posterior["embedding"], posterior["log_covariance"]

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, latent) to images (n, c, h, w) in [0, 1]."""
        images: Tensor = self.model.decoder(latents)["reconstruction"]
        return images

    def fit(self, images: Images) -> None:
        """Train on the loss that pythae's model gives."""

        def loss(pixels: Tensor, _: Tensor) -> Tensor:
            value: Tensor = self.model({"data": pixels})["loss"]
            return value

        minimise(self, loss, images)


def make_vae(seed: int, images: Images) -> PythaeVAE:
    """Make a VAE for such images; torch's random numbers follow from the seed already."""
    del seed
    return PythaeVAE(images.shape)
