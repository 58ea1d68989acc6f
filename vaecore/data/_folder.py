"""A user's folder of image files with a subfolder for each class, as torchvision's ImageFolder reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

TRAIN, TESTS = "train", ("test", "val")
_GREY = {"1", "L", "LA"}  # PIL's modes
_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}


@dataclass(frozen=True)
class Files:
    """Paths of image files, and their labels."""

    paths: Sequence[Path]
    labels: Sequence[int]


def list_files(folder: Path) -> dict[str, Files]:
    """The files of "train" and of "test", in order of path; or of "" if the folder has no split.

    A split folder has subfolders `train` and `test` (or `val`), each with a subfolder for each class. Labels number the
    classes, of `train` if split, in order of name.
    Raises ValueError for a class without images, and for a class that is not in `train`.
    """
    test = next((folder / name for name in TESTS if (folder / name).is_dir()), None)
    if not (folder / TRAIN).is_dir() or test is None:
        return {"": _classes(folder)[0]}
    train, names = _classes(folder / TRAIN)
    tested, others = _classes(test)
    if unknown := sorted(set(others) - set(names)):
        raise ValueError(f"the classes in {test} must be among those in {folder / TRAIN}; got {', '.join(unknown)}")
    return {"train": train, "test": Files(tested.paths, [names.index(others[label]) for label in tested.labels])}


def _classes(folder: Path) -> tuple[Files, list[str]]:
    from torchvision.datasets import ImageFolder  # noqa: PLC0415  # takes seconds to import

    try:
        listed = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} must have a folder of image files for each class; {error}") from error
    deeper = next((path for path, _ in listed.samples if Path(path).parent.parent != folder), None)
    if deeper is not None:
        raise ValueError(
            f"{folder} must have a folder of image files for each class; {Path(deeper).relative_to(folder)} lies deeper"
            " (folders that split the images must be called `train`, and `test` or `val`)"
        )
    return Files([Path(path) for path, _ in listed.samples], [label for _, label in listed.samples]), listed.classes


def read(files: Files, all_files: Sequence[Files], folder: Path) -> tuple[Tensor, Tensor]:
    """Pixels (n, channels, h, w) float32 in [0, 1] and labels (n,) of some files of a folder.

    all_files: all files of the folder. Images are grey if all files are, else colour; transparency is dropped. Raises
    ValueError for images that differ in size, have more than 8 bits a channel or are damaged.
    """
    modes, first, first_size = set(), None, (0, 0)
    for path in (path for listed in all_files for path in listed.paths):
        mode, size = _header(path)
        if first is None:
            first, first_size = path, size
        if size != first_size:
            raise ValueError(
                f"all images in {folder} must have one size; got {first_size[0]}x{first_size[1]} (width x height) in"
                f" {first.relative_to(folder)} and {size[0]}x{size[1]} in {path.relative_to(folder)} (resize"
                f" them first, for instance each by PIL.ImageOps.fit(image, {first_size}))"
            )
        modes.add(mode)
    mode = "L" if modes <= _GREY else "RGB"
    pixels = torch.empty(len(files.paths), 1 if mode == "L" else 3, first_size[1], first_size[0])
    for row, path in zip(pixels, files.paths, strict=True):
        row[:] = _content(path, mode)
    return pixels.div_(255), torch.tensor(files.labels)


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        with Image.open(path) as image:
            mode, size = image.mode, image.size
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error} (truncated or damaged?)") from error
    if mode not in _GREY | _COLOUR:
        raise ValueError(f"{path} must have 8 bits a channel; PIL says that its mode is {mode} (convert it first)")
    return mode, size


def _content(path: Path, mode: str) -> Tensor:
    try:
        with Image.open(path) as image:
            content = torch.from_numpy(np.array(image.convert(mode)))  # a copy, as torch needs writable memory
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises SyntaxError for a broken PNG
        raise ValueError(f"{path} cannot be read as an image: {error} (truncated or damaged?)") from error
    return content if mode == "L" else content.permute(2, 0, 1)
