"""What the machine's caches hold, which decides how much is decoded at once; and memory that is not asked for twice."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux; what sysconf says is wrong in some guests
_UNKNOWN = 1 << 20  # bytes, of most cores' second level
_GPU_ROWS, _GPU_BYTES = 65_536, 1 << 30  # fill any GPU, and leave room on a small one
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


def decoded_at_once(each: int, device: torch.device) -> int:
    """Number of latents to decode at once where the widest activation of each has so many bytes.

    On a CPU these fill twice the cache of each thread's core: with fewer, matrix products are slower; with more, each
    step finds its input in memory.
    """
    if device.type != "cpu":
        return max(1, min(_GPU_ROWS, _GPU_BYTES // each))
    return max(1, 2 * core_cache() * torch.get_num_threads() // each)


def widest_activation(decoder: object, latents: Tensor, least: int) -> int:
    """Numbers in the largest thing that a module computes in `decode`, of one latent; at least `least`.

    latents: (1, latent). What cannot be looked into, as it is no torch module, counts as `least`.
    """
    sizes = [least]
    if isinstance(decoder, nn.Module) and not decoder.training:
        hooks = [
            module.register_forward_hook(lambda _, __, out: sizes.append(_numel(out))) for module in decoder.modules()
        ]
        try:
            decoder.decode(latents)  # type: ignore[operator]
        finally:
            for hook in hooks:
                hook.remove()
    return max(sizes)


def _numel(found: object) -> int:
    return found.numel() if isinstance(found, Tensor) else 0
