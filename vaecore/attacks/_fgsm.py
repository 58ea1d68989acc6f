"""FGSM: one step along the sign of the gradient."""

import torch
from torch import Tensor

from vaecore._modes import in_any_mode
from vaecore._noise import image_indices
from vaecore.attacks._attack import (
    Attack,
    Norm,
    Victim,
    check_aims,
    check_budget,
    examine,
    gradient_of,
    join,
    objective_of,
    outcome,
    projection,
    steepest,
    zero_gradient,
)
from vaecore.models._networks import Classify


@in_any_mode
def fgsm(
    classifier: Classify | Victim,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    targets: Tensor | None = None,
    keep_failed: bool = False,
    seed: int = 0,
    first_index: int = 0,
    indices: Tensor | None = None,
    chunk: int | None = None,
) -> Attack:
    """One step of size epsilon that raises the cross-entropy, or a victim's loss, clipped to [0, 1].

    images: (n, c, height, width) in [0, 1]. labels: (n,) int64, the true classes. norm: "linf" steps along the
    gradient's sign, "l2" along the gradient itself. targets: (n,) int64, or None. With targets the step lowers the
    target's cross-entropy, and success means that the target is predicted. Without, success means that the label is not
    predicted, also if the clean image was misclassified already. keep_failed: return the perturbed image even where the
    attack failed, to study the perturbation; by default the clean image, with NaN norms. seed, first_index, indices:
    of a victim's noise, as in `pgd`; a classifier has none. chunk: images attacked at once; by default as many
    as fit the cache or the GPU, 500 at most. Results depend on it by rounding only.
    Raises ValueError for invalid input, a classifier in training mode and gradients that are not finite.
    Source: Goodfellow et al. (2015), section 4; for "l2" Miyato et al. (2017), section 3.
    """
    images, aims = check_aims(images, labels, targets)
    check_budget(epsilon, norm, images[0].numel())
    with torch.no_grad():
        index = image_indices(len(images), first_index, indices).to(images.device)
        targeted = targets is not None
        objective = objective_of(classifier, aims, targeted=targeted, loss="cross-entropy", indices=index, seed=seed)
        flags, chunk = examine(classifier, images, objective, chunk=chunk)
        parts = []
        for rows in torch.split(torch.arange(len(images), device=images.device), chunk):
            clean = images[rows]
            _, _, gradient = gradient_of(objective, clean, rows, 0)
            moved = projection(clean, epsilon, norm)(clean + epsilon * steepest(gradient, norm))
            success, _ = objective(moved, rows, 1)
            chunk_flags = zero_gradient(gradient) | flags
            parts.append(outcome(clean, moved, success, torch.ones_like(rows), chunk_flags, keep_failed=keep_failed))
        return join(parts)
