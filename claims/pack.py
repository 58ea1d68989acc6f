"""Images as text, so that results hold what their figures show."""

import base64
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def pack(pixels: torch.Tensor) -> dict[str, Any]:
    """Images (n, 1, h, w) in [0, 1] as 8-bit text for JSON."""
    grey = (pixels * 255).round().to(torch.uint8).squeeze(1).numpy()
    return {"shape": list(grey.shape), "zlib_base64": base64.b64encode(zlib.compress(grey.tobytes(), 9)).decode()}


def unpack(packed: dict[str, Any]) -> NDArray[np.uint8]:
    """What `pack` made, (n, h, w) bytes."""
    content = zlib.decompress(base64.b64decode(packed["zlib_base64"]))
    return np.frombuffer(content, dtype=np.uint8).reshape(packed["shape"])
