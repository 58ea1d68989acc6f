"""Image sets: MNIST and its kin, the embedded digits and letters, and a user's own, all in one form."""

import contextlib
import hashlib
import math
import operator
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
import platformdirs
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from vaecore._check import check_images, check_labels
from vaecore._import_by_name import is_named
from vaecore.data import _embedded
from vaecore.data._user_data import load_own, own_name

# Name a user types: the torchvision class, which is also the folder it keeps the files in.
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "emnist-letters": "EMNIST"}
EMBEDDED = ("digits", "letters")
PREFIXES = {"train": "train", "test": "t10k"}
LETTERS = 1000


@dataclass(frozen=True)
class Images:
    """A set of images, with labels where they are known; equal where name, split and content are equal.

    pixels: (n, channels, height, width) float32 in [0, 1], of 1 channel (grey) or 3. labels: (n,) int64 from 0, or
    None. digest: 32 hexadecimal digits of the content (pixels, shape, labels), the same wherever the set came from.
    Raises ValueError (TypeError for other types) where the pixels or labels are not as above.
    """

    pixels: Tensor = field(repr=False, compare=False)
    labels: Tensor | None = field(repr=False, compare=False)
    name: str
    split: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Check the content, then take its digest."""
        check_images(self.pixels, "pixels")
        if self.labels is not None:
            check_labels(self.labels, len(self.pixels))
        object.__setattr__(self, "digest", _digest(self.pixels, self.labels))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def classes(self) -> int | None:
        """Number of classes, the highest label plus 1; None without labels."""
        return None if self.labels is None else int(self.labels.max()) + 1

    def take(self, indices: Tensor | slice) -> "Images":
        """Return the images at `indices`, an int64 or bool tensor (k,) or a slice, under the same name and split."""
        labels = None if self.labels is None else self.labels[indices]
        return Images(self.pixels[indices], labels, self.name, self.split)


def load_images(
    name: str | os.PathLike[str],
    split: str = "test",
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
) -> Images:
    """Load an image set by name, or a user's own: an `.npz` file, a folder of image files, a module's attribute.

    name: "mnist", "fashion-mnist", "kmnist" or "emnist-letters", read from `root` as torchvision lays it out
    (`MNIST/raw/...`) and downloaded there where absent and `download` is true; "digits" (1,000 to train on, 797 to test
    on) or "letters" (1,000 and another 1,000), which need neither; or one of a user's own, below, which `root` does not
    concern (a folder whose name is a set's: "./mnist").
    "emnist-letters" are written by hand, capital and small mixed, A (0) to Z (25), and brought upright, which the files
    are not. They come in one archive with all of EMNIST: half a gigabyte, and some three while it is unpacked.
    root: the data folder; by default the environment variable VAECORE_DATA, else a folder in the user's cache.

    Images of a user's own are grey, (n, height, width), or in colour, (n, height, width, 3) or (n, 3, height, width);
    as sides are 4 pixels or more, a 3 is the channels wherever it stands. They are uint8 0..255 or floating in [0, 1];
    labels are (n,) integer from 0. With the images put in order of label (of place where there are no labels, or where
    labels are equal), every fifth is a test image and the others are for training; or the data say it themselves:
    - a path that ends in .npz: it holds `images` and may hold `labels`; beside `test_images` (`test_labels`) it holds
      `train_images` (`train_labels`), or all of `images` are for training.
    - "package.module:attribute": a pair (images, labels), {"train": (images, labels), "test": (images, labels)}, or a
      callable without arguments that gives one of these, which is called once; arrays or tensors. It should give the
      same each time, as processes that share the work each call it.
    - a folder with a folder of image files for each class, as torchvision's ImageFolder reads it; or with two such,
      `train` and `test` (else `val`). Grey where all files are, else in colour; all of one size.

    Raises ValueError for an unknown name or split and for damaged or unsuitable files, FileNotFoundError for an absent
    file (or set, with `download=False`), and ConnectionError where a download fails.
    """
    if split not in PREFIXES:
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    known = _known(name)
    if known == "digits":
        return Images(*_embedded.digits(split), known, split)
    if known == "letters":
        return letters(LETTERS, seed=0, first_index=LETTERS * (split == "train"), split=split)
    if known is None:
        return Images(*load_own(name, split), split)
    folder = data_root(root) / TORCHVISION[known] / "raw"
    if _missing(known, folder):
        _fetch(known, folder, download=download)
    return Images(*_read_raw(known, folder, split), known, split)


def load_whole(source: str | os.PathLike[str]) -> Images:
    """Load a user's own data as a set to test on only: all of it, or what it says is for the test, in its order.

    An `.npz` gives all of its `images`, else its `test_images`. Forms and errors are those of `load_images`.
    """
    return Images(*load_own(source, "test", whole=True), "test")


def letters(count: int, *, seed: int, first_index: int = 0, split: str = "test") -> Images:
    """Draw capital letters from the fonts that matplotlib ships, in MNIST's frame: white on black, 20x20 in 28x28.

    Image i, counted from `first_index`, depends on (seed, i) alone; labels cycle from A (0) to Z (25).
    Returns `count` images named "letters". Raises ValueError for a count below 1 or a negative first_index.
    """
    if operator.index(count) < 1 or operator.index(first_index) < 0:
        raise ValueError(
            f"letters needs a count of 1 or more and a first_index of 0 or more; got {count} and {first_index}"
        )
    return Images(*_embedded.letters(range(first_index, first_index + count), operator.index(seed)), "letters", split)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the data folder: `root`, else the environment variable VAECORE_DATA, else one in the user's cache."""
    chosen = root or os.environ.get("VAECORE_DATA")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("vaecore") / "data"


def is_available(name: str, root: str | os.PathLike[str] | None = None) -> bool:
    """Tell whether a named set can be loaded without network: its four files are on disk, or it is embedded.

    Only presence is checked; `load_images` checks content. Raises ValueError for an unknown name.
    """
    known = _known(name)
    if known is None:
        return is_named(os.fspath(name)) or Path(name).expanduser().exists()
    return known in EMBEDDED or not _missing(known, data_root(root) / TORCHVISION[known] / "raw")


def probe(name: str, *, timeout: float = 3.0) -> bool:
    """Tell within `timeout` seconds whether a server that torchvision downloads this set from answers.

    Raises ValueError for a name that torchvision does not download.
    """
    if name not in TORCHVISION:
        raise ValueError(f"only {_listed(TORCHVISION)} can be downloaded; got {name!r}")
    return not _unreachable(name, timeout)


def _known(name: str | os.PathLike[str]) -> str | None:
    """Return the name if it is a set's, None if it names a user's own; raise ValueError otherwise."""
    text = os.fspath(name)
    if text in TORCHVISION or text in EMBEDDED:
        return text
    if own_name(text) is not None:
        return None
    raise ValueError(
        f"images must be {_listed([*TORCHVISION, *EMBEDDED])}, the path of a file that ends in .npz or of a folder that"
        f" exists, or package.module:attribute; got {text!r}"
    )


def _listed(names: Any) -> str:
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:-1]) + " or " + quoted[-1]


def _digest(pixels: Tensor, labels: Tensor | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    # Type and shape come before each content, so that two different sets never give the same stream of bytes.
    for tensor in (pixels, labels):
        digest.update(b"none" if tensor is None else f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        if tensor is not None:
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()


def _raw_files(name: str, split: str) -> tuple[str, str]:
    """Return the names of a split's file of images and file of labels."""
    prefix = f"emnist-letters-{split}" if name == "emnist-letters" else PREFIXES[split]
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def _missing(name: str, folder: Path) -> list[str]:
    return [file for split in PREFIXES for file in _raw_files(name, split) if not (folder / file).is_file()]


def _read_raw(name: str, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Read one split of an MNIST-like set; torchvision, which looks only whether files are there, would not notice."""
    image_file, label_file = (folder / file for file in _raw_files(name, split))
    images, labels = _read_idx(image_file, 3), _read_idx(label_file, 1)
    if images.shape[1:] != (28, 28) or len(images) == 0:
        raise ValueError(f"{image_file} must hold 28x28 images, one or more; its header says {images.shape}")
    if len(labels) != len(images):
        raise ValueError(
            f"{label_file} must hold one label for each of {len(images)} images; got {len(labels)}"
            " (do the two files come from different sets?)"
        )
    first, last = (1, 26) if name == "emnist-letters" else (0, 9)
    for label in (labels.min(), labels.max()):
        if not first <= label <= last:
            raise ValueError(
                f"{label_file} must hold labels {first} to {last}; got {label} (damaged, or of another set?)"
            )
    labels -= first
    if name == "emnist-letters":
        # EMNIST's files hold every image transposed, and torchvision hands them out so (its issue 8783).
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    return torch.from_numpy(images).unsqueeze(1).float().div_(255), torch.from_numpy(labels).long()


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: two zeros, 8 (for bytes), the number of dimensions, big-endian sizes, the content."""
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
    """Download what is missing in `folder` (root/MNIST/raw), whole files only, once however many processes ask."""
    remedy = (
        f"Name a folder that holds {TORCHVISION[name]}/raw/ with --data-root, root=... or the environment variable"
        " VAECORE_DATA, or choose 'digits' or 'letters', which need no network."
    )
    lacking = f"{name} is not complete on disk: {folder} lacks {', '.join(_missing(name, folder))}"
    if not download:
        raise FileNotFoundError(f"{lacking}; download is switched off. {remedy}")
    # A blocked network may swallow packets without a word, and torchvision would try each address in turn.
    reason = _unreachable(name, 10.0)
    if reason:
        raise ConnectionError(f"{lacking}; and no server answers ({reason}). {remedy}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"), tempfile.TemporaryDirectory(dir=folder) as fresh, _socket_timeout(10.0):
            if _missing(name, folder):
                part = {"split": "letters"} if name == "emnist-letters" else {}
                _torchvision_class(name)(fresh, download=True, **part)
            for file in _missing(name, folder):
                (Path(fresh) / TORCHVISION[name] / "raw" / file).replace(folder / file)
    # What torchvision lets through: RuntimeError (all mirrors failed, wrong checksum), broken transfers, a full disk.
    except (OSError, RuntimeError, HTTPException, EOFError, zlib.error) as error:
        raise ConnectionError(f"{lacking}; and the download failed ({error}). {remedy}") from error


def _torchvision_class(name: str) -> Any:
    # Imported here: torchvision takes seconds to import, which sets that are on disk should not cost.
    from torchvision import datasets  # noqa: PLC0415

    return getattr(datasets, TORCHVISION[name])


def _unreachable(name: str, timeout: float) -> str:
    """Ask all mirrors at once; return "" as soon as one answers, else why none did, after `timeout` at the latest."""
    dataset = _torchvision_class(name)
    # EMNIST has one address; the mirrors and resources that it inherits are MNIST's.
    own = getattr(dataset, "url", None)
    addresses = [own] if own else [mirror + dataset.resources[0][0] for mirror in dataset.mirrors]
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask(address: str) -> None:
        request = urllib.request.Request(address)  # noqa: S310 (torchvision's own https/http)
        try:
            with urllib.request.urlopen(request, timeout=timeout):  # noqa: S310 (as above)
                answers.put("")
        except (OSError, HTTPException, ValueError) as error:
            answers.put(f"{address}: {error}")

    # In threads, because no time-out of a socket covers the look-up of the server's name.
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
    """Limit how long any new socket waits, since torchvision's downloads set no limit; restore what was."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
