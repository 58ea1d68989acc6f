"""Does the command `vaecore cache` list and clear the cache, and make none? For `compare` and `page` see report."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch

import vaecore
from vaecore import Store
from vaecore.suite.cli import main
from vaecore.suite.text import printable
from vaecore.toolkit import digest

DAY = 86400
ENTRIES = {  # key: stage, study, days since its last use, whether other code made it
    "old": ("models", "mnist", 40, False),
    "new": ("models", "mnist", 0, False),
    "stale": ("draws", "mnist", 3, True),
    "mine": ("draws", "[red]mine.npz", 20, False),
    "unknown": ("draws", None, 31, False),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Give a cache with these entries of a MiB each, and a function that runs the command on it."""
    monkeypatch.setenv("VAECORE_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("COLUMNS", "200")
    store = Store(tmp_path / "c")
    for key, (stage, study, days, stale) in ENTRIES.items():
        code = {"vaecore.suite.study.gone": "a digest"} if stale else {}
        notes = {} if study is None else {"study": study, "code": json.dumps(code)}
        store.write(stage, key, {"weight": torch.zeros(2**18)}, seconds=0, notes=notes)
        os.utime(tmp_path / "c" / stage / f"{key}.safetensors", (time.time() - days * DAY - 60,) * 2)
    return store


def test_cache_lists_by_study_and_age(cache, capsys):
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert str(cache.folder) in shown
    rows = [
        [cell.strip() for cell in re.split(r" *[│┃] *", line)[1:-1]] for line in shown.splitlines() if "\u2502" in line
    ]
    assert rows == [
        ["[red]mine.npz", "draws", "1", "1.0", "20 days", "0"],
        ["mnist", "draws", "1", "1.0", "3 days", "1"],
        ["mnist", "models", "2", "2.0", "0 to 40 days", "0"],
        ["unknown", "draws", "1", "1.0", "31 days", "0"],
    ]
    assert shown.endswith("\n5 entries, 5.0 MiB.\n")
    assert len(cache.entries()) == 5


@pytest.mark.parametrize(
    ("options", "cleared"),
    [
        ([], ["mine", "new", "old", "stale", "unknown"]),
        (["--older-than", "30d"], ["old", "unknown"]),
        (["--older-than=2w"], ["mine", "old", "unknown"]),
        (["--study", "mnist"], ["new", "old", "stale"]),
        (["--study=[red]mine.npz"], ["mine"]),
        (["--study=unknown"], ["unknown"]),
        (["--stale"], ["stale"]),
        (["--study=mnist", "--older-than=1d"], ["old", "stale"]),
        (["--stale", "--older-than=30d"], []),
    ],
)
def test_cache_clears_what_it_lists(cache, capsys, options, cleared):
    count = "1 entry" if len(cleared) == 1 else f"{len(cleared)} entries"
    for more, said in (([], ""), (["--clear", "--dry-run"], "Would be deleted: ")):
        assert main(["cache", *options, *more]) == 0
        assert capsys.readouterr().out.endswith(f"\n{said}{count}, {len(cleared)}.0 MiB.\n")
        assert {entry.key for entry in cache.entries()} == {*ENTRIES}
    assert main(["cache", *options, "--clear"]) == 0
    assert capsys.readouterr().out.endswith(f"\nDeleted: {count}, {len(cleared)}.0 MiB.\n")
    assert sorted({*ENTRIES} - {entry.key for entry in cache.entries()}) == cleared


def test_cache_says_what_it_kept_as_a_process_uses_it(cache, capsys):
    cache.hold([("models", "old"), ("draws", "stale")])
    assert main(["cache", "--study=mnist", "--clear"]) == 0
    assert capsys.readouterr().out.endswith("\nDeleted: 1 entry, 1.0 MiB.\nKept, as a running process uses them: 2.\n")
    assert {entry.key for entry in cache.entries()} == {*ENTRIES} - {"new"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--older-than=30"], "it must be a number of days or weeks, as 30d or 2w; got '30'"),
        (
            ["--study=minst"],
            "--study must be one that the cache has entries of, [red]mine.npz, mnist, unknown; got minst",
        ),
        (["--dry-run"], "--dry-run must come with --clear; without that, nothing is deleted"),
    ],
)
def test_what_cache_can_t_list_is_a_usage_error(cache, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(["cache", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_version_and_help_are_there_without_torch():
    code = "import sys; from vaecore.suite.cli import main\n"
    code += "try: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    commands = [["--version"], ["--help"], *([name, "--help"] for name in ("compare", "carry-over", "page", "cache"))]
    shown = [
        subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout  # noqa: S603
        for words in commands
    ]
    assert shown[0] == f"vaecore {vaecore.__version__}\n"
    for (name, *_), text in zip(commands[2:], shown[2:], strict=True):
        assert f"For instance: vaecore {name} " in text


def test_a_cache_that_is_not_there_is_not_made(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["cache", "--cache-dir", str(tmp_path / "mistyped")])
    assert stopped.value.code == 2
    assert "error: there is no cache in " in capsys.readouterr().err
    assert not (tmp_path / "mistyped").exists()


def test_nothing_that_is_printed_acts_on_the_terminal(tmp_path, monkeypatch, capsys):
    """Folders of a cache that others can write to, and arguments, may have any name."""
    monkeypatch.setenv("COLUMNS", "200")
    Store(tmp_path / "c\x1b").get("[red]\x1b[31m:boom:", digest(0), lambda: {"weight": torch.zeros(2)})
    assert main(["cache", "--cache-dir", str(tmp_path / "c\x1b")]) == 0
    for arguments in (["compare", "a\x1b\n", "b"], ["cache", "\x9b2J"], ["page", "\x07"]):
        with pytest.raises(SystemExit):
            main(arguments)
    out, err = capsys.readouterr()
    assert all(printable(line) == line for line in (out + err).split("\n"))
    assert "[red]\\x1b[31m:boom:" in out
    assert [line.partition("error: ")[0] for line in err.splitlines() if "error: " in line] == ["vaecore: "] * 3
