"""Training of the reference models in one loop, with the data set in memory.

The same seed gives the same weights on the same machine and number of threads; on a GPU only if
`torch.backends.cudnn.deterministic` is set, as `pytest claims` does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, pad

from vaecore._check import check_choice, check_seed, check_type
from vaecore._modes import in_any_mode
from vaecore.data._augment import distort
from vaecore.data._images import Images, check_is_images
from vaecore.models._colour import SIDES, ConvVAE, ConvVAEConfig, ResidualClassifier, ResidualConfig
from vaecore.models._kinds import (
    AnyClassifier,
    AnyClassifierConfig,
    AnyVAE,
    AnyVAEConfig,
    classifier_of,
    vae_of,
)
from vaecore.models._networks import Augmentation, ClassifierConfig, TrainingConfig, VAEConfig

Progress = Callable[[int, int], None]
"""Called after each step with the number of steps done and the total number."""

Model = TypeVar("Model", bound=nn.Module)

# Images that the convolutional VAE and the residual classifier see in all epochs together, where these are neither so
# few nor so many that the least or the greatest number of epochs counts.
_SEEN = 270_000, 378_000

SMALL = 10_000  # training images; smaller sets are trained on for more epochs, with stronger augmentation


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def reference_configs(train: Images) -> tuple[AnyVAEConfig, AnyClassifierConfig]:
    """Settings of the reference models for a training set.

    Colour images whose sides are multiples of 8 get the convolutional VAE and the residual classifier, for more epochs
    the fewer they are; these mirror images in training, so give settings with another augmentation where a mirrored
    image is another one, as of characters. All others get the fully connected VAE and the small classifier, with the
    settings for MNIST or, below 10,000 images, for `digits`. Raises TypeError unless `train` is Images.
    """
    check_is_images("train", train)
    channels, *sides = train.shape
    if channels > 1 and not any(side % SIDES for side in sides):
        return (
            ConvVAEConfig(epochs=_between(10, _SEEN[0] // len(train), 40)),
            ResidualConfig(epochs=_between(10, _SEEN[1] // len(train), 60)),
        )
    if len(train) >= SMALL:
        return VAEConfig(), ClassifierConfig()
    return (
        VAEConfig(epochs=max(1, 100_000 // len(train)), batch_size=100, learning_rate=4e-3, augmentation="distort"),
        ClassifierConfig(
            epochs=max(1, 30_000 // len(train)), batch_size=50, learning_rate=4e-3, augmentation="distort"
        ),
    )


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def vae_settings(train: Images, config: AnyVAEConfig | None) -> AnyVAEConfig:
    """The settings to train a VAE with, by default those of `reference_configs`; raises TypeError for other types."""
    default = reference_configs(train)[0]
    check_type("config", default if config is None else config, (VAEConfig, ConvVAEConfig))
    return default if config is None else config


def classifier_settings(train: Images, config: AnyClassifierConfig | None) -> AnyClassifierConfig:
    """As `vae_settings`, for a classifier."""
    default = reference_configs(train)[1]
    check_type("config", default if config is None else config, (ClassifierConfig, ResidualConfig))
    return default if config is None else config


@in_any_mode
def fit_vae(
    train: Images,
    config: AnyVAEConfig | None = None,
    *,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> AnyVAE:
    """Train a reference VAE on the evidence lower bound; returned on `device` (default: GPU if any), eval mode.

    Loss: -log p(x | z) + beta KL(q(z | x) || p(z)), summed over pixels and latents, averaged over images, in nats
    (Kingma and Welling 2014, equation 10, one draw). config: its type chooses the model; None for that of
    `reference_configs`. Raises ValueError if the loss is no longer finite, and TypeError for arguments of other types.
    """
    config = vae_settings(train, config)
    unlabelled = torch.zeros(len(train), dtype=torch.int64)

    def loss(model: AnyVAE, pixels: Tensor, _: Tensor) -> Tensor:
        mean, log_variance = model.encode(pixels)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        error = reconstruction_error(model, pixels, latents)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (error + config.beta * kl) / len(pixels)

    with seeded(seed, device) as place:
        model = vae_of(config, train.shape).to(place)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
        return fit(model, loss, optimizer, config, train.pixels, unlabelled, device=place, progress=progress)


def reconstruction_error(model: AnyVAE, pixels: Tensor, latents: Tensor) -> Tensor:
    """-log p(x | z) in nats, summed over images (n, c, h, w), of their latents (n, latent)."""
    if isinstance(model, ConvVAE):
        return -model.log_density(pixels, model.decode(latents).unsqueeze(1)).sum()
    return binary_cross_entropy_with_logits(model.decode_logits(latents), pixels.flatten(1), reduction="sum")


@in_any_mode
def fit_classifier(
    train: Images,
    config: AnyClassifierConfig | None = None,
    *,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> AnyClassifier:
    """Train a reference classifier on cross-entropy; returned on `device` (default: GPU if any), eval mode.

    config: its type chooses the model; None for that of `reference_configs`. Raises ValueError without labels, or if
    the loss is no longer finite, and TypeError for arguments of other types.
    """

    config = classifier_settings(train, config)
    smoothing = config.label_smoothing if isinstance(config, ResidualConfig) else 0.0

    def loss(model: AnyClassifier, pixels: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(model(pixels), labels, label_smoothing=smoothing)

    return fit_classifier_on(loss, train, config, seed=seed, device=device, progress=progress)


def fit_classifier_on(
    loss: Callable[[AnyClassifier, Tensor, Tensor], Tensor],
    train: Images,
    config: AnyClassifierConfig,
    *,
    seed: int,
    device: torch.device | str | None,
    progress: Progress | None,
) -> AnyClassifier:
    """Train a reference classifier by a loss of (model, pixels, labels); otherwise as `fit_classifier`."""
    labels, classes = train.labels, train.classes
    if labels is None or classes is None:
        raise ValueError(f"a classifier needs labels; the training images of {train.name} have none")
    if classes < 2:
        raise ValueError(f"a classifier needs two classes or more; got the label 0 alone in {train.name}")
    with seeded(seed, device) as place:
        model = classifier_of(config, train.shape, classes).to(place)
        if isinstance(model, ResidualClassifier):
            model.normalise()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        fitted = fit(model, loss, optimizer, config, train.pixels, labels, device=place, progress=progress)
        if isinstance(fitted, ResidualClassifier):
            fitted.fold()
        return fitted


def fit(
    model: Model,
    loss: Callable[[Model, Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    pixels: Tensor,
    labels: Tensor,
    *,
    device: torch.device,
    progress: Progress | None,
) -> Model:
    """Train a model by its loss of (model, pixels, labels) with a one-cycle schedule; returned in eval mode."""
    pixels, labels = pixels.to(device), labels.to(device)
    batch_size = min(config.batch_size, len(pixels))
    steps = config.epochs * (len(pixels) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    model.train()
    total = torch.zeros((), device=device)
    for step, rows in enumerate(_batches(len(pixels), batch_size, config.epochs), start=1):
        batch = augment(pixels[rows], config.augmentation)
        value = loss(model, batch, labels[rows])
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        total += value.detach()
        if progress is not None:
            progress(step, steps)
    if not bool(torch.isfinite(total)):
        raise ValueError(
            f"training must keep a finite loss; it diverged (is learning_rate={config.learning_rate} too high?)"
        )
    return model.requires_grad_(requires_grad=False).eval()


def _batches(count: int, batch_size: int, epochs: int) -> Iterator[Tensor]:
    """Rows of each batch, in a new order each epoch, without the incomplete last batch."""
    for _ in range(epochs):
        order = torch.randperm(count)
        yield from torch.split(order[: count - count % batch_size], batch_size)


def augment(pixels: Tensor, kind: Augmentation) -> Tensor:
    """Random changes of training images.

    "shift" by up to one pixel, "distort" by affine and elastic maps, "flip" for photographs: half of them mirrored, and
    all shifted by up to an eighth of the shorter side, with mirrored edges.
    """
    check_choice("augmentation", kind, get_args(Augmentation))
    if kind == "none":
        return pixels
    if kind == "distort":
        return distort(pixels, torch.Generator(pixels.device).manual_seed(int(torch.randint(2**62, ()))))
    height, width = pixels.shape[-2:]
    most, edges = (min(height, width) // 8, "reflect") if kind == "flip" else (1, "constant")
    down, right = torch.randint(2 * most + 1, (2, len(pixels), 1), device=pixels.device)
    rows = (down + torch.arange(height, device=pixels.device))[:, None, :, None]
    columns = (right + torch.arange(width, device=pixels.device))[:, None, None, :]
    if kind == "flip":
        mirrored = torch.rand(len(pixels), 1, 1, 1, device=pixels.device) < 0.5
        columns = columns.flip(3).where(mirrored, columns)
    image = torch.arange(len(pixels), device=pixels.device)[:, None, None, None]
    channel = torch.arange(pixels.shape[1], device=pixels.device)[:, None, None]
    return pad(pixels, (most, most, most, most), edges)[image, channel, rows, columns]


@contextmanager
def seeded(seed: int, device: torch.device | str | None) -> Iterator[torch.device]:
    """Seed torch's global generators, for initialisation, dropout and augmentation, and restore them afterwards."""
    place = default_device() if device is None else _device(device)
    # torch.manual_seed seeds every GPU, so all that are in use are restored.
    used = range(torch.cuda.device_count()) if place.type == "cuda" or torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=used):
        torch.manual_seed(check_seed(seed))
        yield place


def _device(name: torch.device | str) -> torch.device:
    """The device of this name; raises ValueError unless torch can use it here."""
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:  # no name of a device, or of one that is not there
        raise ValueError(f"device must be one that torch can use here, as 'cpu'; got {name!r} ({error})") from error
    return place
