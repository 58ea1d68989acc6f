"""The arithmetic that networks are run in, chosen by the caller and never by default."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch

Precision = Literal["float32", "tf32", "bfloat16"]
"""float32; tf32: on a GPU, products of float32 numbers cut to ten bits; bfloat16: torch.autocast, products of eight."""


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError unless it is a precision that this device computes in."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be 'float32', 'tf32' or 'bfloat16'; got {precision!r}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision 'tf32' takes a CUDA GPU; the images are on the {device.type} (use 'bfloat16')")


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """While entered, this device's matrix products and convolutions are computed in a precision.

    On a GPU "float32" is float32, where PyTorch by itself takes TF32 for convolutions.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"))
        if device.type == "cuda" and precision != "bfloat16":
            backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
            for backend in backends:
                stack.callback(setattr, backend, "allow_tf32", backend.allow_tf32)
                backend.allow_tf32 = precision == "tf32"
        yield
