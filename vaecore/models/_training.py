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
from vaecore.data._images import Images
from vaecore.models._networks import VAE, Augmentation, Classifier, ClassifierConfig, TrainingConfig, VAEConfig

Progress = Callable[[int, int], None]
"""Called after each step with the number of steps done and the total number."""

Model = TypeVar("Model", bound=nn.Module)
_Config = TypeVar("_Config", VAEConfig, ClassifierConfig)

SMALL = 10_000  # training images; smaller sets are trained on for more epochs, with stronger augmentation


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def reference_configs(train: Images) -> tuple[VAEConfig, ClassifierConfig]:
    """Settings of the reference models for a training set: those for MNIST or, below 10,000 images, for `digits`.

    Raises TypeError unless `train` is Images.
    """
    check_type("train", train, Images, "Images(pixels, labels, name, 'train')")
    if len(train) >= SMALL:
        return VAEConfig(), ClassifierConfig()
    return (
        VAEConfig(epochs=max(1, 100_000 // len(train)), batch_size=100, learning_rate=4e-3, augmentation="distort"),
        ClassifierConfig(
            epochs=max(1, 30_000 // len(train)), batch_size=50, learning_rate=4e-3, augmentation="distort"
        ),
    )


def settings(train: Images, config: _Config | None, kind: type[_Config]) -> _Config:
    """The settings to train with, by default those of `reference_configs`; raises TypeError for other types."""
    defaults = reference_configs(train)
    if config is None:
        return next(default for default in defaults if isinstance(default, kind))
    check_type("config", config, kind)
    return config


@in_any_mode
def fit_vae(
    train: Images,
    config: VAEConfig | None = None,
    *,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> VAE:
    """Train the reference VAE on the evidence lower bound; returned on `device` (default: GPU if any), eval mode.

    Loss: -log p(x | z) + beta KL(q(z | x) || p(z)), summed over pixels and latents, averaged over images, in nats
    (Kingma and Welling 2014, equation 10, one draw). Raises ValueError if the loss is no longer finite, and TypeError
    for arguments of other types.
    """
    config = settings(train, config, VAEConfig)
    unlabelled = torch.zeros(len(train), dtype=torch.int64)

    def loss(model: VAE, pixels: Tensor, _: Tensor) -> Tensor:
        mean, log_variance = model.encode(pixels)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        error = binary_cross_entropy_with_logits(model.decode_logits(latents), pixels.flatten(1), reduction="sum")
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (error + config.beta * kl) / len(pixels)

    with seeded(seed, device) as place:
        model = VAE(config, train.shape).to(place)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
        return fit(model, loss, optimizer, config, train.pixels, unlabelled, device=place, progress=progress)


@in_any_mode
def fit_classifier(
    train: Images,
    config: ClassifierConfig | None = None,
    *,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Train the reference classifier on cross-entropy; returned on `device` (default: GPU if any), eval mode.

    Raises ValueError without labels, or if the loss is no longer finite, and TypeError for arguments of other types.
    """

    def loss(model: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(model(pixels), labels)

    config = settings(train, config, ClassifierConfig)
    return fit_classifier_on(loss, train, config, seed=seed, device=device, progress=progress)


def fit_classifier_on(
    loss: Callable[[Classifier, Tensor, Tensor], Tensor],
    train: Images,
    config: ClassifierConfig,
    *,
    seed: int,
    device: torch.device | str | None,
    progress: Progress | None,
) -> Classifier:
    """Train the reference classifier by a loss of (model, pixels, labels); otherwise as `fit_classifier`."""
    labels, classes = train.labels, train.classes
    if labels is None or classes is None:
        raise ValueError(f"a classifier needs labels; the training images of {train.name} have none")
    if classes < 2:
        raise ValueError(f"a classifier needs two classes or more; got the label 0 alone in {train.name}")
    with seeded(seed, device) as place:
        model = Classifier(config, train.shape, classes).to(place)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        return fit(model, loss, optimizer, config, train.pixels, labels, device=place, progress=progress)


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
    """Random changes of training images: "shift" by up to one pixel, "distort" by affine and elastic maps."""
    check_choice("augmentation", kind, get_args(Augmentation))
    if kind == "none":
        return pixels
    if kind == "distort":
        return distort(pixels, torch.Generator(pixels.device).manual_seed(int(torch.randint(2**62, ()))))
    height, width = pixels.shape[-2:]
    down, right = torch.randint(3, (2, len(pixels), 1), device=pixels.device)
    rows = (down + torch.arange(height, device=pixels.device))[:, None, :, None]
    columns = (right + torch.arange(width, device=pixels.device))[:, None, None, :]
    image = torch.arange(len(pixels), device=pixels.device)[:, None, None, None]
    channel = torch.arange(pixels.shape[1], device=pixels.device)[:, None, None]
    return pad(pixels, (1, 1, 1, 1))[image, channel, rows, columns]


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
