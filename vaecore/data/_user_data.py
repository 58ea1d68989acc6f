"""A user's own images and labels, from an `.npz` file, a folder of image files or an attribute of a module."""

import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecore._check import CHANNELS, clip_rounding
from vaecore._files import expanded
from vaecore._import_by_name import attribute, is_named
from vaecore._remedies import of_labels
from vaecore.data import _folder
from vaecore.data._decoding import decoding
from vaecore.data._embedded import evenly_spread
from vaecore.data._names import check_file, user_data_name

SMALLEST_SIDE = 4  # pixels, as a blur with sigma 1 mirrors three pixels at the border
MOST_CLASSES = 100_000  # a classifier has a row of weights for each number up to the highest label
_LONGEST_HEADER = 10_000  # bytes, of an array; what numpy takes to be safe
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LAYOUTS = "(n, height, width), (n, height, width, 3) or (n, 3, height, width)"
Loaded = tuple[Tensor, Tensor | None]  # pixels (n, channels, h, w) float32 in [0, 1], and labels (n,) int64


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
    chosen = files[split if split in files else ""]
    paths, labels = chosen.paths, np.array(chosen.labels)
    if split not in files and not whole:
        rows = _rows_of_split(len(paths), labels, split, f"the folder {path}")
        paths, labels = [paths[row] for row in rows], labels[rows]
    images = _folder.read(paths, [path for listed in files.values() for path in listed.paths], path)
    return _checked(f"the images in {path}", images, f"the classes in {path}", labels)


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


def load_split(path: Path, split: str) -> tuple[Tensor, Tensor]:
    """Pixels and labels of a split of an .npz that must define it, in the forms of `load_images`."""
    arrays, (images, labels) = _read_npz(path), (f"{split}_images", f"{split}_labels")
    if not {images, labels} <= {*arrays}:
        raise ValueError(f"{path} must hold `{images}` and `{labels}`; got {', '.join(sorted(arrays)) or 'no arrays'}")
    what, what_labels = f"{path}: `{images}`", f"{path}: `{labels}`"
    pixels = _pixels(what, arrays[images])
    return pixels, torch.from_numpy(_labels(what_labels, arrays[labels], len(pixels)))


def _load_attribute(text: str, split: str, *, whole: bool) -> Loaded:
    value = attribute(text, "images")
    if callable(value):
        try:
            value = _call_once(value)
        except Exception as error:
            raise ValueError(
                f"{text} must give images and labels; it raised {type(error).__name__}: {error}"
            ) from error
    return of_value(value, split, text, whole=whole)


def of_value(value: Any, split: str, what: str, *, whole: bool = False) -> Loaded:
    """Pixels and labels of a split of a pair (images, labels) or of a mapping of splits to such pairs.

    what: gives it, for error messages. whole: as in `load_user_data`.
    """
    if isinstance(value, Mapping):
        if split not in value:
            raise ValueError(f'{what} must give {{"train": (images, labels), "test": ...}}; it lacks {split!r}')
        return _checked_pair(value[split], f"{what}, {split!r}")
    loaded = _checked_pair(value, what)
    return loaded if whole else _take_split(loaded, split, what)


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
    except (ValueError, TypeError, RuntimeError) as error:  # the latter two of tensors that are sparse, or without data
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
    pixels = _pixels(what, images)
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
    """The arrays of a file by name; those that are not wanted, whose names are for error messages, are empty."""
    check_file(path)
    wanted = {f"{part}{kind}" for part in ("", "train_", "test_") for kind in ("images", "labels")}
    with decoding(f"{path}"), path.open("rb") as file:
        # A file may be an archive at its end and something else, such as an array, at its beginning.
        is_archive = file.read(2) == b"PK" and zipfile.is_zipfile(file)
    if not is_archive:
        raise ValueError(f"{path} is not an npz archive (truncated, or not written by numpy.savez?)")
    with decoding(f"{path}"):
        archive = zipfile.ZipFile(path)
        for member in archive.namelist():
            archive.open(member).close()  # compares its two names in the file, so that no array just goes missing
    with archive:
        names = {name.removesuffix(".npy"): name for name in archive.namelist()}
        return {
            name: _read_array(archive, member, f"{path}: `{name}`") if name in wanted else np.empty(0)
            for name, member in names.items()
        }


def _read_array(archive: zipfile.ZipFile, member: str, what: str) -> NDArray[Any]:
    """An array, whose header is checked against the bytes that are there before any memory is taken for it."""
    with decoding(what), archive.open(member) as file:
        head = io.BytesIO(file.read(_LONGEST_HEADER))
        version = np.lib.format.read_magic(head)
        if version not in _HEADERS:
            raise ValueError(f"its version is {version}, for arrays of named fields")
        shape, in_columns, dtype = _HEADERS[version](head)
    if dtype.hasobject:
        raise ValueError(
            f"{what} holds pickled Python objects, which are never loaded, as they can run code;"
            " save numeric arrays (a list of images of unequal size becomes objects)"
        )
    start = head.tell()
    size = archive.getinfo(member).file_size - start
    if any(isinstance(side, bool) for side in shape) or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(
            f"{what} must have the content that its header declares, {dtype} of shape {shape}; it has {size:,} bytes"
            " (truncated or damaged?)"
        )
    with decoding(what):
        # All of the member is read, as its checksum is compared at its end.
        content = np.frombuffer(archive.read(member), dtype, offset=start)
        return content.reshape(shape, order="F" if in_columns else "C")


def _pixels(what: str, images: NDArray[Any]) -> Tensor:
    """Check an array of images and convert it to (n, channels, height, width) float32 in [0, 1]."""
    if images.size == 0:
        raise ValueError(f"{what} is empty; got shape {images.shape}")
    images = _channels_first(what, images)
    if images.dtype == np.uint8:
        if images.max() == 1:
            raise ValueError(
                f"{what} of dtype uint8 must run from 0 to 255; got no value above 1"
                " (binary images: multiply them by 255)"
            )
        pixels = images.astype(np.float32, order="C")
        pixels /= np.float32(255)
        return torch.from_numpy(pixels)
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{what} must be uint8 (0..255) or floating (0..1); got {images.dtype}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused
        pixels = images.astype(np.float32, order="C")
    cause = "undo mean/std normalisation; divide 0..255 by 255"
    return clip_rounding(torch.from_numpy(pixels), what, out_of_range=cause)


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
        raise ValueError(f"{what} must be integers; got {labels.dtype}{of_labels(labels, count, 'labels')}")
    if labels.shape != (count,):
        raise ValueError(
            f"{what} must have shape ({count},), one for each image; got {labels.shape}"
            f"{of_labels(labels, count, 'labels')}"
        )
    for label in (labels.min(), labels.max()):
        if not 0 <= label < MOST_CLASSES:
            raise ValueError(f"{what} must be from 0 to {MOST_CLASSES - 1}; got {label} (number the classes from 0)")
    return labels.astype(np.int64)
