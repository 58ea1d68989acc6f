"""Scores of a stream of images: those of the images at once, in portions that memory holds one at a time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vaecore import Store
from vaecore.suite.study import stream
from vaecore.suite.study.executors import Here
from vaecore.suite.study.outside import fitted_scores
from vaecore.suite.study.study import Study


@pytest.fixture
def study(tiny, tmp_path):
    setup = replace(tiny.setup, protocol=replace(tiny.setup.protocol, scored=8))
    return Study.of(setup, Store(tmp_path / "cache"))


@pytest.fixture
def pixels(study):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (50, *study.setup.test.shape), dtype=np.uint8)


def in_a_folder(folder, pixels, *cuts):
    folder.mkdir()
    for number, part in enumerate(np.split(pixels, cuts)):
        np.save(folder / f"{number:03}.npy", part)
    return folder


def as_floats(pixels):
    return pixels.astype(np.float32) / 255


def expected(study, pixels):
    fitted = study.plan.make(fitted_scores(study.setup, 0))
    columns = fitted(torch.from_numpy(as_floats(pixels)), indices=torch.arange(len(pixels)))
    return {name: column.numpy() for name, column in columns.items()}


@pytest.mark.parametrize("form", ["bytes", "floats", "mapped", "folder", "zarr"])
def test_scores_are_those_of_all_images_at_once(study, pixels, tmp_path, form):
    if form == "folder":
        given = in_a_folder(tmp_path / "shards", pixels, 7, 31)
    elif form == "mapped":
        np.save(tmp_path / "all.npy", as_floats(pixels))
        given = np.load(tmp_path / "all.npy", mmap_mode="r")
    elif form == "zarr":
        zarr = pytest.importorskip("zarr", reason="zarr is not installed (nox -s bridges has it)")
        given = zarr.create_array(tmp_path / "all.zarr", data=as_floats(pixels), chunks=(7, *pixels.shape[1:]))
    else:
        given = pixels if form == "bytes" else as_floats(pixels)
    names = study.score(given, tmp_path / "scores")
    wanted = expected(study, pixels)
    assert names == sorted(wanted)
    assert {path.stem for path in (tmp_path / "scores").iterdir()} == set(names)
    for name in names:
        found = np.load(tmp_path / "scores" / f"{name}.npy")
        np.testing.assert_allclose(found, wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_no_more_than_a_portion_is_read_at_a_time_and_none_twice(study, pixels, tmp_path):
    class Counting:
        def __init__(self, array):
            self.array, self.ndim, self.shape, self.dtype, self.read = array, 4, array.shape, array.dtype, []

        def __len__(self):
            return len(self.array)

        def __getitem__(self, rows):
            self.read.append((rows.start, rows.stop))
            return self.array[rows]

    counting = Counting(pixels)
    found = [one.tensors["indices"] for one in stream.portions([counting], study.setup.test.shape, 8)]
    assert counting.read == [(start, min(start + 8, 50)) for start in range(0, 50, 8)]
    assert torch.cat(found).tolist() == [*range(50)]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is known on Linux alone")
def test_files_are_mapped_only_while_they_are_read(study, pixels, tmp_path):
    folder = in_a_folder(tmp_path / "shards", pixels, 10)
    some = [*stream.portions(stream.arrays_of(folder), study.setup.test.shape, 8)]
    found = torch.cat([one.tensors["pixels"] for one in some])
    assert torch.equal(found, torch.from_numpy(pixels).float() / 255)
    assert str(folder) not in Path("/proc/self/maps").read_text()


def test_after_an_interruption_the_same_call_goes_on(study, pixels, tmp_path, monkeypatch):
    given, submit, done = in_a_folder(tmp_path / "shards", pixels, 10, 20, 30, 40), Here.submit, []

    def stopping(executor, task, needs):
        if task.stage == "scores":
            done.append(task.key)
            if len(done) == 3:
                raise KeyboardInterrupt
        return submit(executor, task, needs)

    monkeypatch.setattr(Here, "submit", stopping)
    with pytest.raises(KeyboardInterrupt):
        study.score(given, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()
    study.score(given, tmp_path / "scores")
    assert len(done) == 3 + 8  # of ten portions, two were kept
    assert {path.name for path in tmp_path.iterdir()} >= {"scores"}
    assert not [*tmp_path.glob(".scores*")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((3, 1, 5, 5), dtype=np.float32), r"must be arrays \(n, 1, 8, 8\), as the study's, .*; got float32 "),
        (np.zeros((3, 1, 8, 8)), "got float64"),
        (np.full((3, 1, 8, 8), 2, dtype=np.float32), r"images must lie in \[0, 1\]"),
        ("nowhere", "an array, or a folder of .npy files; there is none in nowhere"),
    ],
)
def test_other_images_are_refused(study, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        study.score(given, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_a_folder_that_is_there_is_left_alone(study, pixels, tmp_path):
    with pytest.raises(FileExistsError, match="must be a new folder; it exists"):
        study.score(pixels, tmp_path)
