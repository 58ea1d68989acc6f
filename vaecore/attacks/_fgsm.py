"""FGSM: one step along the sign of the gradient."""

import torch
from torch import Tensor

from vaecore._check import check_classifier
from vaecore.attacks._attack import (
    Attack,
    Norm,
    check_aims,
    check_budget,
    check_chunk,
    classifier_objective,
    gradient_of,
    join,
    outcome,
    steepest,
    victim_flags,
    zero_gradient,
)
from vaecore.models._networks import Classify


def fgsm(
    classifier: Classify,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    targets: Tensor | None = None,
    keep_failed: bool = False,
    chunk: int = 500,
) -> Attack:
    """One step of size epsilon up the cross-entropy, clipped to [0, 1].

    images: (n, c, height, width) in [0, 1]. labels: (n,) int64, the true classes. norm: "linf" steps along the
    gradient's sign, "l2" along the gradient itself. With `targets`, (n,) int64, the step goes down the target's
    cross-entropy instead, and success means that the target is predicted; without, that the label is not (also where
    the clean image was misclassified already). keep_failed: return the perturbed image where that failed, for studies
    of the perturbation itself; else the clean one, with NaN norms. The result does not depend on `chunk`, the images
    worked on at once. Raises ValueError for bad input, a classifier in training mode and gradients that are not
    finite. Source: Goodfellow et al. (2015), section 4; for "l2" Miyato et al. (2017), section 3.
    """
    aims = check_aims(images, labels, targets)
    check_budget(epsilon, norm, images[0].numel())
    check_chunk(chunk)
    check_classifier(classifier)
    # Autograd refuses tensors made in inference mode; copies made outside it will do.
    with torch.inference_mode(mode=False), torch.no_grad():
        images, aims = images.clone(), aims.clone()
        objective = classifier_objective(classifier, aims, targeted=targets is not None, loss="cross-entropy")
        flags = victim_flags(classifier, images)
        parts = []
        for rows in torch.split(torch.arange(len(images), device=images.device), chunk):
            clean = images[rows]
            _, _, gradient = gradient_of(objective, clean, rows, 0)
            moved = (clean + epsilon * steepest(gradient, norm)).clamp(0, 1)
            success, _ = objective(moved, rows, 1)
            spent = torch.ones_like(rows)
            seen = zero_gradient(gradient) | flags
            parts.append(outcome(clean, moved, success, spent, seen, keep_failed=keep_failed))
    return join(parts)
