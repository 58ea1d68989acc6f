"""A user's data with random damage: refused with the file's name, or read as what was written."""

import io
import shutil
import time
import zipfile

import numpy as np
import torch

from tests.library.data.hostile import ARCHIVES, FOLDERS, encoded, fill
from vaecore import load_images

SLOWEST = 5  # seconds
FIRST = (np.arange(10 * 8 * 8) % 251).astype(np.uint8).reshape(10, 8, 8)


def damaged(chance, content):
    """A content with one random change."""
    start, length = chance.randrange(len(content)), chance.choice((1, 1, 2, 4, 30))
    noise = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    stop = start + length
    changes = {
        "overwritten": content[:start] + noise + content[stop:],
        "inserted": content[:start] + noise + content[start:],
        "left out": content[:start] + content[stop:],
        "cut": content[:start],
        "repeated": content[:stop] + content[start:],
    }
    return chance.choice(sorted(changes.items()))


def became(path, expected):
    """How loading a path broke the promise, in words; empty where it did not."""
    start = time.monotonic()
    try:
        loaded = load_images(path)
        wrong = "" if torch.equal(loaded.pixels, expected) else "other images were read"
    except ValueError as error:
        wrong = "" if path.name in str(error) else f"the error lacks the file's name: {error}"
    except Exception as error:  # noqa: BLE001  # which is not what is promised
        wrong = f"{type(error).__name__}: {error}"
    return wrong or (f"{time.monotonic() - start:.0f} s" if time.monotonic() - start > SLOWEST else "")


def test_hostile_files(count, tmp_path):
    """Each hostile file and folder is refused with its name, at once."""
    broken = []
    for number, (name, generate) in enumerate([*ARCHIVES.items(), *FOLDERS.items()]):
        folder = tmp_path / str(number)
        folder.mkdir()
        if wrong := became(generate(folder), torch.zeros(0)):
            broken.append(f"{name}: {wrong}")
        shutil.rmtree(folder)
    count("hostile files and folders", len(ARCHIVES) + len(FOLDERS), broken)


def test_archives_with_random_damage(chance, large, count, tmp_path):
    """An .npz with damage is refused with its name, or gives the images that were written."""
    tries, broken, whole = 2_000 if large else 100, [], {}
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file, member = io.BytesIO(), io.BytesIO()
        np.save(member, FIRST)
        with zipfile.ZipFile(file, "w", compression) as archive:
            archive.writestr("images.npy", member.getvalue())
        whole[compression] = file.getvalue()
    (tmp_path / "mine.npz").write_bytes(whole[zipfile.ZIP_STORED])
    expected = load_images(tmp_path / "mine.npz").pixels
    for number in range(tries):
        how, content = damaged(chance, whole[chance.choice(sorted(whole))])
        (tmp_path / "mine.npz").write_bytes(content)
        if wrong := became(tmp_path / "mine.npz", expected):
            broken.append(f"try {number}, {how}: {wrong}")
    count("archives with random damage", tries, broken)


def test_images_with_random_damage(chance, large, count, tmp_path):
    """A folder in which an image is damaged is refused with its name, or read."""
    tries, broken = 1_000 if large else 50, []
    kinds = {"PNG": "png", "JPEG": "jpg", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "PPM": "pgm"}
    for number in range(tries):
        kind, suffix = chance.choice(sorted(kinds.items()))
        how, content = damaged(chance, encoded(FIRST[5], kind))
        folder = fill(tmp_path / f"mine-{number}", content, f"b/x.{suffix}")
        start = time.monotonic()
        try:
            loaded = load_images(folder, "train")
            if loaded.pixels.shape[2:] != (8, 8):
                broken.append(f"try {number}, {kind} {how}: {tuple(loaded.pixels.shape)}")
        except ValueError as error:
            if f"x.{suffix}" not in str(error):
                broken.append(f"try {number}, {kind} {how}: the error lacks the file's name: {error}")
        except Exception as error:  # noqa: BLE001  # which is not what is promised
            broken.append(f"try {number}, {kind} {how}: {type(error).__name__}: {error}")
        if time.monotonic() - start > SLOWEST:
            broken.append(f"try {number}, {kind} {how}: {time.monotonic() - start:.0f} s")
        shutil.rmtree(folder)
    count("images with random damage", tries, broken)
