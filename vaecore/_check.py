"""Checks of arguments. Each error says what was expected, what was passed, and the likely cause."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from vaecore._calls import own_parts

CHANNELS = (1, 3)  # grey, or red, green and blue
_RANGE = "undo mean/std normalisation first; divide bytes by 255"


def quoted(names: Iterable[str]) -> str:
    """Names for a message, as in "'a', 'b' or 'c'"."""
    *others, last = [repr(name) for name in names]
    return f"{', '.join(others)} or {last}"


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value`, the argument called `name`, is one of two or more choices."""
    if value not in choices:
        raise ValueError(f"{name} must be {quoted(choices)}; got {value!r}")


def check_counts(**counts: int | None) -> None:
    """Raise ValueError unless each count is 1 or more, or None."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be 1 or more; got {count}")


def describe_shape(shape: tuple[int, int, int]) -> str:
    """A shape (channels, height, width) in words, as in "28x28 in grey"."""
    channels, height, width = shape
    return f"{height}x{width} in {'grey' if channels == 1 else 'colour'}"


def check_images(images: Tensor, name: str = "images", *, out_of_range: str = _RANGE) -> None:
    """Raise unless `images` is a non-empty float32 tensor (n, channels, height, width) in [0, 1] with 1 or 3 channels.

    out_of_range: the likely cause of values outside [0, 1], for the error message.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] not in CHANNELS:
        remedy = "a missing channel axis is added with images.unsqueeze(1)"
        if images.ndim == 4:
            remedy = "where the channels come last: images.permute(0, 3, 1, 2); transparency is left out"
        raise ValueError(
            f"{name} must have shape (n, channels, height, width), 1 channel or 3; got {tuple(images.shape)} ({remedy})"
        )
    if images.dtype != torch.float32:
        remedy = "use images.float()" if images.is_floating_point() else "bytes 0..255: use images.float() / 255"
        raise ValueError(f"{name} must be float32; got {images.dtype} ({remedy})")
    if images.numel() == 0:
        raise ValueError(f"{name} is empty; got shape {tuple(images.shape)}")
    low, high = torch.aminmax(images)
    if not bool((low >= 0) & (high <= 1)):
        if not bool(torch.isfinite(images).all()):
            raise ValueError(f"{name} must be finite; got NaN or infinite pixels")
        raise ValueError(f"{name} must lie in [0, 1]; got [{low.item():.3g}, {high.item():.3g}] ({out_of_range})")


def check_labels(labels: Tensor, count: int, classes: int | None = None, name: str = "labels") -> None:
    """Raise unless `labels` is an int64 tensor (count,) with values from 0 to classes - 1."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(labels).__name__}")
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(
            f"{name} must be int64 of shape ({count},), one for each image; got {labels.dtype} {tuple(labels.shape)}"
        )
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or (classes is not None and high >= classes):
        wanted = "0 and up" if classes is None else f"0 to {classes - 1}"
        raise ValueError(f"{name} must be {wanted}; got {low} to {high} (is the model for another set of classes?)")


def check_logits(logits: object, count: int) -> None:
    """Raise ValueError unless `logits` are finite, of shape (count, classes), with two classes or more."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != count or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the classifier must map {count} images to logits ({count}, classes); got {got}")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the classifier's logits must be finite; got NaN or infinity (did its training diverge?)")


def check_classifier(classifier: object) -> None:
    """Raise TypeError unless the classifier is a function, and ValueError if a part of it is in training mode.

    In training mode dropout is random, and batch norm changes.
    """
    if not callable(classifier):
        raise TypeError(
            f"the classifier must be a function of images that gives logits; got {type(classifier).__name__}"
        )
    parts = own_parts(classifier) if isinstance(classifier, nn.Module) else ()
    for part in parts:
        if getattr(part, "training", False):  # a frozen script has no mode
            raise ValueError(
                f"the classifier must be in evaluation mode; got {type(part).__name__} in training mode"
                " (call classifier.eval(): dropout and batch norm would make every gradient random)"
            )
