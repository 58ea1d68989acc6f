"""The plain autoencoder has no spread, and reconstructs better than a VAE."""

import torch
from torch.testing import assert_close

from vaecore import VAEConfig, VAEPurifier, fit_autoencoder, fit_vae, load_images


def test_an_autoencoder_has_no_spread_and_reconstructs_better_than_a_vae():
    train = load_images("digits", "train").take(slice(300))
    config = VAEConfig(epochs=30, batch_size=50)
    plain, vae = (fit(train, config, seed=0, device="cpu") for fit in (fit_autoencoder, fit_vae))
    errors = [float((VAEPurifier(model)(train.pixels) - train.pixels).square().mean()) for model in (plain, vae)]
    assert errors[0] < 0.8 * errors[1]
    draws = VAEPurifier(plain, draws=3).views(train.pixels[:5], torch.arange(5), 0)
    assert_close(draws, VAEPurifier(plain)(train.pixels[:5]).unsqueeze(1).expand_as(draws))
    with torch.inference_mode():
        again = fit_autoencoder(train, config, seed=0, device="cpu")
    assert torch.equal(again.pixels.weight, plain.pixels.weight)
