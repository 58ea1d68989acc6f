"""Parts that all attacks share: objective, checks, sanity flags, result."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntFlag
from inspect import signature
from math import sqrt
from typing import Literal, Protocol, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from vaecore._batch_sizes import differentiated_at_once, widths
from vaecore._calls import ask, dependence
from vaecore._check import (
    check_choice,
    check_classifier,
    check_images,
    check_integer,
    check_labels,
    check_logits,
    check_mode,
    check_number,
    check_seed,
    describe_images,
)
from vaecore.models._networks import Classify

Norm = Literal["linf", "l2"]
Loss = Literal["cross-entropy", "margin", "dlr"]

Project = Callable[[Tensor], Tensor]
"""Moves points (m, c, h, w) to the nearest that an attack may give, in place."""

Objective = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""objective(points, rows, step): whether the attack succeeds at each point (m,) bool, and its loss (m,) to maximise.

points: (m, c, h, w) in [0, 1]. rows: (m,) int64, the position of each image in the attacked batch. step: from 0; the
noise of a randomised victim depends on the image and the step. `pgd` counts its steps, so that it averages over the
noise; `square`, which compares its points by their loss, stays at step 0.
"""


class Victim(Protocol):
    """A target of attacks that is more than a classifier, for instance a detector with a VAE.

    `fgsm`, `pgd`, `square` and `worst_case` take it. A target that can be called as well, as torch modules can, counts
    as a victim if its `objective` has arguments of the names below; else it is a classifier, whatever it has.
    """

    @property
    def classifier(self) -> Classify:
        """The classifier inside, for the sanity checks."""
        ...

    def objective(self, aims: Tensor, *, targeted: bool, loss: Loss, indices: Tensor, seed: int) -> Objective:
        """The attacker's objective; aims: (n,) classes to reach or, untargeted, to leave; indices: (n,) int64."""
        ...


class Sanity(IntFlag):
    """Signs that an attack's result may be unreliable (after the checks of AutoAttack, Croce & Hein 2020)."""

    ZERO_GRADIENT = 1
    PROBABILITIES = 2
    RANDOMISED = 4
    BATCH_DEPENDENT = 8


_MEANING = {
    Sanity.ZERO_GRADIENT: "the gradient is exactly zero at the attack's first point: the loss is saturated or masked"
    " (try loss='margin')",
    Sanity.PROBABILITIES: "the classifier's outputs look like probabilities; attacks expect logits, and a second"
    " softmax hides gradients (leave the softmax out)",
    Sanity.RANDOMISED: "the classifier answers differently when asked twice: gradients are those of one draw, and"
    " success is luck (average over draws, or fix its noise)",
    Sanity.BATCH_DEPENDENT: "the answer for an image depends on the other images of its batch: success may not hold"
    " image by image (a batch norm without running statistics, or a mean over the batch?)",
}


@dataclass(frozen=True, eq=False)
class Attack:
    """Result of an attack on n images, one row for each.

    images: (n, c, height, width) in [0, 1], adversarial, or the clean image where the attack failed.
    success: (n,) bool. l2, linf: (n,) float32, norms of the perturbation in pixel units; NaN where the attack failed.
    evaluations: (n,) int64, number of gradients of the classifier, or of queries for attacks without gradients.
    flags: (n,) int64, a bit mask of `Sanity`; see `warnings`. constant: (n,) float32, the weight c of the cross-entropy
    at which the image was found; L-BFGS only.
    """

    images: Tensor
    success: Tensor
    l2: Tensor
    linf: Tensor
    evaluations: Tensor
    flags: Tensor
    constant: Tensor | None = None

    def __repr__(self) -> str:
        """The number of images, their shape, and how many attacks succeeded."""
        return f"Attack({describe_images(self.images)}, {int(self.success.sum()):,} successful)"

    def warnings(self) -> list[str]:
        """Failures and sanity flags in words, each with its number of images; empty if there are none."""
        failed, total = int((~self.success).sum()), len(self.success)
        lines = [f"{failed} of {total} images: the attack did not reach its aim"] if failed else []
        return lines + flag_warnings(self.flags)


def flag_warnings(flags: Tensor) -> list[str]:
    """The flags (n,) of n attacked images in words, each with its number of images."""
    counts = {flag: int((flags & flag != 0).sum()) for flag in Sanity}
    return [f"{count} of {len(flags)} images: {_MEANING[flag]}" for flag, count in counts.items() if count]


def check_aims(images: Tensor, labels: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """The images, and the classes that an attack must leave (labels) or, if targeted, reach (targets).

    Raises ValueError if any is invalid.
    """
    images = check_images(images)
    check_labels(labels, len(images))
    if targets is None:
        return images, labels
    check_labels(targets, len(images), name="targets")
    if bool((same := targets == labels).any()):
        raise ValueError(
            f"targets must differ from the labels; {int(same.sum())} of {len(images)} are equal"
            f" (the first at row {int(same.nonzero()[0])})"
        )
    return images, targets


def check_budget(epsilon: float, norm: str, pixels: int) -> None:
    """Raise ValueError unless `norm` is a norm and `epsilon` a possible distance between images in [0, 1]."""
    check_choice("norm", norm, get_args(Norm))
    largest = 1.0 if norm == "linf" else pixels**0.5
    wanted = f"from 0 to {largest:g}, as pixels are from 0 to 1"
    check_number("epsilon", epsilon, lambda value: 0 <= value <= largest, wanted, "divide by 255 if it is in bytes")


def classifier_objective(classifier: Classify, aims: Tensor, *, targeted: bool, loss: Loss) -> Objective:
    """The objective of an attack on a classifier alone; see `class_loss`."""

    def objective(points: Tensor, rows: Tensor, _step: int) -> tuple[Tensor, Tensor]:
        logits = ask(classifier, points)
        check_logits(logits, len(points))
        check_labels(aims, len(aims), classes=logits.shape[1], name="targets" if targeted else "labels")
        aim = aims[rows]
        return (logits.argmax(dim=1) == aim) == targeted, class_loss(logits, aim, targeted=targeted, loss=loss)

    return objective


def class_loss(logits: Tensor, aims: Tensor, *, targeted: bool, loss: Loss) -> Tensor:
    """The loss that an attack maximises, (n, classes) to (n,): it grows away from the aims or, targeted, towards them.

    "cross-entropy": in nats (Madry et al. 2018). "margin": the largest other logit minus the aim's, which never
    saturates (Carlini & Wagner 2017, objective 6). "dlr": the margin over a difference of the largest logits, so that
    their scale says nothing (Croce & Hein 2020, equations 6 and 7). Raises ValueError where "dlr" has fewer than 3
    classes or, targeted, 4.
    """
    check_choice("loss", loss, get_args(Loss))
    if loss == "cross-entropy":
        value = cross_entropy(logits, aims, reduction="none")
    else:
        is_aim = one_hot(aims, logits.shape[1]).bool()
        value = logits.masked_fill(is_aim, -torch.inf).amax(dim=1) - logits.gather(1, aims.unsqueeze(1)).squeeze(1)
    if loss == "dlr":
        if logits.shape[1] < (fewest := 4 if targeted else 3):
            raise ValueError(f"the loss 'dlr' needs {fewest} classes or more; got {logits.shape[1]} (use 'margin')")
        first, _, *others = logits.topk(fewest, dim=1).values.unbind(dim=1)
        value = value / (first - torch.stack(others).mean(dim=0)).clamp(min=torch.finfo(logits.dtype).tiny)
    return -value if targeted else value


_OWN = {"targeted", "loss", "indices", "seed"}  # arguments that tell `Victim.objective` from any other objective


def parts_of(target: Classify | Victim) -> tuple[Classify, Victim | None]:
    """The classifier that a target of attacks is or has, and the target itself where it is a victim (see `Victim`).

    Raises ValueError for a classifier or victim in training mode.
    """
    asked = getattr(target, "objective", None)
    is_victim = callable(asked) and hasattr(target, "classifier") and (not callable(target) or _names(asked) >= _OWN)
    victim = cast(Victim, target) if is_victim else None
    classifier = cast(Classify, target) if victim is None else victim.classifier
    check_classifier(classifier)
    if victim is not None:
        check_mode(victim, "the target", "target")
    return classifier, victim


def _names(function: Callable[..., object]) -> set[str]:
    try:
        return {*signature(function).parameters}
    except ValueError:  # some that are written in C have none
        return set()


def objective_of(
    target: Classify | Victim, aims: Tensor, *, targeted: bool, loss: Loss, indices: Tensor, seed: int
) -> Objective:
    """The objective of an attack on a classifier or victim; raises ValueError for a classifier in training mode."""
    check_choice("loss", loss, get_args(Loss))
    seed = check_seed(seed)
    classifier, victim = parts_of(target)
    if victim is None:
        return classifier_objective(classifier, aims, targeted=targeted, loss=loss)
    asked = victim.objective(aims, targeted=targeted, loss=loss, indices=indices, seed=seed)

    def objective(points: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        won, value = asked(points.clone(), rows, step)  # a copy, as in `ask`
        return won, value.to(points.dtype)

    return objective


def gradient_of(objective: Objective, points: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Success (m,), loss (m,), and the gradient of each loss with respect to its own point.

    Gradients of the classifier's parameters are neither computed nor changed. Raises ValueError if there is no gradient
    or it is not finite.
    """
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        won, loss = objective(leaf, rows, step)
        gradient = differentiate(loss, leaf)
    return won, loss.detach(), gradient


def differentiate(loss: Tensor, leaf: Tensor) -> Tensor:
    """Gradient of each image's loss (m,) with respect to that image; raises ValueError if missing or not finite."""
    gradient = input_gradient(loss, leaf)
    check_gradient(gradient)
    return gradient


def input_gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    """As `differentiate`, but without checking the values, for which the host would wait for the device."""
    # A sum, not a mean, which would divide each image's gradient by the batch size.
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
    is_zero: Tensor = (gradient.flatten(1) == 0).all(dim=1)
    return is_zero.long() * int(Sanity.ZERO_GRADIENT)


def examine(
    target: Classify | Victim,
    images: Tensor,
    objective: Objective | None = None,
    *,
    chunk: int | None,
    most: int = 500,
) -> tuple[int, int]:
    """Flags that concern the target as a whole, and images to attack at once, from its answers to the first few images.

    objective: the attack's, which a victim is asked by, too; None: the attack asks for logits alone. chunk: None for as
    many as fit with all that is made of them on the way, `most` at most.
    """
    classifier, victim = (cast(Classify, target), None) if objective is None else parts_of(target)
    few, at_once = images[:8], 0 if chunk is None else check_integer("chunk", chunk, 1)
    rows, own = torch.arange(len(few), device=few.device), None if victim is None else objective

    def answer(points: Tensor) -> Tensor:
        logits: Tensor = ask(classifier, points)
        check_logits(logits, len(points))
        return logits if own is None else torch.cat([logits, own(points, rows, 0)[1].unsqueeze(1)], dim=1)

    def watched(points: Tensor) -> Tensor:
        nonlocal at_once
        if at_once:
            return answer(points)
        found, sizes = widths(answer, points)
        at_once = differentiated_at_once(sum(sizes) // len(few), images.device, most)
        return found

    flags = Sanity(0)
    with torch.no_grad():
        answers, cause = dependence(watched, few)
    logits = answers if own is None else answers[:, :-1]
    if bool((logits >= 0).all() & ((logits.sum(dim=1) - 1).abs() < 1e-4).all()):
        flags |= Sanity.PROBABILITIES
    if cause is not None:
        flags |= {"chance": Sanity.RANDOMISED, "batch": Sanity.BATCH_DEPENDENT}[cause]
    return int(flags), at_once


def likely_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """All classes of each image, most likely first and its label last; (n, classes) and (n,) to (n, classes)."""
    check_labels(labels, len(labels), classes=logits.shape[1])
    return logits.scatter(1, labels.unsqueeze(1), -torch.inf).argsort(dim=1, descending=True)


def wide(values: Tensor) -> Tensor:
    """Values (m,) as (m, 1, 1, 1), to broadcast over images."""
    return values.view(-1, 1, 1, 1)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction of norm 1 in which each image's loss rises fastest; zero where the gradient is zero."""
    if norm == "linf":
        return gradient.sign()
    # Scaled by the largest entry first, as the square of a tiny gradient would underflow.
    largest = gradient.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny).view(-1, 1, 1, 1)
    scaled: Tensor = gradient / largest
    scaled /= scaled.flatten(1).norm(dim=1).clamp(min=0.5).view(-1, 1, 1, 1)
    return scaled


def box(clean: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The least and the largest pixels in [0, 1] that float32 subtraction finds within epsilon of the clean ones."""
    low, high = (clean - epsilon).clamp_(min=0), (clean + epsilon).clamp_(max=1)
    # Where rounding has taken them too far, the next number is near enough. Its bits as an integer are one more, or one
    # less, as no pixel is negative; `nextafter` takes ten times as long.
    low.view(torch.int32).add_(clean - low > epsilon)
    high.view(torch.int32).sub_((high - clean > epsilon).int())
    return low, high


def projection(clean: Tensor, epsilon: float, norm: Norm) -> Project:
    """A function that projects points on the ball around the clean images and then clips them to [0, 1].

    Their distance is then at most epsilon, as float32 subtraction measures it.
    """
    if norm == "linf":
        low, high = box(clean, epsilon)
        return lambda points: points.clamp_(low, high)
    # Pixels are rounded by 2^-25 at most, and a norm by a few steps of 2^-23.
    radius = max(0.0, epsilon * (1 - 2**-20) - 2**-25 * sqrt(clean[0].numel()))

    def project(points: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(points.sub_(clean), dim=(1, 2, 3), keepdim=True)
        within = (radius / length.clamp_(min=torch.finfo(length.dtype).tiny)).clamp_(max=1)
        return points.mul_(within).add_(clean).clamp_(0, 1)

    return project


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
    """The result of an attack with its norms; failures become clean images with NaN norms unless `keep_failed`."""
    change = (adversarial - clean).flatten(1)
    l2, linf = torch.linalg.vector_norm(change, dim=1), torch.linalg.vector_norm(change, ord=torch.inf, dim=1)
    if not keep_failed:
        adversarial = torch.where(success.view(-1, 1, 1, 1), adversarial, clean)
        l2, linf = l2.where(success, torch.nan), linf.where(success, torch.nan)
    return Attack(adversarial, success, l2, linf, evaluations, flags, constant)


def join(parts: list[Attack]) -> Attack:
    """Concatenate the results of chunks."""
    present = [field.name for field in fields(Attack) if getattr(parts[0], field.name) is not None]
    return Attack(**{name: torch.cat([getattr(part, name) for part in parts]) for name in present})
