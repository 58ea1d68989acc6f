"""Random numbers that belong to an image, not to a batch: every number is a function of (seed, image, draw, position).

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3), written
in int64 tensor arithmetic. Words become normal deviates through tables and one multiply-add, never through a logarithm
or a cosine, whose last bit may depend on a number's place in memory and on the device. So the same bits come out for
any batch size, order, split, number of threads, and on any device.
"""

import hashlib
from functools import lru_cache

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_CELLS = 1 << 16


def seed_for(name: str, base: int) -> int:
    """Derive the seed of one purpose from its name and a base seed; a 64-bit integer.

    A new purpose gets a new name, so it never shifts the random numbers of another.
    """
    return int.from_bytes(hashlib.blake2b(f"{base}/{name}".encode(), digest_size=8).digest(), "little")


def image_indices(count: int, first_index: int, indices: Tensor | None) -> Tensor:
    """Index of each image of a batch, (count,) int64: `indices` where given, else counted up from `first_index`."""
    if indices is None:
        if first_index < 0:
            raise ValueError(f"first_index must be 0 or more; got {first_index}")
        return torch.arange(first_index, first_index + count)
    if indices.dtype != torch.int64 or indices.shape != (count,) or bool((indices < 0).any()):
        raise ValueError(
            f"indices must be int64 of shape ({count},), 0 and up, one for each image;"
            f" got {indices.dtype} {tuple(indices.shape)}"
        )
    return indices


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32: four int64 tensors of 32-bit words in, four words out, same shapes (broadcast)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The 64-bit product wraps to a negative int64; masking after the arithmetic shift gives its true halves.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD
        c2, c3 = ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def words(seed: int, indices: Tensor, *, draws: int, size: int, device: torch.device | None = None) -> Tensor:
    """Random 32-bit words (images, draws, size) as int64, on `device` (that of `indices` where None).

    seed: 0 to 2**64 - 1. indices: (images,) int64. Draw d of an image is the same whatever `draws` is.
    """
    if draws < 1 or size < 1:
        raise ValueError(f"draws and size must be 1 or more; got draws={draws}, size={size}")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be from 0 to 2**64 - 1; got {seed}")
    indices = indices.to(device) if device is not None else indices
    blocks = -(-size // 4)
    shape = (len(indices), draws, blocks)
    block = torch.arange(blocks, device=indices.device).view(1, 1, -1).expand(shape)
    draw = torch.arange(draws, device=indices.device).view(1, -1, 1)
    image = indices.view(-1, 1, 1)
    parts = philox((block, draw, image & _WORD, (image >> 32).expand(shape)), (seed & _WORD, seed >> 32))
    return torch.stack(parts, dim=-1).view(len(indices), draws, blocks * 4)[..., :size]


def uniform(seed: int, indices: Tensor, *, draws: int, size: int, device: torch.device | None = None) -> Tensor:
    """Uniform deviates (images, draws, size) float32, on the 2**23 centres of equal cells of (0, 1)."""
    # 24 bits and a half would not fit into a float32: the upper half would be rounded, at the end to 1.
    return ((words(seed, indices, draws=draws, size=size, device=device) >> 9).float() + 0.5) * 2.0**-23


def signs(seed: int, indices: Tensor, *, draws: int, size: int, device: torch.device | None = None) -> Tensor:
    """Random signs (images, draws, size) float32: -1 or 1, each with probability one half."""
    return (words(seed, indices, draws=draws, size=size, device=device) >> 31).float() * 2 - 1


def normal(seed: int, indices: Tensor, *, draws: int, size: int, device: torch.device | None = None) -> Tensor:
    """Standard normal deviates (images, draws, size) float32, by inverse distribution function on 2**32 points.

    The upper 16 bits choose one of 65,536 equally probable cells, the lower 16 a point in it: by linear interpolation
    in the inner cells, by a table of exact quantiles in the two outer ones (4.17 to 6.34 standard deviations).
    """
    word = words(seed, indices, draws=draws, size=size, device=device)
    start, width, tail = (table.to(word.device) for table in _normal_tables())
    cell, within = word >> 16, word & (_CELLS - 1)
    value = width[cell] * (within.float() + 0.5) + start[cell]
    value = torch.where(cell == 0, tail[within], value)
    return torch.where(cell == _CELLS - 1, -tail[_CELLS - 1 - within], value)


@lru_cache(maxsize=1)
def _normal_tables() -> tuple[Tensor, Tensor, Tensor]:
    edges = ndtri(np.arange(1, _CELLS) / _CELLS)  # the inner cells' ends
    start = np.concatenate([[0.0], edges])  # the outer cells' entries are placeholders: the tail table serves them
    width = np.concatenate([[0.0], np.diff(edges) / _CELLS, [0.0]])
    tail = ndtri((np.arange(_CELLS) + 0.5) / _CELLS**2)
    return tuple(torch.from_numpy(table.astype(np.float32)) for table in (start, width, tail))  # type: ignore[return-value]
