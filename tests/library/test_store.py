"""The store under damage, bad disks, kills and company: a result is right or computed again, never half there."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from filelock import Timeout
from safetensors.torch import save

from vaecore import Store, StoreWarning
from vaecore.toolkit import digest, read_tensors, write_tensors

RESULT = {
    "draws": torch.arange(6, dtype=torch.float32).view(2, 3) / 7,
    "labels": torch.tensor([3, -1, 2**40]),
    "success": torch.tensor([True, False]),
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "half": torch.tensor([0.5, -2], dtype=torch.bfloat16),
}
OTHER = {"x": torch.ones(1)}


class Work:
    """A computation that counts how often it was asked."""

    def __init__(self, result=RESULT):
        self.result, self.times = result, 0

    def __call__(self):
        self.times += 1
        return self.result


def same(tensors, expected=RESULT):
    return tensors.keys() == expected.keys() and all(
        tensors[name].dtype == value.dtype and torch.equal(tensors[name], value) for name, value in expected.items()
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


# Whole entries


def test_a_result_is_computed_once_and_comes_back_bit_by_bit(store):
    work, other = Work(), Work(OTHER)
    assert not store.has("s", "k")
    assert same(store.get("s", "k", work))
    assert store.has("s", "k")
    assert not store.has("t", "k")
    assert same(Store(store.folder).get("s", "k", work))
    assert work.times == 1
    assert same(store.get("s", "k2", other), OTHER)
    assert same(store.get("t", "k", other), OTHER)
    assert other.times == 2
    assert same(store.get("s", "k", work))
    assert leftovers(store) == []


def test_what_is_written_is_read_until_it_is_written_anew(store):
    assert store.read("s", "k") is None
    assert store.write("s", "k", RESULT, seconds=2.5)
    assert same(store.read("s", "k"))
    assert store.read("t", "k") is store.read("s", "k2") is None
    store.write("s", "k", OTHER, seconds=1)
    assert same(store.read("s", "k"), OTHER)
    assert leftovers(store) == []


def test_tensors_that_are_no_plain_blocks_of_memory_are_kept(store):
    grid = torch.arange(12.0).view(3, 4).requires_grad_()
    result = {
        "transposed": grid.T,
        "slice": grid[:, 1:3],
        "last": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    store.write("s", "k", result, seconds=0)
    assert same(store.read("s", "k"), result)


def test_notes_are_kept_beside_an_entry_with_its_seconds(store):
    assert store.entries() == []
    store.get("evidence", "a", Work(), notes={"function": "attack", "images": "12"})
    store.write("models", "b", OTHER, seconds=12.3456789)
    write_tensors(store.folder / "models" / "own.safetensors", RESULT, {"model": "VAE"})  # not the store's
    evidence, models = (entry.notes for entry in store.entries())
    assert evidence.items() >= {"stage": "evidence", "key": "a", "function": "attack", "images": "12"}.items()
    assert 0 <= float(evidence["seconds"]) < 60
    assert models.items() >= {"stage": "models", "key": "b", "seconds": "12.3457"}.items()


def test_the_seconds_are_those_of_the_computation(store, monkeypatch):
    now = [100.0]

    def work():
        now[0] += 7.5
        return RESULT

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    store.get("s", "k", work)
    assert float(store.entries()[0].notes["seconds"]) == 7.5


# Damage


def assert_recomputed(store, *, message="a stored result is computed again"):
    with pytest.warns(StoreWarning, match=message):
        assert store.read("s", "k") is None
    work = Work()
    with pytest.warns(StoreWarning, match=message):
        assert same(store.get("s", "k", work))
    assert same(store.get("s", "k", work))  # mended, and silent
    assert work.times == 1
    assert leftovers(store) == []


def test_any_flipped_bit_is_noticed(store, entry):
    whole = entry.read_bytes()
    positions = sorted({*range(0, len(whole), max(1, len(whole) // 60)), *range(9), len(whole) - 1})
    assert len(positions) > 60
    for number, position in enumerate(positions):
        entry.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << number % 8]) + whole[position + 1 :])
        assert_recomputed(store)


CUTS = [
    lambda whole, share=share: whole[: int(share * len(whole))] for share in (0, 0.001, 0.01, 0.3, 0.6, 0.95, 0.999)
]
FOREIGN = [lambda _, content=content: content for content in (b"PK\x03\x04" * 50, b"\0" * 500, b"\xff" * 500, b"{}")]


@pytest.mark.parametrize("damage", [*CUTS, *FOREIGN, lambda whole: whole + b"\0"])
def test_a_truncated_a_foreign_and_a_longer_file_are_noticed(store, entry, damage):
    entry.write_bytes(damage(entry.read_bytes()))
    assert_recomputed(store)


def test_an_entry_under_the_name_of_another_is_noticed(store, entry):
    store.write("s", "other", OTHER, seconds=0)
    entry.with_name("other.safetensors").replace(entry)
    assert_recomputed(store, message=r"must hold the key of its name; it holds other")


def test_a_file_without_a_checksum_and_a_changed_note_are_noticed(store):
    store.write("s", "k", RESULT, seconds=1, notes={"function": "attack"})
    path = store.folder / "s" / "k.safetensors"
    for content in (save(RESULT, {"stage": "s", "key": "k"}), path.read_bytes().replace(b"attack", b"attach")):
        path.write_bytes(content)
        assert_recomputed(store, message="must match its own checksum")


def test_a_damaged_entry_counts_and_goes_with_the_others(store):
    key = digest("some")
    store.write("s", key, RESULT, seconds=1)
    (store.folder / "s" / f"{key}.safetensors").write_bytes(b"half")
    assert [entry.notes for entry in store.entries()] == [None]
    store.clear()
    assert not store.has("s", key)


def test_notes_of_a_damaged_entry_are_none(store):
    store.write("s", "whole", RESULT, seconds=1)
    (store.folder / "s" / f"{digest('some')}.safetensors").write_bytes(b"half")
    assert [(entry.key, entry.notes is None) for entry in store.entries()] == [(digest("some"), True), ("whole", False)]


# Disks and computations that fail


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.EIO, "data gone")])
def test_a_computation_that_fails_leaves_nothing(store, error):
    def fail():
        raise error

    with pytest.raises(type(error)):
        store.get("s", "k", fail)
    assert not store.has("s", "k")
    assert leftovers(store) == []
    work = Work()
    assert same(store.get("s", "k", work))  # and the lock is free again
    assert work.times == 1


def fails_with(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


FULL_DISK = MagicMock()  # a file that can be opened and not written
FULL_DISK.return_value.__enter__.return_value.write = fails_with(errno.ENOSPC)
FULL_DISK.return_value.__exit__.return_value = False
FAULTS = {
    "No space left on device": ("pathlib.Path.open", FULL_DISK),
    "Read-only file system": ("pathlib.Path.open", fails_with(errno.EROFS)),
    "Disk quota exceeded": ("vaecore._store.Store._subfolder", fails_with(errno.EDQUOT)),
    "Input/output error": ("os.fsync", fails_with(errno.EIO)),
    "Permission denied": ("pathlib.Path.replace", fails_with(errno.EACCES)),
}
LOCK_FAULTS = [
    ("os.open", errno.EACCES),  # another user's file
    ("os.open", errno.EROFS),
    ("os.open", errno.ENOSPC),
    ("os.open", errno.EMFILE),
    ("fcntl.flock", errno.ENOLCK),  # a network file system without locks
    ("fcntl.flock", errno.ENOSYS),
    ("fcntl.flock", errno.EIO),
]


@pytest.mark.parametrize("message", FAULTS)
def test_a_disk_that_fails_costs_the_entry_but_not_the_result(store, monkeypatch, message):
    work = Work()
    with monkeypatch.context() as patch:
        patch.setattr(*FAULTS[message])
        with pytest.warns(StoreWarning, match=f"could not be kept in .*: {message}; the next run computes it again"):
            assert same(store.get("s", "k", work))
        with pytest.warns(StoreWarning, match=message):
            assert not store.write("s", "k", RESULT, seconds=1)
    assert not store.has("s", "k")
    assert leftovers(store) == []
    assert same(store.get("s", "k", work))
    assert work.times == 2


@pytest.mark.parametrize(("call", "number"), LOCK_FAULTS)
def test_a_lock_that_cannot_be_had_costs_one_warning_and_not_the_result(store, monkeypatch, call, number):
    work, real = Work(), os.open
    others = store.folder / "s" / ".k.safetensors.a1.tmp"  # without locks it may be that of a process at work
    others.parent.mkdir()
    others.touch()

    def fail(path, *rest, **settings):
        if call == "os.open" and not str(path).endswith(".lock"):
            return real(path, *rest, **settings)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.warns(StoreWarning, match=f"computed without locks, .*locks: {os.strerror(number)}") as warned:
            assert all(same(store.get("s", key, work)) for key in ("k", "k2"))
    assert len(warned) == 1
    assert others.exists()
    assert same(store.get("s", "k", work))
    assert work.times == 2


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_an_entry_that_cannot_be_read_is_computed_again(store, entry, monkeypatch, number):
    for call in ("vaecore._store.safe_open", "pathlib.Path.stat"):
        with monkeypatch.context() as patch:
            patch.setattr(call, fails_with(number))
            with pytest.warns(StoreWarning, match=f"is computed again: .*{os.strerror(number)}"):
                assert store.read("s", "k") is None
    assert same(store.read("s", "k"))


PLANTED = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.filterwarnings("ignore::vaecore.StoreWarning")
@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_no_file_in_the_place_of_an_entry_stops_nothing(store, kind):
    key = digest("some")
    path = store.folder / "s" / f"{key}.safetensors"
    path.parent.mkdir()
    PLANTED[kind](path)
    assert store.read("s", key) is None
    assert store.entries() == []
    store.clear()
    assert os.path.lexists(path)  # as it is not the store's
    assert same(store.get("s", key, Work()))
    assert path.is_file() == (kind != "folder")
    assert (store.read("s", key) is None) == (kind == "folder")


def test_an_entry_may_be_a_link_to_another_disk(store, entry, tmp_path):
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    assert same(store.read("s", "k"))
    store.clear()
    assert (store.has("s", "k"), (tmp_path / "elsewhere").exists()) == (False, True)


def test_an_entry_is_on_disk_before_it_has_its_name(store, monkeypatch):
    order = []
    real_sync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda handle: (order.append("sync"), real_sync(handle))[1])
    monkeypatch.setattr("pathlib.Path.replace", lambda self, to: (order.append("rename"), real_replace(self, to))[1])
    store.write("s", "k", RESULT, seconds=0)
    assert order == ["sync", "rename"]


def test_what_a_killed_process_left_is_swept_away_but_only_that(store, entry):
    entry.unlink()
    stale = [entry.with_name(f".k.safetensors.{name}.tmp") for name in ("a1", "b2")]
    foreign = [entry.with_name(".other.safetensors.c3.tmp"), entry.with_name("notes.txt")]
    for path in (*stale, *foreign):
        path.write_bytes(b"half")
    Store(store.folder).get("s", "k", Work())
    assert [path.exists() for path in stale] == [False, False]
    assert [path.exists() for path in foreign] == [True, True]  # another process may be writing that one


def test_a_folder_of_many_entries_is_listed_once_and_not_for_each(store, monkeypatch):
    listed = []
    for name in ("listdir", "scandir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path=".", real=real: listed.append(path) or real(path))
    for place in range(10):
        store.write("s", f"k{place}", RESULT, seconds=1)
    assert len(listed) == 1


def test_a_folder_is_expanded_and_must_be_writable(tmp_path, monkeypatch):
    below = tmp_path / "file"
    below.write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be writable; .*cache is not: Not a directory \(choose .*--cache-dir"):
        Store(below / "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/cache").folder == tmp_path / "cache"
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: fails_with(errno.EACCES)())
    with pytest.raises(ValueError, match=r"is not: Permission denied \(choose another with --cache-dir or VAECORE_C"):
        Store(tmp_path / "cache")


# Processes and users that share a folder


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o2775, 0o757, 0o777, 0o1777])
@pytest.mark.parametrize("part", ["", "s"])
def test_a_cache_that_all_users_can_write_to_is_taken_only_when_asked(tmp_path, mode, part):
    folder = tmp_path / "cache"
    (folder / part).mkdir(parents=True)
    (folder / part).chmod(mode)
    (tmp_path / "cache").parent.chmod(0o1777)  # as /tmp
    if mode & 0o002:
        message = rf"must be closed to other users, .*; all can write to {folder / part} \(`chmod o-w .* --shared-cache"
        with pytest.raises(ValueError, match=message):
            Store(folder)
        assert not (folder / "locks").exists()
    else:
        Store(folder)
    assert same(Store(folder, shared=True).get("s", "k", Work()))


@pytest.mark.parametrize("mode", [0o700, 0o2775])
def test_what_a_store_makes_is_as_open_as_its_folder_and_entries_follow_the_umask(tmp_path, mode):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    before = os.umask(0o022)
    try:
        Store(folder).get("s", "k", Work())
        modes = {path.name: path.stat().st_mode & 0o7777 for path in folder.rglob("*")}
    finally:
        os.umask(before)
    assert modes == {"locks": mode, "s": mode, "k.lock": mode & 0o666, "k.safetensors": 0o644}


def test_a_new_cache_is_closed_to_other_users_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        Store(tmp_path / "new" / "cache").get("s", "k", Work())
    finally:
        os.umask(before)
    Store(tmp_path / "new" / "cache")


def test_a_key_is_locked_while_its_entry_is_computed_and_no_other(store):
    def is_free(key):
        try:
            with store.lock(key, blocking=False):
                return True
        except Timeout:
            return False

    free = []
    store.get("s", "k", lambda: free.extend(map(is_free, ("k", "k2"))) or RESULT)
    assert free == [False, True]
    assert is_free("k")
    with store.lock("k"):
        assert same(store.get("s", "k", Work()))  # a stored result needs no lock


WORKER = """
import sys, time, torch
from vaecore import Store

def work():
    print("at work", flush=True)
    time.sleep(0.5)
    return {"x": torch.arange(5)}

Store(sys.argv[1]).get("s", "k", work)
"""


@pytest.mark.slow
def test_a_process_waits_for_another_that_is_at_the_same_work(store):
    with subprocess.Popen(  # noqa: S603  # our own script
        [sys.executable, "-W", "error", "-c", WORKER, str(store.folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as other:
        assert other.stdout.readline() == "at work\n"
        assert not store.has("s", "k")
        work = Work()
        assert store.get("s", "k", work)["x"].tolist() == [0, 1, 2, 3, 4]
        assert work.times == 0
    assert other.returncode == 0


def test_entries_and_clear(store):
    assert store.entries() == []
    store.get("models", "a", Work())
    store.get("evidence", "b", Work())
    store.get("evidence", "c", Work({"x": torch.zeros(1000)}))
    entries = store.entries()
    assert [(entry.stage, entry.key) for entry in entries] == [("evidence", "b"), ("evidence", "c"), ("models", "a")]
    for entry in entries:
        assert entry.size == (store.folder / entry.stage / f"{entry.key}.safetensors").stat().st_size
    assert entries[1].size > 4000

    mine = store.folder / "models" / "mine.txt"
    mine.write_text("keep", encoding="utf-8")
    left = store.folder / "models" / ".a.safetensors.b2.tmp"  # by a process that was killed an hour ago
    left.touch()
    os.utime(left, (time.time() - 3600,) * 2)
    weights = store.folder / "weights" / "own.safetensors"  # a user's own, of the same kind
    weights.parent.mkdir()
    write_tensors(weights, RESULT, {"model": "VAE"})
    copies = Path(shutil.copytree(store.folder / "models", store.folder / "copies"))
    assert store.entries() == entries
    assert store.clear(entries[1:]) == entries[1:]
    assert store.entries() == entries[:1]
    assert store.clear() == entries[:1]
    assert all(path.exists() for path in (weights, mine, copies / "a.safetensors"))
    assert store.entries() == []
    assert list((store.folder / "locks").iterdir()) == []
    assert not left.exists()
    assert store.read("models", "a") is None


def test_what_another_process_holds_or_computes_is_not_cleared(store):
    other = Store(store.folder)
    for key in ("held", "free", "own"):
        store.write("s", key, RESULT, seconds=0)
    other.hold([("s", "held"), ("s", "to come")])
    store.hold([("s", "own")])

    def clear():
        store.write("s", "to come", RESULT, seconds=0)
        return sorted(entry.key for entry in store.clear())

    assert clear() == ["free", "own"]  # what it holds itself it may clear
    assert [entry.key for entry in store.entries()] == ["held", "to come"]
    del other
    with store.lock("held"):
        assert clear() == ["to come"]
    assert clear() == ["held", "to come"]


HOLDER = """
import sys, time
from vaecore import Store

store = Store(sys.argv[1])
store.hold([("s", "k")])
print("holding", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_what_a_killed_process_held_is_cleared_with_its_traces(store, entry):
    with subprocess.Popen(  # noqa: S603  # our own script
        [sys.executable, "-c", HOLDER, str(store.folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as other:
        assert other.stdout.readline() == "holding\n"
        cleared = store.clear()
        other.kill()
    assert cleared == []
    assert [one.key for one in store.clear()] == ["k"]
    assert not entry.exists()
    assert list((store.folder / "locks").iterdir()) == []


def test_where_there_are_no_locks_what_was_held_stays(store, entry, monkeypatch):
    """It can't be told whether the process that held it is still at work."""
    other = Store(store.folder)
    other.hold([("s", "k")])
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", fails_with(errno.ENOLCK))
        with pytest.warns(StoreWarning, match="computed without locks"):
            assert store.clear() == []
    assert entry.exists()


@pytest.mark.parametrize("use", [lambda store: store.read("s", "k"), lambda store: store.hold([("s", "k")])])
def test_an_entry_is_as_old_as_its_last_use_to_the_day(store, entry, use):
    def age():
        return time.time() - store.entries()[0].used

    for days, left in ((40, 0), (0.5, 0.5)):
        os.utime(entry, (time.time() - days * 86400,) * 2)
        assert age() == pytest.approx(days * 86400, abs=100)
        use(store)
        assert age() == pytest.approx(left * 86400, abs=100)


def test_files_of_tensors_outside_the_store(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, RESULT, {"model": "VAE"})
    header, tensors = read_tensors(path)
    assert header == {"model": "VAE"}
    assert same(tensors)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"must be a whole safetensors file; it can't be read"):
        read_tensors(path)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "absent")
    with pytest.raises(ValueError, match="must be a file; it is a folder"):
        read_tensors(tmp_path)
