"""A user's own data: every layout of images, folders of image files, attributes of a module, and what is refused."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision  # noqa: F401  # here, as in test_plugin
from PIL import Image
from torch.testing import assert_close

from vaecore import Store, load_images, outside, outside_name
from vaecore.suite.study.study import Dataset, Profile, Study

COLOUR = np.random.default_rng(0).integers(0, 256, (20, 17, 23, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (COLOUR, (3, 17, 23)),
        (COLOUR.transpose(0, 3, 1, 2), (3, 17, 23)),
        (COLOUR[..., :1], (1, 17, 23)),
        (COLOUR[..., 0], (1, 17, 23)),
        (COLOUR[:, None, :, :, 0], (1, 17, 23)),
        (COLOUR / np.float32(255), (3, 17, 23)),
        (COLOUR[:, :4, :5], (3, 4, 5)),
        (COLOUR.transpose(0, 3, 1, 2)[:, :, :5, :4], (3, 5, 4)),
    ],
    ids=["last", "first", "grey last", "grey", "grey first", "floats", "4x5", "5x4 first"],
)
def test_every_layout_comes_out_channels_first(tmp_path, images, shape):
    np.savez(tmp_path / "mine.npz", images=images, labels=LABELS)
    train, test = (load_images(tmp_path / "mine.npz", split) for split in ("train", "test"))
    assert train.shape == test.shape == shape
    assert (len(train), len(test)) == (16, 4)
    # In order of label the images are 0, 2, ..., 18, 1, 3, ..., 19, of which every fifth is tested on.
    height, width = shape[1:]
    expected = torch.from_numpy(COLOUR[[8, 9, 18, 19], :height, :width, : shape[0]].astype(np.float32)) / 255
    assert_close(test.pixels, expected.permute(0, 3, 1, 2))
    assert test.pixels.is_contiguous()


def test_images_beside_test_images_are_all_for_training(tmp_path):
    np.savez(tmp_path / "mine.npz", images=COLOUR, labels=LABELS, test_images=COLOUR[:3], test_labels=LABELS[:3])
    train, test = (load_images(tmp_path / "mine.npz", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (20, 3)


# Folders


def write(folder, images, *, mode=None, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        picture = Image.fromarray(image)
        (picture if mode is None else picture.convert(mode)).save(folder / f"{number}.{suffix}")


def test_a_folder_of_classes_gives_every_fifth_by_path_to_the_test(tmp_path):
    write(tmp_path / "pets/dog", COLOUR[:10])
    write(tmp_path / "pets/cat", COLOUR[10:])
    train, test = (load_images(tmp_path / "pets", split) for split in ("train", "test"))
    assert (test.name, test.shape, test.labels.tolist()) == ("pets-folder", (3, 17, 23), [0, 0, 1, 1])
    expected = torch.from_numpy(COLOUR[[14, 19, 4, 9]]).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(test.pixels, expected)
    assert torch.bincount(train.labels).tolist() == [8, 8]
    assert not (train.pixels[:, None] == test.pixels[None]).flatten(2).all(dim=2).any()


@pytest.mark.parametrize("held", ["test", "val"])
def test_a_folder_may_be_split_and_grey(tmp_path, held):
    for name in ("cat", "dog", "newt"):
        write(tmp_path / "train" / name, COLOUR[:4], mode="L")
    write(tmp_path / held / "cat", COLOUR[4:6], mode="L")
    write(tmp_path / held / "newt", COLOUR[6:7], mode="1")
    train, test = (load_images(tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test), train.shape, test.shape) == (12, 3, (1, 17, 23), (1, 17, 23))
    assert test.labels.tolist() == [0, 0, 2]  # numbered as in `train`, though there is no dog


def test_one_coloured_file_makes_both_splits_coloured_and_transparency_goes(tmp_path):
    for name in ("cat", "dog"):
        write(tmp_path / "train" / name, COLOUR[:3], mode="L")
        write(tmp_path / "test" / name, COLOUR[3:6], mode="RGBA")
    train, test = (load_images(tmp_path, split) for split in ("train", "test"))
    assert train.shape == test.shape == (3, 17, 23)
    assert torch.equal(test.pixels[:3], torch.from_numpy(COLOUR[3:6]).permute(0, 3, 1, 2).float() / 255)
    assert torch.equal(train.pixels[:, 0], train.pixels[:, 2])


def unequal(folder):
    write(folder / "a", COLOUR[:6])
    write(folder / "b", COLOUR[:1, :16])


def broken(folder):
    write(folder / "a", COLOUR[:6])
    write(folder / "b", COLOUR[:6])
    file = folder / "b/3.png"
    file.write_bytes(file.read_bytes()[:200])


def no_image(folder):
    write(folder / "a", COLOUR[:6])
    (folder / "b").mkdir()
    (folder / "b/0.png").write_bytes(b"no image")


def deep(folder):
    write(folder / "a", [np.zeros((8, 8), np.uint16)] * 6)


def of_one_file(folder):
    write(folder / "a", COLOUR[:1])


def empty_class(folder):
    write(folder / "a", COLOUR[:6])
    (folder / "b").mkdir()


def new_class(folder):
    write(folder / "train/a", COLOUR[:6])
    write(folder / "test/b", COLOUR[:6])


def split_by_other_names(folder):
    for name in ("train/cat", "train/dog", "valid/cat"):
        write(folder / name, COLOUR[:6])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            split_by_other_names,
            r"files for each class; train/cat/0.png lies deeper \(folders that split",
        ),
        (unequal, r"must have one size; got 23x17 \(width x height\) in a/0.png and 23x16 in b/0.png \(resize"),
        (broken, r"b/3.png cannot be read as an image: .*truncated"),
        (no_image, r"b/0.png cannot be read as an image"),
        (deep, r"a/0.png must have 8 bits a channel; PIL says that its mode is I;16"),
        (of_one_file, r"holds 1 images, and 5 are needed"),
        (empty_class, r"must have a folder of image files for each class; Found no valid file for the classes b"),
        (lambda folder: None, r"must have a folder of image files for each class; Couldn't find any class folder"),
        (new_class, r"the classes in .*test must be among those in .*train; got b"),
    ],
    ids=["other names", "sizes", "broken", "no image", "16 bits", "one file", "empty class", "empty", "new class"],
)
def test_an_unsuitable_folder_is_named_with_the_cause(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        [load_images(tmp_path, split) for split in ("test", "train")]


# Attributes


@pytest.fixture
def module(monkeypatch):
    made = ModuleType("a_users_data")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


PAIR = (COLOUR, LABELS)


def test_a_callable_need_not_be_hashable_and_is_called_once(module):
    class Data:
        __hash__ = None
        calls = 0

        def __call__(self):
            self.calls += 1
            return PAIR

    module.data = Data()
    for split in ("train", "test"):
        assert len(load_images("a_users_data:data", split)) > 0
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
def test_an_attribute_is_split_as_a_file_is(module, tmp_path, value):
    module.mine = value
    np.savez(tmp_path / "mine.npz", images=COLOUR, labels=LABELS)
    for split in ("train", "test"):
        found = load_images("a_users_data:mine", split)
        assert found.digest == load_images(tmp_path / "mine.npz", split).digest
        assert found.name == "a_users_data.mine"


def test_a_callable_may_say_the_split_and_is_called_once(module):
    calls = []

    def mine():
        calls.append(1)
        return {"train": PAIR, "test": (COLOUR[:3], LABELS[:3])}

    module.mine = mine
    assert [len(load_images("a_users_data:mine", split)) for split in ("train", "test")] == [20, 3]
    assert calls == [1]


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
        ((COLOUR * np.nan, LABELS), r"images must be finite; got NaN"),
        ((COLOUR[:0], LABELS[:0]), r"images is empty"),
        ((COLOUR.astype(int), LABELS), r"images must be uint8 .*; got int64"),
        ((COLOUR, LABELS[:3]), r"labels must have shape \(20,\), one for each image; got \(3,\)"),
        ((COLOUR, LABELS - 1), r"labels must be 0 or more; got -1"),
        ((COLOUR, [str(label) for label in LABELS]), r"labels must be integers; got <U1"),
        (([COLOUR[0], COLOUR[0, 1:]], LABELS[:2]), r"images and labels must be arrays or tensors; .*inhomogeneous"),
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
    with pytest.raises(ValueError, match=r"a_broken_module:mine can't be imported: SyntaxError"):
        load_images("a_broken_module:mine")
    with pytest.raises(ValueError, match=r"nowhere:mine can't be imported: No module named 'nowhere'"):
        load_images("nowhere:mine")


# In a study


def study_of(text, tmp_path, **options):
    return Study(Dataset(text, "as asked"), Profile("standard", 1, 4, 4, 2), Store(tmp_path / "cache"), **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(20, dtype=int), r"must have two labels or more; the test images have one"),
        (np.arange(20) % 2 * 3, r"numbered from 0 without gaps, a few images each; there is none of class 1, 2$"),
    ],
)
def test_labels_that_no_classifier_can_learn_are_refused(module, tmp_path, labels, message):
    module.mine = (COLOUR, labels)
    with pytest.raises(ValueError, match=message):
        study_of("a_users_data:mine", tmp_path).check()


def test_data_that_change_from_process_to_process_are_named(module, tmp_path):
    module.mine = (COLOUR, LABELS)
    worker = study_of("a_users_data:mine", tmp_path).for_worker()
    module.mine = (COLOUR[::-1], LABELS)
    with pytest.raises(ValueError, match=r"must give the same images each time.*or use --workers 1"):
        _ = worker.test


def test_own_data_may_be_the_set_outside(module, tmp_path):
    module.inside, module.other = (COLOUR, LABELS), (255 - COLOUR, LABELS)
    write(tmp_path / "rotated-30/a", COLOUR)
    inside = load_images("a_users_data:inside")
    for source, count in (("a_users_data:other", 20), (str(tmp_path / "rotated-30"), 20)):
        assert len(outside(source, inside, seed=0)) == count
    study = study_of("a_users_data:inside", tmp_path, ood=("a_users_data:other", str(tmp_path / "rotated-30")))
    names = [outside_name(source) for source in study.ood]
    assert names == ["a_users_data.other", "rotated-30-folder"]
    assert not any(study.outside.is_made(name) for name in names)
    assert study.outside.images(names[0])[0].shape == (3, 17, 23)
