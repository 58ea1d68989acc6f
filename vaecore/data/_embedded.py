"""Image sets that need no files or network: scikit-learn's handwritten digits, and letters drawn from fonts."""

import functools
import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vaecore._matplotlib import import_matplotlib
from vaecore.data._augment import distort

# Text fonts that matplotlib ships; its symbol fonts (cmsy, cmex, cmmi, STIX sizes) have no alphabet.
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS_FOR_TRAINING = 1000


def digits(split: str) -> tuple[Tensor, Tensor]:
    """The 1,797 UCI digits of scikit-learn in MNIST's frame: 1,000 for "train", 797 for "test".

    The split is fixed and stratified, and its order is shuffled, so that a prefix is a fair sample.
    Returns pixels (n, 1, 28, 28) float32 in [0, 1] and labels (n,) int64. The same 13 writers are in both splits, so
    the test measures new digits, not new writers.
    """
    pixels, labels = _all_digits()
    # Ordered by a hash of the index, which does not change with library versions.
    rank = np.array([_hash(f"digits/{index}") for index in range(len(labels))], dtype=np.uint64)
    by_class = np.lexsort((rank, labels.numpy()))
    training = np.empty(len(labels), dtype=bool)
    training[by_class] = evenly_spread(len(labels), DIGITS_FOR_TRAINING)
    shuffled = np.argsort(rank)
    rows = torch.from_numpy(shuffled[training[shuffled] == (split == "train")])
    return pixels[rows], labels[rows]


def letters(indices: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Draw a capital letter for each index, in one of 21 fonts, mildly distorted, in MNIST's frame.

    An image depends only on (seed, index); labels cycle from A (0) to Z (25).
    Returns pixels (n, 1, 28, 28) float32 in [0, 1] and labels (n,) int64.
    """
    # In float64, so that rounding to bytes gives the same result for any number of images.
    glyphs = torch.empty(len(indices), 1, 28, 28, dtype=torch.float64)
    generators = [torch.Generator() for _ in indices]
    for position, (index, generator) in enumerate(zip(indices, generators, strict=True)):
        generator.manual_seed(_hash(f"letters/{seed}/{index}"))
        face = FONTS[int(torch.randint(len(FONTS), (), generator=generator))]
        glyphs[position] = _glyph(face, ALPHABET[index % 26])
    pixels = distort(glyphs, generators, rotation=8, scale=0.1, shear=0.1, shift=0, elastic=0.5)
    return _to_bytes(pixels), torch.tensor([index % 26 for index in indices])


def evenly_spread(count: int, chosen: int) -> NDArray[np.bool_]:
    """Mark `chosen` of `count` positions, evenly spread (systematic sampling). Returns (count,) bool."""
    marks_before = np.arange(count + 1) * chosen // count
    return marks_before[1:] > marks_before[:-1]


@functools.lru_cache(maxsize=1)
def _all_digits() -> tuple[Tensor, Tensor]:
    """Render scikit-learn's digits like MNIST. Returns (1797, 1, 28, 28) and (1797,), in scikit-learn's order.

    Each source pixel counts the ink in a 4x4 block of a black-and-white scan. As in MNIST, ink is thresholded at a
    higher resolution, averaged to grey in a 20x20 box, and centred by its centre of mass. The thresholds match the grey
    levels of MNIST's test images: mean 0.135 (MNIST 0.133), black 0.80 (0.81), above 0.9 0.094 (0.090).
    """
    levels, labels = _uci_digits()
    ink = torch.from_numpy(levels / 16.0).unsqueeze(1)  # (1797, 1, 8, 8), float64
    ink = F.pad(ink, (1, 1, 1, 1))
    fine = F.interpolate(ink, scale_factor=5, mode="bicubic", align_corners=False)
    # A stroke thinner than a block is grey. Compared with the ink around it, it stays connected.
    around = F.avg_pool2d(F.max_pool2d(ink, 5, 1, 2), 3, 1, 1)
    around = F.interpolate(around, scale_factor=5, mode="bilinear", align_corners=False)
    relative = fine / torch.maximum(around, 0.6 * ink.amax((2, 3), keepdim=True))
    drawn = F.avg_pool2d(((relative - 0.48) / (0.74 - 0.48)).clamp(0, 1), 2)  # (1797, 1, 25, 25): 20x20 and its margin
    pixels = torch.stack([_centred(F.pad(image, (1, 2, 1, 2))) for image in drawn])
    return _to_bytes(pixels), torch.from_numpy(labels).long()


def _uci_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """scikit-learn's digits, (1797, 8, 8) in 0..16, and labels (1797,): from its file, as its import takes seconds."""
    spec = find_spec("sklearn")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits  # noqa: PLC0415  # where another version keeps them elsewhere

    digits = load_digits()
    return digits.images, digits.target


@functools.cache
def _glyph(face: str, letter: str) -> Tensor:
    """Draw a letter like MNIST's digits: longer side 20 pixels, centred by mass. Returns (1, 28, 28) float64."""
    try:
        mpl = import_matplotlib()  # slow; only its fonts are used
    except ImportError as error:
        raise ImportError("letters are drawn with matplotlib's fonts: pip install 'vaecore[suite]'") from error

    font = ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf", size=120)
    large = Image.new("L", (240, 240))
    ImageDraw.Draw(large).text((120, 120), letter, fill=255, font=font, anchor="mm")
    large = large.crop(large.getbbox())
    width, height = (max(1, round(20 * side / max(large.size))) for side in large.size)
    small = torch.from_numpy(np.array(large.resize((width, height), Image.Resampling.BOX))).double() / 255
    left, top = (28 - width) // 2, (28 - height) // 2
    frame = F.pad(small, (left, 28 - width - left, top, 28 - height - top))
    return _centred(frame[None])


def _centred(frame: Tensor) -> Tensor:
    """Shift a (1, 28, 28) image by whole pixels, at most 4, so that its centre of mass is the frame's centre."""
    along = torch.arange(28, dtype=frame.dtype) - 13.5
    mass = frame.sum()
    down = -round(float(((frame.sum((0, 2)) * along).sum() / mass).clamp(-4, 4)))
    right = -round(float(((frame.sum((0, 1)) * along).sum() / mass).clamp(-4, 4)))
    return frame.roll((down, right), (1, 2))


def _to_bytes(pixels: Tensor) -> Tensor:
    """Round to 256 grey levels like MNIST, so that digests do not depend on the last bit of an interpolation."""
    return pixels.mul(255).round().float().div(255)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
