"""Files as torchvision lays them out, and the server that it downloads from, for the tests of data."""

import hashlib
import pickle
import socket
import tarfile
import threading
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from scipy.io import savemat

from vaecore.toolkit import TORCHVISION

COUNTS = {"train": 5, "test": 3}  # images of a set in colour


@pytest.fixture
def write_idx():
    """Give a function that writes an array of bytes to an IDX file."""

    def write(path, array):
        array = np.ascontiguousarray(array, dtype=np.uint8)
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes())

    return write


@pytest.fixture
def write_colour(monkeypatch):
    """Give a function that writes a set in colour as torchvision keeps it, whose checksums are changed to those.

    address: of a server of that folder. It gives the bytes (n, 3, 32, 32) and the labels of each split.
    """
    from torchvision import datasets  # noqa: PLC0415  # takes seconds to import

    def checksum(path):
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()

    def pickled(path, value):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(value, protocol=2))
        return checksum(path)

    def write_cifar(dataset, key, root, content, address):
        folder = root / dataset.base_folder
        for split, files in (("train", dataset.train_list), ("test", dataset.test_list)):
            images, labels = content[split]
            sums = []
            for (file, _), rows in zip(files, np.array_split(np.arange(len(images)), len(files)), strict=True):
                value = {"data": images[rows].reshape(-1, 3072), key: labels[rows].tolist()}
                sums.append([file, pickled(folder / file, value)])
            monkeypatch.setattr(dataset, f"{split}_list", sums)
        names = {dataset.meta["key"]: [str(label) for label in range(100)]}
        meta = {**dataset.meta, "md5": pickled(folder / dataset.meta["filename"], names)}
        monkeypatch.setattr(dataset, "meta", meta)
        with tarfile.open(root / dataset.filename, "w:gz") as archive:
            archive.add(folder, dataset.base_folder)
        monkeypatch.setattr(dataset, "tgz_md5", checksum(root / dataset.filename))
        monkeypatch.setattr(dataset, "url", address + dataset.filename)

    def write_svhn(root, content, address):
        lists = {}
        for split, (images, labels) in content.items():
            path = root / f"{split}_32x32.mat"
            savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
            lists[split] = [address + path.name, path.name, checksum(path)]
        monkeypatch.setattr(datasets.SVHN, "split_list", lists)

    def write(name, root, address=""):
        classes = 100 if name == "cifar-100" else 10
        content = {}
        for seed, (split, count) in enumerate(COUNTS.items()):
            random = np.random.default_rng(seed)
            labels = np.append(random.integers(0, classes, count - 2), (0, classes - 1))
            content[split] = random.integers(0, 256, (count, 3, 32, 32), np.uint8), labels
        monkeypatch.setitem(TORCHVISION, name, replace(TORCHVISION[name], servers=(address,)))
        if name == "svhn":
            write_svhn(root, content, address)
        else:
            wide = name == "cifar-100"
            dataset, key = (datasets.CIFAR100, "fine_labels") if wide else (datasets.CIFAR10, "labels")
            write_cifar(dataset, key, root, content, address)
        return content

    return write


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(monkeypatch, tmp_path_factory):
    """A folder that a server gives files of, and its address."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path_factory.mktemp("server")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def mirror(monkeypatch, tmp_path_factory):
    """Give a function that makes each set's servers two places, of which the first "answers", is "silent", "refuses".

    The second refuses, or is silent, too.
    """

    def point(kind):
        if kind == "answers":
            file = tmp_path_factory.mktemp("mirror") / "file"
            file.touch()
            return file.as_uri()
        local = stack.enter_context(socket.socket())
        local.bind(("127.0.0.1", 0))  # without listening, connections are refused
        if kind == "silent":
            local.listen()
        return f"http://127.0.0.1:{local.getsockname()[1]}/file"

    def use(kind):
        servers = point(kind), point("silent" if kind == "silent" else "refuses")
        monkeypatch.setenv("no_proxy", "*")
        for name, row in TORCHVISION.items():
            monkeypatch.setitem(TORCHVISION, name, replace(row, servers=servers))

    with ExitStack() as stack:
        yield use
