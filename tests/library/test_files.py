"""Files that are written whole or not at all, and what a killed process leaves of them."""

import os
import time

import pytest

from vaecore.toolkit import sweep


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        (".summary[1].md.a1b2.tmp", 3600, False),
        (".summary[1].md.a1b2.tmp", 10, True),  # a live process's
        (".other.md.a1b2.tmp", 3600, True),
        (".summary1.md.a1b2.tmp", 3600, True),  # which the brackets would match, were they a pattern
        ("summary[1].md.a1b2.tmp", 3600, True),
        (".summary[1].md.swp", 3600, True),
    ],
)
def test_what_a_killed_process_left_is_swept_away_once_it_is_old_and_nothing_else(tmp_path, name, age, stays):
    left, written = tmp_path / name, tmp_path / "summary[1].md"
    for path in (left, written):
        path.write_text("half", encoding="utf-8")
        os.utime(path, (time.time() - age,) * 2)
    sweep(tmp_path, "summary[1].md")
    assert (left.exists(), written.exists()) == (stays, True)


def test_what_cannot_be_swept_away_stays_and_stops_nothing(tmp_path):
    folders = [tmp_path / f".page.html.{one}.tmp" for one in ("a", "c")]  # which can't be unlinked
    for folder in folders:
        folder.mkdir()
    (tmp_path / ".page.html.b.tmp").touch()
    sweep(tmp_path, "page.html", older=0)
    assert sorted(tmp_path.iterdir()) == folders
