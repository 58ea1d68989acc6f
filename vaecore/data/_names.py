"""The image sets that load by name: a row for each. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, int, int]  # channels, height, width
MNIST_SHAPE, CIFAR_SHAPE = (1, 28, 28), (3, 32, 32)


@dataclass(frozen=True)
class Downloaded:
    """A set that torchvision downloads.

    dataset: torchvision's class. folder: of its files, below the data root. files, arguments: of each split, its files
    and the arguments of torchvision's class. labels: the first and the last in the files. idx: the files are IDX,
    images and labels, and read without torchvision, which reads all others; in place of those an .npz will do.
    transposed: images in IDX files. large: a download of 100 MB or more, which is made only if a user names the set.
    """

    dataset: str
    folder: str
    files: Mapping[str, tuple[str, ...]]
    arguments: Mapping[str, Mapping[str, Any]]
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


def _like_mnist(
    dataset: str, train: str = "train", test: str = "t10k", more: Mapping[str, str] | None = None, **settings: Any
) -> Downloaded:
    """A set of four IDX files, which begin with `train` and `test`. more: arguments of torchvision's class."""
    files = {
        split: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        for split, prefix in (("train", train), ("test", test))
    }
    arguments = {split: {**given, **(more or {})} for split, given in _TRAIN_OR_TEST.items()}
    return Downloaded(dataset, f"{dataset}/raw", files, arguments, MNIST_SHAPE, idx=True, **settings)


TORCHVISION = {
    "mnist": _like_mnist("MNIST"),
    "fashion-mnist": _like_mnist("FashionMNIST"),
    "kmnist": _like_mnist("KMNIST"),
    "emnist-letters": _like_mnist(
        "EMNIST",
        "emnist-letters-train",
        "emnist-letters-test",
        {"split": "letters"},
        labels=(1, 26),
        transposed=True,  # in torchvision, too (its issue 8783)
        large=True,
    ),
    "cifar-10": Downloaded(
        "CIFAR10",
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{part}" for part in range(1, 6)), "test": ("test_batch", "batches.meta")},
        _TRAIN_OR_TEST,
        CIFAR_SHAPE,
        large=True,
    ),
    "cifar-100": Downloaded(
        "CIFAR100",
        "cifar-100-python",
        {"train": ("train",), "test": ("test", "meta")},
        _TRAIN_OR_TEST,
        CIFAR_SHAPE,
        labels=(0, 99),
        large=True,
    ),
    "svhn": Downloaded(
        "SVHN",
        ".",
        {"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
        {"train": {"split": "train"}, "test": {"split": "test"}},
        CIFAR_SHAPE,
        large=True,
    ),
}
EMBEDDED = ("digits", "letters")
LOADED_SHAPES: Mapping[str, Shape] = {name: row.shape for name, row in TORCHVISION.items()} | dict.fromkeys(
    EMBEDDED, MNIST_SHAPE
)
