"""Anomaly scores with one interface and one direction: higher is more anomalous."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from vaecore._check import check_classifier, check_images, check_integer, check_seed, check_type, check_vae
from vaecore._modes import in_any_mode
from vaecore._noise import image_indices, seed_for, words
from vaecore.attacks._detector import magnet_divergence
from vaecore.models._networks import Autoencoder, Classify
from vaecore.reconstruction._reconstruct import distinct_labels
from vaecore.scoring import _learned
from vaecore.scoring._features import Features, OfDraws, Settings

Need = Literal["vae", "classifier", "training images", "a VAE with weights, a torch.nn.Module"]

# Images whose features are computed at once.
_CHUNK = {"cpu": 250, "cuda": 8_192}
# Training images for a mean or one-dimensional density where each image costs many draws; more would not help.
_ENOUGH = 2_000


@dataclass(frozen=True)
class Score:
    """An anomaly score. Call it to compute this score only; use `fit_scores` for several.

    name: its key in `scores`. description: one sentence. source: the publication. needs: the models and data it needs.
    expensive: it takes milliseconds an image, and is computed only where it is named.
    """

    name: str
    description: str
    source: str
    needs: tuple[Need, ...]
    look: Callable[[Features], Tensor] = field(repr=False)  # the scores, or the feature for `learn`
    learn: Callable[[Tensor, Settings], _learned.Judge] | None = field(default=None, repr=False)  # from training images
    learn_from: int | None = field(default=None, repr=False)  # largest number of training images
    of_draws: tuple[OfDraws, ...] = field(default=(), repr=False)  # see `Features`
    expensive: bool = False

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

        classifier, train (training images), settings: as in `fit_scores`. first_index, indices: as in `reconstruct`.
        """
        fitted = fit_scores(vae, classifier, train, seed=seed, names=[self.name], **settings)
        return fitted(images, first_index=first_index, indices=indices)[self.name]


@dataclass(frozen=True, eq=False)
class FittedScores:
    """Scores with their models, fitted on training images. Made by `fit_scores`."""

    names: tuple[str, ...]
    vae: Autoencoder | None
    classifier: Classify | None
    seed: int
    settings: Settings
    image_shape: torch.Size | None  # of the training images, None without them
    judges: Mapping[str, _learned.Judge] = field(repr=False)

    def __repr__(self) -> str:
        """The scores, the seed, and the types of the models."""
        models = {"vae": self.vae, "classifier": self.classifier}
        given = [f"{name}={type(model).__name__}" for name, model in models.items() if model is not None]
        return f"FittedScores({', '.join([*self.names, f'seed={self.seed}', *given])})"

    @in_any_mode
    def __call__(
        self, images: Tensor, *, first_index: int = 0, indices: Tensor | None = None, chunk: int | None = None
    ) -> dict[str, Tensor]:
        """Scores by name, each (n,) float32 on the images' device; higher is more anomalous.

        images: (n, c, h, w) in [0, 1]. first_index, indices, chunk: as in `reconstruct`. An image's scores do not
        depend on other images.
        """
        images = _check_shape(images, self.image_shape)
        index = image_indices(len(images), first_index, indices).to(images.device)
        chunk = check_integer("chunk", _chunk(images) if chunk is None else chunk, 1)
        found = {name: images.new_empty(len(images)) for name in self.names}
        with torch.no_grad():
            for start in range(0, len(images), chunk):
                rows = slice(start, start + chunk)
                # In place: small results that stay would keep the memory of the large ones that go from being used.
                for name, values in self.look(images[rows], index[rows], seed=self.seed, names=self.names).items():
                    found[name][rows] = values
        return found

    def look(self, rows: Tensor, index: Tensor, *, seed: int, names: Iterable[str]) -> dict[str, Tensor]:
        """Scores of one chunk of images with draws of a seed, differentiable where a score is, without any checks."""
        of_draws = {part for name in names for part in scores[name].of_draws}
        features = Features(
            self.vae, self.classifier, rows, index, seed=seed, settings=self.settings, of_draws=of_draws
        )
        values = {name: scores[name].look(features) for name in names}
        return {
            name: (self.judges[name](value) if name in self.judges else value).float() for name, value in values.items()
        }


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
    regret_steps: int = 100,
    posterior_steps: int = 20,
    regret_draws: int = 32,
) -> FittedScores:
    """Prepare scores, all but the expensive ones or those in `names`, and fit those that need training images.

    Expensive (`Score.expensive`) are the two regrets. On MNIST and one core an image takes 8 ms of likelihood-regret,
    of a VAE of a class of one's own 60, and 1 of posterior-regret; of all others together 0.5. With the reference VAE
    on colour images of 32x32, likelihood-regret takes 200 ms, posterior-regret 25, all others together 6.

    vae, classifier, train_images (m, c, h, w): may be None if no score needs them (see `Score.needs`). The latent
    scores are fitted on all training images, typicality and density of states on 2,000 of them, chosen by the seed.
    seed: of the draws, which are those of `reconstruct`; training images get other draws.

    draws: reconstructions of each image. importance_draws: of the log-likelihood; the first are the same draws.
    neighbours: k of the k-th nearest latent. regret_steps: of likelihood-regret; posterior_steps: of posterior-regret;
    regret_draws: of both. The defaults are those of `likelihood_regret`.
    Raises ValueError for an unknown name, and if a model or training images are needed and missing.
    """
    settings, seed = (
        Settings(draws, importance_draws, neighbours, regret_steps, posterior_steps, regret_draws),
        check_seed(seed),
    )
    chosen = _chosen(names)
    lacking = lacking_needs(vae, classifier, train_images)
    for need in lacking:
        if needing := [name for name in chosen if need in scores[name].needs]:
            raise ValueError(f"{', '.join(needing)} need {need}; got none (or choose others with names=...)")
    if vae is not None:
        check_vae(vae)
    if classifier is not None:
        check_classifier(classifier)
    judges: dict[str, _learned.Judge] = {}
    if train_images is not None:
        train_images = check_images(train_images, "training images")
        judges = _learn(vae, train_images, seed, settings, chosen)
    shape = None if train_images is None else train_images.shape[1:]
    return FittedScores(chosen, vae, classifier, seed, settings, shape, judges)


def lacking_needs(vae: Autoencoder | None, classifier: Classify | None, train_images: Tensor | None) -> list[Need]:
    """What scores may need (see `Score.needs`) and is not there."""
    there: dict[Need, bool] = {
        "vae": vae is not None,
        "classifier": classifier is not None,
        "training images": train_images is not None,
        _MODULE: isinstance(vae, nn.Module) and any(True for _ in vae.parameters()),
    }
    return [need for need, is_there in there.items() if not is_there]


def _learn(
    vae: Autoencoder | None, train: Tensor, seed: int, settings: Settings, names: tuple[str, ...]
) -> dict[str, _learned.Judge]:
    learning = {name: learn for name in names if (learn := scores[name].learn) is not None}
    seed = seed_for("scores/training-images", seed)
    total, chunk = len(train), _chunk(train)
    counts = {name: min(total, scores[name].learn_from or total) for name in learning}
    # In random order, so that the first images are a sample.
    order = words(seed, torch.arange(total), draws=1, size=1).flatten().argsort().to(train.device)
    parts: dict[str, list[Tensor]] = {name: [] for name in learning}
    with torch.no_grad():
        for start in range(0, max(counts.values(), default=0), chunk):
            rows = order[start : start + chunk]
            features = Features(vae, None, train[rows], rows, seed=seed, settings=settings)
            for name in learning:
                if start < counts[name]:
                    parts[name].append(scores[name].look(features))
        return {name: learn(torch.cat(parts[name])[: counts[name]], settings) for name, learn in learning.items()}


def _chosen(names: Iterable[str] | None) -> tuple[str, ...]:
    if names is not None:
        check_type("names", names, Iterable, "names=['mse', 'kl']")
    if names is None:
        names = [name for name, score in scores.items() if not score.expensive]
    chosen = tuple(dict.fromkeys([names] if isinstance(names, str) else names))
    if not chosen:
        raise ValueError(f"names must name a score or more; got none (known: {', '.join(scores)})")
    if unknown := [name for name in chosen if name not in scores]:
        raise ValueError(f"names must be among {', '.join(scores)}; got {', '.join(map(repr, unknown))}")
    return chosen


def _chunk(images: Tensor) -> int:
    return _CHUNK.get(images.device.type, 1_024)


def _check_shape(images: Tensor, expected: torch.Size | None) -> Tensor:
    images = check_images(images)
    if expected is not None and images.shape[1:] != expected:
        raise ValueError(
            f"images must be shaped as the training images, {tuple(expected)}; got {tuple(images.shape[1:])}"
            " (resize or pad them first)"
        )
    return images


def _relative_mse(features: Features) -> Tensor:
    energy = features.images.square().mean(dim=(1, 2, 3))
    return features.mse / energy.clamp(min=1e-19)  # a blank image scores highest, and finitely


def _disagreement(features: Features) -> Tensor:
    label = features.logits.argmax(dim=1).view(-1, 1, 1).expand(-1, features.drawn_logits.shape[1], 1)
    return 1 - features.drawn_logits.softmax(dim=2).gather(2, label).mean(dim=(1, 2))


def _divergence(features: Features) -> Tensor:
    return magnet_divergence(features.logits, features.mean_reconstruction_logits)


def _nearest(latents: Tensor, settings: Settings) -> _learned.Judge:
    return _learned.kth_nearest(latents, settings.neighbours)


_VAE: tuple[Need, ...] = ("vae",)
_MODULE: Need = "a VAE with weights, a torch.nn.Module"
_FITTED: tuple[Need, ...] = ("vae", "training images")
_BOTH: tuple[Need, ...] = ("vae", "classifier")
_CLASSIFIER: tuple[Need, ...] = ("classifier",)
_NO_SOURCE = "no single source"

_SCORES = (
    Score(
        "mse",
        "Squared error of reconstructions, mean over pixels and draws.",
        "Sakurada and Yairi 2014, for autoencoders",
        _VAE,
        lambda features: features.mse,
    ),
    Score(
        "bce",
        "Minus the log-density of reconstructions in nats, mean over pixels and draws; binary cross-entropy for grey.",
        "An and Cho 2015: minus the reconstruction probability",
        _VAE,
        lambda features: -features.log_density.mean(dim=1) / features.images[0].numel(),
    ),
    Score("relative-mse", "MSE over the image's mean squared pixel.", _NO_SOURCE, _VAE, _relative_mse),
    Score(
        "elbo", "Minus the ELBO in nats.", "Kingma and Welling 2014, equation 3", _VAE, lambda features: -features.elbo
    ),
    Score(
        "log-likelihood",
        "Minus the importance-weighted bound on the log-likelihood in nats.",
        "Burda et al. 2016, equation 8",
        _VAE,
        lambda features: -features.log_likelihood,
    ),
    Score(
        "kl",
        "KL divergence from posterior to prior in nats.",
        "Kingma and Welling 2014, appendix B",
        _VAE,
        lambda features: features.kl,
    ),
    Score(
        "latent-norm",
        "Euclidean norm of the posterior mean.",
        _NO_SOURCE,
        _VAE,
        lambda features: torch.linalg.vector_norm(features.encoded[0], dim=1),
    ),
    Score(
        "log-variance",
        "Minus the posterior's mean log-variance: images far from training data get narrow posteriors.",
        _NO_SOURCE,
        _VAE,
        lambda features: -features.encoded[1].mean(dim=1),
    ),
    Score(
        "mahalanobis",
        "Mahalanobis distance of the posterior mean to the training images' aggregate posterior.",
        "Denouden et al. 2018, who use the posterior means only",
        _FITTED,
        lambda features: features.moments,
        lambda moments, _: _learned.aggregate_distance(moments),
    ),
    Score(
        "latent-knn",
        "Euclidean distance of the posterior mean to the k-th nearest of the training images.",
        "Sun et al. 2022, who use normalised features of a classifier",
        _FITTED,
        lambda features: features.encoded[0],
        _nearest,
    ),
    Score(
        "typicality",
        "Distance of the log-likelihood from its mean over training images, in nats.",
        "Nalisnick et al. 2019, for single images",
        _FITTED,
        lambda features: features.log_likelihood,
        lambda likelihood, _: _learned.typicality(likelihood),
        _ENOUGH,
    ),
    Score(
        "input-complexity",
        "Bits that the VAE takes for the image's 8-bit pixels, minus those of the compressed image.",
        "Serra et al. 2020; with LZMA, and for grey a continuous Bernoulli density (Loaiza-Ganem and Cunningham 2019)",
        _VAE,
        lambda features: features.code_length - 8 * features.compressed,
        of_draws=("normaliser",),
    ),
    Score(
        "likelihood-regret",
        "Nats that the ELBO gains by an encoder optimised for the image.",
        "Xiao et al. 2020",
        ("vae", _MODULE),
        lambda features: features.regret("encoder"),
        expensive=True,
    ),
    Score(
        "posterior-regret",
        "Nats that the ELBO gains by a posterior optimised for the image.",
        "Xiao et al. 2020, who optimise encoders",
        _VAE,
        lambda features: features.regret("posterior"),
        expensive=True,
    ),
    Score(
        "density-of-states",
        "Minus the log-density, by kernels, of five statistics of the VAE, taken as independent.",
        "Morningstar et al. 2021, DoSE-KDE; with Scott's bandwidth and 2,000 training images",
        _FITTED,
        lambda features: features.states,
        lambda states, _: _learned.rarity(states),
        _ENOUGH,
    ),
    Score(
        "distinct-labels",
        "Number of distinct labels that the classifier gives the draws.",
        "Majumdar 2020, finding A",
        _BOTH,
        lambda features: distinct_labels(features.drawn_logits.argmax(dim=2)),
        of_draws=("logits",),
    ),
    Score(
        "disagreement",
        "One minus the probability, mean over draws, of the image's own label.",
        "Majumdar 2020, finding A",
        _BOTH,
        _disagreement,
        of_draws=("logits",),
    ),
    Score(
        "magnet-error",
        "Absolute error of the image decoded from the posterior mean, mean over pixels.",
        "Meng and Chen 2017, equation 1, p = 1; with a VAE's mean for their autoencoder",
        _VAE,
        lambda features: (features.images - features.mean_reconstruction).abs().mean(dim=(1, 2, 3)),
    ),
    Score(
        "magnet-divergence",
        "Jensen-Shannon divergence in nats of the classifier's softmax at temperature 10, of the image and of the image"
        " decoded from the posterior mean.",
        "Meng and Chen 2017, section 5.3; with a VAE's mean for their autoencoder",
        _BOTH,
        _divergence,
    ),
    Score(
        "mean-pixel",
        "Mean pixel: much ink is anomalous.",
        _NO_SOURCE,
        (),
        lambda features: features.images.mean(dim=(1, 2, 3)),
    ),
    Score(
        "zeros",
        "Minus the fraction of pixels that are exactly 0: few blank pixels are anomalous.",
        _NO_SOURCE,
        (),
        lambda features: -(features.images == 0).float().mean(dim=(1, 2, 3)),
    ),
    Score(
        "compressed-size",
        "Bytes of the image's 8-bit pixels after LZMA.",
        "Serra et al. 2020, as the complexity",
        (),
        lambda features: features.compressed,
    ),
    Score(
        "max-softmax",
        "One minus the classifier's largest probability.",
        "Hendrycks and Gimpel 2017",
        _CLASSIFIER,
        lambda features: 1 - features.logits.softmax(dim=1).amax(dim=1),
    ),
    Score(
        "energy",
        "Minus the log-sum-exp of the classifier's logits.",
        "Liu et al. 2020, at temperature 1",
        _CLASSIFIER,
        lambda features: -features.logits.logsumexp(dim=1),
    ),
)


class _ByName(Mapping[str, Score]):
    """Scores by their names, which are all that it shows."""

    def __init__(self, rows: Iterable[Score]) -> None:
        self._rows = {score.name: score for score in rows}

    def __getitem__(self, name: str) -> Score:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"scores({', '.join(self._rows)})"


scores: Mapping[str, Score] = _ByName(_SCORES)
"""Every score by its name."""
