"""Can a user's model be used on a user's images? Asked of two images, before anything is computed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vaecore import Images
from vaecore.suite.study.models import model_digest
from vaecore.toolkit import ask, check_independent, from_one, posterior


def check_model(model: Any, text: object, kind: str, test: Images, device: torch.device) -> None:
    """Raise ValueError, in a line that names the option, where a model (vae, classifier) can't be used on images."""
    probe = test.pixels[:2].to(device)
    try:
        answer = ask(model.encode if kind == "vae" else model, probe)
        _check_device(answer[0] if isinstance(answer, tuple) and answer else answer, kind, device)
        model_digest(model, kind, probe)
        if kind == "vae":
            _check_function("the VAE's encode", lambda images: torch.cat(posterior(model, images), dim=1), probe)
            _check_function("the VAE's decode", partial(ask, model.decode), posterior(model, probe)[0])
        else:
            _check_function("the classifier", partial(ask, model), probe, random=True)
            check_classes(model, test, device)
    except Exception as error:
        cause = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        shape = ", ".join(map(str, probe.shape[1:]))
        raise ValueError(
            f"--{kind} {text} must work on the images of {test.name}, shaped (n, {shape}); {cause}"
            + " ".join(str(error).split())
        ) from error


def check_classes(classifier: Any, test: Images, device: torch.device) -> None:
    """Raise ValueError unless a classifier has a logit for each class of the test images."""
    with torch.no_grad():
        classes = ask(classifier, test.pixels[:2].to(device)).shape[1]
    if classes < (test.classes or 0):
        raise ValueError(
            f"the classifier must know all {test.classes} classes of {test.name}; it gives {classes} logits"
            f"{from_one(test.labels, classes)}"
        )


def _check_device(value: object, kind: str, device: torch.device) -> None:
    if isinstance(value, Tensor) and value.device.type != device.type:
        what = "encode" if kind == "vae" else "the classifier"
        raise ValueError(f"{what} must answer on {device}, where the images are; it does on {value.device}")


def _check_function(what: str, function: Callable[[Tensor], Tensor], point: Tensor, *, random: bool = False) -> None:
    """Attacks that know a model differentiate through it; where it has no gradient they would only seem to fail."""
    check_independent(what, function, point, random=random)
    with torch.enable_grad():
        leaf = point.detach().clone().requires_grad_()
        value = function(leaf)
        slope = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0] if value.requires_grad else None
    if slope is None:
        raise ValueError(f"{what} must be differentiable; it is not (is there a no_grad, a detach or numpy in it?)")
