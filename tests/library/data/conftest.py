"""Files as torchvision lays them out, and the server that it downloads from, for the tests of data."""

import socket
from contextlib import ExitStack

import numpy as np
import pytest


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
def mirror(monkeypatch, tmp_path_factory):
    """Give a function that has torchvision download from a place that "answers", is "silent", or "refuses"."""
    from torchvision import datasets  # noqa: PLC0415  # takes seconds to import

    def point(kind):
        if kind == "answers":  # the first of two addresses, as there is no such file below the second
            folder = tmp_path_factory.mktemp("mirror")
            (folder / datasets.MNIST.resources[0][0]).touch()
            return folder.as_uri() + "/"
        local = stack.enter_context(socket.socket())
        local.bind(("127.0.0.1", 0))  # without listening, connections are refused
        if kind == "silent":
            local.listen()
        return f"http://127.0.0.1:{local.getsockname()[1]}/"

    def use(kind):
        address = point(kind)
        monkeypatch.setenv("no_proxy", "*")
        for dataset in (datasets.MNIST, datasets.KMNIST):
            monkeypatch.setattr(dataset, "mirrors", [address, f"{address}again/"])
        monkeypatch.setattr(datasets.EMNIST, "url", address + datasets.MNIST.resources[0][0])

    with ExitStack() as stack:
        yield use
