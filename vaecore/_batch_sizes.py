"""Batch sizes that fit the cache or the GPU."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from vaecore._calls import ask, check_module
from vaecore._check import check_classifier, check_logits

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux; sysconf is wrong in some virtual machines
_USUAL_CACHE = 1 << 20  # bytes of the second-level cache of most cores
_GPU_ROWS, _GPU_BYTES = 262_144, 1 << 30  # fill any GPU and leave room on a small one
_KEPT = {"cpu": 24 << 20}  # bytes that are kept for gradients at once: on a CPU in caches beyond the core's own
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
    looked into once for each method and shape of a row; of other models only `least` is known.
    """
    widest = least
    if isinstance(model, nn.Module):
        known = _widest.setdefault(model, {})
        key = method, row.shape, least
        if key not in known:
            plain = torch.autocast(row.device.type, enabled=False)  # it casts weights, which are no activations
            with _as_written(), torch.no_grad(), plain, _Widths() as seen:
                ask_model(row)
            known[key] = max([least, *seen.sizes])
        widest = known[key]
    return fit_at_once(widest * dtype.itemsize, row.device)


def differentiated_at_once(kept: int, device: torch.device, most: int) -> int:
    """Rows that are differentiated at once, `most` at most; kept: bytes that each keeps for its gradient."""
    return max(1, min(most, _KEPT.get(device.type, _GPU_BYTES) // max(1, kept)))


def kept_for_gradient(answer: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, int]:
    """An answer to rows, and bytes that are kept for its gradient, without those of the rows and of weights."""
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        origin = saved if saved._base is None else saved._base  # noqa: SLF001  # there is no other way
        if not origin.is_leaf:
            kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with _as_written(), torch.enable_grad(), saved_tensors_hooks(note, lambda saved: saved):
        found = answer(rows.detach().clone().requires_grad_())  # holds what is kept, so that no two have one place
    return found.detach(), sum(kept.values())


class _Widths(TorchFunctionMode):
    """Numbers in each new tensor that an operation of torch gives while it is entered.

    A mode of dispatch, which sees operations within operations, too, would import a compiler.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        """Compute it, and count."""
        found = function(*arguments, **(named or {}))
        given = {_place(one) for one in tree_leaves((arguments, named)) if isinstance(one, Tensor)}
        made = [one for one in tree_leaves(found) if isinstance(one, Tensor) and _place(one) not in given]
        self.sizes += [one.numel() for one in made]
        return found


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001  # tensors without data have no pointer


@contextmanager
def _as_written() -> Iterator[None]:
    """Compute what is compiled as it is written, to see what it is made of."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and its import takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


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
