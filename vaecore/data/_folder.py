"""A user's folder of image files with a subfolder for each class."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from vaecore.data._decoding import decoding

TRAIN, TESTS = "train", ("test", "val")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow has others that start programs, as EPS does
_GREY = ("1", "L", "LA")  # Pillow's modes
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB")
_GUESS = f"truncated, damaged, or not {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}?"
_SHOWN = 5  # names in a warning or an error


@dataclass(frozen=True)
class Files:
    """Paths of image files, and their labels."""

    paths: Sequence[Path]
    labels: Sequence[int]


def list_files(folder: Path) -> dict[str, Files]:
    """The files of "train" and of "test", in order of path; or of "" if the folder has no split.

    A split folder has subfolders `train` and `test` (or `val`), each with a subfolder for each class. Labels number the
    classes, of `train` if split, in order of name. Warns of what is left out.
    Raises ValueError for a class without images, for a folder in a class, for an image that is no file, and for a class
    that is not in `train`.
    """
    left_out: list[Path] = []
    split = next(((folder / TRAIN, folder / name) for name in TESTS if (folder / name).is_dir()), None)
    if split is None or not split[0].is_dir():
        files = {"": _classes(folder, left_out)[0]}
    else:
        left_out += [path for path in _content(folder) if path not in split]
        (train, names), (test, others) = (_classes(part, left_out) for part in split)
        if unknown := sorted(set(others) - set(names)):
            raise ValueError(f"the classes in {split[1]} must be among those in {split[0]}; got {', '.join(unknown)}")
        files = {"train": train, "test": Files(test.paths, [names.index(others[label]) for label in test.labels])}
    if left_out:
        warnings.warn(
            f"{folder}: left out {_some([str(path.relative_to(folder)) for path in left_out])} (images are files that"
            f" end in {', '.join(SUFFIXES)}, in a folder for each class; names with a dot in front are hidden)",
            stacklevel=2,
        )
    return files


def _classes(folder: Path, left_out: list[Path]) -> tuple[Files, list[str]]:
    """The files of all classes and the classes' names; what is neither joins `left_out`."""
    paths: list[Path] = []
    labels: list[int] = []
    names: list[str] = []
    for path in _content(folder):
        if path.name.startswith(".") or not path.is_dir():
            left_out.append(path)
            continue
        images = _images(path, folder, left_out)
        paths += images
        labels += [len(names)] * len(images)
        names.append(path.name)
    if not names:
        raise ValueError(f"{folder} must have a folder of image files for each class; it has no folders")
    return Files(paths, labels), names


def _images(folder: Path, parent: Path, left_out: list[Path]) -> list[Path]:
    """The image files of a class. No folder in it is looked into, as links may lead round in circles."""
    images: list[Path] = []
    others: list[Path] = []
    for path in _content(folder):
        if path.name.startswith("."):
            others.append(path)
        elif path.is_dir():
            raise ValueError(
                f"{parent} must have a folder of image files for each class; the folder {path.relative_to(parent)} lies"
                " deeper (folders that split the images must be called `train`, and `test` or `val`)"
            )
        elif path.suffix.lower() not in SUFFIXES:
            others.append(path)
        elif not path.is_file():
            raise ValueError(f"{path} must be a file; it is a pipe, a device or a link that leads nowhere")
        else:
            images.append(path)
    if not images:
        got = _some([path.name for path in others]) if others else "nothing"
        raise ValueError(
            f"{parent} must have a folder of image files for each class, which end in {', '.join(SUFFIXES)};"
            f" {folder.name} holds {got}"
        )
    left_out += others
    return images


def _content(folder: Path) -> list[Path]:
    with decoding(f"{folder}", "may you read it?"):
        return sorted(folder.iterdir(), key=lambda path: path.name)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def read(paths: Sequence[Path], all_paths: Sequence[Path], folder: Path) -> NDArray[np.uint8]:
    """Images (n, height, width), or (n, height, width, 3) in colour, of some files of a folder.

    All files are read, so that damage is found at once. Images are grey if all files are, else colour. Raises
    ValueError for images that differ in size or that `_image` refuses.
    """
    wanted = set(paths)
    images: dict[Path, NDArray[np.uint8]] = {}
    first, size, colour = None, (0, 0), False
    for path in all_paths:
        image = _image(path)
        height, width = image.shape[:2]
        if first is None:
            first, size = path, (width, height)
        if (width, height) != size:
            raise ValueError(
                f"all images in {folder} must have one size; got {size[0]}x{size[1]} (width x height) in"
                f" {first.relative_to(folder)} and {width}x{height} in {path.relative_to(folder)} (resize them first,"
                f" for instance each by PIL.ImageOps.fit(image, {size}))"
            )
        colour = colour or image.ndim == 3
        if path in wanted:
            images[path] = image
    content = np.empty((len(paths), size[1], size[0], *((3,) if colour else ())), np.uint8)
    for row, path in zip(content, paths, strict=True):
        image = images.pop(path)
        row[:] = image[..., None] if colour and image.ndim == 2 else image
    return content


def _image(path: Path) -> NDArray[np.uint8]:
    """An image as people see it: (height, width) if its file is grey, else (height, width, 3), as palettes are.

    The camera's orientation is applied, and transparency is laid on white. Colour profiles are not applied. Raises
    ValueError for a file that is damaged, huge or of another format than _FORMATS, for more than 8 bits a channel or
    several pictures, and for a drawing in white on transparency.
    """
    # Pillow refuses a size of 179 million pixels, and warns from half of that on.
    with decoding(f"{path}", _GUESS), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=_FORMATS) as image:
            fault = _fault(image)
            if not fault:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                mode = "L" if image.mode in _GREY else "RGB"
                if not image.has_transparency_data:
                    return np.array(image.convert(mode))
                drawing = image.convert("RGBA")
                alpha = drawing.getchannel("A")
                ground = Image.new(mode, image.size, "white")
                ground.paste(drawing.convert(mode), mask=alpha)
                content = np.array(ground)
                lowest, highest = alpha.getextrema()
                if content.min() < 255 or lowest == highest:
                    return content
                fault = "must not be white on transparency, which is laid on white (put the images on a dark ground)"
    raise ValueError(f"{path} {fault}")


def _fault(image: ImageFile.ImageFile) -> str:
    """What makes an image unsuitable, as far as the head of its file says; empty if nothing does."""
    if image.mode not in (*_GREY, *_COLOUR):
        return f"must have 8 bits a channel; Pillow says that its mode is {image.mode} (convert it first)"
    # Of 16 bits in colour Pillow keeps the upper 8 without a word.
    for tile in image.tile:
        deep_ppm = tile.codec_name.startswith("ppm") and isinstance(tile.args, tuple) and tile.args[1] > 255
        if deep_ppm or re.search(r";16[BLN]", str(tile.args)):
            return "must have 8 bits a channel; it has more (convert it first)"
    # Cameras add a preview, which counts as a second picture, to files of the format MPO, a kind of JPEG.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        return "must hold one picture; it is animated, or has several pages (save each as a file of its own)"
    return ""
