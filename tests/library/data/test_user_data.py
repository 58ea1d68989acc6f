"""A user's own data: `.npz` files, folders of image files, attributes of a module; their split, and what is refused."""

import pickle
import signal
import sys
import zipfile
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from vaecore import load_images, outside, outside_name
from vaecore.toolkit import is_available, is_made, load_whole

from .hostile import ARCHIVES, FOLDERS, archive, changed, encoded, fill

COLOUR = np.random.default_rng(0).integers(0, 256, (20, 17, 23, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2
PAIR = (COLOUR, LABELS)


def grey(count, shape=(28, 28), dtype=np.uint8):
    return (np.arange(count * np.prod(shape, dtype=int)) % 256).reshape(count, *shape).astype(dtype)


def splits(source):
    return load_images(source, "train"), load_images(source, "test")


def as_pixels(images):
    """Colour images, channels last, as they should be read."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def npz(tmp_path):
    """Give a function that writes the arrays that it gets and returns the file's path."""

    def write(**arrays):
        np.savez_compressed(tmp_path / "mine.npz", **arrays)
        return tmp_path / "mine.npz"

    return write


@pytest.fixture
def module(monkeypatch):
    """An importable module, `a_users_data`."""
    made = ModuleType("a_users_data")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


# Files


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (COLOUR, (3, 17, 23)),
        (COLOUR.transpose(0, 3, 1, 2), (3, 17, 23)),
        (COLOUR[..., :1], (1, 17, 23)),
        (COLOUR[..., 0], (1, 17, 23)),
        (COLOUR[:, None, :, :, 0], (1, 17, 23)),
        (COLOUR / np.float32(255), (3, 17, 23)),
        ((COLOUR / 255).astype(">f4"), (3, 17, 23)),
        (np.asfortranarray(COLOUR), (3, 17, 23)),
        (COLOUR[:, :4, :5], (3, 4, 5)),
        (COLOUR.transpose(0, 3, 1, 2)[:, :, :5, :4], (3, 5, 4)),
    ],
    ids=["last", "first", "grey last", "grey", "grey first", "floats", "big-endian", "by columns", "4x5", "5x4 first"],
)
def test_every_layout_comes_out_channels_first(npz, images, shape):
    train, test = splits(npz(images=images, labels=LABELS))
    assert train.shape == test.shape == shape
    assert (len(train), len(test)) == (16, 4)
    # In order of label the images are 0, 2, ..., 18, 1, 3, ..., 19, of which every fifth is tested on.
    channels, height, width = shape
    assert_close(test.pixels, as_pixels(COLOUR[[8, 9, 18, 19], :height, :width, :channels]))
    assert test.pixels.is_contiguous()


def test_every_fifth_of_each_class_is_a_test_image(npz):
    images = grey(25, (8, 12))
    train, test = splits(str(npz(images=images, labels=np.repeat([1, 0], [10, 15]))))
    # In order of label the images are 10..24, then 0..9.
    assert torch.equal(test.pixels[:, 0] * 255, torch.from_numpy(images[[4, 9, 14, 19, 24]]).float())
    assert test.labels.tolist() == [1, 1, 0, 0, 0]
    assert (train.pixels.shape, train.split, test.name) == ((20, 1, 8, 12), "train", "mine.npz")
    assert_close(train.pixels[:, 0], torch.from_numpy(np.delete(images, [4, 9, 14, 19, 24], 0)).float() / 255)
    assert torch.bincount(train.labels).tolist() == [12, 8]


def test_without_labels_the_split_goes_by_place_in_the_file(npz):
    images = np.linspace(0, 1, 12, dtype=np.float32)[:, None, None] * np.ones((8, 8), np.float32)
    train, test = splits(npz(images=images))
    assert torch.equal(test.pixels[:, 0], torch.from_numpy(images[[5, 11]]))
    assert len(train) == 10


def test_a_file_may_bring_its_own_split_and_no_labels(npz):
    path = npz(train_images=grey(3) / 255, test_images=grey(2)[:, None], test_labels=np.array([1, 0], np.uint8))
    train, test = splits(path)
    assert (len(train), train.labels, len(test), test.labels.tolist()) == (3, None, 2, [1, 0])
    assert torch.equal(train.pixels[:2], test.pixels)
    assert is_available(path)
    train, test = splits(npz(images=COLOUR, labels=LABELS, test_images=COLOUR[:3], test_labels=LABELS[:3]))
    assert (len(train), len(test)) == (20, 3)  # beside test images, `images` are all for training


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
        ({"images": np.linspace(-1e-5, 1, 320).reshape(5, 8, 8)}, r"must lie in \[0, 1\]; got \[-1e-05, 1\]"),
        ({"images": np.linspace(0, 1.00001, 320).reshape(5, 8, 8)}, r"must lie in \[0, 1\]; got \[0, 1.00001\]"),
        ({"images": grey(5) / 255 - 0.5}, r"must lie in \[0, 1\]; got \[-0.5, 0.5\]"),
        ({"images": np.full((5, 28, 28), np.nan)}, r"must be finite; got NaN"),
        ({"images": grey(5), "labels": np.arange(4)}, r"must have shape \(5,\), one for each image; got \(4,\)"),
        ({"images": grey(5), "labels": np.eye(5, dtype=int)}, r"must have shape \(5,\), .* got \(5, 5\)"),
        ({"images": grey(5), "labels": np.ones(5)}, r"must be integers; got float64"),
        ({"images": grey(5), "labels": np.arange(5) - 1}, r"must be from 0 to 99999; got -1 \(number the classes"),
        ({"images": grey(4)}, r"holds 4 images, and 5 are needed"),
        ({"images": grey(5), "labels": np.arange(5) * 25_000}, r"must be from 0 to 99999; got 100000"),
        ({"images": np.array([None, None])}, r"pickled Python objects, which are never loaded"),
    ],
)
def test_an_unsuitable_file_is_named_with_the_cause(npz, arrays, message):
    with pytest.raises(ValueError, match=rf"mine\.npz:? .*{message}"):
        load_images(npz(**arrays))


def test_rounding_beyond_the_ends_of_the_range_is_clipped(npz):
    images = np.full((5, 8, 8), 0.5, np.float32)
    images[0, 0, 0], images[4, 7, 7] = -9e-9, 1.0000001
    pixels = load_whole(npz(images=images)).pixels
    assert torch.equal(pixels[:, 0], torch.from_numpy(images.clip(0, 1)))


SHARES = [lambda whole, share=share: whole[: int(share * len(whole))] for share in (0, 0.01, 0.5, 0.99)]


@pytest.mark.parametrize("damage", [*SHARES, lambda _: pickle.dumps(COLOUR)])
def test_a_truncated_file_and_a_pickle_are_named(npz, damage):
    path = npz(images=grey(50))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"mine\.npz is not an npz archive \(truncated"):
        load_images(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*mine.npz \(is the path relative"):
        load_images(tmp_path / "mine.npz")


def test_a_file_damaged_inside_is_named_wherever_the_damage_is(npz):
    path = npz(images=COLOUR[:5, :8, :8, 0], labels=np.arange(5))
    whole, expected = path.read_bytes(), load_images(path)
    name = whole.rindex(b"labels.npy")  # in the archive's directory: labels must not just go missing
    refused = 0
    for position in (*range(0, whole.index(b"PK\1\2"), 5), name, name + 9):
        path.write_bytes(whole[:position] + bytes((whole[position] ^ 0xFF,)) + whole[position + 1 :])
        try:
            # Some bytes, such as time stamps, carry nothing; then the content must be what it was.
            assert load_images(path) == expected
        except ValueError as error:
            assert "mine.npz" in str(error)  # noqa: PT017  # either outcome is right
            refused += 1
    assert refused > 80


def test_only_the_arrays_that_are_wanted_are_read(tmp_path):
    content = archive(COLOUR, zipfile.ZIP_STORED, labels=LABELS, other=COLOUR)
    place = content.index(b"PK\1\2") - 1  # the last byte of the last array
    (tmp_path / "mine.npz").write_bytes(changed(content, (content[place : place + 5], 0, b"?")))
    assert torch.equal(load_whole(tmp_path / "mine.npz").pixels, as_pixels(COLOUR))


# Hostile files

CAUSES = {
    "huge shape": r"declares, float32 of shape \(1000000000000, 28, 28\); it has 64 bytes",
    "shape of a truth value": r"declares, float32 of shape \(True, 4, 4\); it has 64 bytes",
    "objects": "`images` holds pickled Python objects",
    "objects in fields": "`images` holds pickled Python objects",
    "no array": "`images` cannot be read: ValueError: .*magic string",
    "malformed header": "`images` cannot be read: TokenError",
    "header of 64 MB": "`images` cannot be read: ValueError: EOF",
    "damaged LZMA": "`images` cannot be read: LZMAError: Corrupt input",
    "encrypted": "cannot be read: RuntimeError: File 'images.npy' is encrypted",
    "wrong checksum": "`images` cannot be read: BadZipFile: Bad CRC-32",
    "array before the archive": "is not an npz archive",
    "label of 4e10": "`labels` must be from 0 to 99999; got 360000000000 ",
    "pipe": "must be a file; it is a folder, a pipe or a device",
    "PostScript": r"x.png cannot be read: UnidentifiedImageError: .* \(truncated, damaged, or not BMP, JPEG",
    "400 million pixels": "x.png cannot be read: DecompressionBombError: Image size",
    "100 million pixels": "x.png cannot be read: DecompressionBombWarning: Image size",
    "animated PNG": "x.png must hold one picture; it is animated",
    "pages of TIFF": "x.tif must hold one picture; it is animated, or has several pages",
    "16 bits in grey": "x.png must have 8 bits a channel; Pillow says that its mode is I;16",
    "16 bits in colour": "x.png must have 8 bits a channel; it has more",
    "12 bits in PPM": "x.ppm must have 8 bits a channel; it has more",
    "white on transparency": "x.png must not be white on transparency",
    "another size": r"one size; got 8x8 \(width x height\) in a/0.png and 8x7 in b/x.png",
    "another size when turned": "one size; got 8x8 .* and 7x8 in b/x.png",
    "damaged PNG": r"x.png cannot be read: OSError: .* \(truncated",
    "3x3": r"must be 4 or more pixels high and wide; got \(\d+, 3, 3\)",
    "links round in circles": "the folder a/loop0 lies deeper",
    "class that is the folder": "the folder c/a lies deeper",
    "image that is a pipe": "x.png must be a file; it is a pipe",
    "class of hidden files": "; c holds .x.png",
    "class of other suffixes": "which end in .bmp, .*; c holds x.gif",
}


@pytest.fixture
def at_once():
    """Fail a test that takes ten seconds, for instance as it waits for what a pipe gives."""

    def stop(*_):
        pytest.fail("not done within 10 s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 10)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("name", "generator"), [*ARCHIVES.items(), *FOLDERS.items()], ids=[*ARCHIVES, *FOLDERS])
def test_a_hostile_file_is_refused_at_once_with_its_name_and_the_cause(tmp_path, at_once, name, generator):
    source = generator(tmp_path)
    for load in (load_images, load_whole):
        with pytest.raises(ValueError, match=f"mine.*{CAUSES.get(name, '')}"):
            load(source)


def test_no_plugin_of_pillow_is_asked_but_those_of_the_formats_that_are_named(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Image, "ID", [*Image.ID, "SPY"])
    monkeypatch.setitem(Image.OPEN, "SPY", (None, asked.append))
    with pytest.raises(ValueError, match="cannot be read"):
        load_images(FOLDERS["PostScript"](tmp_path))
    assert not asked


@pytest.mark.parametrize("kind", ["BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_an_image_that_is_damaged_anywhere_is_read_or_named(tmp_path, at_once, kind):
    fill(tmp_path)
    whole = encoded(COLOUR[0, :8, :8], kind)
    for position in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = whole[:position] + bytes((whole[position] ^ 0xFF,)) + whole[position + 1 :]
        (tmp_path / "b/x.png").write_bytes(damaged)
        try:
            load_whole(tmp_path)
        except ValueError as error:
            assert "x.png" in str(error)  # noqa: PT017  # either outcome is right


# Folders


def write(folder, images, *, mode=None):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        picture = Image.fromarray(image)
        (picture if mode is None else picture.convert(mode)).save(folder / f"{number}.png")


def test_a_folder_of_classes_gives_every_fifth_by_path_to_the_test(tmp_path):
    write(tmp_path / "pets/dog", COLOUR[:10])
    write(tmp_path / "pets/cat", COLOUR[10:])
    train, test = splits(tmp_path / "pets")
    assert (test.name, test.shape, test.labels.tolist()) == ("pets-folder", (3, 17, 23), [0, 0, 1, 1])
    assert torch.equal(test.pixels, as_pixels(COLOUR[[14, 19, 4, 9]]))
    assert torch.bincount(train.labels).tolist() == [8, 8]
    assert not (train.pixels[:, None] == test.pixels[None]).flatten(2).all(dim=2).any()


@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_a_folder_may_be_split_and_grey(tmp_path, test_folder):
    for name in ("cat", "dog", "newt"):
        write(tmp_path / "train" / name, COLOUR[:4], mode="L")
    write(tmp_path / test_folder / "cat", COLOUR[4:6], mode="L")
    write(tmp_path / test_folder / "newt", COLOUR[6:7], mode="1")
    train, test = splits(tmp_path)
    assert (len(train), len(test), train.shape, test.shape) == (12, 3, (1, 17, 23), (1, 17, 23))
    assert test.labels.tolist() == [0, 0, 2]  # numbered as in `train`, though there is no dog


def test_one_coloured_file_makes_both_splits_coloured(tmp_path):
    for name in ("cat", "dog"):
        write(tmp_path / "train" / name, COLOUR[:3], mode="L")
        write(tmp_path / "test" / name, COLOUR[3:6], mode="RGBA")
    train, test = splits(tmp_path)
    assert train.shape == test.shape == (3, 17, 23)
    assert torch.equal(test.pixels[:3], as_pixels(COLOUR[3:6]))
    assert torch.equal(train.pixels[:, 0], train.pixels[:, 2])


GREY = COLOUR[0, ..., 0]
SEEN = {1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: np.rot90(GREY, -1)}
SEEN |= {7: GREY[::-1, ::-1].T, 8: np.rot90(GREY)}  # EXIF 2.32, table 6: where the first row and column are to be seen


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def palette():
    """A picture of the grey levels, each in a colour of its own."""
    image = Image.fromarray(GREY, "P")
    image.putpalette([part for level in range(256) for part in (level, 255 - level, level // 2)])
    return image


ALPHA, INK = GREY.astype(int), COLOUR[0].astype(int)
PALETTE = np.stack([ALPHA, 255 - ALPHA, ALPHA // 2], axis=2)
PICTURES = {
    **{f"turned {way}": (encoded(GREY, exif=exif(way)), seen) for way, seen in SEEN.items()},
    "turned WebP": (encoded(COLOUR[0], "WEBP", lossless=True, exif=exif(5)), COLOUR[0].transpose(1, 0, 2)),
    "turned TIFF": (encoded(COLOUR[0], "TIFF", exif=exif(8)), np.rot90(COLOUR[0])),
    "one bit": (encoded(Image.fromarray(GREY > 99)), 255 * (GREY > 99)),
    "grey, transparent": (encoded(np.stack([GREY * 0, GREY], axis=2)), 255 - ALPHA),
    "grey, black transparent": (encoded(GREY // 64 * 64, transparency=0), np.where(GREY < 64, 255, GREY // 64 * 64)),
    "colour, transparent": (
        encoded(np.concatenate([COLOUR[0], GREY[..., None]], axis=2)),
        (INK * ALPHA[..., None] + 255 * (255 - ALPHA[..., None])) / 255,
    ),
    "colour, transparent and turned": (
        encoded(np.concatenate([COLOUR[0], GREY[..., None]], axis=2), exif=exif(6)),
        np.rot90((INK * ALPHA[..., None] + 255 * (255 - ALPHA[..., None])) / 255, -1),
    ),
    "palette": (encoded(palette()), PALETTE),
    "palette, one colour transparent": (
        encoded(palette(), transparency=int(GREY[0, 0])),
        np.where(GREY[..., None] == GREY[0, 0], 255, PALETTE),
    ),
    "palette, half transparent": (encoded(palette(), transparency=bytes([51] * 256)), 255 + (PALETTE - 255) / 5),
    "inks": (
        encoded(Image.fromarray(np.concatenate([COLOUR[0], GREY[..., None] // 2], axis=2), "CMYK"), "TIFF"),
        (255 - INK) * (255 - ALPHA[..., None] // 2) / 255,
    ),
    "lightness": (encoded(Image.new("LAB", (8, 8), (128, 128, 128)), "TIFF"), np.full((8, 8, 3), 119)),
    "camera's preview": (encoded(GREY * 0, "MPO", save_all=True, append_images=[Image.fromarray(GREY)]), GREY * 0),
}


@pytest.mark.parametrize(("content", "seen"), PICTURES.values(), ids=PICTURES)
def test_a_picture_is_read_as_people_see_it(tmp_path, content, seen):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.png").write_bytes(content)  # the content decides, whatever the suffix
    expected = torch.from_numpy(np.array(seen, dtype=np.float32)) / 255
    expected = expected[None] if expected.ndim == 2 else expected.permute(2, 0, 1)
    assert_close(load_whole(tmp_path).pixels[0], expected, atol=1.01 / 255, rtol=0)


def test_links_to_folders_and_files_are_followed(tmp_path):
    write(tmp_path / "store/1", COLOUR[:10])
    write(tmp_path / "store/2", COLOUR[10:])
    (tmp_path / "pets/dog").mkdir(parents=True)
    (tmp_path / "pets/cat").symlink_to("../store/1")
    for number in range(10):
        (tmp_path / f"pets/dog/{number}.png").symlink_to(f"../../store/2/{number}.png")
    assert torch.equal(load_whole(tmp_path / "pets").pixels, as_pixels(COLOUR))


@pytest.mark.parametrize("folder", ["", "train/"], ids=["one folder", "split"])
def test_what_is_left_out_of_a_folder_is_said(tmp_path, folder):
    for part in {folder, folder and "test/"}:
        fill(tmp_path / part)
    whole = load_images(tmp_path)
    left_out = [".thumbs/0.png", "a/.DS_Store", "a/._0.png", "b/notes.txt", "b/x.gif", "cover.png"]
    for name in left_out:
        (tmp_path / folder / name).parent.mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(encoded(GREY))
    names = [f"{folder}{name}" for name in (".thumbs", *left_out[1:5])]
    with pytest.warns(UserWarning, match=f": left out {', '.join(names)} and 1 more ") as said:
        assert load_images(tmp_path) == whole
    assert len(said) == 1


def test_other_folders_beside_the_two_of_a_split_are_said(tmp_path):
    for part in ("train", "test", "val"):
        fill(tmp_path / part)
    (tmp_path / "README.md").touch()
    with pytest.warns(UserWarning, match=r": left out README.md, val \("):
        assert len(load_images(tmp_path)) == 5


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            {"train/cat": COLOUR[:6], "train/dog": COLOUR[:6], "valid/cat": COLOUR[:6]},
            r"files for each class; the folder train/cat lies deeper \(folders that split",
        ),
        (
            {"a": COLOUR[:6], "b": COLOUR[:1, :16]},
            r"must have one size; got 23x17 \(width x height\) in a/0.png and 23x16 in b/0.png \(resize",
        ),
        ({"a": COLOUR[:1]}, r"holds 1 images, and 5 are needed"),
        ({"a": COLOUR[:6], "b": []}, r"must have a folder of image files .*; b holds nothing"),
        ({}, r"must have a folder of image files for each class; it has no folders"),
        ({"train/a": COLOUR[:6], "test/b": COLOUR[:6]}, r"the classes in .*test must be among those in .*train; got b"),
    ],
    ids=["other names", "sizes", "one file", "empty class", "empty", "new class"],
)
def test_an_unsuitable_folder_is_named_with_the_cause(tmp_path, classes, message):
    for name, images in classes.items():
        write(tmp_path / name, images)
    with pytest.raises(ValueError, match=message):
        splits(tmp_path)


# Attributes


def test_a_callable_need_not_be_hashable_and_is_called_once(module):
    class Data:
        __hash__ = None
        calls = 0

        def __call__(self):
            self.calls += 1
            return {"train": PAIR, "test": (COLOUR[:3], LABELS[:3])}

    module.data = Data()
    assert [len(images) for images in splits("a_users_data:data")] == [20, 3]
    assert module.data.calls == 1


@pytest.mark.parametrize(
    "value",
    [
        PAIR,
        [torch.from_numpy(COLOUR).permute(0, 3, 1, 2), LABELS.tolist()],
        (torch.from_numpy(COLOUR) / 255, torch.from_numpy(LABELS)),
        lambda: PAIR,
    ],
    ids=["arrays", "tensors", "floats", "callable"],
)
def test_an_attribute_is_split_as_a_file_is(module, npz, value):
    module.mine = value
    for images, of_file in zip(splits("a_users_data:mine"), splits(npz(images=COLOUR, labels=LABELS)), strict=True):
        assert images.digest == of_file.digest
        assert images.name == "a_users_data.mine"


def raising():
    raise RuntimeError("no disk")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (COLOUR, r"a_users_data:mine must be a pair \(images, labels\), .*; got ndarray"),
        ((COLOUR, LABELS, 1), r"must be a pair .*; got 3 values"),
        ({"train": PAIR}, r"it lacks 'test'"),
        ({"test": COLOUR}, r"a_users_data:mine, 'test' must be a pair"),
        ((COLOUR / 255 - 0.5, LABELS), r"a_users_data:mine: images must lie in \[0, 1\]; got"),
        ((COLOUR, LABELS[:3]), r"a_users_data:mine: labels must have shape \(20,\), one for each image; got \(3,\)"),
        ((COLOUR, [str(label) for label in LABELS]), r"labels must be integers; got <U1"),
        (([COLOUR[0], COLOUR[0, 1:]], LABELS[:2]), r"images and labels must be arrays or tensors; .*inhomogeneous"),
        ((torch.ones(20, 8, 8).to_sparse(), LABELS), r"images and labels must be arrays or tensors; .*[Ss]parse"),
        ((torch.ones(20, 8, 8, device="meta"), LABELS), r"images and labels must be arrays or tensors; .*meta"),
        ((COLOUR, LABELS * 4 * 10**10), r"a_users_data:mine: labels must be from 0 to 99999; got 40000000000"),
        (raising, r"must give images and labels; it raised RuntimeError: no disk"),
    ],
)
def test_an_unsuitable_attribute_is_named_with_the_cause(module, value, message):
    module.mine = value
    with pytest.raises(ValueError, match=message):
        load_images("a_users_data:mine", "test")


def test_a_module_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "a_broken_module.py").write_text("1 +\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # which the working folder is added to
    with pytest.raises(ValueError, match=r"a_broken_module:mine can't be imported: SyntaxError"):
        load_images("a_broken_module:mine")
    with pytest.raises(ValueError, match=r"nowhere:mine can't be imported: No module named 'nowhere'"):
        load_images("nowhere:mine")


def test_own_data_may_be_the_set_outside(module, tmp_path):
    module.inside, module.other = PAIR, (255 - COLOUR, LABELS)
    write(tmp_path / "rotated-30/a", COLOUR)
    inside = load_images("a_users_data:inside")
    sources = {"a_users_data:other": "a_users_data.other", str(tmp_path / "rotated-30"): "rotated-30-folder"}
    for source, name in sources.items():
        images = outside(source, inside, seed=0)
        assert (len(images), images.shape, images.name) == (20, (3, 17, 23), name)
        assert outside_name(source) == name
        assert not is_made(name)
