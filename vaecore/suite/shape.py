"""Shapes of plain values, and where a value does not have its own.

A shape is a type, or None; a tuple of shapes, any of which will do; a dict of shapes, for an object that has these
keys, or may lack those that end in "?"; or one of the classes here. An object may have keys that its shape does not.
"""

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_WORDS = {str: "a text", bool: "true or false", dict: "an object", list: "a list", None: "null"}


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`; by default all whose squares' squares are finite."""

    low: float = -1e50
    high: float = 1e50
    whole: bool = False

    def __str__(self) -> str:
        """In words."""
        kind = "a whole number" if self.whole else "a number"
        if self.high < Number.high:
            return f"{kind} from {self.low:g} to {self.high:g}"
        return kind if self.low == Number.low else f"{kind} of {self.low:g} or more"


@dataclass(frozen=True)
class ListOf:
    """A list of `least` items or more, and of `most` or fewer, all of one shape."""

    shape: Any
    least: int = 0
    most: float = float("inf")


@dataclass(frozen=True)
class MapOf:
    """An object of `least` keys or more, of any names, whose values are all of one shape."""

    shape: Any
    least: int = 0


def fault(value: Any, shape: Any, where: str = "") -> str:
    """Where a value first differs from its shape, in words; empty where it does not. where: its name in these."""
    if isinstance(shape, tuple):
        faults = [fault(value, one, where) for one in shape]
        return "" if "" in faults else faults[-1]
    return next(_faults(value, shape, where), "")


def _faults(value: Any, shape: Any, where: str) -> Iterator[str]:
    kind = dict if isinstance(shape, dict | MapOf) else list if isinstance(shape, ListOf) else shape
    if isinstance(shape, Number):
        kinds = int if shape.whole else int | float
        fits = isinstance(value, kinds) and not isinstance(value, bool) and shape.low <= value <= shape.high
    else:
        fits = type(value) is kind if kind is not None else value is None
    if not fits:
        yield f"{where} must be {_WORDS.get(kind, shape)}; got {reprlib.repr(value)}"
        return
    if isinstance(shape, MapOf | ListOf) and len(value) < shape.least:
        yield f"{where} must have {shape.least} or more; got {len(value)}"
    if isinstance(shape, ListOf) and len(value) > shape.most:
        yield f"{where} must have {shape.most} or fewer; got {len(value)}"
    prefix = f"{where}." if where else ""
    if isinstance(shape, ListOf):
        parts = [(f"{where}[{place}]", item, shape.shape) for place, item in enumerate(value)]
    elif isinstance(shape, MapOf):
        parts = [(f"{prefix}{name}", item, shape.shape) for name, item in value.items()]
    elif isinstance(shape, dict):
        names = {key.rstrip("?"): key for key in shape}
        yield from (f"{prefix}{name} is missing" for name, key in names.items() if name == key and name not in value)
        parts = [(f"{prefix}{name}", value[name], shape[key]) for name, key in names.items() if name in value]
    else:
        parts = []
    yield from filter(None, (fault(*part[1:], part[0]) for part in parts))
