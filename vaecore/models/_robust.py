"""Adversarial training of the reference classifier, a yardstick for defences."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vaecore._check import check_number
from vaecore._modes import in_any_mode
from vaecore.data._images import Images
from vaecore.models._networks import Classifier, ClassifierConfig
from vaecore.models._training import SMALL, Progress, fit_classifier_on, reference_configs, settings

_STEP = 1.25  # of epsilon (Wong et al. 2020, section 4)


def robust_config(train: Images) -> ClassifierConfig:
    """Settings of adversarial training: the reference network without dropout and augmentation, in smaller batches."""
    plain = reference_configs(train)[1]
    return replace(
        plain,
        dropout=0.0,
        epochs=6 if len(train) >= SMALL else plain.epochs,
        batch_size=min(100, plain.batch_size),
        learning_rate=5e-3,
        weight_decay=1e-4,
        augmentation="none",
    )


@in_any_mode
def fit_robust(
    train: Images,
    config: ClassifierConfig | None = None,
    *,
    epsilon: float,
    seed: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Train the reference classifier on images moved by FGSM from a random start within `epsilon` (L-infinity).

    config: by default the reference network without dropout and augmentation. Returned on `device` (default: GPU if
    any), eval mode. Raises as `fit_classifier` does.
    Source: Wong, Rice & Kolter (2020), algorithm 3.
    """
    check_number("epsilon", epsilon, lambda value: 0 < value <= 1, "above 0 and at most 1")
    config = robust_config(train) if config is None else settings(train, config, ClassifierConfig)

    def loss(model: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
        low, high = (pixels - epsilon).clamp(min=0), (pixels + epsilon).clamp(max=1)
        start = (pixels + epsilon * (2 * torch.rand_like(pixels) - 1)).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(start), labels), start)
        moved = (start.detach() + _STEP * epsilon * gradient.sign()).clamp(low, high)
        return cross_entropy(model(moved), labels)

    return fit_classifier_on(loss, train, config, seed=seed, device=device, progress=progress)
