"""Decoding and reducing in one function, compiled by torch.compile."""

import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from vaecore._precision import Precision, computing_in
from vaecore.models._networks import Autoencoder
from vaecore.reconstruction._decode import decode_draws

Reduce = Callable[[Tensor, Tensor], Any]
_KEPT = 64  # compiled functions


def decode_and_reduce(
    vae: Autoencoder, rows: Tensor, latents: Tensor, reduce: Reduce | None, precision: Precision
) -> Any:
    """Apply `reduce` to images (n, c, h, w) and decoded latents (n, draws, latent); None: return the decoded images.

    Raises RuntimeError if PyTorch finds no C++ compiler or, on a GPU, no Triton.
    """
    shapes = tuple(weight.shape for weight in vae.parameters()) if isinstance(vae, nn.Module) else ()
    compiled = _compiled(rows.device.type, precision, reduce, type(vae), shapes, latents.shape[1:])
    current = torch.cuda.device_of(rows)  # type: ignore[no-untyped-call]  # Triton takes the current GPU
    with current, computing_in(precision, rows.device):
        result = compiled(vae, rows, latents, reduce)
    if rows.device.type != "cuda":
        return result
    # A CUDA graph overwrites its results at the next call.
    return {name: part.clone() for name, part in result.items()} if isinstance(result, dict) else result.clone()


@lru_cache(maxsize=_KEPT)
def _compiled(device: str, *_: object) -> Callable[..., Any]:
    """A compiled function for each combination of arguments, as PyTorch recompiles one function a few times at most."""
    code = _decode_and_reduce.__code__.replace()  # PyTorch counts by code object
    copied = types.FunctionType(code, _decode_and_reduce.__globals__, _decode_and_reduce.__name__)
    # On a GPU as a CUDA graph, as small batches mostly wait for kernel launches.
    return torch.compile(copied, mode="reduce-overhead" if device == "cuda" else None)


def _decode_and_reduce(vae: Autoencoder, rows: Tensor, latents: Tensor, reduce: Reduce | None) -> Any:
    decoded = decode_draws(vae, latents, rows.shape)
    with torch.autocast(rows.device.type, enabled=False):
        return decoded if reduce is None else reduce(rows, decoded)
