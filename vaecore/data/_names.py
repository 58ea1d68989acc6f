"""The image sets that load by name: a row for each. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Downloaded:
    """A set that torchvision downloads: grey images of 28x28 in IDX files.

    folder: torchvision's class, and the folder that it keeps the files in. prefixes: of a split's files. labels: the
    first and the last in the files. transposed: images in the files. arguments: of torchvision's class.
    """

    folder: str
    prefixes: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "test": "t10k"})
    labels: tuple[int, int] = (0, 9)
    transposed: bool = False
    arguments: Mapping[str, str] = field(default_factory=dict)


TORCHVISION = {
    "mnist": Downloaded("MNIST"),
    "fashion-mnist": Downloaded("FashionMNIST"),
    "kmnist": Downloaded("KMNIST"),
    "emnist-letters": Downloaded(
        "EMNIST",
        {"train": "emnist-letters-train", "test": "emnist-letters-test"},
        labels=(1, 26),
        transposed=True,  # in torchvision, too (its issue 8783)
        arguments={"split": "letters"},
    ),
}
EMBEDDED = ("digits", "letters")
