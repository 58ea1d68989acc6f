"""Image sets: MNIST and similar sets, embedded digits and letters, and a user's own data, all as `Images`."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, overload

import numpy as np
from torch import Tensor
from typing_extensions import TypeVar

from vaecore._check import (
    check_choice,
    check_images,
    check_integer,
    check_labels,
    check_seed,
    check_type,
    describe_images,
    quoted,
)
from vaecore._files import expanded, user_cache
from vaecore._import_by_name import is_named
from vaecore.data import _downloads, _embedded
from vaecore.data._names import EMBEDDED, TORCHVISION, known_name
from vaecore.data._user_data import MOST_CLASSES, load_user_data, of_value

SPLITS = ("train", "test")
LETTERS = 1000
BLACK_SHARE = 0.1  # of all pixels, in a background; MNIST and its like have 0.5 to 0.8, photographs 0.01


_Labels_co = TypeVar("_Labels_co", bound=Tensor | None, covariant=True, default=Tensor | None)


@dataclass(frozen=True, eq=False)
class Images(Generic[_Labels_co]):
    """A set of images, with or without labels; equal if name, split and content are equal.

    pixels: (n, channels, height, width) float32 in [0, 1], 1 channel (grey) or 3. labels: (n,) int64 from 0 to 99999,
    or None. digest: 32 hexadecimal digits, of pixels, shape and labels only.
    Raises ValueError (TypeError for other types) if pixels or labels are not as above.
    """

    pixels: Tensor
    labels: _Labels_co
    name: str
    split: str

    def __post_init__(self) -> None:
        """Check the content."""
        object.__setattr__(self, "pixels", check_images(self.pixels, "pixels"))
        if self.labels is not None:
            check_labels(self.labels, len(self.pixels))
            if (highest := int(self.labels.max())) >= MOST_CLASSES:
                raise ValueError(
                    f"labels must be from 0 to {MOST_CLASSES - 1}; got {highest} (number the classes from 0)"
                )

    @cached_property
    def digest(self) -> str:
        """See above; computed when first asked for."""
        return _digest(self.pixels, self.labels)

    def __eq__(self, other: object) -> bool:
        """Whether name, split and content are equal."""
        return isinstance(other, Images) and self._identity == other._identity

    def __hash__(self) -> int:
        """By name, split and content."""
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str, str]:
        return self.name, self.split, self.digest

    def __repr__(self) -> str:
        """The name, the split, the number of images, their shape, and the classes."""
        labelled = "without labels" if self.labels is None else f"{self.classes} classes"
        return f"Images({self.name!r}, {self.split!r}, {describe_images(self.pixels)}, {labelled})"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def classes(self) -> int | None:
        """Number of classes: the highest label plus 1; None without labels."""
        return None if self.labels is None else int(self.labels.max()) + 1

    def take(self, indices: Tensor | slice) -> "Images[_Labels_co]":
        """The images at `indices` (int64 or bool tensor (k,), or a slice), under the same name and split."""
        labels: Any = None if self.labels is None else self.labels[indices]
        return Images(self.pixels[indices], labels, self.name, self.split)


Labelled = Images[Tensor]


def check_is_images(name: str, value: object, split: str = "train") -> None:
    """Raise TypeError unless `value`, the argument called `name`, is Images."""
    remedy = f"Images({name}, labels, 'mine', {split!r})"
    if isinstance(value, np.ndarray):
        remedy = f"Images(torch.from_numpy({name}), labels, 'mine', {split!r})"
    elif isinstance(value, str | os.PathLike):
        remedy = f"load_images({os.fspath(value)!r}, {split!r})"
    elif not isinstance(value, Tensor):
        remedy = f"Images(pixels, labels, 'mine', {split!r})"
    check_type(name, value, Images, f"{remedy}; without labels, None in their place")


_Names = Literal[
    "mnist", "fashion-mnist", "kmnist", "emnist-letters", "cifar-10", "cifar-100", "svhn", "digits", "letters"
]


@overload
def load_images(
    name: _Names, split: str = ..., root: str | os.PathLike[str] | None = ..., *, download: bool = ...
) -> Labelled: ...


@overload
def load_images(
    name: str | os.PathLike[str], split: str = ..., root: str | os.PathLike[str] | None = ..., *, download: bool = ...
) -> Images: ...


def load_images(
    name: str | os.PathLike[str],
    split: str = "test",
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
) -> Images:
    """Load an image set by name, or a user's own from an `.npz` file, a folder of image files or a Python attribute.

    name: one of these, or a user's own data (below; write "./mnist" for a folder with the name of a set).
    - "mnist", "fashion-mnist", "kmnist", "emnist-letters": read from `root` in torchvision's layout (`MNIST/raw/...`),
      and downloaded to it if absent and `download` is true. "emnist-letters" are handwritten, upper and lower case
      together, A (0) to Z (25), here upright; the download takes 0.5 GB, and 3 GB while it is unpacked.
    - "cifar-10", "cifar-100", "svhn": 32x32 in colour, by torchvision, which checks the files, in its layout
      (`cifar-10-batches-py/...`); else from an .npz in `root`, `cifar-10.npz` or `cifar-10-subset.npz`, with
      `train_images`, `train_labels`, `test_images` and `test_labels`; else downloaded (0.2 GB).
    - "digits" (1,000 for training, 797 for test) and "letters" (1,000 each): need no files or network.
    root: the data folder; by default the environment variable VAECORE_DATA, else a folder in the user's cache.

    A user's own images are grey, (n, height, width), or colour, (n, height, width, 3) or (n, 3, height, width), with
    sides of 4 pixels or more; uint8 in 0..255 or floating point in [0, 1]. Labels are (n,) integers from 0. Unless the
    data define a split, every fifth image in order of label, then position, is for test.
    - A path that ends in .npz holds `images` and optionally `labels`. It defines a split by `test_images` and
      `train_images` (or `images`, which then are all for training), with `test_labels` and so on.
    - "package.module:attribute" is a pair (images, labels), {"train": (images, labels), "test": (images, labels)}, or a
      callable without arguments that returns one of these, as arrays or tensors. Each process calls it once, so it
      should always return the same.
    - A folder has a subfolder of image files for each class, or defines a split by two such folders, `train` and
      `test` (or `val`). The files are PNG, JPEG, BMP, PPM, TIFF or WebP, with a suffix of one of these, of one size and
      with 8 bits a channel. Images are grey if all files are, else colour (a palette is colour). The camera's
      orientation is applied, and transparency is laid on white. Hidden files and folders (a dot in front) and other
      suffixes are left out with a warning. Animated files, and white drawings on transparency, are refused.

    Raises ValueError for an unknown name or split and for damaged or unsuitable files, FileNotFoundError for a missing
    file (or set, with `download=False`), and ConnectionError if a download fails.
    """
    check_choice("split", split, SPLITS)
    set_name = known_name(name)
    if set_name == "digits":
        return Images(*_embedded.digits(split), set_name, split)
    if set_name == "letters":
        return letters(LETTERS, seed=0, first_index=LETTERS * (split == "train"), split=split)
    if set_name is None:
        return Images(*load_user_data(name, split), split)
    folder = data_root(root)
    if not _downloads.is_on_disk(set_name, folder):
        _downloads.fetch(set_name, folder, download=download)
    return Images(*_downloads.read(set_name, folder, split), set_name, split)


def load_whole(source: str | os.PathLike[str]) -> Images:
    """Load a user's own data for testing only: all of it, or its test split if it defines one, in its order.

    From an `.npz`, all of `images`, or else `test_images`. Forms and errors as in `load_images`.
    """
    return Images(*load_user_data(source, "test", whole=True), "test")


def images_of(data: Any, name: str, split: str) -> Images:
    """A split of images and labels in memory, as a copy.

    data: a pair (images, labels) of arrays or tensors, {"train": (images, labels), "test": ...}, in the forms and with
    the errors of `load_images`, or `Images` in the place of a pair.
    """
    pairs = {key: _pair(part) for key, part in data.items()} if isinstance(data, Mapping) else _pair(data)
    return Images(*of_value(pairs, split, "the data"), name, split)


def _pair(data: Any) -> Any:
    return (data.pixels, data.labels) if isinstance(data, Images) else data


def letters(count: int, *, seed: int, first_index: int = 0, split: str = "test") -> Labelled:
    """Draw capital letters from matplotlib's fonts in MNIST's frame: white on black, 20x20 in 28x28.

    Image i, counted from `first_index`, depends only on (seed, i); labels cycle from A (0) to Z (25).
    Returns `count` images named "letters". Raises ValueError for a count below 1 or a negative first_index.
    """
    count, first = check_integer("count", count, 1), check_integer("first_index", first_index, 0)
    return Images(*_embedded.letters(range(first, first + count), check_seed(seed)), "letters", split)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The data folder: `root`, else the environment variable VAECORE_DATA, else one in the user's cache.

    Raises FileNotFoundError where it would be in a home folder, and there is none.
    """
    chosen = root or os.environ.get("VAECORE_DATA")
    return expanded(chosen) if chosen else user_cache("--data-root, root=... or VAECORE_DATA") / "data"


def is_available(name: str, root: str | os.PathLike[str] | None = None) -> bool:
    """Whether a set can be loaded without network: its files are on disk, or it is embedded.

    Does not check the content, as `load_images` does. Raises ValueError for an unknown name.
    """
    set_name = known_name(name)
    if set_name is None:
        return is_named(os.fspath(name)) or expanded(name).exists()
    if set_name in EMBEDDED:
        return True
    try:
        folder = data_root(root)
    except FileNotFoundError:  # no home folder, so no data in it
        return False
    return _downloads.is_on_disk(set_name, folder)


def npz_of(name: str, root: str | os.PathLike[str] | None = None) -> Path | None:
    """The .npz in the data folder that `load_images` reads a named set from, if it has only that of the set."""
    return _downloads.npz_of(name, data_root(root)) if name in TORCHVISION else None


def on_black(images: Images) -> bool:
    """Whether a tenth of all pixels or more are black, in all channels, as a background is.

    A pixel that a lossy format or an interpolation has changed is not of the background.
    """
    return float((images.pixels == 0).all(dim=1).float().mean()) >= BLACK_SHARE


def probe(name: str, *, timeout: float = 3.0) -> bool:
    """Whether a server from which torchvision downloads this set answers within `timeout` seconds.

    Raises ValueError for a name that torchvision does not download.
    """
    if name not in TORCHVISION:
        raise ValueError(f"only {quoted(TORCHVISION)} can be downloaded; got {name!r}")
    return not _downloads.unreachable(name, timeout)


def _digest(pixels: Tensor, labels: Tensor | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    # Type and shape precede each content, so that different sets never give the same bytes.
    for tensor in (pixels, labels):
        digest.update(b"none" if tensor is None else f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        if tensor is not None:
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()
