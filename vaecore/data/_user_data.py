"""A user's own images and labels, from an `.npz` file, a folder of image files or an attribute of a module."""

import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecore._check import CHANNELS
from vaecore._files import expanded
from vaecore._import_by_name import attribute, is_named
from vaecore.data import _folder
from vaecore.data._embedded import evenly_spread

SMALLEST_SIDE = 4  # pixels, as a blur with sigma 1 mirrors three pixels at the border
_LAYOUTS = "(n, height, width), (n, height, width, 3) or (n, 3, height, width)"
Loaded = tuple[Tensor, Tensor | None]  # pixels (n, channels, h, w) float32 in [0, 1], and labels (n,) int64


def user_data_name(source: str | os.PathLike[str]) -> str | None:
    """The name of a user's own data in results; None unless `source` is a file, folder or attribute.

    It never equals the name of a built-in set, so bounds registered for MNIST do not apply to a user's mnist.npz.
    """
    text = os.fspath(source)
    if text.lower().endswith(".npz"):
        return Path(text).name
    if is_named(text):
        return text.replace(":", ".")  # also valid as the name of a folder
    folder = expanded(text)
    return f"{folder.resolve().name}-folder" if text and folder.is_dir() else None


def load_user_data(
    source: str | os.PathLike[str], split: str, *, whole: bool = False
) -> tuple[Tensor, Tensor | None, str]:
    """Pixels, labels and name of a split of a user's own data, in the forms of `load_images`.

    whole: load the test split if the data define one, else all images.
    """
    name = user_data_name(source)
    assert name is not None
    return *_load(os.fspath(source), split, whole=whole), name


def _load(text: str, split: str, *, whole: bool) -> Loaded:
    path = expanded(text)
    if text.lower().endswith(".npz"):
        return _load_npz(path, split, whole=whole)
    if is_named(text):
        return _load_attribute(text, split, whole=whole)
    files = _folder.list_files(path)
    key = split if split in files else ""
    if whole or key:
        return _folder.read(files[key], [*files.values()], path)
    rows = _rows_of_split(len(files[""].paths), np.array(files[""].labels), split, f"the folder {path}")
    paths, labels = zip(*((files[""].paths[row], files[""].labels[row]) for row in rows), strict=True)
    return _folder.read(_folder.Files(paths, labels), [*files.values()], path)


def _load_npz(path: Path, split: str, *, whole: bool) -> Loaded:
    """whole: prefer `images`, and all of them."""
    arrays = _read_npz(path)
    keys = [key for key in ("", f"{split}_") if f"{key}images" in arrays]
    if not keys:
        raise ValueError(
            f"{path} must hold an array `images` (or `{split}_images`); got {', '.join(sorted(arrays)) or 'no arrays'}"
        )
    key = keys[0 if whole else -1]
    if "train_images" in arrays and not key and not whole:
        raise ValueError(f"{path} must hold `test_images` beside `train_images`; got `images` instead")
    loaded = _checked(
        f"{path}: `{key}images`", arrays[f"{key}images"], f"{path}: `{key}labels`", arrays.get(f"{key}labels")
    )
    # Beside `test_images`, all of `images` are for training.
    if key or whole or "test_images" in arrays:
        return loaded
    return _take_split(loaded, split, f"{path}")


def _load_attribute(text: str, split: str, *, whole: bool) -> Loaded:
    value = attribute(text, "images")
    if callable(value):
        try:
            value = _call_once(value)
        except Exception as error:
            raise ValueError(
                f"{text} must give images and labels; it raised {type(error).__name__}: {error}"
            ) from error
    if isinstance(value, Mapping):
        if split not in value:
            raise ValueError(f'{text} must give {{"train": (images, labels), "test": ...}}; it lacks {split!r}')
        return _checked_pair(value[split], f"{text}, {split!r}")
    loaded = _checked_pair(value, text)
    return loaded if whole else _take_split(loaded, split, text)


_CALLED: dict[int, tuple[Callable[[], Any], Any]] = {}


def _call_once(function: Callable[[], Any]) -> Any:
    """A function's result, from one call for both splits, as it may be random."""
    if id(function) not in _CALLED:
        _CALLED[id(function)] = function, function()  # the reference keeps the id from being reused
    return _CALLED[id(function)][1]


def _checked_pair(pair: Any, what: str) -> Loaded:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        got = f"{len(pair)} values" if isinstance(pair, tuple | list) else type(pair).__name__
        raise ValueError(
            f'{what} must be a pair (images, labels), or {{"train": (images, labels), "test": ...}}; got {got}'
        )
    try:
        images, labels = (_array(value) for value in pair)
    except ValueError as error:
        raise ValueError(f"{what}: images and labels must be arrays or tensors; {error}") from error
    return _checked(f"{what}: images", images, f"{what}: labels", labels)


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    return value if value is None else np.asarray(value)


def _checked(
    what: str, images: NDArray[Any], what_labels: str, labels: NDArray[Any] | None
) -> tuple[Tensor, Tensor | None]:
    pixels = torch.from_numpy(_pixels(what, images))
    return pixels, None if labels is None else torch.from_numpy(_labels(what_labels, labels, len(pixels)))


def _take_split(loaded: Loaded, split: str, what: str) -> Loaded:
    pixels, labels = loaded
    rows = torch.from_numpy(_rows_of_split(len(pixels), None if labels is None else labels.numpy(), split, what))
    return pixels[rows], None if labels is None else labels[rows]


def _rows_of_split(count: int, labels: NDArray[np.int64] | None, split: str, what: str) -> NDArray[np.int64]:
    """Rows of a split's images; every fifth in order of label is for test, which is about a fifth of each class."""
    order = np.arange(count) if labels is None else np.argsort(labels, kind="stable")
    for_test = np.empty(count, dtype=bool)
    for_test[order] = evenly_spread(count, count // 5)
    rows = np.flatnonzero(for_test == (split == "test"))
    if not len(rows):
        raise ValueError(
            f"{what} holds {count} images, and 5 are needed to give every fifth to the test (or choose the split"
            " yourself: `train_images` and `test_images` in a file, folders `train` and `test`)"
        )
    return rows


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (is the path relative to another folder?)")
    wanted = {f"{part}{kind}" for part in ("", "train_", "test_") for kind in ("images", "labels")}
    with path.open("rb") as file:
        # numpy would take any other file for a pickle, with a misleading error.
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is not an npz archive (truncated, or not written by numpy.savez?)")
        try:
            with zipfile.ZipFile(file) as content:
                damaged = content.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                names = archive.files
                # The names of other arrays are kept for error messages; their content is not read.
                return {name: archive[name] if name in wanted else np.empty(0) for name in names}
        except (ValueError, OSError, EOFError, KeyError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
            if "allow_pickle" in str(error):
                raise ValueError(
                    f"{path} holds pickled Python objects, which are never loaded, as they can run code;"
                    " save numeric arrays (a list of images of unequal size becomes objects)"
                ) from error
            raise ValueError(f"{path} cannot be read: {error} (truncated or damaged?)") from error


def _pixels(what: str, images: NDArray[Any]) -> NDArray[np.float32]:
    """Check an array of images and convert it to (n, channels, height, width) float32 in [0, 1]."""
    if images.size == 0:
        raise ValueError(f"{what} is empty; got shape {images.shape}")
    images = _channels_first(what, images)
    if images.dtype == np.uint8:
        if images.max() == 1:
            raise ValueError(
                f"{what} of dtype uint8 must run from 0 to 255; got no value above 1"
                " (binary images: save them as float32)"
            )
        pixels = images.astype(np.float32, order="C")
        pixels /= np.float32(255)
        return pixels
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{what} must be uint8 (0..255) or floating (0..1); got {images.dtype}")
    pixels = images.astype(np.float32, order="C")
    if not np.isfinite(pixels).all():
        raise ValueError(f"{what} must be finite; got NaN or infinite pixels")
    if pixels.min() < 0 or pixels.max() > 1:
        raise ValueError(
            f"{what} must lie in [0, 1]; got [{pixels.min():.3g}, {pixels.max():.3g}]"
            " (undo mean/std normalisation; divide 0..255 by 255)"
        )
    return pixels


def _channels_first(what: str, images: NDArray[Any]) -> NDArray[Any]:
    """Images of any layout as (n, channels, height, width).

    Layouts are not ambiguous: a dimension of size 1 or 3 is the channels, as sides are longer.
    """
    shape = images.shape
    if images.ndim == 3:
        arranged = images[:, None]
    elif images.ndim == 4 and shape[1] in CHANNELS:
        arranged = images
    elif images.ndim == 4 and shape[3] in CHANNELS:
        arranged = images.transpose(0, 3, 1, 2)
    else:
        remedy = " (leave out transparency)" if images.ndim == 4 and 4 in (shape[1], shape[3]) else ""
        raise ValueError(f"{what} must have shape {_LAYOUTS}; got {shape}{remedy}")
    if min(arranged.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(f"{what} must be {SMALLEST_SIDE} or more pixels high and wide; got {shape}")
    return arranged


def _labels(what: str, labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Check an array of labels and convert it to int64."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{what} must be integers; got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(f"{what} must have shape ({count},), one for each image; got {labels.shape}")
    if labels.min() < 0:
        raise ValueError(f"{what} must be 0 or more; got {labels.min()} (number the classes from 0)")
    return labels.astype(np.int64)
