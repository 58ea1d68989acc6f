"""Does the command `vaecore cache` show and clear the cache, and make none? For `compare` and `page` see report."""

import re

import pytest
import torch

from vaecore import Store
from vaecore.suite.cli import main
from vaecore.suite.text import printable
from vaecore.toolkit import digest


def test_cache_shows_and_clears(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VAECORE_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("COLUMNS", "200")
    store = Store(tmp_path / "c")
    for number in range(3):
        store.get("models", digest(number), lambda: {"weight": torch.zeros(2**18)})
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "c") in shown
    (row,) = [line for line in shown.splitlines() if "models" in line]
    assert re.findall(r"[\w.]+", row) == ["models", "3", "3.0"]
    assert "deleted" not in shown
    assert main(["cache", "--clear"]) == 0
    assert "deleted" in capsys.readouterr().out
    assert store.usage() == []


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
