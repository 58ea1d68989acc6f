"""Batch sizes that fit the cache or the GPU."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from vaecore._calls import ask, check_module
from vaecore._check import check_classifier, check_logits
from vaecore._inside import modules_of

Answer = TypeVar("Answer")

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux; sysconf is wrong in some virtual machines
_USUAL_CACHE = 1 << 20  # bytes of the second-level cache of most cores
_GPU_ROWS, _GPU_BYTES = 262_144, 1 << 30  # fill any GPU and leave room on a small one
_KEPT = {"cpu": 48 << 20}  # bytes made on the way of images that are differentiated at once: in the shared caches
_FEW = 100  # rows that a model is asked about in one call, whatever the size of their activations
_BELOW_LARGEST_THRESHOLD = 31 << 20  # bytes; glibc's threshold does not grow beyond 32 MiB

_widest: WeakKeyDictionary[nn.Module, dict[object, int]] = WeakKeyDictionary()  # by model, method and shape of a row


def keep_freed_memory() -> None:
    """Make glibc keep about 62 MiB of freed memory for reuse; elsewhere this does nothing.

    glibc returns memory to the system once twice the largest block that was mapped and freed lies idle (mallopt(3), the
    dynamic mmap threshold). In a loop over chunks this costs 10 to 20% of the time. One large block, allocated and
    freed but never touched, raises that threshold.
    """
    torch.empty(_BELOW_LARGEST_THRESHOLD, dtype=torch.uint8, device="cpu")


@lru_cache(maxsize=1)
def core_cache() -> int:
    """Bytes of the largest cache that a core does not share, usually the second level."""
    try:
        return int((_CACHES / "index2" / "size").read_text(encoding="ascii").strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return _USUAL_CACHE


def fit_at_once(each: int, device: torch.device) -> int:
    """Number of latents or images to compute at once; `each` is the bytes of the widest activation of one.

    On a CPU the activations fill twice the cache of each thread's core: smaller batches make slow matrix products, and
    larger ones fall out of the cache between layers.
    """
    if device.type != "cpu":
        return max(1, min(_GPU_ROWS, _GPU_BYTES // each))
    return max(1, 2 * core_cache() * torch.get_num_threads() // each)


def rows_at_once(
    model: object,
    method: str,
    ask_model: Callable[[Tensor], object],
    row: Tensor,
    least: int,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Rows that fit the cache or the GPU as a model answers them at once, by its widest activation; see `fit_at_once`.

    row: (1, ...), the first of them. least: numbers in the widest activation at least; dtype: theirs. A torch module is
    looked into once for each method and shape of a row; of other models, and of compiled ones, only `least` is known.
    """
    widest = least
    if isinstance(model, nn.Module) and not any(map(_is_compiled, model.modules())):
        known = _widest.setdefault(model, {})
        key = method, row.shape, least
        if key not in known:
            known[key] = max([least, *widths(ask_model, row)[1]])
        widest = known[key]
    return fit_at_once(widest * dtype.itemsize, row.device)


def differentiated_at_once(kept: int, device: torch.device, most: int) -> int:
    """Rows that are differentiated at once, `most` at most; kept: numbers that are made of each on the way."""
    return max(1, min(most, _KEPT.get(device.type, _GPU_BYTES) // (torch.float32.itemsize * max(1, kept))))


def widths(call: Callable[[Tensor], Answer], rows: Tensor) -> tuple[Answer, list[int]]:
    """A model's answer to rows, and the numbers in each tensor that operations of torch make of them on the way.

    Of a loop, what an operation makes in the same shape counts once. Compiled models are not looked into, as they would
    be compiled again.
    """
    if any(map(_is_compiled, modules_of(call))):
        return call(rows), []
    with _Widths(rows) as seen:
        return call(rows), [*seen.numbers.values()]


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


class _Widths(TorchFunctionMode):
    """Notes the numbers in each tensor that is made of some rows, and not of weights alone, while it is entered.

    A mode of dispatch, which sees operations within operations, too, would import a compiler.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.numbers: dict[tuple[object, torch.Size], int] = {}
        self._made: dict[int, object] = {id(rows): rows}  # by id; kept, so that no other gets its id

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        """Compute it, and note."""
        found = function(*arguments, **(named or {}))
        if any(id(one) in self._made for one in tree_leaves((arguments, named))):
            made = [one for one in tree_leaves(found) if isinstance(one, Tensor) and id(one) not in self._made]
            self._made |= {id(one): one for one in made}
            self.numbers |= {(function, one.shape): one.numel() for one in made}
        return found


def answer_in_batches(
    model: object, method: str, ask_model: Callable[[Tensor], Tensor], rows: Tensor, least: int
) -> Tensor:
    """A model's answers to rows (n, ...), in batches that fit; at once with gradients enabled, and if there are few."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or len(rows) <= _FEW:
        return ask_model(rows)
    size = rows_at_once(model, method, ask_model, rows[:1], least)
    if len(rows) <= size:
        return ask_model(rows)
    return torch.cat([ask_model(batch) for batch in torch.split(rows, size)])


def answers(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A classifier's logits, (n, c, h, w) to (n, classes), computed in batches that fit the cache or the GPU.

    With gradients enabled, all images are one batch. Raises ValueError unless the logits are finite and of that shape,
    if those of a torch module depend on the rest of the batch, and for a classifier in training mode.
    """
    check_classifier(classifier)

    def logits(batch: Tensor) -> Tensor:
        found: Tensor = ask(classifier, batch)
        check_logits(found, len(batch))
        return found

    found = answer_in_batches(classifier, "forward", logits, images, images[0].numel())
    check_module(classifier, "the classifier", partial(ask, classifier), images, random=True)
    return found
