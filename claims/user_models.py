"""A user's own VAE and classifier: what `--vae` and `--classifier` name, and how a model is told from another."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaecore._check import check_logits
from vaecore._models import load_classifier, load_vae
from vaecore._reconstruct import check_reconstructions, posterior
from vaecore._store import digest

_METHODS = {"vae": ("encode", "decode"), "classifier": ("__call__",)}


def makes_models(text: str, kind: str) -> bool:
    """Whether a `--vae` or `--classifier` names a maker (seed -> model) and not one finished model."""
    if ":" in text:
        return not _finished(_attribute(text, kind), kind)
    if not Path(text).is_file():
        raise ValueError(f"--{kind} must be package.module:attribute or a file that exists; got {text}")
    return False


def user_model(text: str, kind: str, seed: int, device: torch.device) -> Any:
    """The model that `--vae` or `--classifier` names: `package.module:attribute`, or a file saved by vaecore.

    Raises ValueError where there is no such model, or it lacks what a model of its kind (vae, classifier) needs.
    """
    if ":" not in text:
        loaded = load_vae(text) if kind == "vae" else load_classifier(text)
        return loaded.requires_grad_(requires_grad=False).to(device)
    found = _attribute(text, kind)
    try:
        model = found if _finished(found, kind) else found(seed)
    except Exception as error:
        raise ValueError(
            f"--{kind} {text} must be a torch module, or a maker that takes a seed and gives a model;"
            f" calling it with {seed} raised {type(error).__name__}: {error}"
        ) from error
    missing = [name for name in _METHODS[kind] if not callable(getattr(model, name, None))]
    if missing:
        wanted = " and ".join(_METHODS[kind])
        raise ValueError(f"--{kind} {text} must give a model with {wanted}; it lacks {', '.join(missing)}")
    return model.requires_grad_(False).to(device).eval() if isinstance(model, nn.Module) else model


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, a CPU rounds as it does with one thread, so that digests of results do not depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def model_digest(model: Any, kind: str, probe: Tensor) -> str:
    """Digest of a model: its weights, its structure, the source of its class, and what it does with a few images.

    probe: images (n, c, h, w) on the model's device. What a model does tells apart what its weights don't (another
    activation, a closure); raises ValueError where it does what no model of its kind should.
    """
    parts: list[object] = [kind, f"{type(model).__module__}.{type(model).__qualname__}"]
    source = getattr(sys.modules.get(type(model).__module__), "__file__", None)
    if source is not None:
        parts.append(Path(source))
    if isinstance(model, nn.Module):
        parts.append(repr(model))
        for name, value in sorted(model.state_dict().items()):
            parts += [name, value]
    with torch.no_grad(), one_thread():
        if kind == "vae":
            mean, log_variance = posterior(model, probe)
            decoded = model.decode(mean)
            check_reconstructions(decoded)
            parts += [mean, log_variance, decoded]
        else:
            logits = model(probe)
            check_logits(logits, len(probe))
            if bool((logits >= 0).all() & torch.isclose(logits.sum(1), logits.new_ones(()), atol=1e-4).all()):
                raise ValueError("the classifier must return logits; got probabilities (leave out its last softmax)")
            parts.append(logits)
    return digest(*parts)


def _finished(found: Any, kind: str) -> bool:
    """Whether an attribute is a model already: a torch module or, for a VAE, any object that encodes and decodes."""
    has_methods = all(callable(getattr(found, name, None)) for name in ("encode", "decode"))
    return isinstance(found, nn.Module) or (kind == "vae" and has_methods and not isinstance(found, type))


def _attribute(text: str, kind: str) -> Any:
    module, _, name = text.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109  # a user's module lies beside the command, as for `python -m`
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--{kind} must be package.module:attribute; {text} can't be imported: {error}") from None
    if not callable(found) and not _finished(found, kind):
        raise ValueError(f"--{kind} {text} must be a module or a callable seed -> module; got {type(found).__name__}")
    return found
