"""Adversarial training of the reference classifier, a yardstick for defences."""

from dataclasses import replace
from itertools import count

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vaecore._check import check_number
from vaecore._modes import in_any_mode
from vaecore.data._images import Images
from vaecore.models._colour import ResidualConfig
from vaecore.models._kinds import AnyClassifier, AnyClassifierConfig
from vaecore.models._training import SMALL, Progress, classifier_settings, fit_classifier_on, reference_configs

_STEPS, _STEP = 5, 0.3  # of PGD; its step size in epsilon
# Share of the training in which epsilon grows to its size: with 0.3 from the start the network learns nothing on MNIST.
_GROWTH = 0.3


def robust_config(train: Images) -> AnyClassifierConfig:
    """Settings of adversarial training.

    The small classifier is trained without dropout and augmentation, in smaller batches; the residual classifier for a
    quarter of the epochs and without label smoothing.
    """
    plain = reference_configs(train)[1]
    if isinstance(plain, ResidualConfig):
        return replace(plain, epochs=max(1, plain.epochs // 4), label_smoothing=0.0)
    return replace(
        plain,
        dropout=0.0,
        epochs=2 if len(train) >= SMALL else plain.epochs,
        batch_size=min(100, plain.batch_size),
        learning_rate=7e-3,
        weight_decay=1e-4,
        augmentation="none",
    )


@in_any_mode
def fit_robust(
    train: Images,
    config: AnyClassifierConfig | None = None,
    *,
    epsilon: float,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> AnyClassifier:
    """Train a reference classifier on images moved by PGD from a random start within `epsilon` (L-infinity).

    PGD takes five steps. `epsilon` grows to its size over the first 30% of the training. config: by default that of
    `robust_config`. Returned on `device` (default: GPU if any), eval mode. Raises as `fit_classifier` does.
    Source: Madry et al. (2018), equation 2.1.
    """
    check_number("epsilon", epsilon, lambda value: 0 < value <= 1, "above 0 and at most 1")
    config = classifier_settings(train, robust_config(train) if config is None else config)
    growing = _GROWTH * config.epochs * (len(train) // min(config.batch_size, len(train)))
    step = count(1)

    def loss(model: AnyClassifier, pixels: Tensor, labels: Tensor) -> Tensor:
        size = epsilon * min(1.0, next(step) / growing)
        low, high = (pixels - size).clamp(min=0), (pixels + size).clamp(max=1)
        points = low + (high - low) * torch.rand_like(pixels)
        for _ in range(_STEPS):
            points.requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(model(points), labels), points)
            points = (points.detach() + _STEP * size * gradient.sign()).clamp(low, high)
        return cross_entropy(model(points), labels)

    return fit_classifier_on(loss, train, config, seed=seed, device=device, progress=progress)
