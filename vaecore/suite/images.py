"""Images as text, so that results hold what their figures show."""

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack(pixels: NDArray[np.float32]) -> dict[str, Any]:
    """Images (n, channels, h, w) in [0, 1], grey or of three channels, as 8-bit text for JSON."""
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise ValueError(f"images must be (n, 1, h, w) or (n, 3, h, w); got {tuple(pixels.shape)}")
    content = np.moveaxis((pixels * np.float32(255)).round().astype(np.uint8), 1, -1)
    rows = content[..., 0] if pixels.shape[1] == 1 else content
    return {"shape": list(rows.shape), "zlib_base64": base64.b64encode(zlib.compress(rows.tobytes(), 9)).decode()}


def unpack(packed: dict[str, Any]) -> NDArray[np.uint8]:
    """What `pack` made, as figures take it: (n, h, w) bytes where grey, else (n, h, w, 3)."""
    content = zlib.decompress(base64.b64decode(packed["zlib_base64"]))
    return np.frombuffer(content, dtype=np.uint8).reshape(packed["shape"])
