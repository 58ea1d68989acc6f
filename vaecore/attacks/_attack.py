"""What all attacks share: objective, sanity flags, result."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from vaecore._check import check_classifier, check_images, check_labels, check_logits
from vaecore.models._networks import Classify

Norm = Literal["linf", "l2"]
Loss = Literal["cross-entropy", "margin"]

Objective = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""objective(points, rows, step): did the attack win at each point (m,), and its loss (m,), which attacks drive up.

points: (m, c, h, w) in [0, 1]. rows: (m,) int64, the place of each in the attacked batch. step: from 0; a randomised
victim draws anew each step, and the same again for the same image and step.
"""


@runtime_checkable
class Victim(Protocol):
    """What is attacked where it is more than a classifier, for instance a detector that contains a VAE."""

    @property
    def classifier(self) -> Classify:
        """The classifier within, which the sanity checks look at."""
        ...

    def objective(self, aims: Tensor, *, targeted: bool, loss: Loss, indices: Tensor, seed: int) -> Objective:
        """The attacker's objective; aims: (n,) the classes to reach or, untargeted, to leave; indices: (n,) int64."""
        ...


class Sanity(IntFlag):
    """Signs that an attack's result may mean less than it seems to (after AutoAttack's checks; Croce & Hein 2020)."""

    ZERO_GRADIENT = 1
    PROBABILITIES = 2
    RANDOMISED = 4


_MEANING = {
    Sanity.ZERO_GRADIENT: "the gradient is exactly zero at the attack's first point: the loss is saturated or masked"
    " (try loss='margin')",
    Sanity.PROBABILITIES: "the classifier's outputs look like probabilities; attacks expect logits, and a second"
    " softmax hides gradients (leave the softmax out)",
    Sanity.RANDOMISED: "the classifier answers differently when asked twice: gradients are those of one draw, and"
    " success is luck (average over draws, or fix its noise)",
}


@dataclass(frozen=True, eq=False)
class Attack:
    """What an attack did to n images; row i speaks of image i alone.

    images: (n, c, height, width) in [0, 1], what the classifier is shown; the clean image where the attack failed.
    success: (n,) bool. l2, linf: (n,) float32, norms of the perturbation in pixel units; NaN where it failed.
    evaluations: (n,) int64, gradients of the classifier spent on the image, or queries where no gradient is used.
    flags: (n,) int64, a bit mask of `Sanity`; `warnings` says it in words. constant: (n,) float32, the weight c of the
    cross-entropy where the image was found; only L-BFGS has one.
    """

    images: Tensor
    success: Tensor
    l2: Tensor
    linf: Tensor
    evaluations: Tensor
    flags: Tensor
    constant: Tensor | None = None

    def warnings(self) -> list[str]:
        """What to know before the result is believed, each with its number of images; empty where there is nothing."""
        failed, every = int((~self.success).sum()), len(self.success)
        lines = [f"{failed} of {every} images: the attack did not reach its aim"] if failed else []
        return lines + flag_warnings(self.flags)


def flag_warnings(flags: Tensor) -> list[str]:
    """What the flags (n,) of n attacked images mean, each with its number of images."""
    counts = {flag: int((flags & flag != 0).sum()) for flag in Sanity}
    return [f"{count} of {len(flags)} images: {_MEANING[flag]}" for flag, count in counts.items() if count]


def check_chunk(chunk: int) -> None:
    """Raise ValueError unless `chunk`, the images worked on at once, is 1 or more."""
    if chunk < 1:
        raise ValueError(f"chunk must be 1 or more images; got {chunk}")


def check_aims(images: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """The classes that an attack leaves (the labels) or heads for (the targets); raises ValueError for bad ones."""
    check_images(images)
    check_labels(labels, len(images))
    if targets is None:
        return labels
    check_labels(targets, len(images), name="targets")
    if bool((same := targets == labels).any()):
        raise ValueError(
            f"targets must differ from the labels; {int(same.sum())} of {len(images)} are equal"
            f" (the first at row {int(same.nonzero()[0])})"
        )
    return targets


def check_budget(epsilon: float, norm: str, pixels: int) -> None:
    """Raise ValueError unless `norm` is known and `epsilon` a size that images in [0, 1] can be changed by."""
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be 'linf' or 'l2'; got {norm!r}")
    most = 1.0 if norm == "linf" else pixels**0.5
    if not 0 <= epsilon <= most:
        raise ValueError(
            f"epsilon must be from 0 to {most:g}, as pixels are from 0 to 1; got {epsilon}"
            " (divide by 255 if it is in bytes)"
        )


def check_loss(loss: str) -> None:
    """Raise ValueError unless `loss` is one that attacks can climb."""
    if loss not in ("cross-entropy", "margin"):
        raise ValueError(f"loss must be 'cross-entropy' or 'margin'; got {loss!r}")


def classifier_objective(classifier: Classify, aims: Tensor, *, targeted: bool, loss: Loss) -> Objective:
    """The objective of an attack on a classifier alone; see `class_loss`."""

    def objective(points: Tensor, rows: Tensor, _step: int) -> tuple[Tensor, Tensor]:
        logits = classifier(points)
        check_logits(logits, len(points))
        check_labels(aims, len(aims), classes=logits.shape[1], name="targets" if targeted else "labels")
        aim = aims[rows]
        return (logits.argmax(dim=1) == aim) == targeted, class_loss(logits, aim, targeted=targeted, loss=loss)

    return objective


def class_loss(logits: Tensor, aims: Tensor, *, targeted: bool, loss: Loss) -> Tensor:
    """What an attack drives up, (n, classes) to (n,): away from the aims or, targeted, towards them.

    "cross-entropy" in nats (Madry et al. 2018); "margin", the best other logit's lead over the aim's, which never
    saturates (Carlini & Wagner 2017, objective 6).
    """
    check_loss(loss)
    if loss == "cross-entropy":
        value = cross_entropy(logits, aims, reduction="none")
    else:
        own = one_hot(aims, logits.shape[1]).bool()
        value = logits.masked_fill(own, -torch.inf).amax(dim=1) - logits.gather(1, aims.unsqueeze(1)).squeeze(1)
    return -value if targeted else value


def objective_of(
    victim: Classify | Victim, aims: Tensor, *, targeted: bool, loss: Loss, indices: Tensor, seed: int
) -> Objective:
    """The objective of an attack on whatever the caller passed; raises ValueError for a classifier in training mode."""
    check_loss(loss)
    if isinstance(victim, Victim):
        check_classifier(victim.classifier)
        return victim.objective(aims, targeted=targeted, loss=loss, indices=indices, seed=seed)
    check_classifier(victim)
    return classifier_objective(victim, aims, targeted=targeted, loss=loss)


def gradient_of(objective: Objective, points: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Did the attack win (m,), its loss (m,), and the loss's gradient with respect to the points, each by itself.

    The gradients of the classifier's parameters are neither computed nor touched. Raises ValueError where the
    gradient is cut off or not finite.
    """
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        won, loss = objective(leaf, rows, step)
        gradient = differentiate(loss, leaf)
    return won, loss.detach(), gradient


def differentiate(loss: Tensor, leaf: Tensor) -> Tensor:
    """Gradient of each image's loss (m,) with respect to that image; raises ValueError if none, or not finite."""
    gradient = input_gradient(loss, leaf)
    check_gradient(gradient)
    return gradient


def input_gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    """As `differentiate`, but without a look at its values, for which the host would have to wait for the device."""
    # The sum keeps images apart; a mean would shrink each gradient by the number of batch-mates.
    gradient = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise ValueError(
            "the classifier's logits must be differentiable with respect to the images; got logits cut off from them"
            " (is there a detach, a torch.no_grad or a conversion to numpy inside the classifier?)"
        )
    return gradient


def check_gradient(gradient: Tensor) -> None:
    """Raise ValueError unless the gradient is finite."""
    if not bool(torch.isfinite(gradient).all()):
        raise ValueError(
            "the gradient of the loss with respect to the images must be finite; got NaN or infinity"
            " (does the classifier divide by, or take the root or logarithm of, something that can be 0?)"
        )


def zero_gradient(gradient: Tensor) -> Tensor:
    """Sanity.ZERO_GRADIENT for each image whose gradient is exactly zero; (m, ...) to (m,) int64."""
    still: Tensor = (gradient.flatten(1) == 0).all(dim=1)
    return still.long() * int(Sanity.ZERO_GRADIENT)


def victim_flags(victim: Classify | Victim, images: Tensor, objective: Objective | None = None) -> int:
    """The flags of a victim as a whole, from its answers to the first few images."""
    few = images[:8]
    rows = torch.arange(len(few), device=few.device)
    classifier = victim.classifier if isinstance(victim, Victim) else victim
    flags = Sanity(0)
    with torch.no_grad():
        answers = []
        for _ in range(2):
            logits = classifier(few)
            check_logits(logits, len(few))
            answers.append(logits if objective is None else torch.cat([logits, objective(few, rows, 0)[1][:, None]], 1))
    if bool((logits >= 0).all() & ((logits.sum(dim=1) - 1).abs() < 1e-4).all()):
        flags |= Sanity.PROBABILITIES
    if not torch.allclose(answers[0], answers[1], rtol=1e-3, atol=1e-4):  # a GPU's own rounding stays below
        flags |= Sanity.RANDOMISED
    return int(flags)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction of norm 1 in which the loss rises fastest, image by image; zero where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    # Scaled by the largest entry first: the square of a tiny gradient would underflow.
    largest = gradient.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny).view(-1, 1, 1, 1)
    scaled: Tensor = gradient / largest
    scaled /= scaled.flatten(1).norm(dim=1).clamp(min=0.5).view(-1, 1, 1, 1)
    return scaled


def outcome(
    clean: Tensor,
    adversarial: Tensor,
    success: Tensor,
    evaluations: Tensor,
    flags: Tensor,
    *,
    keep_failed: bool = False,
    constant: Tensor | None = None,
) -> Attack:
    """An attack's result: norms measured, and failures withdrawn unless they are to be kept."""
    change = (adversarial - clean).flatten(1)
    l2, linf = torch.linalg.vector_norm(change, dim=1), torch.linalg.vector_norm(change, ord=torch.inf, dim=1)
    if not keep_failed:
        adversarial = torch.where(success.view(-1, 1, 1, 1), adversarial, clean)
        l2, linf = l2.where(success, torch.nan), linf.where(success, torch.nan)
    return Attack(adversarial, success, l2, linf, evaluations, flags, constant)


def join(parts: list[Attack]) -> Attack:
    """The attack on all images from those on some at a time."""
    constants = [part.constant for part in parts if part.constant is not None]
    return Attack(
        torch.cat([part.images for part in parts]),
        torch.cat([part.success for part in parts]),
        torch.cat([part.l2 for part in parts]),
        torch.cat([part.linf for part in parts]),
        torch.cat([part.evaluations for part in parts]),
        torch.cat([part.flags for part in parts]),
        torch.cat(constants) if constants else None,
    )
