"""Streams: the same results from a mapped file and from batches, in memory that does not grow; files always whole."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from vaecore import reconstruct, squared_error
from vaecore.reconstruction import _stream  # for a file of a million billion rows alone


@pytest.fixture
def mapped(some_images, tmp_path):
    """60 images, in memory and in a file that is mapped for reading."""
    images = some_images(60)
    np.save(tmp_path / "images.npy", images.numpy())
    return images, np.load(tmp_path / "images.npy", mmap_mode="r")


@pytest.mark.parametrize("draws", [1, 400, 1_429])
def test_a_mapped_file_and_batches_give_what_a_tensor_gives(tiny_vae, mapped, draws):
    """In portions of 10,000 draws at most."""
    images, array = mapped
    vae, encoded = tiny_vae(), []

    class Watched:
        decode = vae.decode

        def encode(self, rows):
            encoded.append(len(rows))
            return vae.encode(rows)

    def reduce(rows, reconstructions):
        return torch.cat([squared_error(rows, reconstructions), rows.flatten(1)], dim=1)

    def result(stream):
        return reconstruct(Watched(), stream, draws=draws, seed=3, first_index=11, reduce=reduce)

    expected = result(images)
    assert torch.equal(expected[:, draws:], images.flatten(1))
    loader = DataLoader(TensorDataset(images, torch.arange(60)), batch_size=17)
    for stream in (
        *(array, images.split(7), iter([array[:40], images[40:]])),
        *((rows.numpy() for rows in images.split(25)), (rows for rows, _ in loader)),
    ):
        assert_close(result(stream), expected, atol=1e-6, rtol=0)
    assert max(encoded) <= 10_000 // draws
    whole = {"draws": 4, "seed": 3, "first_index": 11}
    assert_close(reconstruct(vae, array, **whole), reconstruct(vae, images, **whole))


def test_indices_of_a_stream(tiny_vae, mapped):
    images, array = mapped
    vae, indices = tiny_vae(), torch.randperm(60, generator=torch.Generator().manual_seed(0)) * 3
    settings = {"draws": 2, "seed": 3, "reduce": squared_error}
    expected = reconstruct(vae, images, indices=indices, **settings)
    for stream in (array, images.split(7)):
        assert_close(reconstruct(vae, stream, indices=indices, **settings), expected, atol=1e-6, rtol=0)
    for stream, some, message in (
        (iter(images.split(7)), indices[:50], "indices must be one for each image; there are more images"),
        (images[:50].split(7), indices, "indices must be one for each image; 10 are left over"),
        (array, indices[:50], r"indices must be int64 of shape \(60,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            reconstruct(vae, stream, indices=some, **settings)


UNFIT = "images must be a torch.Tensor, a numpy array or batches of these; got"
GREY = torch.full((2, 1, 5, 4), 0.5)


@pytest.mark.parametrize(
    ("stream", "error", "message"),
    [
        ([GREY, GREY * torch.tensor([0, 510, 0, 0])], ValueError, r"images must lie in \[0, 1\]; got \[0, 255\]"),
        (np.zeros((2, 1, 5, 4), dtype=np.uint8), ValueError, "images must be float32; got torch.uint8"),
        (iter([]), ValueError, "images must not be empty; got no batch"),
        ([[0.0]], TypeError, f"{UNFIT} a batch of type list .*DataLoader"),
        ([(GREY, torch.zeros(2))], TypeError, f"{UNFIT} a batch of type tuple .*DataLoader that gives labels too"),
        (3, TypeError, f"{UNFIT} int"),
        ("images", TypeError, f"{UNFIT} a batch of type str"),
    ],
)
def test_unfit_streams(tiny_vae, stream, error, message):
    with pytest.raises(error, match=message):
        reconstruct(tiny_vae(), stream, draws=1, seed=0)


def test_progress_counts_images(tiny_vae, mapped):
    images, array = mapped
    calls = []
    for stream in (array, images.split(30)):
        settings = {"chunk": 20, "reduce": squared_error, "progress": lambda *call: calls.append(call)}
        reconstruct(tiny_vae(), stream, draws=500, seed=0, **settings)
    assert calls == [(20, 60), (40, 60), (60, 60), (20, 0), (30, 0), (50, 0), (60, 0)]


def test_results_are_in_the_file_as_they_come(tiny_vae, tmp_path, mapped):
    images, _ = mapped
    path, seen = tmp_path / "errors.npy", []
    settings = {"draws": 3, "seed": 5, "reduce": squared_error}
    expected = reconstruct(tiny_vae(), images, **settings)

    def batches():
        for number, batch in enumerate(images.split(20)):
            if number:  # at any time the file is a whole one, of what was done so far
                seen.append(np.load(path))
            yield batch

    errors = reconstruct(tiny_vae(), batches(), **settings, out=path)
    assert [len(rows) for rows in seen] == [20, 40]
    for rows in seen:
        np.testing.assert_allclose(rows, expected[: len(rows)], atol=1e-6)
    assert_close(errors, expected, atol=1e-6, rtol=0)
    errors[0] = 7.0  # what is done to the result is not done to the file
    np.testing.assert_allclose(np.load(path), expected, atol=1e-6)
    with pytest.raises(FileExistsError, match=r"errors\.npy"):
        reconstruct(tiny_vae(), images, **settings, out=path)


def integers_at_last(rows, _):
    return torch.zeros(len(rows), 3, dtype=torch.float32 if len(rows) == 20 else torch.int64)


@pytest.mark.parametrize(
    ("last", "reduce", "message"),
    [
        (lambda rows: rows * 2, squared_error, r"lie in \[0, 1\]"),
        (
            lambda rows: rows[:19],
            lambda x, _: torch.zeros(len(x), len(x)),
            r"errors.npy must be float32 \(20,\), as the",
        ),
        (lambda rows: rows[:19], integers_at_last, r"errors.npy must be float32 \(3,\), as the first; got int64"),
    ],
)
def test_what_fails_half_way_keeps_what_was_done(tiny_vae, tmp_path, mapped, last, reduce, message):
    images, _ = mapped
    batches = [images[:20], images[20:40], last(images[40:])]
    with pytest.raises(ValueError, match=message):
        reconstruct(tiny_vae(), batches, draws=3, seed=5, reduce=reduce, out=tmp_path / "errors.npy")
    assert len(np.load(tmp_path / "errors.npy")) == 40


def test_a_file_holds_one_array(tiny_vae, some_images, tmp_path):
    with pytest.raises(ValueError, match="with `out`, reduce must give one tensor; got a dict"):
        reconstruct(
            tiny_vae(), some_images(3), draws=1, seed=5, reduce=lambda x, _: {"x": x}, out=tmp_path / "dict.npy"
        )


def test_a_header_has_room_for_any_number_of_rows(tmp_path):
    """Of the class itself, as no test can write so many."""
    rows = _stream.Rows(tmp_path / "rows.npy")
    rows.append(torch.arange(3.0))
    size = rows.path.stat().st_size
    rows._shape = (10**15,)
    with rows.path.open("r+b") as file:
        rows._head(file)
    assert rows.path.stat().st_size == size
    with rows.path.open("rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file)[0] == (10**15,)
        assert np.fromfile(file, dtype=np.float32).tolist() == [0, 1, 2]


PEAK = """
import resource, sys, numpy as np, torch
from vaecore import VAE, VAEConfig, reconstruct, squared_error
torch.set_num_threads(1)
count, path, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
vae = VAE(VAEConfig(latent_size=2, hidden_size=4), (28, 28)).eval()
images = np.load(path, mmap_mode="r")[:count]
reconstruct(vae, images, draws=3, seed=0, reduce=squared_error, out=out)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read and mapped pages are given back as Linux does")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    path = tmp_path / "images.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(100_000, 1, 28, 28)).flush()  # a sparse file
    peaks = {}
    for count in (1_000, 100_000):
        command = [sys.executable, "-c", PEAK, str(count), str(path), str(tmp_path / f"{count}.npy")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ, timeout=300)  # noqa: S603  # our own
        peaks[count] = int(done.stdout)
        assert np.load(tmp_path / f"{count}.npy").shape == (count, 3)
    assert peaks[100_000] < 1.1 * peaks[1_000], peaks
