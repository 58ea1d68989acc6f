"""Digests of code: all source that a function can reach by imports, and the versions of libraries.

Source counts without comments and docstrings. It is that of the function's module, of the packages around it, of what
their import statements name, wherever these stand, and so on; not of the standard library, nor of installed packages
other than this one. Names that `vaecore`, `vaecore.toolkit` and `vaecore.suite` offer lead to the modules that define
them.

Keys are of the code in memory. A file counts as it was when it was first read. Edited, it is read again once its module
has been loaded anew, as in a notebook, or as long as that has not been loaded at all.
"""

import ast
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from sysconfig import get_path
from typing import Any

from vaecore.toolkit import digest

_OURS = __name__.partition(".")[0]
_STUBS = {
    _OURS: Path(__file__).parents[2] / "__init__.pyi",
    f"{_OURS}.toolkit": Path(__file__).parents[2] / "toolkit.pyi",
    f"{_OURS}.suite": Path(__file__).parents[1] / "__init__.pyi",
}
# Libraries for files, processes and figures, whose versions change no number.
_NOT_COMPUTING = {
    *("IPython", "PIL", "cloudpickle", "cycler", "filelock", "jinja2", "lazy_loader", "loky", "matplotlib"),
    *("pandas", "platformdirs", "rich", "safetensors"),
}
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow"}


@dataclass(frozen=True)
class Sources:
    """Files that a result depends on, sorted, and the top-level names of the libraries that they import."""

    files: tuple[Path, ...]
    libraries: tuple[str, ...]


@dataclass
class _Read:
    """A file as it was read. loaded: tells loads of its module apart, None without one. state: its time and size.

    package: the one that its relative imports start from.
    """

    module: str
    package: str
    loaded: object
    state: tuple[int, int] | None
    tree: ast.Module

    @cached_property
    def code(self) -> str:
        """Digest of the syntax tree, without comments and docstrings."""
        for node in ast.walk(self.tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
        return digest(ast.dump(self.tree))

    @cached_property
    def imports(self) -> tuple[str, ...]:
        """Names that the import statements may stand for: modules, and names in them, which may be modules, too."""
        left: list[ast.AST] = [self.tree]
        names: dict[str, None] = {}
        while left:
            node = left.pop()
            if isinstance(node, ast.If) and _is_for_types(node.test):
                left += node.orelse
            elif isinstance(node, ast.Import):
                names |= dict.fromkeys(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                base = resolve_name(base, self.package) if node.level else base
                offered = _stub(base) if base in _STUBS else {}
                names |= {} if offered else {base: None}
                names |= dict.fromkeys(offered.get(alias.name, f"{base}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.stmt | ast.Module | ast.excepthandler | ast.match_case):
                left += ast.iter_child_nodes(node)
        return tuple(names)


_read: dict[Path, _Read] = {}
_edited: list[Path] = []  # files that had to be read again, in order


def look_again() -> int:
    """Forget what was read of files that were edited since, and loaded anew; returns how many there were so far."""
    edited = []
    for file, read in _read.items():
        loaded = _loaded(read.module)
        same = loaded is read.loaded
        if same and loaded is not None:
            continue
        if (read.loaded is not None and not same) or _state(file) != read.state:
            edited.append(file)
        else:
            read.loaded = loaded
    if edited:
        for file in _read.copy() if {*edited} & {*_STUBS.values()} else edited:  # all imports follow from the stubs
            del _read[file]
        for cached in (code_digest, digest_of, sources_of, _stub, _find, _spec):
            cached.cache_clear()
        _edited.extend(edited)
    return len(_edited)


def _loaded(name: str) -> object:
    module = sys.modules.get(name)
    return getattr(module, "__spec__", None) or module  # a script has no spec


def _state(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def code_digest(function: Callable[..., Any]) -> str:
    """Digest of all code that a function's result depends on; raises ValueError where its source can't be read."""
    look_again()
    file = inspect.getsourcefile(function)
    if file is None or not Path(file).is_file():  # a cell of a notebook
        raise ValueError(f"{function.__qualname__} must stand in a file, so that a change to it is noticed")
    return digest_of(sources_of(Path(file).resolve(), _package(function.__module__, Path(file))))


@lru_cache(maxsize=256)
def digest_of(sources: Sources) -> str:
    """Digest of the files' code and of the versions of the libraries."""
    return digest(
        *(_file(file).code for file in sources.files), [[name, version_of(name)] for name in sources.libraries]
    )


@lru_cache(maxsize=256)
def sources_of(file: Path, package: str) -> Sources:
    """What a file can reach. package: the package that its relative imports start from; empty for none."""
    around = () if package in _STUBS else _find(package) or ()
    files, libraries, left = set[Path](), set[str](), [(file, package), *around]
    while left:
        file, package = left.pop()
        if file in files:
            continue
        files.add(file)
        for name in _file(file, package).imports:
            reached = _find(name)
            if reached is None:
                top = name.partition(".")[0]
                if top not in {*sys.stdlib_module_names, *_NOT_COMPUTING, _OURS} and _is_library(top):
                    libraries.add(top)
            else:
                left += [step for step in reached if step[0] not in files]
    return Sources(tuple(sorted(files)), tuple(sorted(libraries)))


def sources_of_module(name: str) -> Sources:
    """What a module, by its dotted name, can reach."""
    look_again()
    reached = _find(name)
    if reached is None:
        return Sources((), ())
    parts = [sources_of(*step) for step in reached]
    files = {file for part in parts for file in part.files}
    return Sources(tuple(sorted(files)), tuple(sorted({name for part in parts for name in part.libraries})))


def sources_of_main() -> Sources:
    """What the script that was started can reach; nothing in a notebook, whose cells stand in no file."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return Sources((), ()) if file is None or not Path(file).is_file() else sources_of(Path(file).resolve(), "")


def is_library(name: str) -> bool:
    """Whether a module, by its dotted name, is of Python or of an installed package other than this one."""
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names or (top != _OURS and _is_library(top))


def _file(file: Path, package: str = "") -> _Read:
    if file not in _read:
        module = package if file.name == "__init__.py" else f"{package}.{file.stem}".lstrip(".")
        if file == Path(getattr(sys.modules["__main__"], "__file__", None) or "").resolve():
            module = "__main__"
        loaded, state = _loaded(module), _state(file)
        _read[file] = _Read(module, package, loaded, state, _parsed(file.read_bytes()))
    return _read[file]


def _is_text(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def _is_for_types(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


@lru_cache(maxsize=8)
def _stub(name: str) -> dict[str, str]:
    """For each name that a stub of ours offers, the module that defines it."""
    lines = [node for node in _file(_STUBS[name]).tree.body if isinstance(node, ast.ImportFrom)]
    package = name if _STUBS[name].stem == "__init__" else name.rpartition(".")[0]
    return {alias.name: resolve_name(f".{line.module}", package) for line in lines for alias in line.names}


@lru_cache(maxsize=2048)
def _find(name: str) -> tuple[tuple[Path, str], ...] | None:
    """The files of a module and of the packages around it, each with its own package; None where they are not ours.

    `import vaecore` alone stands for all that it offers. Nothing is imported to find them.
    """
    top, *parts = name.split(".")
    if is_library(name):
        return None
    if name in _STUBS:
        modules = sorted(set(_stub(name).values()))
        return tuple(dict.fromkeys(step for module in modules for step in _find(module) or ()))
    spec = _spec(top)
    steps = [_step(Path(str(spec.origin)), top)] if spec and spec.origin else []
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    for end, part in enumerate(parts, start=1):
        module = ".".join([top, *parts[:end]])
        files = [folder / path for folder in folders for path in (f"{part}/__init__.py", f"{part}.py")]
        file = next((file for file in files if file.is_file()), None)
        if file is not None:
            steps.append(_step(file, module))
        folders = [folder / part for folder in folders if (folder / part).is_dir()]
    return tuple(step for step in steps if step[0].suffix == ".py") or None


def _step(file: Path, module: str) -> tuple[Path, str]:
    return file.resolve(), module if file.name == "__init__.py" else module.rpartition(".")[0]


@lru_cache(maxsize=256)
def _spec(top: str) -> ModuleSpec | None:
    try:
        return find_spec(top)
    except (ImportError, ValueError):  # `__main__`, or a module that was made by hand
        return None


@lru_cache(maxsize=256)
def _is_library(top: str) -> bool:
    """Whether a top-level name is that of an installed package."""
    spec = _spec(top)
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    standard = Path(get_path("stdlib")).resolve()
    return any(
        {"site-packages", "dist-packages"} & {*Path(str(place)).parts} or Path(str(place)).is_relative_to(standard)
        for place in places
    )


@lru_cache(maxsize=256)
def version_of(library: str) -> str:
    """The version of an installed library, without what follows a plus: the same release built for another GPU."""
    name = _DISTRIBUTIONS.get(library, library)
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:  # a package of another name than its distribution
        names = packages_distributions().get(library)  # looks at all that is installed, which takes seconds
        return version(names[0]).partition("+")[0] if names else ""


def _package(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def _parsed(source: bytes) -> ast.Module:
    """The syntax tree. Python 3.11 counts its depth for all threads at once, and fails by chance if another parses."""
    while True:
        try:
            return ast.parse(source)
        except SystemError as error:
            if "recursion depth mismatch" not in str(error):
                raise
