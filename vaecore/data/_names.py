"""Names of image sets: a row for each that loads by name, those that are made, and users' own. Imports no torch."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaecore._files import expanded
from vaecore._import_by_name import is_named

Shape = tuple[int, int, int]  # channels, height, width
MNIST_SHAPE, CIFAR_SHAPE = (1, 28, 28), (3, 32, 32)


@dataclass(frozen=True)
class Downloaded:
    """A set that torchvision downloads.

    dataset: torchvision's class. folder: of its files, below the data root. files, arguments: of each split, its files
    and the arguments of torchvision's class. servers: the address of a file at each server that torchvision asks, so
    that it need not be imported to see whether one answers. labels: the first and the last in the files. idx: the files
    are IDX, images and labels, and read without torchvision, which reads all others; in place of those an .npz will do.
    transposed: images in IDX files. large: a download of 100 MB or more, which is made only if a user names the set.
    """

    dataset: str
    folder: str
    files: Mapping[str, tuple[str, ...]]
    arguments: Mapping[str, Mapping[str, Any]]
    servers: tuple[str, ...]
    shape: Shape
    labels: tuple[int, int] = (0, 9)
    idx: bool = False
    transposed: bool = False
    large: bool = False

    @property
    def all_files(self) -> list[str]:
        """Files of both splits."""
        return [file for files in self.files.values() for file in files]

    def npz_files(self, name: str) -> tuple[str, ...]:
        """Files in the data root that stand for the set, the first before the second, where torchvision's are not."""
        return () if self.idx else (f"{name}.npz", f"{name}-subset.npz")


_TRAIN_OR_TEST = {"train": {"train": True}, "test": {"train": False}}


_IN_MNIST = "train-images-idx3-ubyte.gz"  # a file that servers of MNIST-like sets have


def _like_mnist(
    dataset: str,
    *servers: str,
    train: str = "train",
    test: str = "t10k",
    more: Mapping[str, str] | None = None,
    **settings: Any,
) -> Downloaded:
    """A set of four IDX files, which begin with `train` and `test`. more: arguments of torchvision's class."""
    files = {
        split: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        for split, prefix in (("train", train), ("test", test))
    }
    arguments = {split: {**given, **(more or {})} for split, given in _TRAIN_OR_TEST.items()}
    return Downloaded(dataset, f"{dataset}/raw", files, arguments, servers, MNIST_SHAPE, idx=True, **settings)


TORCHVISION = {
    "mnist": _like_mnist(
        "MNIST",
        f"https://ossci-datasets.s3.amazonaws.com/mnist/{_IN_MNIST}",
        f"http://yann.lecun.com/exdb/mnist/{_IN_MNIST}",
    ),
    "fashion-mnist": _like_mnist(
        "FashionMNIST", f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{_IN_MNIST}"
    ),
    "kmnist": _like_mnist("KMNIST", f"http://codh.rois.ac.jp/kmnist/dataset/kmnist/{_IN_MNIST}"),
    "emnist-letters": _like_mnist(
        "EMNIST",
        "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
        train="emnist-letters-train",
        test="emnist-letters-test",
        more={"split": "letters"},
        labels=(1, 26),
        transposed=True,  # in torchvision, too (its issue 8783)
        large=True,
    ),
    "cifar-10": Downloaded(
        "CIFAR10",
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{part}" for part in range(1, 6)), "test": ("test_batch", "batches.meta")},
        _TRAIN_OR_TEST,
        ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
        CIFAR_SHAPE,
        large=True,
    ),
    "cifar-100": Downloaded(
        "CIFAR100",
        "cifar-100-python",
        {"train": ("train",), "test": ("test", "meta")},
        _TRAIN_OR_TEST,
        ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
        CIFAR_SHAPE,
        labels=(0, 99),
        large=True,
    ),
    "svhn": Downloaded(
        "SVHN",
        ".",
        {"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
        {"train": {"split": "train"}, "test": {"split": "test"}},
        ("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",),
        CIFAR_SHAPE,
        large=True,
    ),
}
EMBEDDED = ("digits", "letters")
LOADED_SHAPES: Mapping[str, Shape] = {name: row.shape for name, row in TORCHVISION.items()} | dict.fromkeys(
    EMBEDDED, MNIST_SHAPE
)
OUTSIDE_MADE = (
    "rotated-90",
    "mirrored",
    "inverted",
    "dimmed-0.3",
    "dimmed-0.1",
    "uniform-noise",
    "gaussian-noise",
    "permuted",
    "shuffled-patches",
    "blank",
    "texture",
)
OUTSIDE_LOADED = tuple(LOADED_SHAPES)


def known_name(name: str | os.PathLike[str]) -> str | None:
    """The name of a set, or None if the name is of a user's own data; raises ValueError otherwise."""
    text = os.fspath(name)
    if text in TORCHVISION or text in EMBEDDED:
        return text
    if user_data_name(text) is not None:
        return None
    names = ", ".join(map(repr, (*TORCHVISION, *EMBEDDED)))
    raise ValueError(
        f"images must be {names}, the path of a file that ends in .npz or of a folder that exists, or"
        f" package.module:attribute; got {text!r}"
    )


def check_source(name: str | os.PathLike[str]) -> None:
    """Raise ValueError for what names no images, and the error of `check_file` for a file that is not there."""
    text = os.fspath(name)
    if known_name(text) is None and text.lower().endswith(".npz"):
        check_file(expanded(text))


def check_file(path: Path) -> None:
    """Raise FileNotFoundError where there is no such file of images, and ValueError where it is no plain file."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path} (is the path relative to another folder?)")
    if not path.is_file():
        raise ValueError(f"{path} must be a file; it is a folder, a pipe or a device")


def user_data_name(source: str | os.PathLike[str]) -> str | None:
    """The name of a user's own data in results; None unless `source` is a file, folder or attribute.

    It never equals the name of a built-in set, so bounds registered for MNIST do not apply to a user's mnist.npz.
    """
    text = os.fspath(source)
    if text.lower().endswith(".npz"):
        return Path(text).name
    if is_named(text):
        return text.replace(":", ".")  # also valid as the name of a folder
    folder = expanded(text)
    return f"{folder.resolve().name}-folder" if text and folder.is_dir() else None


def outside_name(name: str | os.PathLike[str]) -> str:
    """The name of the out-of-distribution set `name` in results: of a path, its file name; else in normal form.

    "dimmed-.30" becomes "dimmed-0.3". Reads no file. Raises ValueError, with all forms, for an unknown name, and for a
    factor or angle that is not a number.
    """
    text = os.fspath(name)
    if text in OUTSIDE_MADE or text in OUTSIDE_LOADED:
        return text
    if (user_name := user_data_name(text)) is not None:
        return user_name
    kind, _, written = text.partition("-")
    if kind not in ("rotated", "dimmed") or not written:
        raise ValueError(
            f"the set outside must be made from the set inside ({', '.join(OUTSIDE_MADE)}; rotated-D for any D degrees,"
            f" dimmed-F for any factor 0 < F < 1), loaded by name ({', '.join(OUTSIDE_LOADED)}), or your own (the path"
            f" of a file that ends in .npz or of a folder, package.module:attribute); got {text!r}"
        )
    amount = _number(written)
    if kind == "dimmed" and not (amount is not None and 0 < amount < 1):
        raise ValueError(f"dimmed-F needs a factor F above 0 and below 1, as in dimmed-0.3; got {text!r}")
    if kind == "rotated" and not (amount is not None and math.isfinite(amount) and amount % 360):
        raise ValueError(
            f"rotated-D needs an angle D in degrees, as in rotated-15; got {text!r} (a whole turn changes nothing)"
        )
    return f"{kind}-{amount!r}".removesuffix(".0")


def is_made(name: str) -> bool:
    """Whether a set, named by `outside_name`, is made from the images inside."""
    kind, _, amount = name.partition("-")
    return name in OUTSIDE_MADE or (kind in ("rotated", "dimmed") and _number(amount) is not None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
