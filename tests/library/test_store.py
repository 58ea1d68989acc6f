"""The store under damage, full disks, kills and company: a result is right or computed again, never half there."""

import dataclasses
import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from vaecore import Store, StoreWarning, VAEConfig, _store
from vaecore._store import digest, read_tensors, write_tensors

RESULT = {
    "draws": torch.arange(6, dtype=torch.float32).view(2, 3) / 7,
    "labels": torch.tensor([3, -1, 2**40]),
    "success": torch.tensor([True, False]),
    "scalar": torch.tensor(0.1, dtype=torch.float64),
}


class Work:
    """A computation that counts how often it was asked."""

    def __init__(self, result=None):
        self.result, self.times = RESULT if result is None else result, 0

    def __call__(self):
        self.times += 1
        return self.result


def same(found, expected=None):
    expected = RESULT if expected is None else expected
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in expected.items()
    )


def leftovers(store):
    return [path for path in store.folder.rglob("*") if path.is_file() and path.suffix not in {".safetensors", ".lock"}]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


@pytest.fixture
def entry(store):
    """The file of a stored result, under stage "s" and key "k"."""
    store.get("s", "k", Work())
    (path,) = (store.folder / "s").iterdir()
    assert path.name == "k.safetensors"
    return path


@dataclasses.dataclass
class Other:
    latent_size: int = 20


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("ab", "c"), ("a", "bc")),
        ((b"ab", b"c"), (b"a", b"bc")),
        (("ab",), ("a", "b")),
        (("a", ""), ("a",)),
        ((torch.zeros(2, 3),), (torch.zeros(3, 2),)),
        ((torch.zeros(6),), (torch.zeros(2, 3),)),
        ((torch.zeros(2, dtype=torch.float32),), (torch.zeros(2, dtype=torch.int32),)),
        ((torch.tensor([0.0]),), (torch.tensor([-0.0]),)),
        ((torch.tensor([1.0, 2.0]),), (torch.tensor([2.0, 1.0]),)),
        ((VAEConfig(),), (VAEConfig(beta=2.0),)),
        ((VAEConfig(latent_size=3),), (Other(3),)),
        ((1,), ("1",)),
        ((1,), (1.0,)),
        ((None,), (False,)),
        (({"a": 1},), ({"a": 2},)),
        ((b"a",), (b"b",)),
    ],
)
def test_digest_tells_apart(left, right):
    assert digest(*left) != digest(*right)


def test_digest_is_of_the_content_and_stable(tmp_path):
    assert digest("fgsm-0.1", 3, None, [1.5]) == "661983b70980d26a3ff5be298bbc2beb"
    grid = torch.arange(6).view(2, 3)
    assert digest(grid.T) == digest(grid.T.contiguous()) != digest(grid)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(VAEConfig()) == digest(VAEConfig(latent_size=20))
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = digest(path)
    assert first == digest(b"one")
    path.write_bytes(b"two")
    assert digest(path) != first
    with pytest.raises(TypeError):
        digest(object())


def test_a_result_is_computed_once_and_comes_back_bit_by_bit(store):
    work = Work()
    assert not store.has("s", "k")
    assert same(store.get("s", "k", work))
    assert store.has("s", "k")
    assert same(Store(store.folder).get("s", "k", work))
    assert work.times == 1
    assert not store.has("t", "k")
    other = Work({"x": torch.ones(1)})
    assert same(store.get("s", "k2", other), other.result)
    assert same(store.get("t", "k", other), other.result)
    assert other.times == 2
    assert same(store.get("s", "k", work))
    assert leftovers(store) == []


def test_tensors_that_are_no_plain_blocks_of_memory_are_kept(store):
    grid = torch.arange(12.0).view(3, 4)
    result = {
        "transposed": grid.T,
        "slice": grid[:, 1:3],
        "last": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    store.get("s", "k", Work(result))
    work = Work()
    assert same(store.get("s", "k", work), result)
    assert work.times == 0


def assert_recomputed(store, *, message="a stored result is computed again"):
    work = Work()
    with pytest.warns(StoreWarning, match=message):
        found = store.get("s", "k", work)
    assert same(found)
    assert work.times == 1
    assert same(store.get("s", "k", work))  # mended, and silent
    assert work.times == 1
    assert leftovers(store) == []


def test_any_flipped_bit_is_noticed(store, entry):
    whole = entry.read_bytes()
    positions = sorted({*range(0, len(whole), max(1, len(whole) // 60)), *range(9), len(whole) - 1})
    assert len(positions) > 60
    for number, position in enumerate(positions):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << number % 8
        entry.write_bytes(damaged)
        assert_recomputed(store)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.6, 0.95, 0.999])
def test_a_truncated_entry_is_noticed(store, entry, share):
    whole = entry.read_bytes()
    entry.write_bytes(whole[: int(share * len(whole))])
    assert_recomputed(store)


@pytest.mark.parametrize("content", [b"PK\x03\x04" * 50, b"\0" * 500, b"\xff" * 500, b"{}"])
def test_a_foreign_file_is_noticed(store, entry, content):
    entry.write_bytes(content)
    assert_recomputed(store)


def test_bytes_after_the_end_are_noticed(store, entry):
    entry.write_bytes(entry.read_bytes() + b"\0")
    assert_recomputed(store)


def test_an_entry_under_the_name_of_another_is_noticed(store, entry):
    store.get("s", "other", Work({"x": torch.ones(1)})).clear()
    entry.with_name("other.safetensors").replace(entry)
    assert_recomputed(store, message=r"must hold the key of its name; it holds other")


def test_a_whole_file_without_a_checksum_is_noticed(store, entry):
    _, tensors = read_tensors(entry)
    entry.write_bytes(_store.save(tensors, {"stage": "s", "key": "k"}))
    assert_recomputed(store, message="must match its own checksum")


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.EIO, "data gone")])
def test_a_computation_that_fails_leaves_nothing(store, error):
    def fail():
        raise error

    with pytest.raises(type(error)):
        store.get("s", "k", fail)
    assert not store.has("s", "k")
    assert [path for path in store.folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    work = Work()
    assert same(store.get("s", "k", work))  # and the lock is free again
    assert work.times == 1


class FullDisk:
    """A file on a disk that takes ten bytes."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full(monkeypatch):
    real = os.fdopen
    monkeypatch.setattr(_store.os, "fdopen", lambda *a, **k: FullDisk(real(*a, **k)))


def _unsynced(monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_store.os, "fsync", fail)


def _unrenamed(monkeypatch):
    def fail(*_):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "replace", fail)


@pytest.mark.parametrize(
    ("fault", "message"),
    [(_full, "No space left on device"), (_unsynced, "Input/output error"), (_unrenamed, "Permission denied")],
)
def test_a_disk_that_fails_costs_the_entry_but_not_the_result(store, monkeypatch, fault, message):
    work = Work()
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.warns(StoreWarning, match=f"could not be kept in .*: {message}; the next run computes it again"):
            assert same(store.get("s", "k", work))
    assert not store.has("s", "k")
    assert leftovers(store) == []
    assert same(store.get("s", "k", work))
    assert work.times == 2


def test_an_entry_is_on_disk_before_it_has_its_name(store, monkeypatch):
    order = []
    real_sync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(_store.os, "fsync", lambda handle: (order.append("sync"), real_sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("rename"), real_replace(self, to))[1])
    store.get("s", "k", Work())
    assert order == ["sync", "rename"]


def test_what_a_killed_process_left_is_swept_away_but_only_that(store, entry):
    entry.unlink()
    stale = [entry.with_name(f".k.safetensors.{name}.tmp") for name in ("a1", "b2")]
    foreign = [entry.with_name(".other.safetensors.c3.tmp"), entry.with_name("notes.txt")]
    for path in (*stale, *foreign):
        path.write_bytes(b"half")
    store.get("s", "k", Work())
    assert [path.exists() for path in stale] == [False, False]
    assert [path.exists() for path in foreign] == [True, True]  # another process may be writing that one


def test_a_folder_that_cannot_be_written_is_refused_with_the_way_out(tmp_path, monkeypatch):
    below = tmp_path / "file"
    below.write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be writable; .*cache is not: Not a directory \(choose .*--cache-dir"):
        Store(below / "cache")

    def refuse(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(_store.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError, match=r"is not: Permission denied \(choose another with --cache-dir or VAECORE_C"):
        Store(tmp_path / "cache")


def test_the_home_folder_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/cache").folder == tmp_path / "cache"


WORKER = """
import sys, time, torch
from vaecore._store import Store

def work():
    print("at work", flush=True)
    time.sleep(0.5)
    return {"x": torch.arange(5)}

Store(sys.argv[1]).get("s", "k", work)
"""


def test_a_process_waits_for_another_that_is_at_the_same_work(store):
    with subprocess.Popen(  # noqa: S603  # our own script
        [sys.executable, "-W", "error", "-c", WORKER, str(store.folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(_store.__file__).parents[1],
    ) as other:
        assert other.stdout.readline() == "at work\n"
        assert not store.has("s", "k")
        work = Work()
        assert store.get("s", "k", work)["x"].tolist() == [0, 1, 2, 3, 4]
        assert work.times == 0
    assert other.returncode == 0


def test_usage_and_clear(store):
    assert store.usage() == []
    store.get("models", "a", Work())
    store.get("evidence", "b", Work())
    store.get("evidence", "c", Work({"x": torch.zeros(1000)}))
    evidence, models = store.usage()
    sizes = [path.stat().st_size for path in (store.folder / "evidence").iterdir()]
    assert (evidence.stage, evidence.entries, evidence.size) == ("evidence", 2, sum(sizes))
    assert evidence.size > 4000
    assert (models.stage, models.entries) == ("models", 1)

    mine = store.folder / "models" / "mine.txt"
    mine.write_text("keep", encoding="utf-8")
    weights = store.folder / "weights" / "own.safetensors"  # a user's own, of the same kind
    weights.parent.mkdir()
    write_tensors(weights, RESULT, {"model": "VAE"})
    store.clear()
    assert weights.exists()
    assert store.usage() == []
    assert list((store.folder / "locks").iterdir()) == []
    assert mine.exists()
    work = Work()
    store.get("models", "a", work)
    assert work.times == 1


def test_files_of_tensors_outside_the_store(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, RESULT, {"model": "VAE"})
    header, tensors = read_tensors(path)
    assert header == {"model": "VAE"}
    assert same(tensors)
    assert path.stat().st_mode & 0o777 == 0o644
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"must be a whole safetensors file; it can't be read"):
        read_tensors(path)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "absent")


def test_reading_an_entry_raises_no_warning(store, entry):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(store.get("s", "k", Work()))
