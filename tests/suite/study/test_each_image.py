"""A user's function is called again when code that it can reach changes, and not when words do."""

import importlib
import sys

import pytest

from vaecore.suite.study import sources


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Give a function that writes a user's package of three modules, and imports the one with the function."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "of_mine"
    folder.mkdir()
    files = {
        "__init__": "",
        "scores": '"""Scores."""\nfrom of_mine.values import value\n\n\ndef score(run, shard):\n'
        "    return shard.pixels[:, 0, 0, 0] * 0 + value()\n",
        "values": "def value():\n    from . import constants\n    return constants.VALUE\n",
        "constants": "VALUE = 1.0\n",
        "bystander": "VALUE = 7.0\n",
    }

    def written(**changes):
        files.update(changes)
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
        for name in [name for name in sys.modules if name.partition(".")[0] == "of_mine"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        for function in vars(sources).values():  # as in a new process
            if hasattr(function, "cache_clear"):
                function.cache_clear()
        return importlib.import_module("of_mine.scores").score

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which would be taken for the source a second later
    yield written
    for name in [name for name in sys.modules if name.partition(".")[0] == "of_mine"]:
        del sys.modules[name]


def test_what_its_module_imports_moves_its_key(tiny, project):
    assert (tiny.each_image(project()) == 1).all()
    taken = dict(tiny.plan.seconds)
    for words in (
        {"constants": "# A comment.\nVALUE = 1.0  # one\n"},
        {"constants": '"""A docstring."""\n\nVALUE = 1.0\n'},
        {"bystander": "VALUE = 8.0\n"},
    ):
        assert (tiny.each_image(project(**words)) == 1).all()
        assert tiny.plan.seconds == taken
    assert (tiny.each_image(project(constants="VALUE = 2.0\n")) == 2).all()
    late = "def value():\n    from . import constants\n    return 3 * constants.VALUE\n"
    assert (tiny.each_image(project(values=late)) == 6).all()
    assert (tiny.each_image(project(__init__="import sys\n")) == 6).all()
    assert tiny.plan.seconds["own"] > taken["own"]


def test_a_function_of_a_notebook_is_known_by_its_code(tiny):
    def cell(text):
        names = {"__name__": "a_notebook"}
        exec(compile(text, "<cell>", "exec"), names)  # noqa: S102  # as a notebook does
        return names["score"]

    text = "VALUE = 5.0\ndef score(run, shard):\n    return shard.pixels[:, 0, 0, 0] * 0 + VALUE\n"
    assert (tiny.each_image(cell(text)) == 5).all()
    taken = dict(tiny.plan.seconds)
    assert (tiny.each_image(cell(f"# again\n{text}")) == 5).all()
    assert tiny.plan.seconds == taken
    assert (tiny.each_image(cell(text.replace("5.0", "6.0"))) == 6).all()
