"""The sets that torchvision downloads: on disk, in its layout or as an .npz, and from its servers."""

import contextlib
import math
import queue
import socket
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecore._check import describe_shape
from vaecore._files import locked
from vaecore.data._decoding import decoding
from vaecore.data._names import TORCHVISION
from vaecore.data._user_data import load_split

_ADVICE = "a download was interrupted, or the file is damaged: delete it, then load again"


def is_on_disk(name: str, root: Path) -> bool:
    """Whether `read` finds a set: all of torchvision's files, or an .npz."""
    return not _missing(name, root / TORCHVISION[name].folder) or npz_of(name, root) is not None


def npz_of(name: str, root: Path) -> Path | None:
    """The .npz in the root that `read` takes a set from; None where it takes torchvision's files, or finds nothing."""
    row = TORCHVISION[name]
    if not _missing(name, root / row.folder):
        return None
    return next((root / file for file in row.npz_files(name) if (root / file).is_file()), None)


def read(name: str, root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Pixels and labels of a split of a set that is on disk.

    Raises ValueError for files that are damaged or of another set.
    """
    if npz := npz_of(name, root):
        return _read_npz(name, npz, split)
    return (_read_idx_files if TORCHVISION[name].idx else _read_by_torchvision)(name, root, split)


def _missing(name: str, *folders: Path) -> list[str]:
    """Files of torchvision's that are in none of the folders."""
    return [file for file in TORCHVISION[name].all_files if not any((folder / file).is_file() for folder in folders)]


def _read_npz(name: str, path: Path, split: str) -> tuple[Tensor, Tensor]:
    """Read a split of a set from an .npz and check that it may be that set's."""
    row = TORCHVISION[name]
    pixels, labels = load_split(path, split)
    _, *shape = pixels.shape
    if tuple(shape) != row.shape:
        raise ValueError(
            f"{path}: `{split}_images` must be {describe_shape(row.shape)}, as {name} is; got"
            f" {describe_shape((shape[0], shape[1], shape[2]))} (of another set: give the file another name)"
        )
    _check_labels(f"{path}: `{split}_labels`", labels.numpy(), row.labels)
    return pixels, labels


def _read_by_torchvision(name: str, root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Read a split by torchvision, which compares the checksums of the files before it decodes them."""
    row = TORCHVISION[name]
    with decoding(f"{root / row.folder}: one of {', '.join(row.all_files)}", _ADVICE):
        dataset = _torchvision_class(name)(root, **row.arguments[split])
    labels = dataset.labels if hasattr(dataset, "labels") else dataset.targets
    pixels = torch.from_numpy(dataset.data)
    if pixels.shape[1:] != row.shape:
        pixels = pixels.permute(0, 3, 1, 2)
    return pixels.contiguous().float().div_(255), torch.as_tensor(labels, dtype=torch.int64)


def _read_idx_files(name: str, root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Read a split of an MNIST-like set and check it, as torchvision checks only that the files exist."""
    row = TORCHVISION[name]
    image_file, label_file = (root / row.folder / file for file in row.files[split])
    images, labels = _read_idx(image_file, 3), _read_idx(label_file, 1)
    if images.shape[1:] != row.shape[1:] or len(images) == 0:
        raise ValueError(f"{image_file} must hold 28x28 images, one or more; its header says {images.shape}")
    if len(labels) != len(images):
        raise ValueError(
            f"{label_file} must hold one label for each of {len(images)} images; got {len(labels)}"
            " (do the two files come from different sets?)"
        )
    _check_labels(f"{label_file}", labels, row.labels)
    labels -= row.labels[0]
    if row.transposed:
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    return torch.from_numpy(images).unsqueeze(1).float().div_(255), torch.from_numpy(labels).long()


def _check_labels(what: str, labels: NDArray[Any], ends: tuple[int, int]) -> None:
    first, last = ends
    for label in (labels.min(), labels.max()):
        if not first <= label <= last:
            raise ValueError(f"{what} must hold labels {first} to {last}; got {label} (damaged, or of another set?)")


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: two zeros, 8 (for bytes), the number of dimensions, big-endian sizes, content."""
    content = np.fromfile(path, dtype=np.uint8)
    header = 4 * (1 + dimensions)
    if len(content) < header or content[:4].tobytes() != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"{path} must begin with an IDX header for {dimensions}-d bytes; it does not ({_ADVICE})")
    shape = tuple(int(size) for size in content[4:header].view(">u4"))
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} must hold {math.prod(shape)} bytes after its header, which says {shape};"
            f" got {len(content) - header} ({_ADVICE})"
        )
    return content[header:].reshape(shape)


def fetch(name: str, root: Path, *, download: bool) -> None:
    """Download the files of torchvision's that are missing, whole files only, in one process at a time.

    Raises FileNotFoundError if `download` is false, and ConnectionError if it fails.
    """
    row = TORCHVISION[name]
    folder = root / row.folder
    remedy = (
        f"Name a folder that holds {_wanted(name)} with --data-root, root=... or the environment variable VAECORE_DATA,"
        " or choose 'digits' or 'letters', which need no network."
    )
    lacking = f"{name} is not complete on disk: {folder} lacks {', '.join(_missing(name, folder))}"
    if not download:
        raise FileNotFoundError(f"{lacking}; download is switched off. {remedy}")
    # A blocked network may drop packets silently, and torchvision would wait for each address in turn.
    if reason := unreachable(name, 10.0):
        raise ConnectionError(f"{lacking}; and no server answers ({reason}). {remedy}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without a lock two processes may download the same; each file still gets its place whole.
        lock = locked(folder / ".lock", without=lambda _: None)
        with lock, tempfile.TemporaryDirectory(dir=folder) as fresh, _socket_timeout(10.0):
            fresh_folder = Path(fresh) / row.folder
            for split, arguments in row.arguments.items():
                if {*row.files[split]} & {*_missing(name, folder, fresh_folder)}:
                    _torchvision_class(name)(fresh, download=True, **arguments)
            for file in _missing(name, folder):
                (fresh_folder / file).replace(folder / file)
    # torchvision raises RuntimeError (no mirror, wrong checksum) and passes on broken transfers and full disks.
    except (OSError, RuntimeError, HTTPException, EOFError, zlib.error) as error:
        raise ConnectionError(f"{lacking}; and the download failed ({error}). {remedy}") from error


def _wanted(name: str) -> str:
    """What a data root may hold for a set, in words."""
    row = TORCHVISION[name]
    whole = " and ".join(row.all_files) if row.folder == "." else f"{row.folder}/"
    return " or ".join([whole, *row.npz_files(name)])


def _torchvision_class(name: str) -> Any:
    from torchvision import datasets  # noqa: PLC0415  # takes seconds to import

    return getattr(datasets, TORCHVISION[name].dataset)


def unreachable(name: str, timeout: float) -> str:
    """Ask all servers at once: "" as soon as one answers, else the reasons, after `timeout` seconds at most."""
    addresses = TORCHVISION[name].servers
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
