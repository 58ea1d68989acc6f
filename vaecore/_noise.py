"""Random numbers that are functions of (seed, image, draw, position), and so do not depend on the batch.

The generator is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3): numpy's
on a CPU, a kernel on a GPU, and int64 tensor arithmetic for scattered image indices. Normal deviates are made by
tables, a product and a sum. The last bit of a logarithm or cosine may depend on memory alignment and on the device;
these do not. The bits are the same for any batch size, order, split, number of threads and device.
"""

import hashlib
import warnings
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vaecore._check import check_counts, check_integer, check_seed, check_tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_BLOCK = 8  # 32-bit words for each counter
_CELLS = 1 << 16
# numpy generates words for consecutive images. Tensor arithmetic takes about ten times as long, so it is used only
# where the indices span more than this many images for each image in the batch.
_SPARSE = 8
_LAST = (1 << 63) - 1  # int64


def seed_for(name: str, base: int) -> int:
    """Derive the seed for a purpose from its name and a base seed; both seeds are from 0 to 2**64 - 1.

    Adding a purpose, with a new name, never shifts the random numbers of another.
    """
    return int.from_bytes(hashlib.blake2b(f"{check_seed(base)}/{name}".encode(), digest_size=8).digest(), "little")


def image_indices(count: int, first_index: int, indices: Tensor | None) -> Tensor:
    """Index of each image of a batch, (count,) int64: `indices`, or else counted up from `first_index`.

    Raises ValueError for a negative index and another shape or dtype, TypeError for other types.
    """
    if indices is None:
        first = check_integer("first_index", first_index, 0, _LAST - count, "0 or more, with all indices below 2**63")
        return torch.arange(first, first + count)
    check_tensor("indices", indices)
    if indices.dtype != torch.int64 or indices.shape != (count,):
        raise ValueError(
            f"indices must be int64 of shape ({count},), one for each image; got {indices.dtype} {tuple(indices.shape)}"
        )
    if count and (lowest := int(indices.min())) < 0:
        raise ValueError(f"indices must be 0 or more; got {lowest}")
    return indices


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x64, from four int64 tensors to four of the same shapes; their bits are unsigned words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        (high0, low0), (high1, low1) = _product(c0, _MULTIPLIERS[0]), _product(c2, _MULTIPLIERS[1])
        c0, c1 = high1 ^ c1 ^ _signed(k0), low1
        c2, c3 = high0 ^ c3 ^ _signed(k1), low0
        k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return c0, c1, c2, c3


def _product(word: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """Upper and lower half of the 128-bit product of unsigned words."""
    low, high = word & _WORD, (word >> 32) & _WORD
    constant_low, constant_high = constant & _WORD, constant >> 32
    # Each sum is below 2**64 and may wrap to a negative int64. The mask after the arithmetic shift restores its halves.
    first = high * constant_low + ((low * constant_low >> 32) & _WORD)
    second = low * constant_high + (first & _WORD)
    return high * constant_high + ((first >> 32) & _WORD) + ((second >> 32) & _WORD), word * _signed(constant)


def _signed(word: int) -> int:
    """The int64 with the lower 64 bits of an integer."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)


def words(seed: int, indices: Tensor, *, draws: int, size: int, device: torch.device | None = None) -> Tensor:
    """Random 32-bit words (images, draws, size) as int64, on `device` (that of `indices` where None).

    seed: 0 to 2**64 - 1. indices: (images,) int64. Draw d of an image is the same whatever `draws` is.
    """
    return _words(seed, indices, draws, size, device).long() & _WORD


def uniform(seed: int, indices: Tensor, *, draws: int, size: int, device: torch.device | None = None) -> Tensor:
    """Uniform deviates (images, draws, size) float32, on the 2**23 centres of equal cells of (0, 1)."""
    # The centres of 2**24 cells would not fit into a float32: the largest would be rounded to 1.
    word = (_words(seed, indices, draws, size, device) >> 9) & ((1 << 23) - 1)
    return word.float().add_(0.5).mul_(2.0**-23)


def signs(seed: int, indices: Tensor, *, draws: int, size: int, device: torch.device | None = None) -> Tensor:
    """Random signs (images, draws, size) float32: -1 or 1, each with probability one half."""
    return (_words(seed, indices, draws, size, device) >> 31).float().mul_(-2).sub_(1)


def normal(seed: int, indices: Tensor, *, draws: int, size: int, device: torch.device | None = None) -> Tensor:
    """Standard normal deviates (images, draws, size) float32: quantiles at 2**32 points.

    The upper 16 bits choose one of 65,536 equally probable cells, and the lower 16 a point in it. Inner cells are
    interpolated linearly; the two outer cells (4.17 to 6.34 standard deviations) are tables of exact quantiles.
    """
    word = _words(seed, indices, draws, size, device)
    return normal_of(word.flatten()).view(word.shape)


def normal_of(word: Tensor) -> Tensor:
    """Normal deviates (n,) float32 from 32-bit words (n,) int32, whose bits are unsigned."""
    start, width, tail = _normal_tables(word.device)
    within, cell = word.contiguous().view(torch.uint16).view(-1, 2).unbind(1)  # little-endian: the lower half is first
    cell = cell.long()
    # `index_select` is ten times faster than indexing by a tensor. A product and a sum, as a fused multiply-add rounds
    # differently and is not available on every device.
    value = within.float().mul_(width.index_select(0, cell)).add_(start.index_select(0, cell))
    place = word + _CELLS  # shifted by a cell, so that words of the outer cells index the table of tails
    if word.device.type == "cpu":
        outer = torch.from_numpy(np.flatnonzero(place.numpy().view(np.uint32) < 2 * _CELLS))  # few
        return value.index_copy_(0, outer, tail.index_select(0, place.index_select(0, outer)))
    # Searching for the outer cells would make the host wait for the GPU.
    quantile = tail.index_select(0, place & (2 * _CELLS - 1))
    return torch.where((place >= 0) & (place < 2 * _CELLS), quantile, value)


def _words(seed: int, indices: Tensor, draws: int, size: int, device: torch.device | None) -> Tensor:
    """As `words`, but int32, whose bits are unsigned words.

    Draw d of image i takes the counters (low, high, d, 0) from i * blocks + 1 on; numpy starts at 1.
    """
    draws, size = check_counts(draws=draws, size=size)
    seed = check_seed(seed)
    indices = indices.to(device) if device is not None else indices
    blocks = -(-size // _BLOCK)
    long_words = None
    if indices.device.type == "cpu":
        long_words = _words_by_numpy(seed, indices, draws, blocks)
    elif indices.device.type == "cuda" and (kernel := _kernel()) is not None:
        long_words = kernel(_signed(seed), indices, draws, blocks)
    if long_words is None:
        long_words = _words_by_tensors(seed, indices, draws, blocks)
    return long_words.view(torch.int32).view(len(indices), draws, -1)[..., :size]


def _words_by_numpy(seed: int, indices: Tensor, draws: int, blocks: int) -> Tensor | None:
    """64-bit words for images on the CPU, (images, draws, 4 * blocks) int64; None if the indices are scattered."""
    low, high = (int(end) for end in torch.aminmax(indices)) if len(indices) else (0, -1)
    span = high - low + 1
    if span > _SPARSE * len(indices):
        return None
    consecutive = span == len(indices) and bool((indices.diff() == 1).all())
    rows = (indices - low).numpy()
    generator = np.random.Philox(key=np.array([seed, 0], dtype=np.uint64))
    state = generator.state
    long_words = np.empty((len(rows), draws, 4 * blocks), dtype=np.uint64)
    for draw in range(draws):
        upper, lower = divmod(low * blocks, 1 << 64)
        state["state"]["counter"] = np.array([lower, upper, draw, 0], dtype=np.uint64)
        generator.state = state
        run = generator.random_raw(4 * blocks * span).reshape(span, 4 * blocks)
        long_words[:, draw] = run if consecutive else run[rows]
    return torch.from_numpy(long_words.view(np.int64))


def _words_by_tensors(seed: int, indices: Tensor, draws: int, blocks: int) -> Tensor:
    """64-bit words for any images on any device, (images, draws, 4 * blocks) int64."""
    shape = (len(indices), draws, blocks)
    high, low = (half.view(-1, 1, 1) for half in _product(indices, blocks))
    block = low + torch.arange(1, blocks + 1, device=indices.device)
    carry = (block < 0) < (low < 0)  # the unsigned sum wrapped
    draw = torch.arange(draws, device=indices.device).view(1, -1, 1)
    counter = (block, high + carry, draw, torch.zeros_like(draw))
    parts = philox(tuple(word.expand(shape) for word in counter), (seed, 0))  # type: ignore[arg-type]
    return torch.stack(parts, dim=-1).flatten(2)


@lru_cache(maxsize=1)
def _kernel() -> Callable[[int, Tensor, int, int], Tensor] | None:
    """The kernel for GPUs, tried once; None, with a warning, where Triton is missing or cannot build it."""
    try:
        from vaecore._noise_kernel import words_by_kernel  # noqa: PLC0415  # needs Triton

        words_by_kernel(0, torch.zeros(1, dtype=torch.int64, device="cuda"), 1, 1)
    except Exception as error:  # noqa: BLE001  # whatever Triton, a compiler or a driver raises
        warnings.warn(
            "random numbers on this GPU take some 400 launches and not one, as their kernel cannot be built:"
            f" {error} (install triton and a C compiler)",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return words_by_kernel


@lru_cache(maxsize=8)
def _normal_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Centre of each cell's first point, width of a point, both (65,536,); quantiles of the outer cells (131,072,)."""
    from scipy.special import ndtri  # noqa: PLC0415  # takes five times as long to import as this package

    edges = ndtri(np.arange(1, _CELLS) / _CELLS)  # of the inner cells; the outer cells' entries are not used
    width = np.concatenate([[0.0], np.diff(edges) / _CELLS, [0.0]])
    start = np.concatenate([[0.0], edges]) + width / 2
    tail = ndtri((np.arange(_CELLS) + 0.5) / _CELLS**2)
    tables = start, width, np.concatenate([-tail[::-1], tail])
    return tuple(torch.from_numpy(table.astype(np.float32)).to(device) for table in tables)  # type: ignore[return-value]
