"""Colour images to try one's own data with: real handwritten digits, each in two colours of its own, 32x32.

As an attribute, `--dataset examples.make_data:colour_digits`; or written in the other forms of one's own data:

    python -m examples.make_data colour-digits.npz    # then: pytest claims --dataset colour-digits.npz
    python -m examples.make_data colour-digits        # a folder of PNG files: pytest claims --dataset colour-digits
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaecore import load_images

Pair = tuple[NDArray[np.uint8], NDArray[np.int64]]


def colour_digits() -> dict[str, Pair]:
    """Training and test images (n, 32, 32, 3), bytes, with labels 0 to 9; the same each time."""
    return {split: _coloured(split) for split in ("train", "test")}


def _coloured(split: str) -> Pair:
    digits = load_images("digits", split)
    assert digits.labels is not None
    ink = np.pad(digits.pixels[:, 0].numpy(), ((0, 0), (2, 2), (2, 2)))[..., None]  # (n, 32, 32, 1)
    generator = np.random.default_rng(0 if split == "train" else 1)
    light = generator.uniform(0.5, 1, (len(ink), 1, 1, 3))
    dark = generator.uniform(0, 0.4, (len(ink), 1, 1, 3))
    return (255 * (ink * light + (1 - ink) * dark)).round().astype(np.uint8), digits.labels.numpy()


def main() -> None:
    """Write the images to an .npz file, or to a folder of PNG files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="file that ends in .npz, else a folder")
    path: Path = parser.parse_args().path
    data = colour_digits()
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {}
        for split, (images, labels) in data.items():
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        np.savez_compressed(path, **arrays)
        return
    for split, (images, labels) in data.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = path / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:04}.png")


if __name__ == "__main__":
    main()
