"""A Triton kernel for the words of `vaecore._noise`: one launch, where tensor arithmetic takes some 400."""

import torch
import triton
import triton.language as tl
from torch import Tensor

COUNTERS = 256  # of a program; each gives four words


# ruff: noqa: ANN001, ANN202, N803  # Triton interprets annotations, and its convention is sizes in capitals
@triton.jit(do_not_specialize=["seed", "total", "draws", "blocks"])  # type: ignore[untyped-decorator]
def words_kernel(  # type: ignore[no-untyped-def]
    indices, words, seed, total, draws, blocks, COUNTERS: tl.constexpr
):
    """Ten rounds of Philox4x64 for COUNTERS of the `total` counters (image, draw, block)."""
    place = tl.program_id(0).to(tl.int64) * COUNTERS + tl.arange(0, COUNTERS)
    is_place = place < total
    draw_of_image = place // blocks
    image = tl.load(indices + draw_of_image // draws, mask=is_place, other=0).to(tl.uint64)
    width = tl.full((COUNTERS,), 0, tl.uint64) + blocks.to(tl.uint64)
    first = image * width
    c0 = first + (place % blocks).to(tl.uint64) + 1
    c1 = tl.umulhi(image, width) + (c0 < first).to(tl.uint64)
    c2 = (draw_of_image % draws).to(tl.uint64)
    c3 = tl.full((COUNTERS,), 0, tl.uint64)
    k0 = tl.full((COUNTERS,), 0, tl.uint64) + seed.to(tl.uint64)
    k1 = tl.full((COUNTERS,), 0, tl.uint64)
    m0 = tl.full((COUNTERS,), 0xD2E7470EE14C6C93, tl.uint64)
    m1 = tl.full((COUNTERS,), 0xCA5A826395121157, tl.uint64)
    for _ in tl.static_range(10):
        high0, high1 = tl.umulhi(c0, m0), tl.umulhi(c2, m1)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, c2 * m1, high0 ^ c3 ^ k1, c0 * m0
        k0 += 0x9E3779B97F4A7C15
        k1 += 0xBB67AE8584CAA73B
    to = words + 4 * place
    tl.store(to, c0.to(tl.int64, bitcast=True), mask=is_place)
    tl.store(to + 1, c1.to(tl.int64, bitcast=True), mask=is_place)
    tl.store(to + 2, c2.to(tl.int64, bitcast=True), mask=is_place)
    tl.store(to + 3, c3.to(tl.int64, bitcast=True), mask=is_place)


def words_by_kernel(seed: int, indices: Tensor, draws: int, blocks: int) -> Tensor:
    """64-bit words for images on a GPU, (images, draws, 4 * blocks) int64; seed: as a signed int64."""
    words = torch.empty(len(indices), draws, 4 * blocks, dtype=torch.int64, device=indices.device)
    total = len(indices) * draws * blocks
    with torch.cuda.device_of(indices):  # type: ignore[no-untyped-call]  # Triton takes the current GPU
        words_kernel[(-(-total // COUNTERS),)](indices.contiguous(), words, seed, total, draws, blocks, COUNTERS)
    return words
