"""The precision in which networks compute: float32, or by the caller's choice TF32 or bfloat16."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch

from vaecore._check import check_choice

Precision = Literal["float32", "tf32", "bfloat16"]
"""tf32: float32 with products of 10-bit mantissas, on a GPU; bfloat16: torch.autocast, products of 7-bit mantissas."""


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError unless the device can compute in this precision; warn where it is slow at it."""
    check_choice("precision", precision, get_args(Precision))
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision 'tf32' takes a CUDA GPU; the images are on the {device.type} (use 'bfloat16')")
    if precision == "bfloat16" and device.type == "cpu" and not _multiplies_bfloat16():
        warnings.warn(
            "precision 'bfloat16' is slower than 'float32' on this processor, which has neither AVX512-BF16 nor AMX"
            " (use 'float32')",
            RuntimeWarning,
            stacklevel=3,
        )


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; of others than x86 it is not known, and taken to be so."""
    has = torch.cpu.get_capabilities()
    return has.get("architecture") != "x86_64" or bool(has.get("avx512_bf16") or has.get("amx_bf16"))


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute matrix products and convolutions on a device in a precision.

    On a GPU, "float32" also switches off TF32 for convolutions, which PyTorch uses by default.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"))
        if device.type == "cuda" and precision != "bfloat16":
            backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
            for backend in backends:
                stack.callback(setattr, backend, "allow_tf32", backend.allow_tf32)
                backend.allow_tf32 = precision == "tf32"
        yield
