"""Images that need not fit into memory: read in portions, and what is made of them written as it comes."""

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

Stream = Tensor | NDArray[Any] | Iterable[Tensor | NDArray[Any]]
"""Images (n, c, h, w), in memory or mapped from a file; or batches of such, as many as there are."""

_WANTED = "images must be a torch.Tensor, a numpy array or batches of these"


def portions(images: Stream, size: int) -> Iterator[Tensor]:
    """The images in order, at most `size` at a time."""
    if isinstance(images, Tensor):
        yield from torch.split(images, size)
    elif isinstance(images, np.ndarray):
        for start in range(0, len(images), size):
            yield torch.from_numpy(np.array(images[start : start + size]))  # a copy: a mapped file may be read-only
            _forget(images)
    else:
        for batch in _batches(images):
            yield from portions(batch, size)


def _batches(images: Any) -> Iterator[Tensor | NDArray[Any]]:
    if not isinstance(images, Iterable):
        raise TypeError(f"{_WANTED}; got {type(images).__name__}")
    for batch in images:
        if not isinstance(batch, Tensor | np.ndarray):
            raise TypeError(
                f"{_WANTED}; got a batch of type {type(batch).__name__}"
                " (of a DataLoader that gives labels too: (images for images, _ in loader))"
            )
        yield batch


def length(images: Stream) -> int | None:
    """Number of images; None of batches, which cannot be counted beforehand."""
    return len(images) if isinstance(images, Tensor | np.ndarray) else None


def _forget(images: NDArray[Any]) -> None:
    """Give back the memory of a read-only mapped file's pages, which else counts as the process's until its end."""
    mapped = getattr(images, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and not images.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class Rows:
    """A new .npy file that grows by rows, and at any time holds those written so far, whatever ends the process.

    Raises FileExistsError where there is such a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise FileExistsError(f"{self.path} must be a new file; it exists (move it, or write to another)")
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] | None = None

    def append(self, rows: Tensor) -> None:
        """Write more rows; raises ValueError where they do not go with those before."""
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
            file.flush()  # the rows are there before the header counts them
            self._shape = (self._shape[0] + len(array), *self._shape[1:])
            self._head(file)

    def _head(self, file: BinaryIO) -> None:
        assert self._dtype is not None
        facts = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": self._shape}
        file.seek(0)
        npy.write_array_header_1_0(file, facts)  # as long for any number of rows: numpy leaves room for the digits

    def all(self) -> Tensor:
        """All rows, mapped from the file: they take no memory until they are looked at."""
        return torch.from_numpy(np.load(self.path, mmap_mode="c"))
