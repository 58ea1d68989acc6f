"""Checks of arguments. Each error says what was expected, what was passed, and the likely cause."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vaecore import _remedies
from vaecore._calls import adapter
from vaecore._inside import is_exported, modules_of

CHANNELS = (1, 3)  # grey, or red, green and blue
_ROUNDING = 1e-6  # eight float32 steps at 1; undoing a normalisation or interpolating gives two or three


def quoted(names: Iterable[str]) -> str:
    """Names for a message, as in "'a', 'b' or 'c'"."""
    *others, last = [repr(name) for name in names]
    return f"{', '.join(others)} or {last}"


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value`, the argument called `name`, is one of two or more choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be {quoted(choices)}; got {value!r}")


def check_type(name: str, value: object, kind: type | tuple[type, ...], remedy: str = "") -> None:
    """Raise TypeError unless `value`, the argument called `name`, is of this kind or one of these."""
    if not isinstance(value, kind):
        wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        if isinstance(value, type):
            remedy = f"make one: {value.__name__}(...)" if issubclass(value, kind) else remedy
        raise TypeError(f"{name} must be {wanted}; got {type_of(value)}" + (remedy and f" ({remedy})"))


def type_of(value: object) -> str:
    """The type of a value for a message; of a class, that it is one."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError unless `value`, the argument called `name`, is a tensor."""
    if not isinstance(value, Tensor):
        said = name if name.isidentifier() else "images"
        raise TypeError(f"{name} must be a torch.Tensor; got {type_of(value)}{_remedies.of_type(value, said)}")


def check_integer(name: str, value: object, least: int, most: int | None = None, wanted: str = "") -> int:
    """The value as an int; raises ValueError out of range, and TypeError unless it is an integer, numpy's included.

    A bool is not an integer, nor is a float without fraction: either is more likely a mistake. wanted: the range in
    words.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    if value < least or (most is not None and value > most):
        wanted = wanted or (f"{least} or more" if most is None else f"from {least} to {most}")
        raise ValueError(f"{name} must be {wanted}; got {value}")
    return int(value)


def check_counts(**counts: object) -> tuple[int, ...]:
    """The counts as ints, each 1 or more; raises as `check_integer` does."""
    return tuple(check_integer(name, count, 1) for name, count in counts.items())


def check_seed(seed: object) -> int:
    """The seed as an int from 0 to 2**64 - 1; raises as `check_integer` does."""
    return check_integer("seed", seed, 0, (1 << 64) - 1, "from 0 to 2**64 - 1")


def check_number(name: str, value: object, fits: Callable[[float], bool], wanted: str, remedy: str = "") -> float:
    """The value as a float; raises TypeError unless it is a real number, and ValueError unless it `fits`.

    fits: false for NaN. wanted: the same in words. remedy: what to do, for the error message.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number; got {value!r}")
    number = float(value)
    if not fits(number):
        raise ValueError(f"{name} must be {wanted}; got {value}" + (remedy and f" ({remedy})"))
    return number


def describe_shape(shape: tuple[int, int, int]) -> str:
    """A shape (channels, height, width) in words, as in "28x28 in grey"."""
    channels, height, width = shape
    return f"{height}x{width} in {'grey' if channels == 1 else 'colour'}"


def describe_images(images: Tensor) -> str:
    """The number of images (n, c, h, w) and their shape in words, as in "8 images of 28x28 in grey"."""
    channels, height, width = images.shape[1:]
    return f"{len(images):,} images of {describe_shape((channels, height, width))}"


def clip_rounding(pixels: Tensor, name: str = "images", *, out_of_range: str = "") -> Tensor:
    """Pixels in [0, 1]: the same tensor, or a clipped copy of one that is outside by float32 rounding only (1e-6).

    pixels: floating point, not empty. Raises ValueError for pixels farther outside, with their likely cause
    `out_of_range` (empty: that of images), and for NaN and infinity.
    """
    low, high = torch.aminmax(pixels)
    if bool((low >= 0) & (high <= 1)):
        return pixels
    if bool((low >= -_ROUNDING) & (high <= 1 + _ROUNDING)):
        return pixels.clamp(0, 1)
    if not bool(torch.isfinite(pixels).all()):
        raise ValueError(f"{name} must be finite; got NaN or infinite pixels")
    cause = out_of_range or _remedies.of_range(low.item(), high.item())
    # Seven digits, as fewer would show 1 for a pixel that is too far above it.
    raise ValueError(f"{name} must lie in [0, 1]; got [{low.item():.7g}, {high.item():.7g}] ({cause})")


def check_images(images: Tensor, name: str = "images", *, out_of_range: str = "") -> Tensor:
    """Images (n, channels, height, width) float32 in [0, 1], with 1 or 3 channels: the same tensor or a clipped copy.

    Raises TypeError unless `images` is a tensor, and ValueError for another shape or dtype, an empty tensor, and pixels
    outside [0, 1] by more than rounding (see `clip_rounding`).
    """
    check_tensor(name, images)
    said = name if name.isidentifier() else "images"
    if images.ndim != 4 or images.shape[1] not in CHANNELS:
        raise ValueError(
            f"{name} must have shape (n, channels, height, width), 1 channel or 3; got {tuple(images.shape)}"
            f"{_remedies.of_shape(images.shape, said)}"
        )
    if images.dtype != torch.float32:
        raise ValueError(f"{name} must be float32; got {images.dtype}{_remedies.of_dtype(images, said)}")
    if images.numel() == 0:
        raise ValueError(f"{name} is empty; got shape {tuple(images.shape)}")
    return clip_rounding(images, name, out_of_range=out_of_range)


def check_draws(images: Tensor, decoded: Tensor) -> None:
    """Raise ValueError unless images are (n, c, h, w), and decoded draws of them (n, draws, c, h, w)."""
    if images.ndim != 4 or (len(decoded), *decoded.shape[2:]) != images.shape:
        raise ValueError(
            "images must have shape (n, c, h, w), and reconstructions (n, draws, c, h, w);"
            f" got {tuple(images.shape)} and {tuple(decoded.shape)}"
        )


def check_labels(labels: Tensor, count: int, classes: int | None = None, name: str = "labels") -> None:
    """Raise unless `labels` is an int64 tensor (count,) with values from 0 to classes - 1."""
    check_tensor(name, labels)
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(
            f"{name} must be int64 of shape ({count},), one for each image; got {labels.dtype} {tuple(labels.shape)}"
            f"{_remedies.of_labels(labels, count, name)}"
        )
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or (classes is not None and high >= classes):
        wanted = "0 and up" if classes is None else f"0 to {classes - 1}"
        raise ValueError(
            f"{name} must be {wanted}; got {low} to {high}"
            f"{_remedies.from_one(labels, classes) or ' (is the model for another set of classes?)'}"
        )


def check_logits(logits: object, count: int) -> None:
    """Raise ValueError unless `logits` are finite, of shape (count, classes), with two classes or more."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != count or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the classifier must map {count} images to logits ({count}, classes); got {got}"
            f"{adapter(logits, 'model(images)')}"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the classifier's logits must be finite; got NaN or infinity (did its training diverge?)")


def check_classifier(classifier: object) -> None:
    """Raise TypeError unless the classifier is a function, and ValueError if a part of it is in training mode."""
    remedy = ""
    if isinstance(classifier, type):
        remedy = f" (make one: {classifier.__name__}(...))"
    elif hasattr(classifier, "encode"):
        remedy = " (a VAE? where a function takes both, the VAE comes first)"
    forward = getattr(classifier, "forward", None)  # of a module that has none, torch's, which raises
    is_function = callable(classifier) and getattr(forward, "__func__", None) is not nn.Module.forward
    if not is_function or isinstance(classifier, type):
        raise TypeError(
            f"the classifier must be a function of images that gives logits; got {type_of(classifier)}{remedy}"
        )
    check_mode(classifier, "the classifier", "classifier")


def check_vae(vae: object) -> None:
    """Raise TypeError unless `vae` has the methods of an `Autoencoder`, and ValueError if it is in training mode."""
    missing = [name for name in ("encode", "decode") if not callable(getattr(vae, name, None))]
    if missing or isinstance(vae, type):
        remedy = f"it lacks {' and '.join(missing)}: write a class around it that has both"
        if isinstance(vae, type):
            remedy = f"make one: {vae.__name__}(...)"
        elif len(missing) == 2 and not isinstance(vae, nn.Module):
            remedy = "where a function takes models, they come first"
        raise TypeError(f"the VAE must have methods encode and decode, see Autoencoder; got {type_of(vae)} ({remedy})")
    check_mode(vae, "the VAE", "vae")


def check_mode(model: object, what: str, name: str) -> None:
    """Raise ValueError if a module that the model calls is in training mode, in which dropout is random.

    what, name: the model in words, and in Python, for the error message.
    """
    for part in modules_of(model):
        if getattr(part, "training", False):  # a frozen script has no mode
            parts = [*model.modules()] if isinstance(model, nn.Module) else []
            remedy = f"call {name}.eval()" if any(part is each for each in parts) else "call its eval()"
            if any(map(is_exported, parts)):
                remedy = "set its training = False, as exported parts have no eval"
            raise ValueError(
                f"{what} must be in evaluation mode; got {type(part).__name__} in training mode"
                f" ({remedy}: dropout and batch norm would make every answer random)"
            )
