"""Batch sizes that fit the cache or the GPU, and memory that is kept between batches."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vaecore._check import check_logits

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux; what sysconf says is wrong in some guests
_UNKNOWN = 1 << 20  # bytes, of most cores' second level
_GPU_ROWS, _GPU_BYTES = 65_536, 1 << 30  # fill any GPU, and leave room on a small one
_FEW = 100  # images, that are not worth a look at what they take
_LEARNED_FROM = 31 << 20  # bytes: just below the most that glibc learns from


def keep_freed_memory() -> None:
    """Have glibc keep some 62 MiB of freed memory, so that the next chunk's activations are not faulted in anew.

    It gives memory back as soon as twice the largest block that was mapped and freed lies idle (mallopt(3), on the
    dynamic mmap threshold): in a loop over chunks, again and again, for a tenth to a fifth of the time. So it is given
    such a block to learn from, which is never touched. Elsewhere this does nothing.
    """
    torch.empty(_LEARNED_FROM, dtype=torch.uint8, device="cpu")


@lru_cache(maxsize=1)
def core_cache() -> int:
    """Bytes of the last cache that a core has to itself, as a rule the second level."""
    try:
        return int((_CACHES / "index2" / "size").read_text(encoding="ascii").strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return _UNKNOWN


def fit_at_once(each: int, device: torch.device) -> int:
    """Number of latents or images to compute at once where the widest activation of each has so many bytes.

    On a CPU these fill twice the cache of each thread's core: with fewer, matrix products are slower; with more, each
    step finds its input in memory.
    """
    if device.type != "cpu":
        return max(1, min(_GPU_ROWS, _GPU_BYTES // each))
    return max(1, 2 * core_cache() * torch.get_num_threads() // each)


def widest_activation(module: object, call: Callable[[], object], least: int) -> int:
    """Numbers in the largest thing that a module computes in a call, which is of one image; at least `least`.

    What cannot be looked into, as it is no torch module in evaluation mode, is not called, and counts as `least`.
    """
    sizes = [least]
    if isinstance(module, nn.Module) and not module.training:
        hooks = [part.register_forward_hook(lambda _, __, out: sizes.append(_numel(out))) for part in module.modules()]
        try:
            call()
        finally:
            for hook in hooks:
                hook.remove()
    return max(sizes)


def answers(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The classifier's logits of images, (n, c, h, w) to (n, classes); raises ValueError where it gives something else.

    Without gradients, in portions that fit the cache or the GPU.
    """
    shape, widest, portion = images.shape[1:], images[0].numel(), len(images)
    if not torch.is_grad_enabled() and len(images) > _FEW:
        if isinstance(classifier, nn.Module):
            known = _widest.setdefault(classifier, {})
            if shape not in known:
                known[shape] = widest_activation(classifier, lambda: classifier(images[:1]), widest)
            widest = known[shape]
        portion = fit_at_once(widest * torch.float32.itemsize, images.device)
    parts = []
    for part in torch.split(images, portion):
        logits = classifier(part)
        check_logits(logits, len(part))
        parts.append(logits)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


_widest: WeakKeyDictionary[nn.Module, dict[torch.Size, int]] = WeakKeyDictionary()  # of classifiers, by images' shape


def _numel(found: object) -> int:
    return found.numel() if isinstance(found, Tensor) else 0
