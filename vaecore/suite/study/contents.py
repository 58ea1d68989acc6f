"""Digests of objects in memory: what they hold, and the code of their classes and functions.

For what a notebook or a script makes, which no import can make again. An object is taken apart as for a pickle. Code of
a file counts as in `sources.py`, with all that the file can reach by imports; that of a notebook's cell counts by its
instructions and by the names that it looks up, and so on. Installed packages count by their version.
"""

import dis
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from vaecore.suite.study.sources import (
    Sources,
    digest_of,
    is_library,
    look_again,
    sources_of_main,
    sources_of_module,
    version_of,
)
from vaecore.toolkit import digest

_PLAIN = (bool, int, float, str, type(None))
_SHARED = (tuple, frozenset, bytes, CodeType)  # which Python may make once or twice, as it likes
_WRAPPED = {classmethod: "__func__", staticmethod: "__func__", cached_property: "func"}  # where the function stands
_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")


def contents_digest(value: object) -> str:
    """Digest of an object: its tensors and values, and the code that it can run; the same in each process."""
    look_again()
    return digest(_Contents().of(value))


class _Contents:
    """Takes objects apart. What comes again is known by the place where it came first."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._kept: list[object] = []  # so that no other object gets the id of one that has been seen

    def of(self, value: Any) -> Any:
        """Plain values that say what an object is."""
        if type(value) in _PLAIN:
            return value
        if id(value) in self._places:
            return ["again", self._places[id(value)]]
        if not isinstance(value, _SHARED):
            self._places[id(value)] = len(self._kept)
            self._kept.append(value)
        return [f"{type(value).__module__}.{type(value).__qualname__}", *self._parts(value)]

    def _parts(self, value: Any) -> Iterable[Any]:
        if isinstance(value, Tensor):
            return [digest(value)]
        if isinstance(value, bytes | bytearray):
            return [digest(bytes(value))]
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return [str(value.dtype), list(value.shape), digest(value.tobytes())]
        if isinstance(value, ModuleType):
            return [value.__name__, _digest_of(value.__name__)]
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | None):
            return [value.__module__, value.__qualname__]
        if isinstance(value, CodeType):
            return [value.co_code.hex(), value.co_names, value.co_varnames, *map(self.of, value.co_consts)]
        if type(value) in (list, tuple):
            return map(self.of, value)
        if type(value) in (set, frozenset):
            return sorted(digest(_Contents().of(part)) for part in value)
        if type(value) is dict:
            return [[self.of(name), self.of(part)] for name, part in value.items()]
        if (name := _WRAPPED.get(type(value))) is not None:
            return [self.of(getattr(value, name))]
        if isinstance(value, property):
            return map(self.of, (value.fget, value.fset, value.fdel))
        return self._reduced(value)

    def _reduced(self, value: Any) -> Iterable[Any]:
        try:
            parts = value.__reduce_ex__(4)
        except TypeError:  # a lock, say, that a class holds
            return [self.of(type(value))]
        if isinstance(parts, str):
            return [parts]
        return [self.of([*part] if isinstance(part, Iterator) else part) for part in parts]

    def _class(self, value: type) -> list[Any]:
        named = [value.__module__, value.__qualname__, _digest_of(value.__module__)]
        if is_library(value.__module__):
            return named
        own = {
            name: part
            for name, part in sorted(vars(value).items())
            if not name.startswith(("__", "_abc_")) or isinstance(part, FunctionType)
        }
        return [*named, *map(self.of, value.__bases__), self.of(own)]

    def _function(self, value: FunctionType) -> list[Any]:
        named = [value.__module__, value.__qualname__, _digest_of(value.__module__)]
        if is_library(value.__module__ or "") and not value.__closure__:
            return named
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__, cells]
        if Path(value.__code__.co_filename).resolve() not in _sources(value.__module__).files:  # which count as a whole
            known = value.__globals__
            parts.append({name: known[name] for name in sorted(_looked_up(value.__code__)) if name in known})
        return [*named, *map(self.of, parts)]


def _sources(module: str | None) -> Sources:
    """The file that a module stands in, and what it reaches; nothing for a cell of a notebook, and for libraries."""
    if module is None:
        return Sources((), ())
    return sources_of_main() if module == "__main__" else sources_of_module(module)


def _digest_of(module: str | None) -> str:
    """Digest of those sources, or a library's version."""
    top = (module or "").partition(".")[0]
    library = is_library(top) and top not in sys.stdlib_module_names
    return version_of(top) if library else digest_of(_sources(module))


def _looked_up(code: CodeType) -> set[str]:
    """The global names that code, and functions in it, look up."""
    names = {one.argval for one in dis.get_instructions(code) if one.opname in _GLOBALS}
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return names.union(*map(_looked_up, inner))
