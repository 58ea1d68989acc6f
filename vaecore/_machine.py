"""What the machine's caches hold, which decides how much is decoded at once."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux; what sysconf says is wrong in some guests
_UNKNOWN = 1 << 20  # bytes, of most cores' second level
_GPU_ROWS, _GPU_BYTES = 65_536, 1 << 30  # fill any GPU, and leave room on a small one


@lru_cache(maxsize=1)
def core_cache() -> int:
    """Bytes of the last cache that a core has to itself, as a rule the second level."""
    try:
        return int((_CACHES / "index2" / "size").read_text(encoding="ascii").strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return _UNKNOWN


def decoded_at_once(widest: int, device: torch.device) -> int:
    """Number of latents to decode at once where the widest activation of each has so many float32 numbers.

    On a CPU these fill twice the cache of each thread's core: with fewer, matrix products are slower; with more, each
    step finds its input in memory.
    """
    each = torch.float32.itemsize * widest
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
