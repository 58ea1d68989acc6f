"""Files that are written whole or not at all, what a killed process leaves of them, and users without a home."""

import os
import pwd
import time
from pathlib import Path

import pytest

from vaecore import Store, load_images
from vaecore.suite.cache import cache_folder
from vaecore.suite.study import setup
from vaecore.toolkit import data_root, is_available, sweep, write_atomically


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600), (0o000, 0o666)])
def test_who_may_read_a_file_follows_from_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        (".summary.md.a1b2.tmp", 3600, False),
        (".summary.md.a1b2.tmp", 10, True),  # a live process's
        (".other.md.a1b2.tmp", 3600, True),
        ("summary.md.a1b2.tmp", 3600, True),
        (".summary.md.swp", 3600, True),
    ],
)
def test_what_a_killed_process_left_is_swept_away_once_it_is_old_and_nothing_else(tmp_path, name, age, stays):
    left, written = tmp_path / name, tmp_path / "summary.md"
    for path in (left, written):
        path.write_text("half", encoding="utf-8")
        os.utime(path, (time.time() - age,) * 2)
    sweep(tmp_path, "summary.md")
    assert (left.exists(), written.exists()) == (stays, True)


def test_what_cannot_be_swept_away_stays_and_stops_nothing(tmp_path):
    folders = [tmp_path / f".page.html.{one}.tmp" for one in ("a", "c")]  # which can't be unlinked
    for folder in folders:
        folder.mkdir()
    (tmp_path / ".page.html.b.tmp").touch()
    sweep(tmp_path, "page.html", older=0)
    assert sorted(tmp_path.iterdir()) == folders


# No home folder


@pytest.fixture
def _no_home(monkeypatch):
    """As in a container whose user has no entry in /etc/passwd."""
    for variable in ("HOME", "XDG_CACHE_HOME", "VAECORE_CACHE", "VAECORE_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])


NEED_A_HOME = {
    "cache": (lambda: cache_folder(None), "no home folder, .* name a folder with --cache-dir or VAECORE_CACHE"),
    "cache in home": (lambda: cache_folder("~/cache"), "~/cache needs a home folder; there is none"),
    "store": (lambda: Store("~/cache"), "~/cache needs a home folder"),
    "data": (data_root, "no home folder, .* name a folder with --data-root, root=... or VAECORE_DATA"),
    "set": (lambda: load_images("mnist"), "no home folder, .* name a folder with --data-root"),
    "file": (lambda: load_images("~/mine.npz"), "~/mine.npz needs a home folder"),
    "folder": (lambda: is_available("~/mine"), "~/mine needs a home folder"),
}


@pytest.mark.usefixtures("_no_home")
@pytest.mark.parametrize("case", NEED_A_HOME)
def test_what_needs_a_home_folder_says_so(case):
    call, message = NEED_A_HOME[case]
    with pytest.raises(FileNotFoundError, match=message):
        call()


@pytest.mark.usefixtures("_no_home")
def test_what_needs_no_home_folder_goes_without(tmp_path, monkeypatch):
    assert cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setattr(setup, "probe", lambda _: False)
    assert not is_available("mnist")
    assert setup.choose_dataset("auto", None).name == "digits"
    assert setup.Setup(setup.Dataset("digits", "")).sets.find("letters") == "letters"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (cache_folder(None), data_root()) == (tmp_path / "vaecore", tmp_path / "vaecore" / "data")
    assert not Path("~").exists()
