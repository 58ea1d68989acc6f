"""What the machine's caches hold, which decides how many images are worked on at once."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

_LEVEL_3 = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")  # Linux; what sysconf says is wrong in some guests
_UNKNOWN = 8 << 20  # bytes, of a small laptop's
_MOST = 32 << 20  # bytes: of a larger cache the rest is somebody else's
_GPU_ROWS = 65_536  # fill any GPU


@lru_cache(maxsize=1)
def last_cache() -> int:
    """Bytes of the last cache before memory, as far as one process should count on it."""
    try:
        text = _LEVEL_3.read_text(encoding="ascii").strip()
        return min(_MOST, int(text.removesuffix("K")) << 10)
    except (OSError, ValueError):
        return _UNKNOWN


def decoded_at_once(images: Tensor) -> int:
    """Number of images shaped as these, (n, c, h, w), to decode at once on their device.

    On a CPU they fill a quarter of the last cache, so that what else comes of them fits beside them: smaller matrix
    products are slower, and with larger ones each step finds its input in memory.
    """
    if images.device.type != "cpu":
        return _GPU_ROWS
    return max(1, last_cache() // 4 // (images[0].numel() * torch.float32.itemsize))
