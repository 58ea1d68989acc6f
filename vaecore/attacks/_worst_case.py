"""An ensemble of attacks, of which the worst case counts image by image."""

from typing import Any

import torch
from torch import Tensor

from vaecore._batch_sizes import answers
from vaecore._check import check_counts
from vaecore._modes import in_any_mode
from vaecore._noise import image_indices, seed_for
from vaecore.attacks._attack import Attack, Loss, Victim, check_aims, check_budget, likely_classes, outcome, parts_of
from vaecore.attacks._pgd import pgd
from vaecore.attacks._square import square
from vaecore.models._networks import Classify


@in_any_mode
def worst_case(
    classifier: Classify | Victim,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    seed: int,
    steps: int = 100,
    targets: int = 9,
    queries: int = 1000,
    keep_failed: bool = False,
    first_index: int = 0,
    indices: Tensor | None = None,
    chunk: int | None = None,
) -> Attack:
    """Auto-PGD on the cross-entropy, Auto-PGD towards each likely class, and Square, each on the images that are left.

    images: (n, c, height, width) in [0, 1]. labels: (n,) int64, the true classes; success means that the label is not
    predicted. epsilon: as an L-infinity norm. steps: of each Auto-PGD. targets: classes to aim at, most likely first by
    the classifier's logits for the clean image, with the loss "dlr" ("margin" below 4 classes). queries: of Square.
    Where all fail, the result is the first attack's. Evaluations are gradients and queries together; the other
    arguments and the errors are those of `pgd`. On a randomised victim an attack leaves what it wins by its own draws:
    judge the result by others.
    Source: AutoAttack (Croce & Hein 2020), whose fourth attack, FAB, is left out.
    """
    images, _ = check_aims(images, labels, None)
    check_budget(epsilon, "linf", images[0].numel())
    steps, targets, queries = check_counts(steps=steps, targets=targets, queries=queries)
    index = image_indices(len(images), first_index, indices).to(images.device)
    with torch.no_grad():
        logits = answers(parts_of(classifier)[0], images)
        classes = logits.shape[1]
        likely = likely_classes(logits, labels)
        aimed = min(targets, classes - 1)

        def attempt(number: int, rows: Tensor) -> Attack:
            """One of the attacks on some of the images."""
            common: dict[str, Any] = {"epsilon": epsilon, "indices": index[rows], "keep_failed": True, "chunk": chunk}
            given = classifier, images[rows], labels[rows]
            own_seed = seed_for(f"worst-case/{number}", seed)
            if number == 0:
                return pgd(*given, seed=own_seed, steps=steps, **common)
            if number <= aimed:
                loss: Loss = "dlr" if classes >= 4 else "margin"
                return pgd(*given, seed=own_seed, steps=steps, targets=likely[rows, number - 1], loss=loss, **common)
            return square(*given, seed=own_seed, queries=queries, **common)

        found = attempt(0, torch.arange(len(images), device=images.device))
        points, success, evaluations = found.images, found.success, found.evaluations
        for number in range(1, aimed + 2):
            rows = (~success).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            attack = attempt(number, rows)
            evaluations[rows] += attack.evaluations
            won = rows[attack.success]
            points[won], success[won] = attack.images[attack.success], True
        return outcome(images, points, success, evaluations, found.flags, keep_failed=keep_failed)
