"""Batch sizes that fit the cache or the GPU."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vaecore._calls import ask, check_module
from vaecore._check import check_classifier, check_logits
from vaecore._inside import is_exported

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux; sysconf is wrong in some virtual machines
_USUAL_CACHE = 1 << 20  # bytes of the second-level cache of most cores
_GPU_ROWS, _GPU_BYTES = 262_144, 1 << 30  # fill any GPU and leave room on a small one
_FEW = 100  # images that are classified in one call, whatever the size of their activations
_BELOW_LARGEST_THRESHOLD = 31 << 20  # bytes; glibc's threshold does not grow beyond 32 MiB

_widest: WeakKeyDictionary[nn.Module, dict[torch.Size, int]] = WeakKeyDictionary()  # by classifier and image shape


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


def widest_activation(module: object, call: Callable[[], object], least: int) -> int:
    """Elements in the largest activation for one image; at least `least`.

    call: runs the module on one image. It is called only for a torch module, and not for one that is scripted or
    exported, which can't be looked into.
    """
    sizes = [least]
    if isinstance(module, nn.Module) and not any(map(_is_closed, module.modules())):
        hooks = [
            part.register_forward_hook(lambda _, __, out: sizes.append(_elements(out))) for part in module.modules()
        ]
        try:
            call()
        finally:
            for hook in hooks:
                hook.remove()
    return max(sizes)


def _is_closed(module: nn.Module) -> bool:
    """Whether a module takes no hooks, or has no layers that hooks could watch."""
    return isinstance(module, torch.jit.ScriptModule) or is_exported(module)


def _elements(output: object) -> int:
    return output.numel() if isinstance(output, Tensor) else 0


def answers(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A classifier's logits, (n, c, h, w) to (n, classes), computed in batches that fit the cache or the GPU.

    With gradients enabled, all images are one batch. Raises ValueError unless the logits are finite and of that shape,
    if those of a torch module depend on the rest of the batch, and for a classifier in training mode.
    """
    check_classifier(classifier)
    shape, widest, batch_size = images.shape[1:], images[0].numel(), len(images)
    if not torch.is_grad_enabled() and len(images) > _FEW:
        if isinstance(classifier, nn.Module):
            sizes = _widest.setdefault(classifier, {})
            if shape not in sizes:
                sizes[shape] = widest_activation(classifier, lambda: ask(classifier, images[:1]), widest)
            widest = sizes[shape]
        batch_size = fit_at_once(widest * torch.float32.itemsize, images.device)
    batches = []
    for batch in torch.split(images, batch_size):
        logits = ask(classifier, batch)
        check_logits(logits, len(batch))
        batches.append(logits)
    check_module(classifier, "the classifier", partial(ask, classifier), images, random=True)
    return torch.cat(batches) if len(batches) > 1 else batches[0]
