"""Image sets: MNIST and similar sets, embedded digits and letters, and a user's own data, all as `Images`."""

import contextlib
import hashlib
import math
import os
import queue
import socket
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecore._check import check_choice, check_images, check_integer, check_labels, check_seed, quoted
from vaecore._files import expanded, locked, user_cache
from vaecore._import_by_name import is_named
from vaecore.data import _embedded
from vaecore.data._names import EMBEDDED, TORCHVISION
from vaecore.data._user_data import MOST_CLASSES, load_user_data, user_data_name

SPLITS = ("train", "test")
LETTERS = 1000


@dataclass(frozen=True)
class Images:
    """A set of images, with or without labels; equal if name, split and content are equal.

    pixels: (n, channels, height, width) float32 in [0, 1], 1 channel (grey) or 3. labels: (n,) int64 from 0 to 99999,
    or None. digest: 32 hexadecimal digits, of pixels, shape and labels only.
    Raises ValueError (TypeError for other types) if pixels or labels are not as above.
    """

    pixels: Tensor = field(repr=False, compare=False)
    labels: Tensor | None = field(repr=False, compare=False)
    name: str
    split: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Check the content and compute its digest."""
        object.__setattr__(self, "pixels", check_images(self.pixels, "pixels"))
        if self.labels is not None:
            check_labels(self.labels, len(self.pixels))
            if (highest := int(self.labels.max())) >= MOST_CLASSES:
                raise ValueError(
                    f"labels must be from 0 to {MOST_CLASSES - 1}; got {highest} (number the classes from 0)"
                )
        object.__setattr__(self, "digest", _digest(self.pixels, self.labels))

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

    def take(self, indices: Tensor | slice) -> "Images":
        """The images at `indices` (int64 or bool tensor (k,), or a slice), under the same name and split."""
        labels = None if self.labels is None else self.labels[indices]
        return Images(self.pixels[indices], labels, self.name, self.split)


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
    set_name = _set_name(name)
    if set_name == "digits":
        return Images(*_embedded.digits(split), set_name, split)
    if set_name == "letters":
        return letters(LETTERS, seed=0, first_index=LETTERS * (split == "train"), split=split)
    if set_name is None:
        return Images(*load_user_data(name, split), split)
    folder = data_root(root) / TORCHVISION[set_name].folder / "raw"
    if _missing(set_name, folder):
        _fetch(set_name, folder, download=download)
    return Images(*_read_raw(set_name, folder, split), set_name, split)


def load_whole(source: str | os.PathLike[str]) -> Images:
    """Load a user's own data for testing only: all of it, or its test split if it defines one, in its order.

    From an `.npz`, all of `images`, or else `test_images`. Forms and errors as in `load_images`.
    """
    return Images(*load_user_data(source, "test", whole=True), "test")


def letters(count: int, *, seed: int, first_index: int = 0, split: str = "test") -> Images:
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
    set_name = _set_name(name)
    if set_name is None:
        return is_named(os.fspath(name)) or expanded(name).exists()
    if set_name in EMBEDDED:
        return True
    try:
        folder = data_root(root)
    except FileNotFoundError:  # no home folder, so no data in it
        return False
    return not _missing(set_name, folder / TORCHVISION[set_name].folder / "raw")


def probe(name: str, *, timeout: float = 3.0) -> bool:
    """Whether a server from which torchvision downloads this set answers within `timeout` seconds.

    Raises ValueError for a name that torchvision does not download.
    """
    if name not in TORCHVISION:
        raise ValueError(f"only {quoted(TORCHVISION)} can be downloaded; got {name!r}")
    return not _unreachable(name, timeout)


def _set_name(name: str | os.PathLike[str]) -> str | None:
    """The name of a set, or None if the name is of a user's own data; raises ValueError otherwise."""
    text = os.fspath(name)
    if text in TORCHVISION or text in EMBEDDED:
        return text
    if user_data_name(text) is not None:
        return None
    raise ValueError(
        f"images must be {quoted([*TORCHVISION, *EMBEDDED])}, the path of a file that ends in .npz or of a folder that"
        f" exists, or package.module:attribute; got {text!r}"
    )


def _digest(pixels: Tensor, labels: Tensor | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    # Type and shape precede each content, so that different sets never give the same bytes.
    for tensor in (pixels, labels):
        digest.update(b"none" if tensor is None else f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        if tensor is not None:
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()


def _raw_files(name: str, split: str) -> tuple[str, str]:
    """Names of a split's image file and label file."""
    prefix = TORCHVISION[name].prefixes[split]
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def _missing(name: str, folder: Path) -> list[str]:
    return [file for split in SPLITS for file in _raw_files(name, split) if not (folder / file).is_file()]


def _read_raw(name: str, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Read a split of an MNIST-like set and check it, as torchvision checks only that the files exist."""
    image_file, label_file = (folder / file for file in _raw_files(name, split))
    images, labels = _read_idx(image_file, 3), _read_idx(label_file, 1)
    if images.shape[1:] != (28, 28) or len(images) == 0:
        raise ValueError(f"{image_file} must hold 28x28 images, one or more; its header says {images.shape}")
    if len(labels) != len(images):
        raise ValueError(
            f"{label_file} must hold one label for each of {len(images)} images; got {len(labels)}"
            " (do the two files come from different sets?)"
        )
    first, last = TORCHVISION[name].labels
    for label in (labels.min(), labels.max()):
        if not first <= label <= last:
            raise ValueError(
                f"{label_file} must hold labels {first} to {last}; got {label} (damaged, or of another set?)"
            )
    labels -= first
    if TORCHVISION[name].transposed:
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    return torch.from_numpy(images).unsqueeze(1).float().div_(255), torch.from_numpy(labels).long()


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: two zeros, 8 (for bytes), the number of dimensions, big-endian sizes, content."""
    content = np.fromfile(path, dtype=np.uint8)
    header = 4 * (1 + dimensions)
    advice = "a download was interrupted, or the file is damaged: delete it, then load again"
    if len(content) < header or content[:4].tobytes() != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"{path} must begin with an IDX header for {dimensions}-d bytes; it does not ({advice})")
    shape = tuple(int(size) for size in content[4:header].view(">u4"))
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} must hold {math.prod(shape)} bytes after its header, which says {shape};"
            f" got {len(content) - header} ({advice})"
        )
    return content[header:].reshape(shape)


def _fetch(name: str, folder: Path, *, download: bool) -> None:
    """Download the files missing in `folder` (root/MNIST/raw), whole files only, in one process at a time."""
    remedy = (
        f"Name a folder that holds {TORCHVISION[name].folder}/raw/ with --data-root, root=... or the environment"
        " variable VAECORE_DATA, or choose 'digits' or 'letters', which need no network."
    )
    lacking = f"{name} is not complete on disk: {folder} lacks {', '.join(_missing(name, folder))}"
    if not download:
        raise FileNotFoundError(f"{lacking}; download is switched off. {remedy}")
    # A blocked network may drop packets silently, and torchvision would wait for each address in turn.
    if reason := _unreachable(name, 10.0):
        raise ConnectionError(f"{lacking}; and no server answers ({reason}). {remedy}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without a lock two processes may download the same; each file still gets its place whole.
        lock = locked(folder / ".lock", without=lambda _: None)
        with lock, tempfile.TemporaryDirectory(dir=folder) as fresh, _socket_timeout(10.0):
            if _missing(name, folder):
                _torchvision_class(name)(fresh, download=True, **TORCHVISION[name].arguments)
            for file in _missing(name, folder):
                (Path(fresh) / TORCHVISION[name].folder / "raw" / file).replace(folder / file)
    # torchvision raises RuntimeError (no mirror, wrong checksum) and passes on broken transfers and full disks.
    except (OSError, RuntimeError, HTTPException, EOFError, zlib.error) as error:
        raise ConnectionError(f"{lacking}; and the download failed ({error}). {remedy}") from error


def _torchvision_class(name: str) -> Any:
    from torchvision import datasets  # noqa: PLC0415  # takes seconds to import

    return getattr(datasets, TORCHVISION[name].folder)


def _unreachable(name: str, timeout: float) -> str:
    """Ask all mirrors at once: "" as soon as one answers, else the reasons, after `timeout` seconds at most."""
    dataset = _torchvision_class(name)
    # EMNIST has one address of its own; the mirrors that it inherits are MNIST's.
    url = getattr(dataset, "url", None)
    addresses = [url] if url else [mirror + dataset.resources[0][0] for mirror in dataset.mirrors]
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask(address: str) -> None:
        request = urllib.request.Request(address)  # noqa: S310 (torchvision's own https/http)
        try:
            with urllib.request.urlopen(request, timeout=timeout):  # noqa: S310 (as above)
                answers.put("")
        except (OSError, HTTPException, ValueError) as error:
            answers.put(f"{address}: {error}")

    # In threads, as the time-out of a socket does not cover the look-up of the server's name.
    for address in addresses:
        threading.Thread(target=ask, args=(address,), daemon=True).start()
    deadline = time.monotonic() + timeout
    failures: list[str] = []
    for _ in addresses:
        try:
            failure = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return "; ".join([*failures, f"no answer within {timeout:g} s"])
        if not failure:
            return ""
        failures.append(failure)
    return "; ".join(failures)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set the default time-out of new sockets, as torchvision's downloads have none, and restore it afterwards."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
