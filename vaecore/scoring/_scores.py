"""Anomaly scores under one interface and one sign: whatever the score, higher is more anomalous."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from vaecore._check import check_classifier, check_images
from vaecore._noise import image_indices, seed_for, words
from vaecore.models._networks import Autoencoder, Classify
from vaecore.reconstruction._reconstruct import distinct_labels
from vaecore.scoring import _learned as _fitted
from vaecore.scoring._features import Features, Settings

Need = Literal["vae", "classifier", "training images"]

# Images whose features are kept at once: enough to share the cost of calls.
_CHUNK = {"cpu": 250, "cuda": 8_192}
# Training images that a mean, or a density of one dimension, is fitted on where each costs all its draws: the error is
# far below what tells images apart.
_ENOUGH = 2_000


@dataclass(frozen=True)
class Score:
    """A score of how anomalous an image is; call it for that score alone, or `fit_scores` for several.

    name: its key in `scores`. description: what it is, in a sentence. source: where it is from. needs: models and data.
    """

    name: str
    description: str
    source: str
    needs: tuple[Need, ...]
    look: Callable[[Features], Tensor] = field(repr=False)  # the scores, or what `learn` learns from and then judges
    learn: Callable[[Tensor, Settings], _fitted.Judge] | None = field(default=None, repr=False)
    learn_from: int | None = field(default=None, repr=False)  # training images at most

    def __call__(
        self,
        vae: Autoencoder | None,
        images: Tensor,
        *,
        seed: int,
        classifier: Classify | None = None,
        train: Tensor | None = None,
        first_index: int = 0,
        indices: Tensor | None = None,
        **settings: int,
    ) -> Tensor:
        """Scores of images (n, c, h, w), (n,) float32; higher is more anomalous.

        classifier, train (training images), settings: as in `fit_scores`; first_index, indices as in `reconstruct`.
        """
        fitted = fit_scores(vae, classifier, train, seed=seed, names=[self.name], **settings)
        return fitted(images, first_index=first_index, indices=indices)[self.name]


@dataclass(frozen=True, eq=False)
class FittedScores:
    """Scores ready for any images: models, and what was learnt from training images. Made by `fit_scores`."""

    names: tuple[str, ...]
    vae: Autoencoder | None
    classifier: Classify | None
    seed: int
    settings: Settings
    image_shape: torch.Size | None  # of the training images, where there are any
    judges: Mapping[str, _fitted.Judge] = field(repr=False)

    def __call__(
        self, images: Tensor, *, first_index: int = 0, indices: Tensor | None = None, chunk: int | None = None
    ) -> dict[str, Tensor]:
        """Scores by name, each (n,) float32 on the images' device; higher is more anomalous.

        images: (n, c, h, w) in [0, 1]. first_index, indices, chunk: as in `reconstruct`; an image's scores depend on
        no other image.
        """
        _check_shape(images, self.image_shape)
        index = image_indices(len(images), first_index, indices).to(images.device)
        if chunk is None:
            chunk = _chunk(images)
        elif chunk < 1:
            raise ValueError(f"chunk must be 1 or more images; got {chunk}")
        parts: dict[str, list[Tensor]] = {name: [] for name in self.names}
        label = any({"vae", "classifier"} <= {*scores[name].needs} for name in self.names)
        with torch.no_grad():
            for rows, at in zip(torch.split(images, chunk), torch.split(index, chunk), strict=True):
                seen = Features(
                    self.vae, self.classifier, rows, at, seed=self.seed, settings=self.settings, label_draws=label
                )
                for name in self.names:
                    looked = scores[name].look(seen)
                    parts[name].append((self.judges[name](looked) if name in self.judges else looked).float())
        return {name: torch.cat(columns) for name, columns in parts.items()}


def fit_scores(
    vae: Autoencoder | None,
    classifier: Classify | None,
    train_images: Tensor | None,
    *,
    seed: int,
    names: Iterable[str] | None = None,
    draws: int = 10,
    importance_draws: int = 16,
    neighbours: int = 10,
    regret_steps: int = 6,
    regret_draws: int = 8,
) -> FittedScores:
    """Prepare scores, all of them or those in `names`, for any images; only training images are learnt from.

    vae, classifier, train_images (m, c, h, w): may be None where no score needs them (see `Score.needs`). The latent
    scores learn from all training images, typicality and density of states from 2,000 of them, chosen by the seed.
    seed: of the draws, which are those of `reconstruct`; training images have others.

    draws: reconstructions of an image. importance_draws: of the log-likelihood; the first of them are those same draws.
    neighbours: k of the k-th nearest latent. regret_steps, regret_draws: of the likelihood regret, the dearest score,
    here fewer than `likelihood_regret` takes by itself.
    Raises ValueError for an unknown name, and for a model or training images that are needed and missing.
    """
    settings = Settings(draws, importance_draws, neighbours, regret_steps, regret_draws)
    chosen = _chosen(names)
    given: dict[Need, object] = {"vae": vae, "classifier": classifier, "training images": train_images}
    for need, value in given.items():
        if value is None and (asking := [name for name in chosen if need in scores[name].needs]):
            raise ValueError(f"{', '.join(asking)} need {need}; got None (or choose others with names=...)")
    if classifier is not None:
        check_classifier(classifier)
    judges: dict[str, _fitted.Judge] = {}
    if train_images is not None:
        check_images(train_images, "training images")
        judges = _learn(vae, train_images, seed, settings, chosen)
    shape = None if train_images is None else train_images.shape[1:]
    return FittedScores(chosen, vae, classifier, seed, settings, shape, judges)


def _learn(
    vae: Autoencoder | None, train: Tensor, seed: int, settings: Settings, names: tuple[str, ...]
) -> dict[str, _fitted.Judge]:
    learning = {name: learn for name in names if (learn := scores[name].learn) is not None}
    seed = seed_for("scores/training-images", seed)
    count, chunk = len(train), _chunk(train)
    wanted = {name: min(count, scores[name].learn_from or count) for name in learning}
    # In random order, so that the first are a sample whatever order the set came in.
    order = words(seed, torch.arange(count), draws=1, size=1).flatten().argsort().to(train.device)
    parts: dict[str, list[Tensor]] = {name: [] for name in learning}
    with torch.no_grad():
        for start in range(0, max(wanted.values(), default=0), chunk):
            at = order[start : start + chunk]
            seen = Features(vae, None, train[at], at, seed=seed, settings=settings, label_draws=False)
            for name in learning:
                if start < wanted[name]:
                    parts[name].append(scores[name].look(seen))
        return {name: learn(torch.cat(parts[name])[: wanted[name]], settings) for name, learn in learning.items()}


def _chosen(names: Iterable[str] | None) -> tuple[str, ...]:
    chosen = tuple(scores) if names is None else tuple(dict.fromkeys([names] if isinstance(names, str) else names))
    if not chosen:
        raise ValueError(f"names must name a score or more; got none (known: {', '.join(scores)})")
    if unknown := [name for name in chosen if name not in scores]:
        raise ValueError(f"names must be among {', '.join(scores)}; got {', '.join(map(repr, unknown))}")
    return chosen


def _chunk(images: Tensor) -> int:
    return _CHUNK.get(images.device.type, 1_024)


def _check_shape(images: Tensor, wanted: torch.Size | None) -> None:
    check_images(images)
    if wanted is not None and images.shape[1:] != wanted:
        raise ValueError(
            f"images must be shaped as the training images, {tuple(wanted)}; got {tuple(images.shape[1:])}"
            " (resize or pad them first)"
        )


def _relative_mse(seen: Features) -> Tensor:
    energy = seen.images.square().mean(dim=(1, 2, 3))
    return seen.mse / energy.clamp(min=1e-19)  # a blank image scores highest, and finitely


def _disagreement(seen: Features) -> Tensor:
    own = seen.logits.argmax(dim=1).view(-1, 1, 1).expand(-1, seen.drawn_logits.shape[1], 1)
    return 1 - seen.drawn_logits.softmax(dim=2).gather(2, own).mean(dim=(1, 2))


def _nearest(latents: Tensor, settings: Settings) -> _fitted.Judge:
    return _fitted.kth_nearest(latents, settings.neighbours)


_VAE: tuple[Need, ...] = ("vae",)
_TAUGHT: tuple[Need, ...] = ("vae", "training images")
_BOTH: tuple[Need, ...] = ("vae", "classifier")
_CLASSIFIER: tuple[Need, ...] = ("classifier",)
_OWN = "no one source"

_KNOWN = (
    Score(
        "mse",
        "Squared error of reconstructions, mean over pixels and draws.",
        "Sakurada and Yairi 2014, for autoencoders",
        _VAE,
        lambda seen: seen.mse,
    ),
    Score(
        "bce",
        "Binary cross-entropy of reconstructions in nats, mean over pixels and draws.",
        "An and Cho 2015: minus the reconstruction probability",
        _VAE,
        lambda seen: -seen.log_density.mean(dim=1) / seen.images[0].numel(),
    ),
    Score("relative-mse", "MSE over the image's mean squared pixel.", _OWN, _VAE, _relative_mse),
    Score("elbo", "Minus the ELBO in nats.", "Kingma and Welling 2014, equation 3", _VAE, lambda seen: -seen.elbo),
    Score(
        "log-likelihood",
        "Minus the importance-weighted bound on the log-likelihood in nats.",
        "Burda et al. 2016, equation 8",
        _VAE,
        lambda seen: -seen.log_likelihood,
    ),
    Score(
        "kl",
        "KL divergence from posterior to prior in nats.",
        "Kingma and Welling 2014, appendix B",
        _VAE,
        lambda seen: seen.kl,
    ),
    Score(
        "latent-norm",
        "Euclidean norm of the posterior mean.",
        _OWN,
        _VAE,
        lambda seen: torch.linalg.vector_norm(seen.encoded[0], dim=1),
    ),
    Score(
        "log-variance",
        "Minus the posterior's mean log-variance: images far from training data get narrow posteriors.",
        _OWN,
        _VAE,
        lambda seen: -seen.encoded[1].mean(dim=1),
    ),
    Score(
        "mahalanobis",
        "Mahalanobis distance of the posterior mean to the training images' aggregate posterior.",
        "Denouden et al. 2018, there to the posterior means alone",
        _TAUGHT,
        lambda seen: seen.moments,
        lambda moments, _: _fitted.aggregate_distance(moments),
    ),
    Score(
        "latent-knn",
        "Euclidean distance of the posterior mean to the k-th nearest of the training images.",
        "Sun et al. 2022, there for normalised features of a classifier",
        _TAUGHT,
        lambda seen: seen.encoded[0],
        _nearest,
    ),
    Score(
        "typicality",
        "Distance of the log-likelihood from its mean over training images, in nats.",
        "Nalisnick et al. 2019, for one image at a time",
        _TAUGHT,
        lambda seen: seen.log_likelihood,
        lambda likelihood, _: _fitted.typicality(likelihood),
        _ENOUGH,
    ),
    Score(
        "input-complexity",
        "Minus the log-likelihood in bits, minus the bits of the compressed image.",
        "Serra et al. 2020; with zlib, and the likelihood of grey pixels as Bernoulli probabilities",
        _VAE,
        lambda seen: -seen.log_likelihood / math.log(2) - 8 * seen.compressed,
    ),
    Score(
        "likelihood-regret",
        "Nats that the ELBO gains by a posterior optimised for the image.",
        "Xiao et al. 2020; posteriors optimised, not encoders",
        _VAE,
        lambda seen: seen.regret,
    ),
    Score(
        "density-of-states",
        "Minus the log-density, by kernels, of five statistics of the VAE, taken as independent.",
        "Morningstar et al. 2021, DoSE-KDE; Scott's bandwidth, 2,000 training images",
        _TAUGHT,
        lambda seen: seen.states,
        lambda states, _: _fitted.rarity(states),
        _ENOUGH,
    ),
    Score(
        "distinct-labels",
        "Number of distinct labels that the classifier gives the draws.",
        "study, finding A",
        _BOTH,
        lambda seen: distinct_labels(seen.drawn_logits.argmax(dim=2)),
    ),
    Score(
        "disagreement",
        "One minus the probability, mean over draws, of the label that the image itself is given.",
        "study, finding A",
        _BOTH,
        _disagreement,
    ),
    Score("mean-pixel", "Mean pixel: much ink is anomalous.", _OWN, (), lambda seen: seen.images.mean(dim=(1, 2, 3))),
    Score(
        "zeros",
        "Minus the fraction of pixels that are exactly 0: few blank pixels are anomalous, as is much ink.",
        _OWN,
        (),
        lambda seen: -(seen.images == 0).float().mean(dim=(1, 2, 3)),
    ),
    Score(
        "compressed-size",
        "Bytes of the image's 8-bit pixels after zlib at its default level.",
        "Serra et al. 2020, as the complexity",
        (),
        lambda seen: seen.compressed,
    ),
    Score(
        "max-softmax",
        "One minus the classifier's largest probability.",
        "Hendrycks and Gimpel 2017",
        _CLASSIFIER,
        lambda seen: 1 - seen.logits.softmax(dim=1).amax(dim=1),
    ),
    Score(
        "energy",
        "Minus the log-sum-exp of the classifier's logits.",
        "Liu et al. 2020, at temperature 1",
        _CLASSIFIER,
        lambda seen: -seen.logits.logsumexp(dim=1),
    ),
)

scores: Mapping[str, Score] = MappingProxyType({score.name: score for score in _KNOWN})
"""Every score by its name."""
