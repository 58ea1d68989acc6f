"""Streams: the same results from a mapped file and from batches, in memory that does not grow; files always whole."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from vaecore import VAE, VAEConfig, reconstruct
from vaecore.reconstruction import _reconstruct
from vaecore.reconstruction._stream import Rows, portions


def tiny_vae():
    torch.manual_seed(0)
    return VAE(VAEConfig(latent_size=3, hidden_size=8), (5, 4)).eval()


def some_images(count):
    return torch.rand(count, 1, 5, 4, generator=torch.Generator().manual_seed(0))


def error(rows, reconstructions):
    return (reconstructions - rows.unsqueeze(1)).square().mean(dim=(2, 3, 4))


@pytest.fixture
def mapped(tmp_path):
    """60 images, in memory and in a file that is mapped for reading."""
    images = some_images(60)
    np.save(tmp_path / "images.npy", images.numpy())
    return images, np.load(tmp_path / "images.npy", mmap_mode="r")


def test_a_mapped_file_and_batches_give_what_a_tensor_gives(monkeypatch, mapped):
    monkeypatch.setitem(_reconstruct._AT_ONCE, "cpu", (2_000, 40))  # portions of ten images
    images, array = mapped
    vae, told = tiny_vae(), {"draws": 4, "seed": 3, "first_index": 11, "reduce": error}
    expected = reconstruct(vae, images, **told)
    loader = DataLoader(TensorDataset(images, torch.arange(60)), batch_size=17)
    for stream in (array, images.split(7), (rows.numpy() for rows in images.split(25)), (rows for rows, _ in loader)):
        torch.testing.assert_close(reconstruct(vae, stream, **told), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        reconstruct(vae, array, draws=4, seed=3, first_index=11), reconstruct(vae, images, **told | {"reduce": None})
    )


def test_indices_of_a_stream(mapped):
    images, array = mapped
    vae, indices = tiny_vae(), torch.randperm(60, generator=torch.Generator().manual_seed(0)) * 3
    told = {"draws": 2, "seed": 3, "reduce": error}
    expected = reconstruct(vae, images, indices=indices, **told)
    for stream in (array, images.split(7)):
        torch.testing.assert_close(reconstruct(vae, stream, indices=indices, **told), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="indices must be one for each image; there are more images"):
        reconstruct(vae, iter(images.split(7)), indices=indices[:50], **told)
    with pytest.raises(ValueError, match="indices must be one for each image; 10 are left over"):
        reconstruct(vae, images[:50].split(7), indices=indices, **told)
    with pytest.raises(ValueError, match=r"indices must be int64 of shape \(60,\)"):
        reconstruct(vae, array, indices=indices[:50], **told)


def test_an_unfit_batch_is_named_and_an_empty_stream_too(mapped):
    images, _ = mapped
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]; got \[0, 255\]"):
        reconstruct(tiny_vae(), [images[:3], torch.tensor([0.0, 255.0]).expand(2, 1, 5, 2)], draws=1, seed=0)
    with pytest.raises(ValueError, match=r"images must be float32; got torch.uint8"):
        reconstruct(tiny_vae(), np.zeros((2, 1, 5, 4), dtype=np.uint8), draws=1, seed=0)
    with pytest.raises(ValueError, match="images must not be empty; got no batch"):
        reconstruct(tiny_vae(), iter([]), draws=1, seed=0)


def test_progress_counts_images(monkeypatch, mapped):
    monkeypatch.setitem(_reconstruct._AT_ONCE, "cpu", (2_000, 40))
    images, array = mapped
    told = []
    for stream in (array, images.split(30)):
        reconstruct(
            tiny_vae(), stream, draws=2, seed=0, reduce=error, progress=lambda done, of: told.append((done, of))
        )
    assert told == [(20, 60), (40, 60), (60, 60), (20, 0), (30, 0), (50, 0), (60, 0)]


def test_results_are_in_the_file_as_they_come(tmp_path, mapped):
    images, _ = mapped
    vae, path, seen = tiny_vae(), tmp_path / "errors.npy", []
    expected = reconstruct(vae, images, draws=3, seed=5, reduce=error)

    def batches():
        for number, batch in enumerate(images.split(20)):
            if number:  # at any time the file is a whole one, of what was done so far
                seen.append(np.load(path))
            yield batch

    found = reconstruct(vae, batches(), draws=3, seed=5, reduce=error, out=path)
    assert [len(rows) for rows in seen] == [20, 40]
    for rows in seen:
        np.testing.assert_allclose(rows, expected[: len(rows)], atol=1e-6)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    found[0] = 7.0  # what is done to the result is not done to the file
    np.testing.assert_allclose(np.load(path), expected, atol=1e-6)
    with pytest.raises(FileExistsError, match=r"errors\.npy"):
        reconstruct(vae, images, draws=3, seed=5, reduce=error, out=path)
    with pytest.raises(ValueError, match="with `out`, reduce must give one tensor; got a dict"):
        reconstruct(vae, images, draws=1, seed=5, reduce=lambda x, _: {"x": x}, out=tmp_path / "dict.npy")


def test_what_fails_half_way_keeps_what_was_done(tmp_path, mapped):
    images, _ = mapped
    bad = [images[:20], images[20:40], images[40:] * 2]
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        reconstruct(tiny_vae(), bad, draws=3, seed=5, reduce=error, out=tmp_path / "errors.npy")
    assert len(np.load(tmp_path / "errors.npy")) == 40


def test_rows_of_another_shape_or_dtype_are_refused(tmp_path):
    rows = Rows(tmp_path / "rows.npy")
    rows.append(torch.zeros(2, 3))
    for other in (torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"rows of rows.npy must be float32 \(3,\), as the first; got"):
            rows.append(other)
    assert rows.all().shape == (2, 3)


def test_a_header_has_room_for_any_number_of_rows(tmp_path):
    rows = Rows(tmp_path / "rows.npy")
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


@pytest.mark.parametrize("size", [1, 7, 60, 100])
def test_portions_are_at_most_so_large_and_in_order(mapped, size):
    images, array = mapped
    for stream in (images, array, images.split(13), iter([array[:40], images[40:]])):
        parts = list(portions(stream, size))
        assert max(len(part) for part in parts) <= size
        assert torch.equal(torch.cat(parts), images)


PEAK = """
import resource, sys, numpy as np, torch
from vaecore import VAE, VAEConfig, reconstruct
torch.set_num_threads(1)
count, path, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
vae = VAE(VAEConfig(latent_size=2, hidden_size=4), (28, 28)).eval()
images = np.load(path, mmap_mode="r")[:count]
def error(rows, found):
    return (found - rows[:, None]).square().mean(dim=(2, 3, 4))
reconstruct(vae, images, draws=3, seed=0, reduce=error, out=out)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


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
