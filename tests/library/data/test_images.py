"""Image sets by name: digests, the embedded sets, files as torchvision lays them out, and downloads."""

import hashlib
import os
import pickle
import shutil
import socket
import time
from pathlib import Path
from typing import get_args, get_overloads

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.testing import assert_close
from torchvision import datasets

from vaecore import Images, letters, load_images
from vaecore.data import _embedded
from vaecore.toolkit import EMBEDDED, TORCHVISION, data_root, is_available, npz_of, on_black, probe

BYTES = (np.arange(6 * 784) % 256).reshape(6, 28, 28)


def some(pixels, labels=None):
    return Images(pixels, labels, "some", "test")


COLOUR = pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cifar-10", [*(f"data_batch_{part}" for part in range(1, 6)), "test_batch", "batches.meta"]),
        ("cifar-100", ["train", "test", "meta"]),
        ("svhn", ["train_32x32.mat", "test_32x32.mat"]),
    ],
)


@pytest.fixture
def root(tmp_path, write_idx):
    """A data folder with 6 training and 4 test images of MNIST, and 3 and 2 letters of EMNIST.

    Pixel (y, x) of EMNIST's first test image, an L, is at (x, y) in the file. Beside it are files of EMNIST's digits.
    """
    upright = np.zeros((2, 28, 28))
    upright[:, 4:24, 8] = 255  # stem
    upright[:, 23, 8:18] = 102  # foot
    levels = np.array([0, 51, 102, 255])
    for prefix, images, labels in (
        ("MNIST/raw/train", BYTES, range(6)),
        ("MNIST/raw/t10k", np.tile(levels[:, None, None], (1, 28, 28)), range(4)),
        ("EMNIST/raw/emnist-letters-train", BYTES[:3], (1, 2, 26)),
        ("EMNIST/raw/emnist-letters-test", upright.transpose(0, 2, 1), (12, 1)),
        ("EMNIST/raw/emnist-digits-test", BYTES[:1], (9,)),
    ):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", labels)
    return tmp_path


# The Images themselves


def test_digest_is_blake2b_of_type_shape_and_content_of_pixels_and_labels():
    images = some(torch.full((2, 1, 8, 8), 0.5), torch.tensor([0, 3]))
    expected = hashlib.blake2b(digest_size=16)
    expected.update(b"torch.float32(2, 1, 8, 8)" + np.full(128, 0.5, np.float32).tobytes())
    expected.update(b"torch.int64(2,)" + np.array([0, 3]).tobytes())
    assert images.digest == expected.hexdigest()
    assert (len(images), images.classes) == (2, 4)


def test_equal_content_is_equal_and_any_other_is_not():
    pixels, labels = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    images, unlabelled = some(pixels, labels), some(pixels)
    assert images == some(pixels.clone(), labels.clone())
    others = (unlabelled, some(pixels, labels.flip(0)), some(pixels.flip(0), labels), some(pixels.view(3, 1, 4, 16)))
    assert len({images.digest, *(other.digest for other in others)}) == 5
    assert images.take(torch.tensor([2, 0])) == some(pixels[[2, 0]], labels[[2, 0]])
    assert unlabelled.take(slice(2)) == some(pixels[:2])
    assert unlabelled.classes is None


def test_rounding_beyond_the_ends_is_clipped_from_a_copy():
    pixels = torch.tensor([-9e-9, 1.0000001] * 32).view(1, 1, 8, 8)
    assert some(pixels) == some(pixels.clamp(0, 1))
    assert pixels.max() > 1


def test_images_refuse_what_is_not_in_range_and_labels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]; got \[255, 255\]"):
        some(torch.full((2, 1, 8, 8), 255.0))
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(2,\)"):
        some(torch.zeros(2, 1, 8, 8), torch.tensor([1]))
    with pytest.raises(ValueError, match="labels must be from 0 to 99999; got 40000000000"):
        some(torch.zeros(2, 1, 8, 8), torch.tensor([0, 4 * 10**10]))
    assert torch.equal(some(torch.full((2, 1, 8, 8), 1.0000001)).pixels, torch.ones(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("minst", "test", r"'letters', the path of a file that ends in .npz .* package.module:attribute; got 'minst'"),
        ("digits.csv", "test", r"ends in .npz or of a folder that exists, or .*; got 'digits.csv'"),
        ("", "test", r"or package.module:attribute; got ''"),
        ("digits", "validation", r"split must be 'train' or 'test'; got 'validation'"),
    ],
)
def test_an_unknown_name_or_split_lists_what_there_is(name, split, message):
    with pytest.raises(ValueError, match=message):
        load_images(name, split)


# Embedded sets


def test_a_type_checker_knows_of_every_named_set_that_it_has_labels():
    named, _ = get_overloads(load_images)
    assert {*get_args(named.__annotations__["name"])} == {*TORCHVISION, *EMBEDDED}
    assert named.__annotations__["return"] == Images[torch.Tensor]


def test_digits_are_split_into_fixed_disjoint_stratified_halves_in_mnist_frame():
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (len(train), len(test), train.classes, test.classes) == (1000, 797, 10, 10)
    assert not {pixels.numpy().tobytes() for pixels in train.pixels} & {p.numpy().tobytes() for p in test.pixels}
    share = torch.bincount(train.labels) / (torch.bincount(train.labels) + torch.bincount(test.labels))
    assert_close(share, torch.full((10,), 1000 / 1797), atol=0.006, rtol=0)  # to within one digit of each class
    for images in (train, test):
        assert images.pixels.shape[1:] == (1, 28, 28)
        assert torch.equal(images.pixels, (images.pixels * 255).round() / 255)
        # MNIST's test images: mean 0.1325, share of black 0.807, share above 0.9 0.090
        assert images.pixels.mean().item() == pytest.approx(0.1325, abs=0.005)
        assert (images.pixels == 0).float().mean().item() == pytest.approx(0.807, abs=0.01)
        assert (images.pixels > 0.9).float().mean().item() == pytest.approx(0.090, abs=0.01)
        assert torch.bincount(images.labels[:100]).min() >= 3  # mixed: the first hundred hold every digit
    assert train.labels[:10].tolist() == [9, 7, 6, 3, 4, 6, 7, 8, 4, 0]
    assert test.labels[:10].tolist() == [7, 8, 5, 6, 0, 4, 1, 3, 2, 0]
    assert (train.digest, test.digest) == ("2d0622fe0619d2f5d6bd5dd2ae8c2f8a", "6ada829985fdcb9318c5180b95642918")


@pytest.mark.parametrize("moved", [False, True])
def test_digits_are_scikit_learn_s_wherever_it_keeps_them(monkeypatch, moved):
    if moved:
        monkeypatch.setattr(_embedded, "find_spec", lambda _: None)
    levels, labels = _embedded._uci_digits()
    expected = load_digits()
    assert np.array_equal(levels, expected.images)
    assert np.array_equal(labels, expected.target)
    assert (levels.dtype, labels.dtype) == (expected.images.dtype, expected.target.dtype)


@pytest.mark.parametrize("images", [lambda: load_images("digits"), lambda: letters(78, seed=3)], ids=["digits", "A-Z"])
def test_centres_of_mass_lie_in_the_middle(images):
    pixels = images().pixels
    for axis in (2, 3):
        centre = (pixels.sum((1, 5 - axis)) * (torch.arange(28) - 13.5)).sum(1) / pixels.sum((1, 2, 3))
        assert centre.abs().max() < 1.7  # half a pixel, and what the letters' distortion adds


def test_a_letter_depends_on_seed_and_index_alone():
    fifteen = letters(15, seed=1)
    assert letters(5, seed=1, first_index=10) == fifteen.take(slice(10, None))
    assert fifteen.labels.tolist() == list(range(15))
    assert not torch.equal(letters(15, seed=2).pixels, fifteen.pixels)


def test_letters_by_name_are_a_thousand_of_all_26_and_another_thousand_for_training():
    test, train = load_images("letters"), load_images("letters", "train")
    assert (test.name, test.split, train.split, len(test), len(train)) == ("letters", "test", "train", 1000, 1000)
    assert (test.classes, torch.bincount(test.labels).min()) == (26, 38)
    assert torch.equal(train.pixels[:3], letters(3, seed=0, first_index=1000).pixels)
    assert test.pixels.amax((1, 2, 3)).min() > 0.9
    assert (test.pixels[:, :, [0, -1]].flatten(1) > 0).any(1).float().mean() < 0.05  # few touch the frame
    assert len({pixels.numpy().tobytes() for pixels in torch.cat([test.pixels, train.pixels])}) == 2000


@pytest.mark.parametrize(("count", "first_index"), [(0, 0), (-1, 0), (3, -1)])
def test_letters_refuse_an_empty_or_negative_range(count, first_index):
    with pytest.raises(ValueError, match=rf"(count|first_index) must be . or more; got ({count}|{first_index})"):
        letters(count, seed=0, first_index=first_index)


# Sets of torchvision on disk


def test_mnist_is_read_from_the_root_that_the_environment_names_or_from_the_cache(root, monkeypatch):
    monkeypatch.setenv("VAECORE_DATA", str(root))
    images = load_images("mnist")
    assert images == load_images("mnist", "test", root)
    assert (images.pixels.shape, images.pixels.dtype) == ((4, 1, 28, 28), torch.float32)
    assert_close(images.pixels[:, 0, 14, 14], torch.tensor([0, 0.2, 0.4, 1]))
    assert images.labels.tolist() == [0, 1, 2, 3]
    assert len(load_images("mnist", "train")) == 6
    assert is_available("mnist")
    assert not is_available("kmnist")
    monkeypatch.setenv("VAECORE_DATA", "")
    assert data_root().parts[-2:] == ("vaecore", "data")  # in the user's cache
    assert data_root("~/elsewhere") == Path.home() / "elsewhere"


def test_emnist_letters_stand_upright_and_count_from_0(root):
    test, train = (load_images("emnist-letters", split, root, download=False) for split in ("test", "train"))
    assert (test.labels.tolist(), train.labels.tolist()) == ([11, 0], [0, 1, 25])
    assert (test.name, test.split, train.split, train.classes) == ("emnist-letters", "test", "train", 26)
    assert_close(test.pixels[0, 0, 4:23, 8], torch.ones(19))
    assert_close(test.pixels[0, 0, 23, 9:18], torch.full((9,), 0.4))
    assert (test.pixels[0] > 0).sum() == 19 + 1 + 9
    assert_close(train.pixels[:, 0].mT * 255, torch.from_numpy(BYTES[:3]).float())


def test_a_read_only_root_is_only_read(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(load_images("mnist", root=root)) == 4
    finally:
        for path in before:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("size", [0, 3, 10, 16, 16 + 784, 16 + 4 * 784 - 1, 16 + 4 * 784 + 1])
def test_a_truncated_image_file_is_named(root, size):
    path = root / "MNIST/raw/t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    assert is_available("mnist", root)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte must .*delete it, then load again"):
        load_images("mnist", root=root)
    assert len(load_images("mnist", "train", root)) == 6


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("t10k-labels-idx1", np.arange(3), r"one label for each of 4 images; got 3"),
        ("t10k-labels-idx1", [0, 1, 2, 10], r"labels 0 to 9; got 10"),
        ("t10k-labels-idx1", np.zeros((4, 1)), r"IDX header for 1-d bytes"),
        ("t10k-images-idx3", np.zeros((4, 27, 28)), r"28x28 images, one or more; its header says \(4, 27, 28\)"),
        ("t10k-images-idx3", np.zeros((0, 28, 28)), r"28x28 images, one or more; its header says \(0, 28, 28\)"),
        ("emnist-letters-test-labels-idx1", [7, 0], r"1 to 26; got 0 "),
        ("emnist-letters-test-labels-idx1", [7, 27], r"1 to 26; got 27 "),
    ],
)
def test_files_that_do_not_fit_together_are_named(root, write_idx, file, array, message):
    dataset, name = ("EMNIST", "emnist-letters") if file.startswith("emnist") else ("MNIST", "mnist")
    write_idx(root / dataset / "raw" / f"{file}-ubyte", array)
    with pytest.raises(ValueError, match=rf"{file}-ubyte must .*{message}"):
        load_images(name, root=root)


@pytest.mark.parametrize(
    ("name", "file", "remedy"),
    [
        ("mnist", "MNIST/raw/train-labels-idx1-ubyte", r"VAECORE_DATA, or choose 'digits'"),
        ("emnist-letters", "EMNIST/raw/emnist-letters-train-images-idx3-ubyte", r" holds EMNIST/raw/"),
    ],
)
def test_a_missing_file_without_download_is_named_with_the_remedy(root, name, file, remedy):
    assert is_available(name, root)
    (root / file).unlink()
    assert not is_available(name, root)
    with pytest.raises(FileNotFoundError, match=rf"lacks {Path(file).name}; .*{remedy}"):
        load_images(name, root=root, download=False)


# Sets in colour


def as_loaded(content):
    images, labels = content
    return some(torch.from_numpy(images).float() / 255, torch.from_numpy(labels))


def write_npz(path, level=0.5, count=10, **others):
    """Write a set of 32x32 in colour, all of one level; others: arrays in place of its own, None for none."""
    pixels = np.full((count, 32, 32, 3), round(255 * level), np.uint8)
    arrays = {f"{split}_images": pixels for split in ("train", "test")}
    arrays |= {f"{split}_labels": np.arange(count) % 10 for split in ("train", "test")}
    np.savez(path, **{name: array for name, array in (arrays | others).items() if array is not None})


@COLOUR
def test_a_set_in_colour_is_read_by_torchvision(tmp_path, write_colour, name, files):
    written = write_colour(name, tmp_path)
    write_npz(tmp_path / f"{name}.npz")
    for split, content in written.items():
        images = load_images(name, split, tmp_path, download=False)
        assert images.digest == as_loaded(content).digest
        assert (images.name, images.split, images.shape) == (name, split, (3, 32, 32))
        assert images.classes == (100 if name == "cifar-100" else 10)
    assert npz_of(name, tmp_path) is None
    for file in files:
        path = next(tmp_path.rglob(file))
        path.rename(tmp_path / "kept")
        assert npz_of(name, tmp_path) == tmp_path / f"{name}.npz"
        (tmp_path / "kept").rename(path)
    assert npz_of(name, tmp_path) is None


def test_an_npz_stands_for_a_set_in_colour_the_whole_one_before_the_subset(tmp_path):
    assert not is_available("cifar-10", tmp_path)
    write_npz(tmp_path / "cifar-10-subset.npz", 0.2, train_images=np.full((10, 3, 32, 32), 0.25))
    assert is_available("cifar-10", tmp_path)
    assert npz_of("cifar-10", tmp_path) == tmp_path / "cifar-10-subset.npz"
    train, test = (load_images("cifar-10", split, tmp_path, download=False) for split in ("train", "test"))
    assert (train.pixels.unique().tolist(), len(test)) == ([0.25], 10)
    assert_close(test.pixels, torch.full((10, 3, 32, 32), 0.2))
    assert (test.name, test.labels.tolist()) == ("cifar-10", list(range(10)))
    write_npz(tmp_path / "cifar-10.npz", 0.4)
    assert_close(load_images("cifar-10", "test", tmp_path).pixels[0, 0, 0, 0], torch.tensor(0.4))
    assert npz_of("cifar-10", tmp_path) == tmp_path / "cifar-10.npz"
    write_npz(tmp_path / "mnist.npz")
    assert npz_of("mnist", tmp_path) is npz_of("digits", tmp_path) is None
    assert not is_available("mnist", tmp_path)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"test_labels": None}, r"must hold `test_images` and `test_labels`; got test_images, train_images"),
        ({"test_images": None, "images": np.zeros((10, 32, 32, 3))}, r"must hold `test_images` and .*; got images, "),
        ({"test_images": np.zeros((10, 32, 32))}, r"must be 32x32 in colour, as cifar-10 is; got 32x32 in grey"),
        ({"test_images": np.zeros((10, 3, 28, 32))}, r"must be 32x32 in colour, as cifar-10 is; got 28x32 in colour"),
        ({"test_labels": np.arange(1, 11)}, r"`test_labels` must hold labels 0 to 9; got 10 .*of another set"),
        ({"test_labels": np.arange(3)}, r"`test_labels` must have shape \(10,\), one for each image; got \(3,\)"),
        ({"test_images": np.array([None] * 10)}, r"`test_images` holds pickled Python objects, which are never loaded"),
    ],
)
def test_an_npz_of_another_set_is_refused(tmp_path, others, message):
    write_npz(tmp_path / "cifar-10.npz", **others)
    with pytest.raises(ValueError, match=rf"cifar-10\.npz.*{message}"):
        load_images("cifar-10", "test", tmp_path)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@COLOUR
def test_a_file_of_another_checksum_is_named_and_not_read(tmp_path, write_colour, name, files):
    write_colour(name, tmp_path)
    next(tmp_path.rglob(files[1])).write_bytes(pickle.dumps(Harmful(str(tmp_path / "harm"))))
    assert is_available(name, tmp_path)
    with pytest.raises(ValueError, match=rf"one of .*{files[1]}.* cannot be read: .*corrupted.*delete it, then load"):
        load_images(name, "test", tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0.0] * 2 + [0.5] * 18, True),
        ([0.0] * 1 + [0.5] * 19, False),
        ([1.0] * 20, False),
        ([0.004] * 20, False),
    ],
)
def test_images_on_black_are_black_in_a_tenth_of_their_pixels(levels, expected):
    pixels = torch.tensor(levels).view(1, 1, 4, 5)
    assert on_black(some(pixels)) == on_black(some(pixels.repeat(2, 3, 1, 1))) == expected
    red = torch.cat([torch.full((1, 1, 4, 5), 0.5), pixels, pixels], dim=1)
    assert not on_black(some(red))


def test_digits_and_letters_are_on_black():
    assert on_black(load_images("digits", "train"))
    assert on_black(letters(78, seed=0))


@pytest.mark.skipif(not is_available("mnist"), reason="MNIST is not on disk (see VAECORE_DATA)")
def test_the_real_mnist_is_whole():
    images = load_images("mnist", download=False)
    assert (len(images), images.classes) == (10_000, 10)
    assert images.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert images.pixels.double().mean().item() == pytest.approx(0.13251, abs=1e-5)
    assert images.digest == "bcffc9b9b7a1cfe5bd44e41c85475d50"


# Downloads


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mnist", "MNIST/raw/"),
        ("cifar-10", "cifar-10-batches-py/ or cifar-10.npz or cifar-10-subset.npz"),
        ("cifar-100", "cifar-100-python/ or .*"),
        ("svhn", "train_32x32.mat and test_32x32.mat or svhn.npz or .*"),
    ],
)
def test_an_unreachable_network_fails_fast_and_politely(tmp_path, mirror, name, wanted):
    mirror("refuses")
    start = time.monotonic()
    assert not probe(name)
    message = rf"{name} is not complete.*holds {wanted} with .*root=\.\.\. or .* VAECORE_DATA, .*'digits'"
    with pytest.raises(ConnectionError, match=message):
        load_images(name, root=tmp_path)
    assert time.monotonic() - start < 3
    assert not any(tmp_path.iterdir())
    assert socket.getdefaulttimeout() is None


def test_a_silent_network_is_given_up_in_time(mirror):
    mirror("silent")
    start = time.monotonic()
    assert not probe("mnist", timeout=0.3)
    assert time.monotonic() - start < 1.5
    time.sleep(0.3)  # lets the two asking threads end within this test


def test_one_address_that_answers_is_enough_and_embedded_sets_have_none(mirror):
    mirror("answers")
    assert probe("mnist")
    with pytest.raises(ValueError, match=r"'cifar-10', 'cifar-100' or 'svhn' can be .* got 'digits'"):
        probe("digits")
    assert is_available("digits")


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_servers_are_those_that_torchvision_asks(name):
    row = TORCHVISION[name]
    dataset = getattr(datasets, row.dataset)
    if hasattr(dataset, "split_list"):  # SVHN
        expected = [dataset.split_list["test"][0]]
    elif hasattr(dataset, "url"):  # CIFAR; EMNIST, too, and the mirrors that it inherits are MNIST's
        expected = [dataset.url]
    else:
        expected = [mirror + dataset.resources[0][0] for mirror in dataset.mirrors]
    assert [*row.servers] == expected


@pytest.mark.parametrize(("name", "dataset"), [("mnist", "MNIST"), ("emnist-letters", "EMNIST")])
def test_a_download_lands_whole_without_other_files_and_restores_the_time_out(root, mirror, monkeypatch, name, dataset):
    mirror("answers")
    timeouts = []

    def download(self):
        timeouts.append(socket.getdefaulttimeout())
        shutil.copytree(root / dataset / "raw", self.raw_folder)

    monkeypatch.setattr(f"torchvision.datasets.{dataset}.download", download)
    fresh = root / "fresh"
    assert load_images(name, root=fresh) == load_images(name, root=root)
    assert load_images(name, "train", fresh, download=False) == load_images(name, "train", root)
    assert (timeouts, socket.getdefaulttimeout()) == ([10.0], None)
    wanted, kept = ({path.name for path in (folder / dataset / "raw").iterdir()} for folder in (root, fresh))
    assert {file for file in kept if not file.startswith(".")} == {file for file in wanted if "digits" not in file}


@COLOUR
@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter")  # of torchvision's extraction
def test_a_set_in_colour_is_downloaded_by_torchvision(tmp_path, write_colour, served, name, files):
    written, fresh = write_colour(name, *served), tmp_path / "fresh"
    assert probe(name)
    for split, content in written.items():
        assert load_images(name, split, fresh).digest == as_loaded(content).digest
    assert {path.name for path in fresh.rglob("*") if path.is_file() and path.name != ".lock"} == {*files}
    next(fresh.rglob(files[0])).unlink()
    for path in served[0].glob("*.*"):
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ConnectionError, match=rf"lacks {files[0]}; and the download failed \(.*corrupted"):
        load_images(name, root=fresh)
    assert not is_available(name, fresh)


def test_a_download_that_breaks_says_why_and_leaves_no_set_behind(tmp_path, mirror, monkeypatch):
    mirror("answers")

    def download(self):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", download)
    with pytest.raises(ConnectionError, match=r"the download failed \(File not found or corrupted.\).*'digits'"):
        load_images("mnist", root=tmp_path)
    assert not is_available("mnist", tmp_path)
