"""Decoding and reducing in one compiled function: by torch.compile, or by our kernel for squared errors on a GPU."""

import importlib.util
import types
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from vaecore._precision import Precision, computing_in
from vaecore.models._networks import VAE, Autoencoder
from vaecore.reconstruction._decode import decode_draws, squared_error

Reduce = Callable[[Tensor, Tensor], Any]
_WARM_UP, _REPEATS = 3, 5  # calls of each way before timing, and timed calls
_TENSOR_CORES = (8, 0)  # least compute capability with bfloat16 and TF32 in tensor cores
_KEPT = 64  # compiled functions

_chosen: dict[tuple[object, ...], int] = {}  # for each task, the position of the fastest way


def decode_and_reduce(
    vae: Autoencoder, rows: Tensor, latents: Tensor, reduce: Reduce | None, precision: Precision
) -> Any:
    """Apply `reduce` to images (n, c, h, w) and decoded latents (n, draws, latent); None: return the decoded images.

    If torch.compile and our kernel are both possible, the first call for each shape times them, and later calls use the
    faster; results differ by rounding only. Raises RuntimeError if PyTorch finds no C++ compiler or, on a GPU, no
    Triton.
    """
    # Triton and CUDA events use the current GPU.
    current = torch.cuda.device(rows.device) if rows.device.type == "cuda" else nullcontext()
    with current, computing_in(precision, rows.device):
        ways: list[Callable[[], Any]] = [partial(_by_torch, vae, rows, latents, reduce, precision)]
        if not has_kernel(vae, reduce, precision, rows.device):
            return ways[0]()
        assert isinstance(vae, VAE)
        ways.append(partial(_by_kernel, vae, rows, latents))
        task = (torch.cuda.get_device_name(rows.device), precision, vae.config, vae.image_shape, latents.shape)
        if task not in _chosen:
            _chosen[task] = fastest(ways)
        return ways[_chosen[task]]()


def has_kernel(vae: Autoencoder, reduce: Reduce | None, precision: Precision, device: torch.device) -> bool:
    """Whether our kernel applies: squared errors of the reference VAE, on NVIDIA tensor cores, with Triton."""
    if device.type != "cuda" or precision == "float32" or reduce is not squared_error or type(vae) is not VAE:
        return False
    tensor_cores = torch.version.hip is None and torch.cuda.get_device_capability(device) >= _TENSOR_CORES
    return tensor_cores and importlib.util.find_spec("triton") is not None


def fastest(ways: Sequence[Callable[[], object]], clock: Callable[[Callable[[], object]], float] | None = None) -> int:
    """Position of the way with the least median time; clock: seconds of a call, by default on the GPU."""
    clock = clock or _seconds_on_gpu
    seconds = []
    for way in ways:
        for _ in range(_WARM_UP):
            way()
        seconds.append(median(clock(way) for _ in range(_REPEATS)))
    return seconds.index(min(seconds))


def _seconds_on_gpu(way: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    way()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _by_torch(vae: Autoencoder, rows: Tensor, latents: Tensor, reduce: Reduce | None, precision: Precision) -> Any:
    shapes = tuple(weight.shape for weight in vae.parameters()) if isinstance(vae, nn.Module) else ()
    compiled = _compiled(rows.device.type, precision, reduce, type(vae), shapes, latents.shape[1:])
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


def _by_kernel(vae: VAE, rows: Tensor, latents: Tensor) -> Tensor:
    from vaecore.reconstruction._fused import squared_errors_of_hidden  # noqa: PLC0415  # needs Triton

    hidden = vae.decode_hidden(latents.flatten(0, 1))
    errors = squared_errors_of_hidden(hidden, vae.pixels.weight, vae.pixels.bias, rows.flatten(1))
    return errors.view(latents.shape[:2])
