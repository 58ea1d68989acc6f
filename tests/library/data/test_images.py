"""Do image sets load as promised, and do unsuitable ones fail in words?"""

import hashlib
import math
import os
import pickle
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vaecore.data._images import Images, data_root, is_available, letters, load_images, load_whole, probe
from vaecore.models._augment import distort


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def write_idx(path: Path, array: np.ndarray) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes())


@pytest.fixture
def root(tmp_path):
    """Give a data folder with an MNIST of 6 training and 4 test images, each of one grey level."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, levels in (("train", (0, 1, 2, 3, 4, 255)), ("t10k", (0, 51, 102, 255))):
        levels = np.array(levels, dtype=np.uint8)  # noqa: PLW2901
        write_idx(raw / f"{prefix}-images-idx3-ubyte", np.tile(levels[:, None, None], (1, 28, 28)))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(len(levels), dtype=np.uint8))
    return tmp_path


@pytest.fixture
def emnist(tmp_path):
    """Give a data folder with 3 training and 2 test letters of EMNIST; (y, x) of the test's L is at (x, y) in the file.

    The files of another part of EMNIST, which the archive also brings, are there in the same folder.
    """
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    upright = np.zeros((2, 28, 28), np.uint8)
    upright[:, 4:24, 8] = 255  # the stem
    upright[:, 23, 8:18] = 102  # the foot
    for part, images, labels in (
        ("letters-train", grey(3), (1, 2, 26)),
        ("letters-test", upright.transpose(0, 2, 1), (12, 1)),
        ("digits-test", grey(1), (9,)),
    ):
        write_idx(raw / f"emnist-{part}-images-idx3-ubyte", np.ascontiguousarray(images))
        write_idx(raw / f"emnist-{part}-labels-idx1-ubyte", np.array(labels, dtype=np.uint8))
    return tmp_path


@pytest.fixture
def npz(tmp_path):
    """Give a function that writes the arrays it is given and returns the file's path."""

    def write(**arrays):
        path = tmp_path / "mine.npz"
        np.savez_compressed(path, **arrays)
        return path

    return write


def grey(count, shape=(28, 28), dtype=np.uint8):
    return (np.arange(count * math.prod(shape)) % 256).reshape(count, *shape).astype(dtype)


# The Images themselves


def test_digest_is_blake2b_of_type_shape_and_content_of_pixels_and_labels():
    images = Images(torch.full((2, 1, 8, 8), 0.5), torch.tensor([0, 3]), "some", "test")
    expected = hashlib.blake2b(digest_size=16)
    expected.update(b"torch.float32(2, 1, 8, 8)" + np.full(128, 0.5, np.float32).tobytes())
    expected.update(b"torch.int64(2,)" + np.array([0, 3]).tobytes())
    assert images.digest == expected.hexdigest()
    assert (len(images), images.classes) == (2, 4)


def test_equal_content_is_equal_and_any_other_is_not():
    pixels, labels = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    images = Images(pixels, labels, "some", "test")
    assert images == Images(pixels.clone(), labels.clone(), "some", "test")
    others = (
        Images(pixels, None, "some", "test"),
        Images(pixels, labels.flip(0), "some", "test"),
        Images(pixels.flip(0), labels, "some", "test"),
        Images(pixels.view(3, 1, 4, 16), labels, "some", "test"),
    )
    assert len({images.digest, *(other.digest for other in others)}) == 5
    assert images.take(torch.tensor([2, 0])) == Images(pixels[[2, 0]], labels[[2, 0]], "some", "test")
    assert others[0].take(slice(2)) == Images(pixels[:2], None, "some", "test")
    assert others[0].classes is None


def test_images_refuse_what_is_not_in_range_and_labels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]; got \[255, 255\]"):
        Images(torch.full((2, 1, 8, 8), 255.0), None, "some", "test")
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(2,\)"):
        Images(torch.zeros(2, 1, 8, 8), torch.tensor([1]), "some", "test")


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        (
            "minst",
            "test",
            r"'digits' or 'letters', the path of a file that ends in .npz or .* package.module:attribute; got 'minst'",
        ),
        ("digits.csv", "test", r"ends in .npz or of a folder that exists, or .*; got 'digits.csv'"),
        ("", "test", r"or package.module:attribute; got ''"),
        ("digits", "validation", r"split must be 'train' or 'test'; got 'validation'"),
    ],
)
def test_unknown_name_or_split_lists_the_known(name, split, message):
    with pytest.raises(ValueError, match=message):
        load_images(name, split)


# Embedded sets


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
        # Mixed: the first hundred hold every digit.
        assert torch.bincount(images.labels[:100]).min() >= 3
    assert train.labels[:10].tolist() == [9, 7, 6, 3, 4, 6, 7, 8, 4, 0]
    assert test.labels[:10].tolist() == [7, 8, 5, 6, 0, 4, 1, 3, 2, 0]
    assert (train.digest, test.digest) == ("2d0622fe0619d2f5d6bd5dd2ae8c2f8a", "6ada829985fdcb9318c5180b95642918")


def test_centres_of_mass_lie_in_the_middle():
    for images in (load_images("digits"), letters(78, seed=3)):
        along = torch.arange(28) - 13.5
        mass = images.pixels.sum((1, 2, 3))
        for axis in (2, 3):
            centre = (images.pixels.sum((1, 5 - axis)) * along).sum(1) / mass
            assert centre.abs().max() < 1.7  # half a pixel, and what the letters' distortion adds


def test_a_letter_depends_on_seed_and_index_alone():
    fifteen = letters(15, seed=1)
    five = letters(5, seed=1, first_index=10)
    assert torch.equal(five.pixels, fifteen.pixels[10:])
    assert torch.equal(five.labels, fifteen.labels[10:])
    assert five.labels.tolist() == [10, 11, 12, 13, 14]
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
    with pytest.raises(ValueError, match=rf"count of 1 or more .* got {count} and {first_index}"):
        letters(count, seed=0, first_index=first_index)


# torchvision's sets


def test_mnist_is_read_from_the_root_the_environment_names(root, monkeypatch):
    monkeypatch.setenv("VAECORE_DATA", str(root))
    images = load_images("mnist")
    assert images == load_images("mnist", "test", root)
    assert (images.pixels.shape, images.pixels.dtype) == ((4, 1, 28, 28), torch.float32)
    assert_close(images.pixels[:, 0, 14, 14], torch.tensor([0, 0.2, 0.4, 1]))
    assert images.labels.tolist() == [0, 1, 2, 3]
    assert len(load_images("mnist", "train")) == 6
    assert is_available("mnist")
    assert not is_available("kmnist")


def test_the_root_falls_back_to_the_users_cache(monkeypatch):
    monkeypatch.setenv("VAECORE_DATA", "")
    assert data_root().parts[-2:] == ("vaecore", "data")
    assert data_root("~/elsewhere") == Path.home() / "elsewhere"


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
    path = root / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    assert is_available("mnist", root)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte must .*delete it, then load again"):
        load_images("mnist", root=root)
    assert len(load_images("mnist", "train", root)) == 6


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("labels-idx1", np.arange(3), r"one label for each of 4 images; got 3"),
        ("labels-idx1", np.array([0, 1, 2, 10]), r"labels 0 to 9; got 10"),
        ("labels-idx1", np.zeros((4, 1)), r"IDX header for 1-d bytes"),
        ("images-idx3", np.zeros((4, 27, 28)), r"28x28 images, one or more; its header says \(4, 27, 28\)"),
        ("images-idx3", np.zeros((0, 28, 28)), r"28x28 images, one or more; its header says \(0, 28, 28\)"),
    ],
)
def test_files_that_do_not_fit_together_are_named(root, file, array, message):
    write_idx(root / "MNIST" / "raw" / f"t10k-{file}-ubyte", array.astype(np.uint8))
    with pytest.raises(ValueError, match=rf"t10k-{file}-ubyte must .*{message}"):
        load_images("mnist", root=root)


def test_emnist_letters_stand_upright_and_count_from_0(emnist):
    test, train = (load_images("emnist-letters", split, emnist, download=False) for split in ("test", "train"))
    assert (test.labels.tolist(), train.labels.tolist()) == ([11, 0], [0, 1, 25])
    assert (test.name, test.split, train.split, train.classes) == ("emnist-letters", "test", "train", 26)
    stem, foot = test.pixels[0, 0, 4:23, 8], test.pixels[0, 0, 23, 9:18]
    assert_close(stem, torch.ones(19))
    assert_close(foot, torch.full((9,), 0.4))
    assert (test.pixels[0] > 0).sum() == 20 + 9
    assert_close(train.pixels[:, 0].mT * 255, torch.from_numpy(grey(3)).float())


@pytest.mark.parametrize("label", [0, 27])
def test_a_label_that_is_no_letter_of_emnist_is_named(emnist, label):
    write_idx(emnist / "EMNIST" / "raw" / "emnist-letters-test-labels-idx1-ubyte", np.array([7, label], np.uint8))
    with pytest.raises(ValueError, match=rf"emnist-letters-test-labels-idx1-ubyte must .* 1 to 26; got {label} "):
        load_images("emnist-letters", root=emnist)


def test_only_the_letters_of_emnist_are_asked_for(emnist):
    assert is_available("emnist-letters", emnist)
    (emnist / "EMNIST" / "raw" / "emnist-letters-train-images-idx3-ubyte").unlink()
    assert not is_available("emnist-letters", emnist)
    with pytest.raises(FileNotFoundError, match=r"lacks emnist-letters-train-images-idx3-ubyte; .* holds EMNIST/raw/"):
        load_images("emnist-letters", root=emnist, download=False)


def test_a_missing_file_without_download_is_named_with_the_remedy(root):
    (root / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    assert not is_available("mnist", root)
    with pytest.raises(FileNotFoundError, match=r"lacks train-labels-idx1-ubyte; .*VAECORE_DATA, or choose 'digits'"):
        load_images("mnist", root=root, download=False)


@pytest.fixture
def mirror(monkeypatch):
    """Give a function that points torchvision's MNIST at a local port; no proxy stands between."""
    from torchvision.datasets import MNIST  # noqa: PLC0415 (seconds to import)

    monkeypatch.setenv("no_proxy", "*")

    def point(port):
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port}/again/"])

    return point


def test_an_unreachable_network_fails_fast_and_politely(tmp_path, mirror):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        mirror(closed.getsockname()[1])
        start = time.monotonic()
        assert not probe("mnist")
        with pytest.raises(ConnectionError, match=r"root=\.\.\. or the environment variable VAECORE_DATA, .*'digits'"):
            load_images("mnist", root=tmp_path)
        assert time.monotonic() - start < 3
    assert not any(tmp_path.iterdir())
    assert socket.getdefaulttimeout() is None


def test_a_silent_network_is_given_up_in_time(mirror):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections, never answers
        mirror(silent.getsockname()[1])
        start = time.monotonic()
        assert not probe("mnist", timeout=0.3)
        assert time.monotonic() - start < 1.5
        time.sleep(0.3)  # lets the two asking threads end within this test


def test_a_download_lands_whole_and_restores_the_time_out(root, tmp_path, monkeypatch):
    from torchvision.datasets import MNIST  # noqa: PLC0415 (seconds to import)

    seen = []

    def download(self):
        seen.append(socket.getdefaulttimeout())
        folder = Path(self.raw_folder)
        folder.mkdir(parents=True)
        for file in (root / "MNIST" / "raw").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(MNIST, "download", download)
    monkeypatch.setattr("vaecore._images._unreachable", lambda name, timeout: "")
    fresh = tmp_path / "fresh"
    assert load_images("mnist", root=fresh) == load_images("mnist", root=root)
    assert load_images("mnist", root=fresh, download=False).classes == 4
    assert seen == [10.0]
    assert socket.getdefaulttimeout() is None
    assert sorted(path.name for path in (fresh / "MNIST" / "raw").iterdir() if not path.name.startswith(".")) == sorted(
        path.name for path in (root / "MNIST" / "raw").iterdir()
    )


def test_emnist_is_asked_for_at_its_own_address(monkeypatch):
    asked = []

    def urlopen(request, timeout):
        asked.append(request.full_url)
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert not probe("emnist-letters")
    assert len(asked) == 1
    assert asked[0].endswith("/EMNIST/gzip.zip")


def test_of_all_of_emnist_only_the_letters_are_kept(emnist, tmp_path, monkeypatch):
    from torchvision.datasets import EMNIST  # noqa: PLC0415 (seconds to import)

    def download(self):
        Path(self.raw_folder).mkdir(parents=True)
        for file in (emnist / "EMNIST" / "raw").iterdir():
            (Path(self.raw_folder) / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(EMNIST, "download", download)
    monkeypatch.setattr("vaecore._images._unreachable", lambda name, timeout: "")
    fresh = tmp_path / "fresh"
    assert load_images("emnist-letters", root=fresh) == load_images("emnist-letters", root=emnist)
    kept = sorted(path.name for path in (fresh / "EMNIST" / "raw").iterdir() if not path.name.startswith("."))
    assert kept == [f"emnist-letters-{part}-ubyte" for part in ("test-images-idx3", "test-labels-idx1")] + [
        f"emnist-letters-{part}-ubyte" for part in ("train-images-idx3", "train-labels-idx1")
    ]


def test_a_download_that_breaks_says_why_and_leaves_no_set_behind(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST  # noqa: PLC0415 (seconds to import)

    def download(self):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(MNIST, "download", download)
    monkeypatch.setattr("vaecore._images._unreachable", lambda name, timeout: "")
    with pytest.raises(ConnectionError, match=r"the download failed \(File not found or corrupted.\).*'digits'"):
        load_images("mnist", root=tmp_path)
    assert not is_available("mnist", tmp_path)
    with pytest.raises(ValueError, match=r"'fashion-mnist', 'kmnist' or 'emnist-letters' can be .* got 'digits'"):
        probe("digits")
    assert is_available("digits")


@pytest.mark.skipif(not os.environ.get("VAECORE_DATA"), reason="VAECORE_DATA does not name a folder with MNIST")
def test_the_real_mnist_is_whole():
    if not is_available("mnist"):
        pytest.skip("VAECORE_DATA holds no MNIST")
    images = load_images("mnist", download=False)
    assert (len(images), images.classes) == (10_000, 10)
    assert images.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert images.pixels.double().mean().item() == pytest.approx(0.13251, abs=1e-5)
    assert images.digest == "bcffc9b9b7a1cfe5bd44e41c85475d50"


# A user's own file


def test_every_fifth_of_each_class_is_a_test_image(npz):
    labels = np.repeat([1, 0], [10, 15])
    images = grey(25, (8, 12))
    train, test = (load_images(npz(images=images, labels=labels), split) for split in ("train", "test"))
    # In order of label the images are 10..24, then 0..9.
    assert torch.equal(test.pixels[:, 0] * 255, torch.from_numpy(images[[4, 9, 14, 19, 24]]).float())
    assert test.labels.tolist() == [1, 1, 0, 0, 0]
    assert (train.pixels.shape, train.split, test.name) == ((20, 1, 8, 12), "train", "mine.npz")
    kept = torch.from_numpy(np.delete(images, [4, 9, 14, 19, 24], 0)).float() / 255
    assert_close(train.pixels[:, 0], kept)
    assert torch.bincount(train.labels).tolist() == [12, 8]


def test_a_file_may_bring_its_own_split_and_no_labels(npz):
    path = npz(train_images=grey(3) / 255, test_images=grey(2)[:, None], test_labels=np.array([1, 0], np.uint8))
    train, test = load_images(str(path), "train"), load_images(path, "test")
    assert (len(train), train.labels, len(test), test.labels.tolist()) == (3, None, 2, [1, 0])
    assert torch.equal(train.pixels[:2], test.pixels)
    assert is_available(path)


def test_without_labels_the_split_goes_by_place_in_the_file(npz):
    images = np.linspace(0, 1, 12, dtype=np.float32)[:, None, None] * np.ones((8, 8), np.float32)
    test, train = (load_images(npz(images=images), split) for split in ("test", "train"))
    assert torch.equal(test.pixels[:, 0], torch.from_numpy(images[[5, 11]]))
    assert len(train) == 10


def test_a_whole_file_gives_up_no_fifth_and_prefers_images(npz):
    images, labels = grey(4), np.array([3, 0, 0, 1])
    whole = load_whole(npz(images=images, labels=labels, test_images=grey(2), train_images=grey(2)))
    assert torch.equal(whole.pixels[:, 0] * 255, torch.from_numpy(images).float())
    assert (whole.labels.tolist(), whole.name, whole.split) == ([3, 0, 0, 1], "mine.npz", "test")
    whole = load_whole(npz(train_images=images, test_images=grey(2), test_labels=np.array([5, 1])))
    assert (len(whole), whole.labels.tolist()) == (2, [5, 1])
    with pytest.raises(ValueError, match=r"must hold an array `images` \(or `test_images`\); got train_images"):
        load_whole(npz(train_images=images))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": grey(5)}, r"must hold an array `images` \(or `test_images`\); got pictures"),
        ({"train_images": grey(5)}, r"must hold an array `images` \(or `test_images`\); got train_images"),
        ({"images": grey(5, (28,))}, r"must have shape .*; got \(5, 28\)"),
        ({"images": grey(5, (28, 28, 4))}, r"must have shape .*; got \(5, 28, 28, 4\) \(leave out transparency"),
        ({"images": grey(5, (2, 28, 28))}, r"must have shape .*; got \(5, 2, 28, 28\)$"),
        ({"train_images": grey(5), "images": grey(5)}, r"must hold `test_images` beside `train_images`; got `images`"),
        ({"images": grey(0)}, r"`images` is empty; got shape \(0, 28, 28\)"),
        ({"images": grey(5, (28, 3))}, r"4 or more pixels high and wide; got \(5, 28, 3\)"),
        ({"images": grey(5, (3, 28, 3))}, r"4 or more pixels high and wide; got \(5, 3, 28, 3\)"),
        ({"images": grey(5, dtype=np.int64)}, r"uint8 \(0..255\) or floating \(0..1\); got int64"),
        ({"images": grey(5) > 9}, r"uint8 \(0..255\) or floating \(0..1\); got bool"),
        ({"images": grey(5) % 2}, r"of dtype uint8 must run from 0 to 255; got no value above 1"),
        ({"images": grey(5, dtype=np.float64)}, r"must lie in \[0, 1\]; got \[0, 255\]"),
        ({"images": grey(5) / 255 - 0.5}, r"must lie in \[0, 1\]; got \[-0.5, 0.5\]"),
        ({"images": np.full((5, 28, 28), np.nan)}, r"must be finite; got NaN"),
        ({"images": grey(5), "labels": np.arange(4)}, r"must have shape \(5,\), one for each image; got \(4,\)"),
        ({"images": grey(5), "labels": np.eye(5, dtype=int)}, r"must have shape \(5,\), .* got \(5, 5\)"),
        ({"images": grey(5), "labels": np.ones(5)}, r"must be integers; got float64"),
        ({"images": grey(5), "labels": np.arange(5) - 1}, r"must be 0 or more; got -1"),
        ({"images": grey(4)}, r"holds 4 images, and 5 are needed"),
        ({"images": np.array([None, None])}, r"pickled Python objects, which are never loaded"),
    ],
)
def test_an_unsuitable_npz_is_named_with_the_cause(npz, arrays, message):
    with pytest.raises(ValueError, match=rf"mine\.npz:? .*{message}"):
        load_images(npz(**arrays))


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_npz_is_named(npz, share):
    path = npz(images=grey(50))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"mine\.npz is not an npz archive \(truncated"):
        load_images(path)


def test_an_npz_damaged_inside_is_named_wherever_the_damage_is(npz):
    path = npz(images=np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8), labels=np.arange(5))
    whole, expected = path.read_bytes(), load_images(path)
    name = whole.rindex(b"labels.npy")  # in the archive's directory: labels must not just go missing
    refused = 0
    for position in (*range(0, whole.index(b"PK\1\2"), 5), name, name + 9):
        path.write_bytes(whole[:position] + bytes((whole[position] ^ 0xFF,)) + whole[position + 1 :])
        try:
            # Some bytes, such as time stamps, carry nothing; then the content must be what it was.
            assert load_images(path) == expected
        except ValueError as error:
            assert "mine.npz" in str(error)  # noqa: PT017 (either outcome is right)
            refused += 1
    assert refused > 80


def test_a_pickle_or_a_missing_file_under_the_name_of_an_npz(tmp_path):
    path = tmp_path / "mine.npz"
    with pytest.raises(FileNotFoundError, match=r"there is no file .*mine.npz \(is the path relative"):
        load_images(path)
    path.write_bytes(pickle.dumps(grey(5)))
    with pytest.raises(ValueError, match=r"mine.npz is not an npz archive"):
        load_images(path)


# Distortion


def test_distortion_keeps_range_and_input_and_obeys_its_generator(generator):
    images = load_images("digits", "train").pixels[:64]
    before = images.clone()
    first = distort(images, generator)
    again = distort(images, torch.Generator().manual_seed(0))
    other = distort(images, generator)
    assert torch.equal(images, before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert (first.min().item(), first.max().item() <= 1) == (0, True)
    # Ink is moved about, hardly made or lost.
    assert first.mean().item() == pytest.approx(images.mean().item(), rel=0.05)


def test_with_a_generator_each_an_image_is_distorted_as_it_would_be_alone():
    images = load_images("digits").pixels[:3].double()
    together = distort(images, [torch.Generator().manual_seed(seed) for seed in range(3)])
    alone = distort(images[2:], torch.Generator().manual_seed(2))
    assert_close(together[2:], alone)
    with pytest.raises(ValueError, match=r"one for each of 3 images; got 2"):
        distort(images, [torch.Generator(), torch.Generator()])


def test_distortion_leaves_the_global_generator_alone(generator):
    state = torch.random.get_rng_state()
    distort(torch.rand(2, 1, 28, 28, generator=generator), generator)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_distortion_of_no_strength_is_the_identity(generator):
    images = torch.rand(5, 1, 28, 20, generator=generator)
    same = distort(images, generator, rotation=0, scale=0, shear=0, shift=0, elastic=0)
    assert_close(same, images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("strength", "spread"),
    [({"shift": 2.0}, 2 / 3**0.5), ({"elastic": 0.7}, 0.7)],
)
def test_distortion_displaces_by_as_many_pixels_as_it_says(generator, strength, spread):
    # A ramp is resampled exactly, so that the change of its value tells the displacement along x in pixels.
    ramp = (torch.arange(40) / 40).expand(2000, 1, 24, 40)
    none = {"rotation": 0, "scale": 0, "shear": 0, "shift": 0, "elastic": 0}
    moved = (distort(ramp, generator, **(none | strength)) - ramp)[:, 0, 12, 20] * 40
    assert moved.std().item() == pytest.approx(spread, rel=0.06)
    assert moved.mean().abs().item() < 0.1


def test_rotation_turns_about_the_centre_by_at_most_its_degrees(generator):
    images = torch.zeros(500, 1, 41, 41)
    images[:, :, 20, 32:35] = 1  # a blot 13 pixels to the right of the centre
    none = {"scale": 0, "shear": 0, "shift": 0, "elastic": 0}
    turned = distort(images, generator, rotation=30, **none)
    along = torch.arange(41) - 20.0
    y, x = ((turned.sum((1, axis)) * along).sum(1) / turned.sum((1, 2, 3)) for axis in (3, 2))
    angles = torch.rad2deg(torch.atan2(y, x))
    assert_close(torch.hypot(x, y), torch.full((500,), 13.0), atol=0.2, rtol=0)
    assert 29 < angles.max() < 31
    assert -31 < angles.min() < -29


@pytest.mark.parametrize(
    ("images", "strength", "message"),
    [
        (torch.zeros(2, 28, 28), {}, r"shape \(n, channels, height, width\); got torch.float32 \(2, 28, 28\)"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), {}, r"floating point .* got torch.uint8"),
        (torch.zeros(2, 1, 28, 28), {"shift": -1.0}, r"shift must be 0 or more; got -1.0"),
        (torch.zeros(2, 1, 28, 28), {"elastic": math.nan}, r"elastic must be 0 or more; got nan"),
        (torch.zeros(2, 1, 28, 28), {"scale": 1.0}, r"scale must be below 1; got 1.0"),
        (torch.zeros(2, 1, 28, 28), {"smoothness": 0.0}, r"smoothness must be above 0 pixels; got 0.0"),
    ],
)
def test_distortion_refuses_wrong_shapes_and_strengths(generator, images, strength, message):
    with pytest.raises(ValueError, match=message):
        distort(images, generator, **strength)
