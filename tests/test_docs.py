"""Every public name says what it is; what is cited is what is released."""

import ast
import importlib.util
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import vaecore
import vaecore.suite
import vaecore.toolkit

ROOT = Path(__file__).parents[1]


def script(name):
    """A script of the folder docs as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


snippets = script("snippets").snippets


def members(thing):
    """The public methods and properties that a class defines itself, and what a reader looks them up by."""
    return {
        f"{thing.__name__}.{name}": value
        for name, value in vars(thing).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property | classmethod))
    }


def undocumented(module):
    public = {name: getattr(module, name) for name in module.__all__}
    named = {name: value for name, value in public.items() if inspect.isclass(value) or inspect.isfunction(value)}
    for thing in [*named.values()]:
        if inspect.isclass(thing):
            named |= members(thing)
    return sorted(name for name, value in named.items() if not inspect.getdoc(value))


@pytest.mark.parametrize("module", [vaecore, vaecore.suite, vaecore.toolkit])
def test_every_public_name_has_a_docstring(module):
    assert undocumented(module) == []


def test_a_name_without_one_is_found():
    module = type(inspect)("module")

    class Thing:
        """Says what it is."""

        def method(self):
            pass

    module.Thing, module.bare, module.__all__ = Thing, lambda: None, ["Thing", "bare"]
    assert undocumented(module) == ["Thing.method", "bare"]


def test_snippets_are_found_where_they_are_programs_and_name_what_is_there():
    """Their types are `nox -s lint`'s, which has mypy."""
    pages = snippets()
    assert {"README", "library", "own-claims"} <= {*pages}
    assert not {"own-models", "own-study"} & {*pages}  # excerpts of classes
    for page, code in pages.items():
        tree = compile(code, page, "exec", ast.PyCF_ONLY_AST)
        asked = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_vc(node.value)}
        assert asked <= {*vaecore.__all__}


def is_vc(node):
    return isinstance(node, ast.Name) and node.id == "vc"


def test_the_citation_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", cited, re.MULTILINE).group(1) == vaecore.__version__
    assert re.search(r"^license: (.+)$", cited, re.MULTILINE).group(1) == project["license"]
