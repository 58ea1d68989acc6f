"""Texts as they are shown: numbers with their nouns, and names in which nothing acts on a terminal."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any


def counted(number: int, noun: str, form: str = ",") -> str:
    """A number with its noun, as in "1 run" or "2,000 images"; form: of the number."""
    return f"{number:{form}} {noun}{'' if number == 1 else 's'}"


def intensity(size: float) -> str:
    """A size in pixel intensity: a decimal where that is short, as "0.2", else in steps of 8-bit pixels, "8/255"."""
    decimal = f"{size:.4g}"
    return decimal if abs(float(decimal) - size) < 1e-9 else f"{255 * size:.4g}/255"


def printable(text: str) -> str:
    """A text in one line, in which what has no glyph is written as Python writes it: an escape as `\\x1b`.

    A name or a message may come from anywhere, and a terminal acts on what it is not meant to show.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def as_keywords(text: str) -> str:
    """A message on options of the command line, as it is for those who give them as keywords: `first_seed`."""
    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda option: option[1].replace("-", "_"), text)


def visible(value: Any) -> Any:
    """Plain values whose texts, names of fields of a mapping too, are printable line by line."""
    return each_text(value, lambda text: "\n".join(map(printable, text.split("\n"))))


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Plain values, dataclasses among them, with every text changed, by a function of the text alone."""
    return _each_text(value, cache(change))  # most texts are the names of fields, time and again


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if value is None or isinstance(value, int | float):  # most values; what follows is slow to ask
        return value
    if isinstance(value, Mapping):
        return {_each_text(key, change): _each_text(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_each_text(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _each_text(getattr(value, one.name), change) for one in fields(value)})
    return value


def _escaped(letter: str) -> str:
    seen = letter.isprintable() or unicodedata.category(letter) == "Zs"  # a space, of whatever width
    return letter if seen else letter.encode("unicode-escape").decode()


def duration(seconds: float) -> str:
    """Seconds in words, as "5 s", "2 min 10 s" or "1 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
