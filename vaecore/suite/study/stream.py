"""Scores of images that exceed memory: a task for each portion of them, on any executor."""

import os
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vaecore.suite.study.outside import fitted_scores, score
from vaecore.suite.study.plan import Plan
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tasks import Given, Task
from vaecore.toolkit import Rows, Tensors, digest

_AT_ONCE = 8  # portions that are planned for each task that the executor takes


class _File:
    """The array of an .npy file, mapped only while rows are read: its pages would count as memory of this process."""

    def __init__(self, file: Path) -> None:
        self._file, array = file, np.load(file, mmap_mode="r", allow_pickle=False)
        self.ndim, self.shape, self.dtype = array.ndim, array.shape, array.dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return np.array(np.load(self._file, mmap_mode="r", allow_pickle=False)[rows])


class Portion(Given):
    """Rows of an array of images, which are read whenever they are needed, and kept by nobody."""

    once = True

    def __init__(self, array: Any, rows: tuple[int, int], first: int) -> None:
        """rows: from, and up to, in the array. first: index of the first of them among all images."""
        object.__setattr__(self, "_of", (array, rows, first))

    @property
    def tensors(self) -> Tensors:
        """Pixels (n, c, h, w) in [0, 1], and the index of each image."""
        array, rows, first = self._of  # type: ignore[attr-defined]
        pixels = torch.from_numpy(np.array(array[slice(*rows)]))
        if pixels.dtype == torch.uint8:
            pixels = pixels.float() / 255
        return {"pixels": pixels, "indices": torch.arange(first, first + len(pixels))}

    @cached_property
    def key(self) -> str:
        """Digest of the content."""
        return digest("given", *(part for name, value in sorted(self.tensors.items()) for part in (name, value)))


def score_stream(setup: Setup, plan: Plan, images: Any, folder: Path, number: int) -> list[str]:
    """See `Study.score`."""
    if folder.exists():
        raise FileExistsError(f"{folder} must be a new folder; it exists (move it, or write to another)")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    files: dict[str, Rows] = {}
    fitted, device = fitted_scores(setup, number), str(setup.device)
    tasks = (
        Task(
            score,
            {"device": device, "few": 0},
            {"shard": portion, "fitted": fitted, "expensive": None},
            "scores",
            "scores, a stream",
        )
        for portion in portions(arrays_of(images), setup.test.shape, setup.protocol.scored)
    )
    try:
        while some := [*islice(tasks, _AT_ONCE * plan.executor.slots)]:
            for columns in plan.results(some, "scores of a stream"):
                for name, column in columns.items():
                    if name not in files:
                        files[name] = Rows(partial / f"{name}.npy")
                    files[name].append(column)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # what was computed is in the cache
        raise
    return sorted(files)


def arrays_of(images: Any) -> list[Any]:
    """Arrays of images, in order: of the .npy files of a folder by their names, each mapped; or what was given."""
    if not isinstance(images, str | os.PathLike):
        return [images]
    files = sorted(Path(images).glob("*.npy"))
    if not files:
        raise ValueError(f"images must be an array, or a folder of .npy files; there is none in {images}")
    return [_File(file) for file in files]


def portions(arrays: Sequence[Any], shape: tuple[int, ...], size: int) -> Iterator[Portion]:
    """The images of all arrays, at most `size` at a time."""
    first = 0
    for array in arrays:
        if array.ndim != 4 or tuple(array.shape[1:]) != shape or str(array.dtype) not in ("float32", "uint8"):
            wanted = ", ".join(map(str, shape))
            raise ValueError(
                f"images must be arrays (n, {wanted}), as the study's, float32 in [0, 1] or bytes;"
                f" got {array.dtype} {tuple(array.shape)}"
            )
        count = array.shape[0]  # arrays of zarr have no length
        for start in range(0, count, size):
            yield Portion(array, (start, min(start + size, count)), first + start)
        first += count
