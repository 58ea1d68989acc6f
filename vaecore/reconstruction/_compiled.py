"""Decoding and what is made of it as one: compiled by PyTorch or, for squared errors on a GPU, a kernel of our own."""

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
_WARM_UP, _REPEATS = 3, 5  # calls of each way before the fastest is chosen, and calls that are timed
_TENSOR_CORES = (8, 0)  # the first GPUs whose tensor cores take bfloat16 and TF32, by compute capability
_KEPT = 64  # compiled functions


def decode_and_reduce(
    vae: Autoencoder, rows: Tensor, latents: Tensor, reduce: Reduce | None, precision: Precision
) -> Any:
    """What `reduce` makes of images (n, c, h, w) and the images of latents (n, draws, latent); those where it is None.

    Where several ways lead there, all are timed at the first call for each shape, and the fastest is taken from then
    on: their results differ by rounding alone. Raises RuntimeError where PyTorch finds no C++ compiler, or on a GPU no
    Triton.
    """
    # Triton and events go by the GPU that is current.
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


_chosen: dict[tuple[object, ...], int] = {}  # for each task, the place of the way that was fastest


def has_kernel(vae: Autoencoder, reduce: Reduce | None, precision: Precision, device: torch.device) -> bool:
    """Whether `vaecore._fused` can do it: errors of the reference VAE, by products of an NVIDIA GPU's tensor cores."""
    if device.type != "cuda" or precision == "float32" or reduce is not squared_error or type(vae) is not VAE:
        return False
    known = torch.version.hip is None and torch.cuda.get_device_capability(device) >= _TENSOR_CORES
    return known and importlib.util.find_spec("triton") is not None


def fastest(ways: Sequence[Callable[[], object]], clock: Callable[[Callable[[], object]], float] | None = None) -> int:
    """The place of the way that takes least, in the median; clock: seconds of a call, by default on the GPU."""
    clock = clock or _seconds_on_gpu
    took = []
    for way in ways:
        for _ in range(_WARM_UP):
            way()
        took.append(median(clock(way) for _ in range(_REPEATS)))
    return took.index(min(took))


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
    found = compiled(vae, rows, latents, reduce, precision == "bfloat16")
    if rows.device.type != "cuda":
        return found
    # A CUDA graph writes its results to the same place each time.
    return {name: part.clone() for name, part in found.items()} if isinstance(found, dict) else found.clone()


@lru_cache(maxsize=_KEPT)
def _compiled(device: str, *_: object) -> Callable[..., Any]:
    """A compiled function for what it is told; of one function PyTorch compiles a few kinds of use, then no more."""
    code = _decode_and_reduce.__code__.replace()  # another object, so that it counts as another function
    own = types.FunctionType(code, _decode_and_reduce.__globals__, _decode_and_reduce.__name__)
    # On a GPU, as a CUDA graph: small batches wait for launches more than for anything else.
    return torch.compile(own, mode="reduce-overhead" if device == "cuda" else None)


def _decode_and_reduce(vae: Autoencoder, rows: Tensor, latents: Tensor, reduce: Reduce | None, half: bool) -> Any:  # noqa: FBT001
    decoded = decode_draws(vae, latents, rows.shape)
    with torch.autocast(rows.device.type, enabled=False):
        decoded = decoded.float() if half else decoded
        return decoded if reduce is None else reduce(rows, decoded)


def _by_kernel(vae: VAE, rows: Tensor, latents: Tensor) -> Tensor:
    from vaecore.reconstruction._fused import squared_errors_of_hidden  # noqa: PLC0415  # there is Triton for GPUs only

    hidden = vae.decode_hidden(latents.flatten(0, 1))
    found = squared_errors_of_hidden(hidden, vae.pixels.weight, vae.pixels.bias, rows.flatten(1))
    return found.view(latents.shape[:2])
