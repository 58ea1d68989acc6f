"""How fast the machine could be: products at the rate that they reach alone, and bytes at that of a copy.

A roofline (Williams et al. 2009, "Roofline: an insightful visual performance model for multicore architectures"): work
takes at least as long as its matrix products at the best rate for their shapes, and as its bytes at the bandwidth of
memory. Rates are measured in the same process, just before what is compared with them.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vaecore.toolkit import Precision, computing_in

Shape = tuple[int, int]
"""Of a matrix product's right side: inner dimension and columns."""

_ROWS = {"cpu": (500, 2_000, 8_000), "cuda": (8_000, 65_536, 262_144)}  # of the left side: the best of these counts
_AT_LEAST = 0.01  # seconds that a rate is measured for, each of _REPEATS times
_REPEATS = 3
_COPIED = 64 << 20  # bytes: more than caches hold
aten = torch.ops.aten


@dataclass(frozen=True)
class Work:
    """What something needs: floating-point operations of its products, by shape, and bytes read and written."""

    products: Mapping[Shape, float]
    moved: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        """Both."""
        return Work(Counter(self.products) + Counter(other.products), self.moved + other.moved)

    def __mul__(self, times: int) -> "Work":
        """It all so many times."""
        return Work({shape: times * count for shape, count in self.products.items()}, times * self.moved)

    @property
    def operations(self) -> float:
        """Floating-point operations."""
        return sum(self.products.values())

    def limit(self, device: str, precision: Precision = "float32") -> float:
        """Seconds that it takes at least."""
        by_products = sum(count / product_rate(shape, device, precision) for shape, count in self.products.items())
        return max(by_products, self.moved / copy_rate(device) if self.moved else 0.0)


def work_of(function: Callable[[], Any]) -> Work:
    """The matrix products and convolutions that a call computes, with those of gradients."""
    with _Products() as seen:
        function()
    return Work(dict(seen.counts))


def reconstruction(vae: Any, image: Tensor, draws: int, images: int, *, written: int) -> Work:
    """What `draws` reconstructions of each of so many images need: one encoding and `draws` decodings of each.

    image: (1, c, h, w), one of them. written: numbers that are kept of each draw.
    """
    with torch.no_grad():
        mean, _ = vae.encode(image)
        encoding, decoding = work_of(lambda: vae.encode(image)), work_of(lambda: vae.decode(mean))
    weights = sum(weight.numel() for weight in vae.parameters())
    moved = 4.0 * (images * (image.numel() + draws * written) + weights)
    return encoding * images + decoding * (images * draws) + Work({}, moved)


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations of the products that are computed while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[Shape] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        """Compute it, and count."""
        found = function(*arguments, **(named or {}))
        self._count(function, arguments, found)
        return found

    def _count(self, function: Any, arguments: tuple[Any, ...], found: Any) -> None:
        if function in (aten.mm.default, aten.bmm.default):
            left, right = arguments[:2]
        elif function in (aten.addmm.default, aten.baddbmm.default):
            left, right = arguments[1:3]
        elif function is aten.convolution.default:
            self._convolution(arguments[0], arguments[1], found, transposed=arguments[6])
            return
        elif function is aten.convolution_backward.default:
            gradient, images, weight, transposed, wanted = (*arguments[:3], arguments[7], arguments[10])
            for _ in range(wanted[0] + wanted[1]):  # a gradient costs as much as the convolution
                self._convolution(images, weight, gradient, transposed=transposed)
            return
        else:
            return
        self.counts[int(left.shape[-1]), int(right.shape[-1])] += 2 * left.numel() * int(right.shape[-1])

    def _convolution(self, images: Tensor, weight: Tensor, found: Tensor, *, transposed: bool) -> None:
        # As the product that it is of its patches: the weight's first axis against the others.
        inner, columns = (
            (weight.shape[0], prod(weight.shape[1:])) if transposed else (prod(weight.shape[1:]), weight.shape[0])
        )
        places = images if transposed else found
        self.counts[inner, columns] += 2 * len(places) * prod(places.shape[2:]) * weight.numel()


def product_rate(shape: Shape, device: str, precision: Precision = "float32") -> float:
    """Floating-point operations a second of a product with a right side of this shape, for the best number of rows."""
    inner, columns = shape
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    right = torch.rand(columns, inner, device=device).to(dtype).t()  # as nn.Linear keeps its weight
    best = 0.0
    for rows in _ROWS[device]:
        left = torch.rand(rows, inner, device=device).to(dtype)
        into = torch.empty(rows, columns, device=device, dtype=dtype)
        with computing_in(precision, torch.device(device)):
            seconds = _seconds(partial(torch.mm, left, right, out=into), device)
        best = max(best, 2 * rows * inner * columns / seconds)
    return best


def copy_rate(device: str) -> float:
    """Bytes a second that a copy reads and writes in memory."""
    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    into = torch.empty_like(source)
    return 2 * _COPIED / _seconds(partial(into.copy_, source), device)


def _seconds(function: Callable[[], object], device: str) -> float:
    """Seconds of a call: the median of some measurements of as many calls as take _AT_LEAST."""
    function()
    calls = max(1, int(_AT_LEAST / max(_timed(function, 1, device), 1e-7)))
    return sorted(_timed(function, calls, device) for _ in range(_REPEATS))[_REPEATS // 2]


def _timed(function: Callable[[], object], calls: int, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls
