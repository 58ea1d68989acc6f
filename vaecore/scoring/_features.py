"""Features of images that anomaly scores share: encoding, draws and logits, each computed once."""

import lzma
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from vaecore._batch_sizes import answers
from vaecore._check import check_integer
from vaecore._noise import normal
from vaecore.models._networks import Autoencoder, Classify
from vaecore.reconstruction._decode import (
    check_reconstructions,
    decode_draws,
    kl_of_posterior,
    latents_of,
    posterior,
)
from vaecore.reconstruction._likelihood import (
    LogDensity,
    checked_density,
    decoder_density,
    elbo_of,
    importance_weighted,
    latents_at_once,
    log_bernoulli_of_odds,
    log_densities,
    log_normaliser_of_odds,
    log_odds,
    log_weights,
    regret_of,
)

OfDraws: TypeAlias = Literal["logits", "normaliser"]

# One byte a pixel: neither the bytes before it nor its place modulo 4 say which kind of byte comes next.
_LZMA: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "lc": 0, "lp": 0, "pb": 0, "dict_size": 1 << 16}]


@dataclass(frozen=True)
class Settings:
    """Settings of scores, as documented at `fit_scores`."""

    draws: int
    importance_draws: int
    neighbours: int
    regret_steps: int
    posterior_steps: int
    regret_draws: int

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            object.__setattr__(self, name, check_integer(name, count, 1))


class Features:
    """Features of images (n, c, h, w), each computed on first use and kept.

    vae, classifier: may be None if no feature that is used needs them. indices: (n,) int64, of the images. Draws are
    those of `reconstruct` for the same seed and indices. of_draws: what is computed of each besides density and error,
    of "logits" (for `drawn_logits`) and "normaliser" (for `code_length`, of a Bernoulli decoder).
    """

    def __init__(
        self,
        vae: Autoencoder | None,
        classifier: Classify | None,
        images: Tensor,
        indices: Tensor,
        *,
        seed: int,
        settings: Settings,
        of_draws: Collection[OfDraws] = (),
    ) -> None:
        self.images, self._indices, self._seed, self._settings = images, indices, seed, settings
        self._vae, self._classifier, self._of_draws = vae, classifier, of_draws

    @property
    def vae(self) -> Autoencoder:
        """The VAE."""
        assert self._vae is not None
        return self._vae

    @cached_property
    def encoded(self) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, (n, latent) each."""
        return posterior(self.vae, self.images)

    @cached_property
    def moments(self) -> Tensor:
        """Mean and variance of the posterior, (n, 2, latent)."""
        mean, log_variance = self.encoded
        return torch.stack([mean, log_variance.exp()], dim=1)

    @cached_property
    def kl(self) -> Tensor:
        """KL divergence from the posterior to the prior in nats, (n,)."""
        return kl_of_posterior(*self.encoded)

    @cached_property
    def _noise(self) -> Tensor:
        draws = max(self._settings.draws, self._settings.importance_draws)
        return normal(self._seed, self._indices, draws=draws, size=self.encoded[0].shape[1])

    @cached_property
    def _density(self) -> LogDensity | None:
        """The decoder's log-density; None for the Bernoulli distribution."""
        return decoder_density(self.vae, self.images.shape)

    @cached_property
    def _drawn(self) -> dict[str, Tensor]:
        """Features of the draws, from one pass that decodes them in portions."""
        draws, shape = self._settings.draws, self.images.shape
        latents = latents_of(self.encoded, self._noise[:, :draws])
        portion = max(1, latents_at_once(self.vae, latents, shape) // draws)
        parts = []
        for rows, row_latents in zip(torch.split(self.images, portion), torch.split(latents, portion), strict=True):
            if self._density is None:
                odds = log_odds(self.vae, row_latents, shape)
                part = {"log_density": log_bernoulli_of_odds(rows, odds)}
                if "normaliser" in self._of_draws:
                    part["normaliser"] = log_normaliser_of_odds(odds)
                reconstructions = odds.sigmoid() if odds.requires_grad else odds.sigmoid_()
            else:
                decoded = decode_draws(self.vae, row_latents, shape)
                reconstructions = check_reconstructions(decoded.flatten(0, 1)).view(*decoded.shape[:2], -1)
                part = {"log_density": checked_density(self._density, rows, decoded)}
            part["mse"] = (reconstructions - rows.flatten(1).unsqueeze(1)).square().flatten(1).mean(dim=1)
            if "logits" in self._of_draws:
                logits = self._classify(reconstructions.view(-1, *shape[1:]))
                part["logits"] = logits.view(len(rows), draws, -1)
            parts.append(part)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @property
    def mse(self) -> Tensor:
        """Squared error of the reconstructions, mean over pixels and draws, (n,)."""
        return self._drawn["mse"]

    @property
    def log_density(self) -> Tensor:
        """The decoder's log-density in nats of the images given each draw, (n, draws); see `decoder_density`."""
        return self._drawn["log_density"]

    @property
    def drawn_logits(self) -> Tensor:
        """The classifier's logits of each draw, (n, draws, classes) float64."""
        return self._drawn["logits"]

    @cached_property
    def elbo(self) -> Tensor:
        """Evidence lower bound in nats, (n,)."""
        return elbo_of(self.encoded, self.log_density)

    @cached_property
    def log_likelihood(self) -> Tensor:
        """Importance-weighted bound in nats, (n,), as `log_likelihood`; draws that are decoded already are used."""
        draws = self._settings.importance_draws
        noise, densities = self._noise[:, :draws], self.log_density[:, :draws]
        if densities.shape[1] < draws:
            latents = latents_of(self.encoded, noise[:, densities.shape[1] :])
            densities = torch.cat([densities, log_densities(self.vae, self.images, latents)], dim=1)
        return importance_weighted(log_weights(self.encoded, noise, densities))

    @cached_property
    def code_length(self) -> Tensor:
        """Bits that the VAE takes for each image's 8-bit pixels, (n,).

        A decoder's own density is that of levels already. With the Bernoulli distribution a level has the density at
        its pixel, of the continuous Bernoulli distribution, times its width of 1 / 256.
        """
        weights = log_weights(self.encoded, self._noise[:, : self._settings.draws], self.log_density)
        if self._density is not None:
            return -importance_weighted(weights) / math.log(2)
        density = importance_weighted(weights + self._drawn["normaliser"])
        return 8 * self.images[0].numel() - density / math.log(2)

    def regret(self, how: Literal["posterior", "encoder"]) -> Tensor:
        """Likelihood regret in nats, (n,), as `likelihood_regret`."""
        settings = self._settings
        return regret_of(
            self.vae,
            self.images,
            self.encoded,
            self._indices,
            seed=self._seed,
            how=how,
            steps=settings.regret_steps if how == "encoder" else settings.posterior_steps,
            draws=settings.regret_draws,
        )

    @cached_property
    def mean_reconstruction(self) -> Tensor:
        """The image decoded from each posterior mean, (n, c, h, w)."""
        latents, shape = self.encoded[0].unsqueeze(1), self.images.shape
        if self._density is not None:
            return check_reconstructions(decode_draws(self.vae, latents, shape)[:, 0])
        return log_odds(self.vae, latents, shape).sigmoid().view_as(self.images)

    @cached_property
    def states(self) -> Tensor:
        """The five statistics of Morningstar et al. 2021 for a VAE, (n, 5), in nats.

        KL divergence to the prior, cross-entropy with the prior and entropy of the posterior, all in closed form; mean
        log-density over the draws; importance-weighted log-likelihood.
        """
        mean, log_variance = self.encoded
        constant = math.log(2 * math.pi)
        cross_entropy = 0.5 * (constant + mean.square() + log_variance.exp()).sum(dim=1)
        entropy = 0.5 * (constant + 1 + log_variance).sum(dim=1)
        return torch.stack([self.kl, cross_entropy, entropy, self.log_density.mean(dim=1), self.log_likelihood], dim=1)

    @cached_property
    def logits(self) -> Tensor:
        """The classifier's logits of the images, (n, classes) float64, so that a softmax near 1 is not rounded to 1."""
        return self._classify(self.images)

    def _classify(self, images: Tensor) -> Tensor:
        assert self._classifier is not None
        return answers(self._classifier, images).double()

    @cached_property
    def mean_reconstruction_logits(self) -> Tensor:
        """The classifier's logits of `mean_reconstruction`, (n, classes) float64."""
        return self._classify(self.mean_reconstruction)

    @cached_property
    def compressed(self) -> Tensor:
        """Bytes of each image's 8-bit pixels after LZMA, without headers, (n,).

        Of the codes at hand the shortest (MNIST: 174 bytes, DEFLATE 181, bzip2 235). PNG's filters would lengthen it:
        they predict smooth surfaces and not strokes on a blank ground.
        """
        pixels = (self.images * 255).round().to(torch.uint8).flatten(1).cpu().numpy()
        sizes = [float(len(lzma.compress(row.tobytes(), lzma.FORMAT_RAW, filters=_LZMA))) for row in pixels]
        return torch.tensor(sizes, device=self.images.device)
