"""What every attack returns, the gradients they share, and the fast gradient sign method."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vaecore._check import check_images, check_labels, check_logits

Classifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Attack:
    """What an attack did to n images; row i speaks of image i alone.

    images: (n, 1, height, width) in [0, 1], what the classifier is shown. success: (n,) bool.
    l2, linf: (n,) float32, norms of the perturbation in pixel units; NaN where the attack has no image to offer.
    evaluations: (n,) int64, gradients of the classifier spent on the image.
    constant: (n,) float32, the weight c of the cross-entropy where the image was found; only L-BFGS has one.
    """

    images: Tensor
    success: Tensor
    l2: Tensor
    linf: Tensor
    evaluations: Tensor
    constant: Tensor | None = None


def check_classifier(classifier: Classifier) -> None:
    """Raise ValueError if a part of the classifier is in training mode: its answers would be random or change it."""
    parts = classifier.modules() if isinstance(classifier, nn.Module) else ()
    for part in parts:
        if part.training:
            raise ValueError(
                f"the classifier must be in evaluation mode; got {type(part).__name__} in training mode"
                " (call classifier.eval(): dropout and batch norm would make every gradient random)"
            )


def check_chunk(chunk: int) -> None:
    """Raise ValueError unless `chunk`, the images worked on at once, is 1 or more."""
    if chunk < 1:
        raise ValueError(f"chunk must be 1 or more images; got {chunk}")


def input_gradient(
    classifier: Classifier, images: Tensor, labels: Tensor, *, name: str = "labels"
) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted class, cross-entropy and its gradient with respect to the pixels, each image by itself.

    images: (n, 1, height, width). labels: (n,), called `name` in messages. Returns the predicted class (n,), the
    cross-entropy (n,) in nats, and its gradient, shaped as the images. The gradients of the classifier's parameters
    are neither computed nor touched. Raises ValueError unless the classifier answers with finite logits (n, classes)
    that follow the images, the labels are among the classes, and the gradient is finite.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = classifier(leaf)
        check_logits(logits, len(images))
        check_labels(labels, len(images), classes=logits.shape[1], name=name)
        # The sum keeps images apart; a mean would shrink each gradient by the number of batch-mates.
        loss = cross_entropy(logits, labels, reduction="none")
        gradient = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise ValueError(
            "the classifier's logits must be differentiable with respect to the images; got logits cut off from them"
            " (is there a detach, a torch.no_grad or a conversion to numpy inside the classifier?)"
        )
    if not bool(torch.isfinite(gradient).all()):
        raise ValueError(
            "the gradient of the cross-entropy with respect to the images must be finite; got NaN or infinity"
            " (does the classifier divide by, or take the root or logarithm of, something that can be 0?)"
        )
    return logits.detach().argmax(dim=1), loss.detach(), gradient


def fgsm(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    targets: Tensor | None = None,
    chunk: int = 500,
) -> Attack:
    """One step of size epsilon along the sign of the cross-entropy's gradient, clipped to [0, 1].

    images: (n, 1, height, width) in [0, 1]. labels: (n,) int64, the true classes. With `targets`, (n,) int64, the
    step goes down the target's cross-entropy instead, and success means that the target is predicted; without, that
    the label is not (also where the clean image was misclassified already). The perturbed image is returned either
    way. The result does not depend on `chunk`, the images worked on at once. Raises ValueError for bad input, a
    classifier in training mode and gradients that are not finite. Source: Goodfellow et al. (2015), section 4.
    """
    check_images(images)
    check_labels(labels, len(images))
    if targets is not None:
        check_labels(targets, len(images), name="targets")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must be from 0 to 1, as pixels are; got {epsilon} (divide by 255 if it is in bytes)")
    check_chunk(chunk)
    check_classifier(classifier)
    aims = labels if targets is None else targets
    name, uphill = ("labels", 1.0) if targets is None else ("targets", -1.0)
    perturbed, success = [], []
    for clean, label in zip(torch.split(images, chunk), torch.split(aims, chunk), strict=True):
        _, _, gradient = input_gradient(classifier, clean, label, name=name)
        moved = (clean + uphill * epsilon * gradient.sign()).clamp(0, 1)
        with torch.no_grad():
            predicted = classifier(moved).argmax(dim=1)
        perturbed.append(moved)
        success.append(predicted != label if targets is None else predicted == label)
    adversarial = torch.cat(perturbed)
    change = (adversarial - images).flatten(1)
    return Attack(
        images=adversarial,
        success=torch.cat(success),
        l2=torch.linalg.vector_norm(change, dim=1),
        linf=torch.linalg.vector_norm(change, ord=torch.inf, dim=1),
        evaluations=torch.ones_like(labels),
    )
