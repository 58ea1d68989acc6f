"""Calls of users' models: what they are given, what they answer, and what else their answers depend on."""

from collections.abc import Callable, Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vaecore._inside import is_exported, own_parts
from vaecore._remedies import of_call

_independent: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()  # methods checked


def ask(model: Callable[[Tensor], Any], given: Tensor) -> Any:
    """A model's answer to images or latents; a tensor, or each of a tuple, in the dtype of what it was given.

    The model gets a copy, since a model that preprocesses in place writes into it. Raises ValueError where torch finds
    that what is given does not fit the model.
    """
    if torch.compiler.is_compiling():
        answer = model(given.clone())
    else:
        try:
            answer = model(given.clone())
        except RuntimeError as error:
            if not (remedy := of_call(error, given)):
                raise
            name = getattr(model, "__qualname__", type(model).__name__)
            raise ValueError(
                f"{'the model' if '<' in name else name} must take a batch of shape {tuple(given.shape)},"
                f" {given.dtype} on {given.device}; got RuntimeError: {str(error).partition(chr(10))[0]} ({remedy})"
            ) from error
    if isinstance(answer, tuple | list):
        return tuple(_converted(part, given) for part in answer)
    return _converted(answer, given)


def _converted(part: object, given: Tensor) -> object:
    return part.to(given.dtype) if isinstance(part, Tensor) else part


# Names under which libraries give logits and images, the likeliest first.
_NAMES = ("logits", "reconstruction", "sample", "recon_x", "x_hat", "output", "out")


def adapter(answer: object, call: str) -> str:
    """How a call that answers with more than a tensor becomes one that gives a tensor, for an error message.

    call: as written in Python, for instance "model(images)". Empty where no part of the answer is known.
    """
    if isinstance(answer, tuple | list):
        part = next((f"[{place}]" for place, one in enumerate(answer) if isinstance(one, Tensor)), "")
    elif isinstance(answer, Mapping):
        names = [str(name) for name, one in answer.items() if isinstance(one, Tensor)]
        part = next((f'["{name}"]' for name in (*_NAMES, *names) if name in names), "")
    else:
        part = next((f".{name}" for name in _NAMES if isinstance(getattr(answer, name, None), Tensor)), "")
    return f" (wrap the model, so that it gives `{call}{part}`)" if part else ""


def encode_adapter(answer: object) -> str:
    """The same for `encode`, whose answer becomes a pair: that of a posterior, or of a mapping with both."""
    items = {str(name): one for name, one in answer.items()} if isinstance(answer, Mapping) else {}
    inner = items.get("latent_dist", getattr(answer, "latent_dist", answer))
    if isinstance(getattr(inner, "mean", None), Tensor) and isinstance(getattr(inner, "logvar", None), Tensor):
        where = "posterior" if inner is answer else "posterior.latent_dist"
        pair = f"{where}.mean.flatten(1), {where}.logvar.flatten(1)"
    else:
        tensors = [name for name, one in items.items() if isinstance(one, Tensor)]
        spread = next((name for name in tensors if "log" in name), "")
        middle = next((name for name in tensors if name != spread), "")
        if not spread or not middle:
            return ""
        pair = f'posterior["{middle}"], posterior["{spread}"]'
    return f" (wrap the model, so that it returns `{pair}` where `posterior = model.encode(images)`)"


def dependence(answer: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Tensor, Literal["batch", "chance"] | None]:
    """Answers to the rows of `given` (n, ...), and what else they depend on: the rest of the batch, chance, or nothing.

    The first half is asked about again, beside other rows: the negatives of the second half, at half the contrast. The
    size of the batch stays, as rounding may depend on it. One row alone has no batch to depend on.
    """
    first, half = answer(given), (len(given) + 1) // 2
    mixed = answer(torch.cat([given[:half], (1 - given[half:]) / 2]))
    if _alike(first[:half], mixed[:half]):
        return first, None
    return first, "batch" if _alike(first, answer(given)) else "chance"


def _alike(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-3, atol=1e-4, equal_nan=True)  # above the rounding of GPUs


def check_independent(what: str, answer: Callable[[Tensor], Tensor], given: Tensor, *, random: bool = False) -> None:
    """Raise ValueError if the answers to the rows of `given` depend on the rest of the batch or, unless random, chance.

    what: who answers, for the error message. answer: as in `dependence`.
    """
    with torch.no_grad():
        cause = dependence(answer, given.detach())[1]
    if cause == "batch":
        raise ValueError(
            f"{what} must answer for each image as if it were alone; the answer depends on the rest of the batch"
            " (a batch norm without running statistics, or a mean over the batch?)"
        )
    if cause == "chance" and not random:
        raise ValueError(
            f"{what} must give the same answer each time; it does not (does it return a draw, or is dropout left on?)"
        )


def check_module(
    model: object, what: str, answer: Callable[[Tensor], Tensor], given: Tensor, *, random: bool = False
) -> None:
    """As `check_independent`, once for a torch module; other models are taken at their word."""
    if not isinstance(model, nn.Module) or len(given) < 2:
        return
    checked = _independent.setdefault(model, set())
    if what not in checked:
        check_independent(what, answer, given[:2], random=random)
        checked.add(what)


def to_evaluation(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, but for exported parts."""
    if not any(map(is_exported, model.modules())):
        return model.eval()
    for part in own_parts(model):
        part.training = False
    return model
