"""Digests of values, files and tensors. Imports no torch."""

import hashlib
import json
from ctypes import string_at
from dataclasses import asdict, is_dataclass
from pathlib import Path


def digest(*parts: object) -> str:
    """Digest of JSON-like values, dataclasses, bytes, tensors and the contents of files (Path); 32 hex digits."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if hasattr(part, "detach"):  # a tensor
            data = part.detach().cpu().contiguous()
            # By address, as NumPy has no bfloat16.
            content = f"{data.dtype}{tuple(data.shape)}".encode() + string_at(data.data_ptr(), data.nbytes)
        elif isinstance(part, Path):
            content = part.read_bytes()
        elif isinstance(part, bytes):
            content = part
        elif is_dataclass(part) and not isinstance(part, type):
            content = json.dumps([type(part).__name__, asdict(part)], sort_keys=True).encode()
        else:
            content = json.dumps(part, sort_keys=True).encode()
        state.update(len(content).to_bytes(8, "little"))  # so that ("ab", "c") and ("a", "bc") differ
        state.update(content)
    return state.hexdigest()
