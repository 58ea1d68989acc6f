"""Parts of pages in Markdown: figures, numbers, and texts that are shown as they stand."""

import math
import re
from collections.abc import Mapping
from typing import Any

from vaecore.suite.report.figures.catalogue import FIGURES, caption, shown
from vaecore.suite.text import each_text

# What makes a tag or an entity; a link, code, emphasis (not an underscore within a word), a formula, the end of a cell.
_TAG = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w+;)")
_MARKUP = re.compile(r"[\\`*|~$]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
_ENTITIES = {"<": "&lt;", "&": "&amp;"}


def figures(results: Mapping[str, Any], section: str) -> str:
    """The figures of a section, each with its caption below."""
    names = [name for name in shown(results) if FIGURES[name].section == section]
    return "\n".join(f"\n![{caption(results, name).title}]({name}.png)\n\n{caption(results, name)}" for name in names)


def share(value: float | None) -> str:
    """A number from 0 to 1 in three digits, or a dash where it is not defined."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def literal(values: Any) -> Any:
    """Plain values whose texts Markdown shows as they stand, in one line, in a cell of a table too.

    Each page takes its results through this once, so that a line of it can't forget to.
    """
    return each_text(values, _literal)


def _literal(text: str) -> str:
    text = _TAG.sub(lambda found: _ENTITIES[found[0]], " ".join(text.splitlines()))
    return _MARKUP.sub(r"\\\g<0>", text)
