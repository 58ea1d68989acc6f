"""Calls of users' models: what they are given, what they answer, and what else their answers depend on."""

from collections.abc import Callable
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_independent: WeakKeyDictionary[nn.Module, set[tuple[str, bool]]] = WeakKeyDictionary()  # methods checked, with modes


def ask(model: Callable[[Tensor], Any], given: Tensor) -> Any:
    """A model's answer to images or latents; a tensor, or each of a tuple, in the dtype of what it was given.

    The model gets a copy, since a model that preprocesses in place writes into it.
    """
    answer = model(given.clone())
    if isinstance(answer, tuple | list):
        return tuple(_converted(part, given) for part in answer)
    return _converted(answer, given)


def _converted(part: object, given: Tensor) -> object:
    return part.to(given.dtype) if isinstance(part, Tensor) else part


def dependence(answer: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Tensor, Literal["batch", "chance"] | None]:
    """Answers to the rows of `given` (n, ...), and what else they depend on: the rest of the batch, chance, or nothing.

    answer: maps (2n, ...) to (2n, ...). Each row is asked about in two batches of one size, as rounding may depend on
    the size: beside the rows themselves, and beside their negatives of half the contrast.
    """

    def beside(others: Tensor) -> Tensor:
        return answer(torch.cat([given, others]))[: len(given)]

    first = beside(given)
    if _alike(first, beside((1 - given) / 2)):
        return first, None
    return first, "batch" if _alike(first, beside(given)) else "chance"


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
    """As `check_independent`, once for each mode of a torch module; other models are taken at their word."""
    if not isinstance(model, nn.Module):
        return
    checked, key = _independent.setdefault(model, set()), (what, getattr(model, "training", False))
    if key not in checked:
        check_independent(what, answer, given[:2], random=random)
        checked.add(key)


def to_evaluation(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, but for exported parts, which have one mode alone and no `eval`."""
    if not any(isinstance(part, torch.fx.GraphModule) for part in model.modules()):
        return model.eval()
    model.training = False
    for child in model.children():
        to_evaluation(child)
    return model
