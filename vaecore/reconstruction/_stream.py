"""Images and results that exceed memory: read images in portions, and write rows to a file as they are computed."""

import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from vaecore._remedies import of_type

Stream = Tensor | NDArray[Any] | Iterable[Tensor | NDArray[Any]]
"""Images (n, c, h, w), in memory or mapped from a file; or an iterable of such batches."""

_EXPECTED = "images must be a torch.Tensor, a numpy array or batches of these"


def portions(images: Stream, size: int) -> Iterator[Tensor]:
    """The images in order, at most `size` at a time."""
    if isinstance(images, Tensor):
        yield from torch.split(images, size)
    elif isinstance(images, np.ndarray):
        for start in range(0, len(images), size):
            yield torch.from_numpy(np.array(images[start : start + size]))  # a copy, as a mapped file may be read-only
            _release(images)
    else:
        for batch in _batches(images):
            yield from portions(batch, size)


def _batches(images: Any) -> Iterator[Tensor | NDArray[Any]]:
    if not isinstance(images, Iterable):
        raise TypeError(f"{_EXPECTED}; got {type(images).__name__}{of_type(images, 'images')}")
    for batch in images:
        if not isinstance(batch, Tensor | np.ndarray):
            raise TypeError(
                f"{_EXPECTED}; got a batch of type {type(batch).__name__}"
                " (of a DataLoader that gives labels too: (images for images, _ in loader))"
            )
        yield batch


def length(images: Stream) -> int | None:
    """Number of images; None for an iterable of batches."""
    return len(images) if isinstance(images, Tensor | np.ndarray) else None


def _release(images: NDArray[Any]) -> None:
    """Release the pages of a read-only mapped file, which would count as the process's memory until it ends."""
    mapped = getattr(images, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and not images.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class Rows:
    """A new .npy file that grows by rows; if the process dies, it holds the rows written so far.

    Raises FileExistsError if the file exists.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise FileExistsError(f"{self.path} must be a new file; it exists (move it, or write to another)")
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] | None = None

    def append(self, rows: Tensor) -> None:
        """Append rows; raises ValueError if their shape or dtype differs from the first."""
        array = np.ascontiguousarray(rows.cpu().numpy())
        first = self._dtype is None
        if first:
            self._shape, self._dtype = (0, *array.shape[1:]), array.dtype
        if array.shape[1:] != self._shape[1:] or array.dtype != self._dtype:
            raise ValueError(
                f"rows of {self.path.name} must be {self._dtype} {self._shape[1:]}, as the first;"
                f" got {array.dtype} {array.shape[1:]}"
            )
        with self.path.open("xb" if first else "r+b") as file:
            if first:
                self._head(file)
            file.seek(0, os.SEEK_END)
            file.write(array.data)
            file.flush()  # before the header counts the rows
            self._shape = (self._shape[0] + len(array), *self._shape[1:])
            self._head(file)

    def _head(self, file: BinaryIO) -> None:
        assert self._dtype is not None
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": self._shape}
        file.seek(0)
        npy.write_array_header_1_0(file, header)  # of constant length: numpy leaves room for more digits

    def all(self) -> Tensor:
        """All rows, mapped from the file, so that they take memory only when used."""
        return torch.from_numpy(np.load(self.path, mmap_mode="c"))
