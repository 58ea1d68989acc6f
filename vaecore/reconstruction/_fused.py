"""A Triton kernel for a decoder's last layer, its sigmoid and the squared error, without storing reconstructions."""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows, pixels and inner dimension of a tile, warps, and pipeline stages; the fastest is chosen by timing on the GPU.
TILES = (
    (64, 64, 32, 4, 4),
    (64, 128, 64, 4, 3),
    (128, 64, 32, 4, 4),
    (128, 128, 32, 8, 3),
    (128, 128, 64, 8, 3),
    (128, 256, 64, 8, 3),
    (256, 128, 64, 8, 3),
)


# ruff: noqa: ANN001, ANN202, N803  # Triton interprets annotations, and its convention is sizes in capitals
@triton.jit  # type: ignore[untyped-decorator]
def squared_error_kernel(  # type: ignore[no-untyped-def]
    hidden,
    weight,
    bias,
    images,
    errors,
    rows,
    pixels,
    inner,
    draws,
    PRODUCTS: tl.constexpr,
    ROWS: tl.constexpr,
    PIXELS: tl.constexpr,
    INNER: tl.constexpr,
):
    """One program computes ROWS rows of `hidden`, PIXELS pixels at a time, and writes only the errors to `errors`."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = (row < rows)[:, None]
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for first_pixel in range(0, pixels, PIXELS):
        pixel = first_pixel + tl.arange(0, PIXELS)
        is_pixel = (pixel < pixels)[None, :]
        column = weight + pixel[None, :] * inner
        odds = tl.zeros((ROWS, PIXELS), dtype=tl.float32)
        for first in range(0, inner, INNER):
            place = first + tl.arange(0, INNER)
            is_place = place < inner
            left = tl.load(hidden + row[:, None] * inner + place[None, :], mask=is_row & is_place[None, :], other=0.0)
            right = tl.load(column + place[:, None], mask=is_pixel & is_place[:, None], other=0.0)
            odds = tl.dot(left, right, odds, input_precision=PRODUCTS)
        odds += tl.load(bias + pixel[None, :], mask=is_pixel, other=0.0).to(tl.float32)
        wanted = tl.load(images + (row // draws)[:, None] * pixels + pixel[None, :], mask=is_row & is_pixel, other=0.0)
        gap = tl.sigmoid(odds) - wanted
        total += tl.sum(tl.where(is_pixel, gap * gap, 0.0), axis=1)
    tl.store(errors + row, total / pixels, mask=row < rows)


def squared_errors_of_hidden(
    hidden: Tensor, weight: Tensor, bias: Tensor, images: Tensor, kernel: Any = None, **tiles: int
) -> Tensor:
    """Squared error of each row's image, sigmoid(hidden @ weight.T + bias), mean over pixels; (n * draws,) float32.

    hidden: (n * draws, inner), with the draws of an image in consecutive rows. weight: (pixels, inner). bias:
    (pixels,). images: (n, pixels). Products are bfloat16 if `hidden` is, else TF32; sums and sigmoid are float32.
    kernel, tiles: for tests, which choose ROWS, PIXELS and INNER.
    """
    rows, inner = hidden.shape
    errors = torch.empty(rows, device=hidden.device)
    matrices = (part.to(hidden.dtype).contiguous() for part in (hidden, weight, bias))
    products = "tf32" if hidden.dtype == torch.float32 else "ieee"  # "ieee" leaves half precision as it is

    def grid(sizes: dict[str, int]) -> tuple[int]:
        return (-(-rows // sizes["ROWS"]),)

    (kernel or _tuned())[grid](
        *matrices,
        images.contiguous(),
        errors,
        rows,
        len(weight),
        inner,
        rows // len(images),
        PRODUCTS=products,
        **tiles,
    )
    return errors


@lru_cache(maxsize=1)
def _tuned() -> Any:
    """The kernel with the fastest tiles for each layer; created on first use, as it needs a GPU."""
    configurations = [
        triton.Config({"ROWS": rows, "PIXELS": pixels, "INNER": inner}, num_warps=warps, num_stages=stages)
        for rows, pixels, inner, warps, stages in TILES
    ]
    return triton.autotune(configurations, key=["pixels", "inner", "PRODUCTS"])(squared_error_kernel)
